//! The work behind one section set, and who does it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tissuemap::contract::StainSpec;
use tissuemap::infer::{ProofStep, Provider};
use tissuemap::road::{Progress, SetResult, Stage};
use tissuemap::section_set::{Namer, NamingError, NamingRules, SectionSet};
use tissuemap::units::Mpp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arrive::members::Fingerprint;
pub use crate::fault::{Fault, FaultKind};

/// One section set to be processed.
#[derive(Debug, Clone)]
pub struct Job {
    pub set: SectionSet,
    /// The state of each slide's files when it settled.
    pub inputs: BTreeMap<PathBuf, Fingerprint>,
    /// Resolution of slides that state none, from the watch folder's configuration.
    pub mpp: Option<Mpp>,
}

/// What the daemon needs to know of the model that is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    pub path: PathBuf,
    pub sha256: String,
    /// In contract order.
    pub stains: Vec<StainSpec>,
    /// What it computes on.
    pub provider: Provider,
    /// What its maker calls this state of it, if anything: a later one has a greater number.
    #[serde(default)]
    pub revision: Option<u64>,
    /// How its golden patches came out here, in words.
    #[serde(default)]
    pub golden: String,
}

impl ModelInfo {
    /// In contract order.
    pub fn stain_names(&self) -> Vec<String> {
        self.stains.iter().map(|stain| stain.name.clone()).collect()
    }
}

/// How those who do the work are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why work that was begun does not go on.
    pub stalled: Option<Fault>,
    /// How many had to be replaced.
    pub restarts: u32,
}

/// Reads file names by these rules, and knows these stains of models and their aliases besides.
///
/// # Errors
/// A rule is invalid, or a spelling means one stain in one of them and another in another.
pub fn namer<'a>(rules: &NamingRules, stains: impl IntoIterator<Item = &'a StainSpec>) -> Result<Namer, NamingError> {
    let mut namer = Namer::new(rules)?;
    for stain in stains {
        namer.add_stain(&stain.name, &stain.aliases)?;
    }
    Ok(namer)
}

/// A model that was loaded and proved. The daemon itself never parses a pixel; whoever implements this does, in this
/// process ([`crate::in_process::InProcess`]) or in another ([`crate::worker::Served`]). All methods block.
pub trait JobRunner: Send + Sync + 'static {
    /// The model.
    fn model(&self) -> &ModelInfo;

    /// Walks the whole road for one set and leaves an output directory beside each slide; whole or not at all.
    ///
    /// # Errors
    /// Why the set could not be processed, or that `progress` cancelled it.
    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault>;
}

/// Looks into slides and loads models, in whatever process ([`crate::worker::Workers`]). All methods block.
pub trait Backend: Send + Sync + 'static {
    /// Opens the slide and decodes the first and last tile of every level: a slide that is not whole fails here.
    ///
    /// # Errors
    /// What is wrong with the slide.
    fn probe(&self, slide: &Path, mpp: Option<Mpp>) -> Result<(), Fault>;

    /// Loads a model and has it repeat its golden patches, beside those that are loaded already; `tell` hears each step as it
    /// begins. It goes when the last one drops it.
    ///
    /// # Errors
    /// Why it may not serve, with the id of the refusal.
    fn load(&self, model: &Path, tell: &dyn Fn(ProofStep)) -> Result<Arc<dyn JobRunner>, Fault>;

    /// How the work goes. Does not block.
    fn health(&self) -> Health {
        Health::default()
    }
}

/// How a job was brought to an end.
#[derive(Debug)]
pub enum Processed {
    /// By working.
    Now(SetResult),
    /// Results of the same slides and the same model were there already.
    Before,
    /// Results that were made with these stains besides are there, and stay.
    Poorer(Vec<String>),
}

/// How far a job is, in whole hundredths of a stage, so that a status is told at most a hundred times a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub stage: Stage,
    percent: u8,
}

impl Step {
    /// 0 to 1.
    pub fn progress(self) -> f64 {
        f64::from(self.percent) / 100.0
    }
}

/// The daemon's end of [`Progress`]: steps go to a watch channel, cancellation comes from a token.
#[derive(Debug)]
pub struct JobProgress {
    steps: watch::Sender<Step>,
    cancel: CancellationToken,
}

impl JobProgress {
    /// The progress to give to a job, where its steps can be read, and what cancels it.
    pub fn new() -> (Self, watch::Receiver<Step>, CancellationToken) {
        let (steps, receiver) = watch::channel(Step { stage: Stage::Open, percent: 0 });
        let cancel = CancellationToken::new();
        (Self { steps, cancel: cancel.clone() }, receiver, cancel)
    }
}

impl Progress for JobProgress {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        let percent = (100.0 * done as f64 / total.max(1) as f64).min(100.0) as u8;
        let step = Step { stage, percent };
        self.steps.send_if_modified(|old| std::mem::replace(old, step) != step);
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// Runs `work` on a blocking thread. A panic in it becomes a fault like any other, of `subject`: one bad slide must not
/// end the daemon.
///
/// # Errors
/// The fault of `work`, or the text of its panic.
pub async fn blocking<T: Send + 'static>(
    subject: impl Display,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(panicked(error.try_into_panic().ok().as_deref()).within(subject)))
}

/// A disk answers within this time, and so does a share that works.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Runs `work` on a blocking thread as [`blocking`] does, and waits for it only as long as a folder that works needs to
/// answer. The thread of a dead share stays behind.
///
/// # Errors
/// As [`blocking`], or that `folder` does not answer.
pub async fn answered<T: Send + 'static>(
    folder: &Path,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let work = blocking(folder.display(), work);
    tokio::time::timeout(ANSWER_LIMIT, work).await.unwrap_or_else(|_| Err(Fault::silent(folder)))
}

/// The fault that a panic is, with its text.
pub(crate) fn panicked(panic: Option<&(dyn Any + Send)>) -> Fault {
    let text = panic.and_then(|panic| {
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str))
    });
    let reason = text.unwrap_or("no reason given").replace('\n', " ");
    Fault::new(format!("internal error: {reason}"), "this is a bug; report it with the log")
}
