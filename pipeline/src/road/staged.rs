//! The road in two parts, for when those who draw may not write where results belong: one draws into a folder, another
//! publishes from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Progress, RoadError, RoadParams, SetResult, StainVerdict, open_all, verdicts, walk};
use crate::durable::{self, DurableError, Staging};
use crate::escape::for_people;
use crate::infer::Model;
use crate::overlay::{self, Assignment, OutputFile, OverlayError, Record, accept};
use crate::section_set::SectionSet;

/// A set whose results are drawn and not published. [`Drawn::publish`] trusts nothing in it: stains are looked up in the
/// set, folders are numbered, files are compared with what was told of them, and records with what was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// Result `i` is the folder named `i`.
    pub results: Vec<DrawnResult>,
    pub tissue_cells: usize,
    /// How each registered stain was judged, in the contract's order.
    pub registration: Vec<StainVerdict>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// The result of one slide as it was drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrawnResult {
    pub stain: String,
    /// Its files, as [`overlay::FILES`] lists them.
    pub files: Vec<OutputFile>,
}

/// The whole road for one set, up to results in `folder`, which must be empty.
///
/// # Errors
/// [`RoadError`]; `folder` may then hold a part.
pub fn draw_set(
    set: &SectionSet,
    model: &mut Model,
    params: &RoadParams,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Drawn, RoadError> {
    walk(&set.key, &open_all(set, params, progress)?, model, params, progress, |run| {
        let mut stains = Vec::new();
        overlay::draw_all(run, progress, |section, _| {
            let place = numbered(folder, stains.len());
            std::fs::create_dir(&place).map_err(|e| DurableError::new("create", &place, e))?;
            stains.push(section.stain.clone());
            Ok(place)
        })?;
        let result = |(number, stain)| Ok(DrawnResult { stain, files: fingerprints(&numbered(folder, number))? });
        Ok(Drawn {
            results: stains.into_iter().enumerate().map(result).collect::<Result<_, OverlayError>>()?,
            tissue_cells: run.prepared.cells.len(),
            registration: verdicts(run.prepared),
            warnings: overlay::warnings(run),
        })
    })
}

impl Drawn {
    /// Copies the results from `folder` to where they belong, looks at the copies, and publishes each in one step, as
    /// [`process_set`](super::process_set) does.
    ///
    /// # Errors
    /// A result is not what was asked for or not what was told; copying, publishing.
    pub fn publish(self, assignment: &Assignment, folder: &Path) -> Result<SetResult, RoadError> {
        let key = || assignment.set.key.clone();
        let unasked = |reason: String| RoadError::Unasked { key: key(), reason };
        let mut staged = Vec::with_capacity(self.results.len());
        let mut run_id = None;
        for (number, DrawnResult { stain, files }) in self.results.iter().enumerate() {
            let slide = assignment.set.slides.get(stain);
            let slide = slide.ok_or_else(|| unasked(format!("the set has no stain {}", for_people(stain))))?;
            if self.results[..number].iter().any(|other| other.stain == *stain) {
                return Err(unasked(format!("stain {stain} twice")));
            }
            if !files.iter().map(|named| named.file.as_str()).eq(overlay::FILES) {
                return Err(unasked("it names other files than a result has".into()));
            }
            let staging = Staging::beside(&overlay::result_folder(slide))?;
            staging
                .take_in(&numbered(folder, number), files)
                .map_err(|error| if error.is_refused() { unasked(error.to_string()) } else { error.into() })?;
            let record = accept(staging.path(), stain, files, assignment).map_err(|source| RoadError::NotAccepted {
                key: key(),
                stain: stain.clone(),
                source,
            })?;
            if !self.agrees_with(&record) || *run_id.get_or_insert_with(|| record.run_id.clone()) != record.run_id {
                return Err(unasked(format!("it says something else of the set than the record of stain {stain}")));
            }
            staged.push(staging);
        }
        if staged.is_empty() {
            return Err(unasked("it has no result".into()));
        }
        let published = durable::publish_all(staged, overlay::RECORD)?;
        Ok(SetResult::new(&assignment.set.key, published, self.tissue_cells, self.registration, self.warnings))
    }

    fn agrees_with(&self, record: &Record) -> bool {
        (self.tissue_cells, &self.registration, &self.warnings)
            == (record.map.tissue_cells, &record.registration, &record.warnings)
    }
}

fn fingerprints(folder: &Path) -> Result<Vec<OutputFile>, OverlayError> {
    let read = |name: &str| {
        OutputFile::read(folder, name).map_err(|source| OverlayError::Fingerprint { path: folder.join(name), source })
    };
    overlay::FILES.into_iter().map(read).collect()
}

fn numbered(folder: &Path, number: usize) -> PathBuf {
    folder.join(number.to_string())
}

#[cfg(test)]
mod tests;
