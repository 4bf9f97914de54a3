//! Runs jobs in this process: what `tissuemapctl process` does, and the daemon as long as it has no worker process.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tissuemap::infer::{Model, ModelError};
use tissuemap::road::{Progress, RoadParams, SetResult, process_set};
use tissuemap::slide::{self, OpenOptions};
use tissuemap::units::Mpp;

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
    pub fn load(path: &Path, params: &RoadParams) -> Result<Self, Fault> {
        let mut model = Model::load(path).map_err(|error| refused(&error))?;
        model.verify_golden().map_err(|error| refused(&error))?;
        let info =
            ModelInfo { path: path.into(), sha256: model.sha256().to_owned(), stains: model.contract().stains.clone() };
        Ok(Self { model: Mutex::new(model), info, params: params.clone() })
    }

    /// What the caller knows of a slide goes before what is configured for all.
    fn mpp(&self, given: Option<Mpp>) -> Option<Mpp> {
        given.or(self.params.mpp)
    }

    fn open_options(&self, mpp: Option<Mpp>) -> OpenOptions {
        OpenOptions { mpp: self.mpp(mpp), limits: self.params.limits.clone() }
    }
}

impl JobRunner for InProcess {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn probe(&self, slide: &Path, mpp: Option<Mpp>) -> Result<(), Fault> {
        let slide = slide::open(slide, &self.open_options(mpp))?;
        Ok(slide::probe(&*slide)?)
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        let params = RoadParams { mpp: self.mpp(job.mpp), ..self.params.clone() };
        // A job that panicked left nothing in the model: a session has no state between runs.
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        process_set(&job.set, &mut model, &params, progress)
            .map_err(|error| Fault::from_error(&error).or_hint(error.hint()))
    }
}

fn refused(error: &ModelError) -> Fault {
    let hint =
        format!("{}: models/CONTRACT.md explains what is refused; `tissuemap-train export` writes models", error.id());
    Fault::from_error(error).or_hint(hint)
}
