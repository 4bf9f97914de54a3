//! A job runner that writes down what it was given, and in which state the slides were.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tissuemap::contract::StainSpec;
use tissuemap::infer::{ProofStep, Provider};
use tissuemap::road::{Progress, SetResult};
use tissuemap::units::Mpp;
use tissuemap_daemon::arrive::members::fingerprint;
use tissuemap_daemon::job::{Backend, Fault, Job, JobRunner, ModelInfo};

use crate::ledger::seconds;
use crate::template::{digest, sha256};

/// What was done with a slide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Opened for a test.
    Probe,
    /// Processed with its set.
    Process,
}

/// One slide that was given to the runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// Seconds since 1970, taken before anything was read.
    pub time: f64,
    pub act: Act,
    pub slide: PathBuf,
    pub set: String,
    /// Of all its files, as in the ledger; empty when it is not known.
    pub sha256: String,
}

/// See the module.
pub struct Recorder {
    stains: Vec<StainSpec>,
    sightings: Mutex<Vec<Sighting>>,
}

/// A recorder as the one model that is loaded, whatever its file holds.
pub struct Shared(pub Arc<Recorder>);

struct Recording {
    recorder: Arc<Recorder>,
    model: ModelInfo,
}

impl Recorder {
    /// A runner whose model wants these stains.
    pub fn new(stains: &[String]) -> Self {
        let stain = |name: &String| StainSpec { name: name.clone(), aliases: Vec::new() };
        Self { stains: stains.iter().map(stain).collect(), sightings: Mutex::default() }
    }

    /// Everything so far, in the order of time.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many slides were processed so far.
    pub fn processed(&self) -> usize {
        let sightings = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.iter().filter(|sighting| sighting.act == Act::Process).count()
    }

    fn see(&self, act: Act, slide: &Path, set: &str) -> Result<(), Fault> {
        let time = seconds(SystemTime::now());
        let read = || {
            let found = fingerprint(slide)?;
            let file = |path: &PathBuf| Ok((path.clone(), std::fs::read(path)?));
            found.members().iter().map(|member| file(&member.path)).collect::<std::io::Result<Vec<_>>>()
        };
        let files = read().map_err(|error| Fault::new(format!("{}: {error}", slide.display()), "bring it again"))?;
        let sha256 = digest(files.iter().map(|(path, content)| (path.as_path(), content.as_slice())));
        let sighting = Sighting { time, act, slide: slide.into(), set: set.into(), sha256 };
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner).push(sighting);
        Ok(())
    }
}

impl Backend for Shared {
    fn probe(&self, slide: &Path, _: Option<Mpp>) -> Result<(), Fault> {
        self.0.see(Act::Probe, slide, "")
    }

    fn load(&self, model: &Path, _: &dyn Fn(ProofStep)) -> Result<Arc<dyn JobRunner>, Fault> {
        let unreadable = |error| Fault::new(format!("{}: {error}", model.display()), "write it");
        let content = std::fs::read(model).map_err(unreadable)?;
        let model = ModelInfo {
            path: model.into(),
            sha256: sha256(&content),
            stains: self.0.stains.clone(),
            provider: Provider::Cpu,
            revision: None,
            golden: String::new(),
        };
        Ok(Arc::new(Recording { recorder: Arc::clone(&self.0), model }))
    }
}

impl JobRunner for Recording {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn process(&self, job: &Job, _: &dyn Progress) -> Result<SetResult, Fault> {
        let set = job.set.key.to_string();
        job.set.slides.values().try_for_each(|slide| self.recorder.see(Act::Process, slide, &set))?;
        Ok(SetResult {
            key: job.set.key.clone(),
            outputs: Vec::new(),
            tissue_cells: 0,
            registration: Vec::new(),
            warnings: Vec::new(),
            moved: Vec::new(),
        })
    }
}
