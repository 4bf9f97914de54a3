//! Runs jobs in this process: what `tissuemapctl process` does, and the daemon's worker process.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tissuemap::infer::{InferOptions, Model, ModelError, Proving};
use tissuemap::road::{Drawn, Progress, RoadError, RoadParams, SetResult, draw_set, process_set};
use tissuemap::section_set::SectionSet;
use tissuemap::slide::{self, OpenOptions};
use tissuemap::units::Mpp;
use tissuemap::untrusted::{self, UntrustedError};

use crate::arrive::members::fingerprint;
use crate::fault::UNREGISTERED;
use crate::job::{Fault, Job, JobRunner, ModelInfo};

/// A loaded model and how to use it.
pub struct InProcess {
    model: Mutex<Model>,
    info: ModelInfo,
    params: RoadParams,
}

impl InProcess {
    /// Loads the model and lets it repeat the golden patches it was exported with: a model that gives other answers on
    /// this machine than on the trainer's is not used.
    ///
    /// # Errors
    /// Why the model cannot be used.
    pub fn load(path: &Path, params: &RoadParams, options: &InferOptions) -> Result<Self, Fault> {
        // The size that is used where nothing was measured is compared; measuring would take longer than it saves here.
        let proving = Proving { measure: false, known: &BTreeMap::new(), machine: "", tell: &|_| {} };
        let model = Model::load_proven(path, options, &proving).map_err(|error| refused(&error))?;
        Ok(Self::new(model, path, params))
    }

    /// Uses a model that has been loaded from `path`.
    pub fn new(model: Model, path: &Path, params: &RoadParams) -> Self {
        let info = ModelInfo {
            path: path.into(),
            sha256: model.sha256().to_owned(),
            stains: model.contract().stains.clone(),
            provider: model.provider(),
            revision: model.contract().revision(),
            golden: model.proof().map(ToString::to_string).unwrap_or_default(),
        };
        Self { model: Mutex::new(model), info, params: params.clone() }
    }

    /// Walks the road for one set up to results in `folder`, which are not published.
    ///
    /// # Errors
    /// Why the set could not be processed, or that `progress` cancelled it.
    pub fn draw(
        &self,
        set: &SectionSet,
        mpp: Option<Mpp>,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<Drawn, Fault> {
        // Before anything is computed, and again when something failed: a file that cannot be reached is the reason then.
        set.slides.values().try_for_each(|slide| reach(slide))?;
        let drawn = draw_set(set, &mut self.model(), &with_mpp(&self.params, mpp), folder, progress);
        drawn.map_err(|error| match set.slides.values().try_for_each(|slide| reach_all(slide)) {
            Err(unreachable) if !matches!(error, RoadError::Cancelled) => unreachable,
            _ => failed(&error),
        })
    }

    /// A job that panicked left nothing in the model: a session has no state between runs.
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobRunner for InProcess {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        process_set(&job.set, &mut self.model(), &with_mpp(&self.params, job.mpp), progress)
            .map_err(|error| failed(&error))
    }
}

/// Opens the slide and decodes the first and last tile of every level.
///
/// # Errors
/// What is wrong with the slide.
pub fn probe(slide: &Path, mpp: Option<Mpp>, params: &RoadParams) -> Result<(), Fault> {
    let options = OpenOptions { mpp: mpp.or(params.mpp), limits: params.limits.clone() };
    // OpenSlide would say that it does not know the format.
    reach(slide)?;
    let read = slide::open(slide, &options).and_then(|slide| slide::probe(&*slide));
    read.map_err(|error| reach_all(slide).err().unwrap_or_else(|| error.into()))
}

/// Whether a file can be read at all.
fn reach(path: &Path) -> Result<(), Fault> {
    let unreachable = |error| Fault::unreachable(path, &error);
    match untrusted::open_large(path) {
        // Opening asks nothing of a disk.
        Ok(mut file) => file.read(&mut [0; 1]).map(drop).map_err(unreachable),
        Err(UntrustedError::Io { source, .. }) => Err(unreachable(source)),
        // Whoever opens it as a slide says what it is.
        Err(_) => Ok(()),
    }
}

/// Whether all files of a slide can be read at all.
fn reach_all(slide: &Path) -> Result<(), Fault> {
    reach(slide)?;
    let files = fingerprint(slide).map_err(|error| Fault::unreachable(slide, &error))?;
    files.members().iter().try_for_each(|member| reach(&member.path))
}

/// What the caller knows of a slide goes before what is configured for all.
fn with_mpp(params: &RoadParams, given: Option<Mpp>) -> RoadParams {
    RoadParams { mpp: given.or(params.mpp), ..params.clone() }
}

fn failed(error: &RoadError) -> Fault {
    let fault = Fault::from_error(error);
    match error {
        RoadError::Slide(error) => fault.with_id(error.id()),
        RoadError::Model(error) => fault.with_id(error.id()),
        RoadError::Refused { .. } => fault.with_id(UNREGISTERED),
        _ => fault,
    }
}

/// The fault of a model that may not be used: with the id of the refusal.
pub fn refused(error: &ModelError) -> Fault {
    let hint =
        format!("{}: models/CONTRACT.md explains what is refused; `tissuemap-train export` writes models", error.id());
    Fault::from_error(error).or_hint(hint).with_id(error.id())
}
