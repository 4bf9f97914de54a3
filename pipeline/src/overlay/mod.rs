//! What lands beside a slide: `<stem>.tissuemap/` with the picture, the polygons, the label map and the record.

mod accept;
mod geojson;
mod png;
mod polygons;
mod record;
mod verify;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{GrayImage, ImageError};
use jiff::Timestamp;

use crate::contract::Cluster;
use crate::durable::{self, DurableError, Published, Staging, seal};
use crate::infer::Model;
use crate::map::{LabelMap, UNFAMILIAR, UNTYPICAL};
use crate::placement::Placement;
use crate::register::Verdict;
use crate::road::{Inferred, Prepared, Progress, RoadError, RoadParams, Section, Stage};
use crate::section_set::SetKey;
use crate::slide::{self, SlideError, SlideSource};
use crate::tissue::TissueOutcome;
use crate::units::Mpp;
use crate::untrusted;

pub use accept::{Assignment, NotAccepted, accept};
pub use png::{blend, scale_bar_um};
#[cfg(test)]
pub(crate) use record::run_id;
pub(crate) use record::sha256_of_read;
pub use record::{Input, OutputFile, RECORD, Record, SectionRecord, sha256_of};
pub use verify::{Checked, FileState, Verified, VerifyError, verify};

/// In every output: maps are not to be taken for a diagnosis.
pub const RESEARCH_USE_ONLY: &str = "Research use only. Not for use in diagnostic procedures.";

/// Extension of result folders.
pub const RESULT_EXTENSION: &str = "tissuemap";

/// Names of the files in a result folder.
pub const OVERLAY_PNG: &str = "overlay.png";
/// Merged polygons for QuPath.
pub const CLUSTERS_GEOJSON: &str = "clusters.geojson";
/// One grey value a cell: 0 background, 1…K clusters.
pub const LABELS_PNG: &str = "clusters.png";
/// Provenance, figures, warnings.
pub const RESULT_JSON: &str = "result.json";
/// All of them.
pub const FILES: [&str; 4] = [OVERLAY_PNG, CLUSTERS_GEOJSON, LABELS_PNG, RESULT_JSON];

/// Most bytes of a record: one has some ten thousand.
pub(crate) const RECORD_BYTES: u64 = untrusted::SMALL;

/// Why an overlay could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("cannot encode {}: {source}", path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: AnyError },
    #[error("cannot read {} to fingerprint it: {source}", path.display())]
    Fingerprint { path: PathBuf, source: std::io::Error },
}

/// Everything one run of the road knows.
pub struct Run<'a> {
    pub key: &'a SetKey,
    pub model: &'a Model,
    pub params: &'a RoadParams,
    pub prepared: &'a Prepared,
    pub inferred: &'a Inferred,
    pub started: Timestamp,
}

impl Run<'_> {
    fn clusters(&self) -> &[Cluster] {
        &self.model.contract().clusters
    }
}

/// The folder beside a slide that holds its results.
pub fn result_folder(slide: &Path) -> PathBuf {
    slide.with_extension(RESULT_EXTENSION)
}

/// What a person should know about the run, in plain words.
pub fn warnings(run: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    if let TissueOutcome::Empty { reason } = run.prepared.tissue {
        warnings.push(format!("no tissue found on the reference section ({reason:?}); the map is empty"));
    }
    for section in &run.prepared.sections {
        match &section.placement {
            Placement::Missing => {
                warnings.push(format!("stain {} is missing; its fill colour stood in", section.stain));
            }
            Placement::LeftOut { reason, .. } => {
                warnings.push(format!("stain {} could not be registered and was left out: {reason}", section.stain));
            }
            Placement::Registered(found) if found.quality.verdict == Verdict::Review => {
                let reasons = found.quality.reasons.join("; ");
                warnings.push(format!("review the registration of stain {}: {reasons}", section.stain));
            }
            Placement::Reference | Placement::Registered(_) => {}
        }
    }
    let (contract, labels) = (run.model.contract(), &run.inferred.labels);
    let (cells, unfamiliar, untypical) =
        (labels.counts(), labels.unusual_counts(UNFAMILIAR), labels.unusual_counts(UNTYPICAL));
    if let Some(threshold) = contract.novelty_threshold {
        let (novel, all): (u64, u64) = (unfamiliar[1..].iter().sum(), cells[1..].iter().sum());
        // The threshold is a high quantile of held-out patches: a few above it are expected, a tenth is another tissue.
        if novel * 10 > all {
            let percent = novel * 100 / all;
            warnings.push(format!(
                "{percent} % of the tissue is unfamiliar to the model (reconstruction error above {threshold})"
            ));
        }
    }
    for cluster in &contract.clusters {
        let (far, all) = (untypical[cluster.id as usize], cells[cluster.id as usize]);
        // One in twenty is expected; of few cells, many may be untypical by chance.
        if all >= FEWEST_CELLS && far * 4 > all {
            let percent = far * 100 / all;
            warnings
                .push(format!("{percent} % of {} is untypical of that cluster (far from its centre)", cluster.name));
        }
    }
    warnings
}

/// Of which a quarter being untypical is no chance: it would be with a probability below 1e-5 where one in twenty is.
const FEWEST_CELLS: u64 = 40;

/// Writes one result folder for every slide that has a place, each published in one step.
///
/// # Errors
/// Reading thumbnails, encoding, writing, publishing.
pub fn write_all(run: &Run, progress: &dyn Progress) -> Result<Vec<Published>, RoadError> {
    let mut staged = Vec::new();
    draw_all(run, progress, |_, slide| {
        let staging = Staging::beside(&result_folder(slide))?;
        let folder = staging.path().to_owned();
        staged.push(staging);
        Ok(folder)
    })?;
    Ok(durable::publish_all(staged, RECORD)?)
}

/// Draws one result for every slide that has a place, into the folder that `place` names for it.
///
/// # Errors
/// Reading thumbnails, encoding, writing, and whatever `place` finds.
pub fn draw_all(
    run: &Run,
    progress: &dyn Progress,
    mut place: impl FnMut(&Section, &Path) -> Result<PathBuf, DurableError>,
) -> Result<(), RoadError> {
    let warnings = warnings(run);
    let inputs = record::inputs(&run.prepared.sections)?;
    let placed: Vec<(&Section, &Arc<dyn SlideSource>, LabelMap)> = run
        .prepared
        .sections
        .iter()
        .filter_map(|section| {
            let slide = section.slide.as_ref()?;
            let labels = match &section.placement {
                Placement::Reference => run.inferred.labels.clone(),
                Placement::Registered(found) => run.inferred.labels.carried_to(slide.info(), &found.map),
                Placement::LeftOut { .. } | Placement::Missing => return None,
            };
            Some((section, slide, labels))
        })
        .collect();
    let total = placed.len() as u64;
    for (done, (section, slide, labels)) in placed.iter().enumerate() {
        progress.stage(Stage::Overlay, done as u64, total);
        if progress.cancelled() {
            return Err(RoadError::Cancelled);
        }
        let folder = place(section, &slide.info().path)?;
        write_section(run, &warnings, &inputs, section, slide, labels, &folder)?;
    }
    progress.stage(Stage::Overlay, total, total);
    Ok(())
}

fn write_section(
    run: &Run,
    warnings: &[String],
    inputs: &[Input],
    section: &Section,
    slide: &Arc<dyn SlideSource>,
    labels: &LabelMap,
    folder: &Path,
) -> Result<(), RoadError> {
    let picture = picture(run, warnings, section, slide, labels)?;
    let path = folder.join(OVERLAY_PNG);
    picture.image.save(&path).map_err(|source| OverlayError::Image { path, source })?;

    let path = folder.join(LABELS_PNG);
    GrayImage::from_raw(labels.cols, labels.rows, labels.labels.clone())
        .map_or(Ok(()), |image| image.save(&path))
        .map_err(|source| OverlayError::Image { path, source })?;

    let mut record = Record::new(run, warnings, inputs, section, slide.info(), labels, picture.mpp);
    let path = folder.join(CLUSTERS_GEOJSON);
    write_file(&path, |out| geojson::write(out, labels, slide.info(), run.clusters(), &record))?;
    let written = [OVERLAY_PNG, CLUSTERS_GEOJSON, LABELS_PNG].map(|name| {
        let path = folder.join(name);
        OutputFile::read(folder, name).map_err(|source| OverlayError::Fingerprint { path, source })
    });
    record.outputs = written.into_iter().collect::<Result<_, _>>()?;
    let path = folder.join(RESULT_JSON);
    write_file(&path, |out| Ok(out.write_all(seal(&serde_json::to_string_pretty(&record)?).as_bytes())?))?;
    Ok(())
}

fn picture(
    run: &Run,
    warnings: &[String],
    section: &Section,
    slide: &Arc<dyn SlideSource>,
    labels: &LabelMap,
) -> Result<png::Picture, SlideError> {
    let (width, height) = slide.info().bounds_um();
    let wanted = width.max(height) / f64::from(run.params.overlay_long_side_px);
    let mpp = Mpp::new(wanted).ok().filter(|&m| m > slide.info().mpp).unwrap_or(slide.info().mpp);
    let thumbnail = slide::thumbnail(slide, mpp)?;
    let title = format!("{} {}", run.key, section.stain);
    Ok(png::draw(&thumbnail, mpp, slide.info().bounds_origin(), labels, run.clusters(), &title, warnings))
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<(), AnyError>) -> Result<(), RoadError> {
    let create = |e| DurableError::new("create", path, e);
    let mut out = BufWriter::new(File::create_new(path).map_err(create)?);
    write(&mut out).map_err(|source| OverlayError::Write { path: path.into(), source })?;
    out.flush().map_err(|e| DurableError::new("write", path, e))?;
    Ok(())
}

/// The record in a result folder, if there is a whole one.
pub fn read_record(folder: &Path) -> Option<Record> {
    serde_json::from_slice(&untrusted::read(&folder.join(RESULT_JSON), RECORD_BYTES).ok()?).ok()
}
