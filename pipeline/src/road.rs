//! The road from slide files to overlays: open the set, register, find tissue, cut patches, infer, draw.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::context;
use crate::contract::{ModelContract, StainSpec};
use crate::durable::{DurableError, Published};
use crate::infer::{Model, ModelError};
use crate::map::{BACKGROUND, LabelMap, UNFAMILIAR, UNTYPICAL};
use crate::overlay::{self, OverlayError};
use crate::patches::{Grid, PatchSource, PatchSpec};
use crate::placement::{Placement, PlacementError, RefusedPolicy};
use crate::register::{RegisterParams, Verdict};
use crate::section_set::{SectionSet, SetKey};
use crate::slide::{self, OpenOptions, SlideError, SlideSource};
use crate::tissue::{TissueOutcome, TissueParams};
use crate::units::{Cell, Mpp};

mod prepare;
mod staged;

pub use prepare::prepare_opened;
pub use staged::{Drawn, DrawnResult, draw_set};

/// Parts of the work, in order, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Open,
    Register,
    Tissue,
    Refine,
    Infer,
    Overlay,
}

/// Hears how far the work is, and may ask it to stop.
pub trait Progress: Sync {
    /// `done` of `total` steps of `stage`.
    fn stage(&self, stage: Stage, done: u64, total: u64);
    /// Asked between steps; `true` ends the work with [`RoadError::Cancelled`] and nothing published.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Progress that nobody watches.
impl Progress for () {
    fn stage(&self, _: Stage, _: u64, _: u64) {}
}

/// Parameters of everything but the model, which carries its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoadParams {
    /// Resolution in µm per pixel of slides that state none.
    pub mpp: Option<Mpp>,
    pub limits: slide::Limits,
    pub register: RegisterParams,
    pub tissue: TissueParams,
    /// What happens when the registration of a stain is refused.
    pub refused_stain: RefusedPolicy,
    /// Long side of the images that are registered. Between 900 and 2000 px: below, landmarks blur; above, only time grows.
    pub register_long_side_px: u32,
    /// Look at each registration again at the model's resolution, block by block over the tissue. Takes about 0.4 seconds of
    /// processor time for every 512 x 512 model pixels of tissue and stain.
    pub refine: bool,
    /// Long side of `overlay.png`, before the legend.
    pub overlay_long_side_px: u32,
    /// Patches per call of the model; 0 leaves it to [`Model::batch`].
    pub batch: usize,
}

impl Default for RoadParams {
    fn default() -> Self {
        Self {
            mpp: None,
            limits: slide::Limits::default(),
            register: RegisterParams::default(),
            tissue: TissueParams::default(),
            refused_stain: RefusedPolicy::default(),
            register_long_side_px: 1400,
            refine: false,
            overlay_long_side_px: 1600,
            batch: 0,
        }
    }
}

/// What a model wants to see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of the tensor's planes.
    pub stains: Vec<StainSpec>,
    /// The stain whose section carries the grid.
    pub reference: String,
    pub spec: PatchSpec,
    /// A cell with less tissue is background.
    pub min_tissue_fraction: f32,
    /// What stands in for a stain that is not there.
    pub missing_stain_fill: [u8; 3],
}

impl From<&ModelContract> for Layout {
    fn from(contract: &ModelContract) -> Self {
        Self {
            stains: contract.stains.clone(),
            reference: contract.reference.clone(),
            spec: PatchSpec { mpp: contract.mpp, patch_px: contract.patch_px, stride_px: contract.stride_px },
            min_tissue_fraction: contract.background.min_tissue_fraction,
            missing_stain_fill: contract.missing_stain_fill,
        }
    }
}

/// One stain of a set.
#[derive(Clone)]
pub struct Section {
    pub stain: String,
    pub slide: Option<Arc<dyn SlideSource>>,
    pub placement: Placement,
}

/// A set whose patches can be cut.
pub struct Prepared {
    pub source: PatchSource,
    pub grid: Grid,
    pub tissue: TissueOutcome,
    /// Share of tissue in each cell, row-major.
    pub tissue_fraction: Vec<f32>,
    /// Cells with enough tissue, in blocks.
    pub cells: Vec<Cell>,
    /// In the contract's order.
    pub sections: Vec<Section>,
}

/// What a processed set left behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetResult {
    pub key: SetKey,
    /// One `<stem>.tissuemap` folder a slide.
    pub outputs: Vec<PathBuf>,
    pub tissue_cells: usize,
    /// How each registered stain was judged, in the contract's order.
    pub registration: Vec<StainVerdict>,
    /// What a person should know: missing or left-out stains, no tissue, unfamiliar tissue, and what `moved` tells.
    pub warnings: Vec<String>,
    /// What became of files in the results' places that are not ours.
    #[serde(default)]
    pub moved: Vec<String>,
}

impl SetResult {
    /// What was published as the results of a set.
    fn new(
        key: &SetKey,
        published: Vec<Published>,
        tissue_cells: usize,
        registration: Vec<StainVerdict>,
        mut warnings: Vec<String>,
    ) -> Self {
        let moved: Vec<String> = published.iter().flat_map(|result| result.warnings.clone()).collect();
        warnings.extend(moved.iter().cloned());
        let outputs = published.into_iter().map(|result| result.folder).collect();
        Self { key: key.clone(), outputs, tissue_cells, registration, warnings, moved }
    }
}

/// How one stain's registration was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StainVerdict {
    pub stain: String,
    pub verdict: Verdict,
    /// `None` where no map was found.
    pub estimated_error_um: Option<f64>,
    /// Why the verdict is not better; empty when it is good.
    pub reasons: Vec<String>,
}

impl Section {
    /// How its registration was judged; `None` for the reference and for a missing stain.
    pub fn verdict(&self) -> Option<StainVerdict> {
        let (verdict, reasons) = self.placement.verdict()?;
        let estimated_error_um = self.placement.quality().map(|quality| quality.estimated_error_um);
        Some(StainVerdict { stain: self.stain.clone(), verdict, estimated_error_um, reasons })
    }
}

/// Why a set could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum RoadError {
    #[error(transparent)]
    Slide(#[from] SlideError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("set {key}: no slide of the reference stain {reference} (found: {found})")]
    NoReference { key: SetKey, reference: String, found: String },
    #[error("set {key}: the registration of stain {stain} is refused: {reason}")]
    Refused { key: SetKey, stain: String, reason: String },
    #[error("set {key}: the worker's answer is not that of the job: {reason}")]
    Unasked { key: SetKey, reason: String },
    #[error("set {key}: the result of stain {stain} that the worker drew is not accepted: {source}")]
    NotAccepted { key: SetKey, stain: String, source: overlay::NotAccepted },
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error(transparent)]
    Publish(#[from] DurableError),
    #[error("cancelled")]
    Cancelled,
}

impl RoadError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Slide(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::NoReference { .. } => {
                "scan the reference stain, or check stain names and aliases (a manifest overrules names)"
            }
            Self::Refused { .. } => {
                "look at the sections with `tissuemapctl register`; rescan, or set refused_stain = \"skip-stain\" in [road]"
            }
            Self::Unasked { .. } | Self::NotAccepted { .. } => {
                "nothing was published; a slide or the model may have taken the worker over: see where they come from, and \
                 report this with the log"
            }
            Self::Overlay(_) | Self::Publish(_) => "check free space and write permission beside the slide",
            Self::Cancelled => "nothing was published; submit the set again",
        }
    }
}

impl From<PlacementError> for RoadError {
    fn from(error: PlacementError) -> Self {
        match error {
            PlacementError::Slide(error) => Self::Slide(error),
            PlacementError::Cancelled => Self::Cancelled,
        }
    }
}

/// The whole road for one set: every slide of it gets its `<stem>.tissuemap` folder.
///
/// # Errors
/// [`RoadError`]; nothing is published then, except where publishing itself fails half-way through the slides of the
/// set: each folder is whole or absent.
pub fn process_set(
    set: &SectionSet,
    model: &mut Model,
    params: &RoadParams,
    progress: &dyn Progress,
) -> Result<SetResult, RoadError> {
    process_opened(&set.key, &open_all(set, params, progress)?, model, params, progress)
}

/// [`process_set`] for slides that are already open, canonical stain to slide.
///
/// # Errors
/// As [`process_set`].
pub fn process_opened(
    key: &SetKey,
    slides: &Slides,
    model: &mut Model,
    params: &RoadParams,
    progress: &dyn Progress,
) -> Result<SetResult, RoadError> {
    walk(key, slides, model, params, progress, |run| {
        let published = overlay::write_all(run, progress)?;
        let cells = run.prepared.cells.len();
        Ok(SetResult::new(key, published, cells, verdicts(run.prepared), overlay::warnings(run)))
    })
}

/// The road up to what `deliver` makes of it.
fn walk<T>(
    key: &SetKey,
    slides: &Slides,
    model: &mut Model,
    params: &RoadParams,
    progress: &dyn Progress,
    deliver: impl FnOnce(&overlay::Run) -> Result<T, RoadError>,
) -> Result<T, RoadError> {
    let started = jiff::Timestamp::now();
    let layout = Layout::from(model.contract());
    let prepared = prepare_opened(key, slides, &layout, params, progress)?;
    let inferred = infer(&prepared, model, params.batch, progress)?;
    deliver(&overlay::Run { key, model, params, prepared: &prepared, inferred: &inferred, started })
}

fn verdicts(prepared: &Prepared) -> Vec<StainVerdict> {
    prepared.sections.iter().filter_map(Section::verdict).collect()
}

/// Opens, registers, finds tissue: everything before the model. The trainer's first half of the road is this function.
///
/// # Errors
/// A slide cannot be read, or the reference stain is missing. A stain that cannot be registered is no error: it is
/// [`Placement::LeftOut`].
pub fn prepare(
    set: &SectionSet,
    layout: &Layout,
    params: &RoadParams,
    progress: &dyn Progress,
) -> Result<Prepared, RoadError> {
    prepare_opened(&set.key, &open_all(set, params, progress)?, layout, params, progress)
}

/// The slides of a set, by canonical stain.
pub type Slides = BTreeMap<String, Arc<dyn SlideSource>>;

fn open_all(set: &SectionSet, params: &RoadParams, progress: &dyn Progress) -> Result<Slides, RoadError> {
    let options = OpenOptions { mpp: params.mpp, limits: params.limits.clone() };
    let total = set.slides.len() as u64;
    let mut slides = Slides::new();
    for (done, (stain, path)) in set.slides.iter().enumerate() {
        progress.stage(Stage::Open, done as u64, total);
        slides.insert(stain.clone(), slide::open(path, &options)?);
    }
    progress.stage(Stage::Open, total, total);
    Ok(slides)
}

/// What the model said of every cell.
pub struct Inferred {
    /// On the reference grid, with what is unusual about each cell.
    pub labels: LabelMap,
    /// Highest probability of each tissue cell, in the order of [`Prepared::cells`].
    pub confidence: Vec<f32>,
}

/// Asks the model about every tissue cell, `batch` patches at a time; 0 leaves it to [`Model::batch`].
///
/// # Errors
/// A slide cannot be read, the model fails, or the work is cancelled.
pub fn infer(
    prepared: &Prepared,
    model: &mut Model,
    batch: usize,
    progress: &dyn Progress,
) -> Result<Inferred, RoadError> {
    let contract = model.contract().clone();
    let (clusters, latent_dim) = (contract.clusters.len(), contract.latent_dim as usize);
    let len = prepared.source.tensor_len();
    let total = prepared.cells.len();
    let batch = if batch == 0 { model.batch() } else { batch };
    let (mut probs, mut latents, mut errors) = (Vec::with_capacity(total * clusters), Vec::new(), Vec::new());
    let mut tensors = vec![0; len * batch.min(total.max(1))];
    progress.stage(Stage::Infer, 0, total as u64);
    for cells in prepared.cells.chunks(batch) {
        if progress.cancelled() {
            return Err(RoadError::Cancelled);
        }
        let tensors = &mut tensors[..len * cells.len()];
        tensors
            .par_chunks_exact_mut(len)
            .zip(cells)
            .try_for_each(|(tensor, &cell)| prepared.source.tensor(&prepared.grid, cell, tensor))?;
        let outputs = model.run(tensors)?;
        probs.extend(outputs.probs);
        latents.extend(outputs.latent);
        errors.extend(outputs.reconstruction_error);
        progress.stage(Stage::Infer, errors.len() as u64, total as u64);
    }
    let probs = context::smoothed(&prepared.cells, &probs, clusters, contract.context_cells.unwrap_or(0.0));
    let mut labels = vec![BACKGROUND; prepared.grid.cell_count()];
    let mut unusual = vec![0; prepared.grid.cell_count()];
    let mut confidence = Vec::with_capacity(total);
    for (i, (cell, probs)) in prepared.cells.iter().zip(probs.chunks_exact(clusters)).enumerate() {
        let (best, p) =
            probs.iter().enumerate().fold((0, f32::MIN), |best, (i, &p)| if p > best.1 { (i, p) } else { best });
        let latent = &latents[i * latent_dim..][..latent_dim];
        let flag = |holds: Option<bool>, flag: u8| if holds == Some(true) { flag } else { 0 };
        let index = prepared.grid.index(*cell);
        labels[index] = contract.clusters[best].id;
        unusual[index] =
            flag(contract.is_unfamiliar(errors[i]), UNFAMILIAR) | flag(contract.is_untypical(best, latent), UNTYPICAL);
        confidence.push(p);
    }
    Ok(Inferred { labels: LabelMap::of_reference(&prepared.grid, labels, unusual), confidence })
}
