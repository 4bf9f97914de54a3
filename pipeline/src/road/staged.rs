//! The road in two parts, for when those who draw may not write where results belong: one draws into a folder, another
//! publishes from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Progress, RoadError, RoadParams, SetResult, StainVerdict, open_all, verdicts, walk};
use crate::durable::{self, DurableError, Staging};
use crate::infer::Model;
use crate::overlay;
use crate::section_set::SectionSet;

/// A set whose results are drawn and not published. [`Drawn::publish`] trusts nothing in it: stains are looked up in the
/// set, and folders are numbered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The result of stain `i` is the folder named `i`.
    pub stains: Vec<String>,
    pub tissue_cells: usize,
    /// How each registered stain was judged, in the contract's order.
    pub registration: Vec<StainVerdict>,
    /// What a person should know.
    pub warnings: Vec<String>,
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
        Ok(Drawn {
            stains,
            tissue_cells: run.prepared.cells.len(),
            registration: verdicts(run.prepared),
            warnings: overlay::warnings(run),
        })
    })
}

impl Drawn {
    /// Copies the results from `folder` to where they belong and publishes each in one step, as
    /// [`process_set`](super::process_set) does.
    ///
    /// # Errors
    /// A result is not what it should be, copying, publishing.
    pub fn publish(self, set: &SectionSet, folder: &Path) -> Result<SetResult, RoadError> {
        let mut staged = Vec::with_capacity(self.stains.len());
        for (number, stain) in self.stains.iter().enumerate() {
            let slide = set
                .slides
                .get(stain)
                .ok_or_else(|| RoadError::NotOfTheSet { key: set.key.clone(), stain: stain.clone() })?;
            let staging = Staging::beside(&overlay::result_folder(slide))?;
            staging.take_in(&numbered(folder, number), &overlay::FILES)?;
            staged.push(staging);
        }
        Ok(SetResult {
            key: set.key.clone(),
            outputs: durable::publish_all(staged)?,
            tissue_cells: self.tissue_cells,
            registration: self.registration,
            warnings: self.warnings,
        })
    }
}

fn numbered(folder: &Path, number: usize) -> PathBuf {
    folder.join(number.to_string())
}
