//! The work behind one section set, and who does it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tissuemap::contract::StainSpec;
use tissuemap::infer::Provider;
use tissuemap::road::{Progress, SetResult, Stage};
use tissuemap::section_set::{Namer, NamingError, NamingRules, SectionSet};
use tissuemap::slide::SlideError;
use tissuemap::units::Mpp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arrive::members::Fingerprint;

/// One section set to be processed.
#[derive(Debug, Clone)]
pub struct Job {
    pub set: SectionSet,
    /// The state of each slide's files when it settled.
    pub inputs: BTreeMap<PathBuf, Fingerprint>,
    /// Resolution of slides that state none, from the watch folder's configuration.
    pub mpp: Option<Mpp>,
}

/// Why something could not be done, as it is shown to the operator: the file and the reason, then what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub struct Fault {
    reason: String,
    hint: Option<String>,
    /// The stable id of the broken rule, where the rule has one.
    #[serde(default)]
    id: Option<String>,
}

const NO_WORKER: &str = "worker.not-started";

impl Fault {
    /// `reason` names the file and says what is wrong, `hint` what a person can do.
    pub fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: Some(hint.into()), id: None }
    }

    /// The same fault with this hint, unless it has one.
    #[must_use]
    pub fn or_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: self.hint.or_else(|| Some(hint.into())), ..self }
    }

    /// The same fault as a breach of the rule with this id, such as `slide.corrupt`.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The stable id of the broken rule, where the rule has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether a slide is at fault for sure, whatever the model.
    pub fn blames_slide(&self) -> bool {
        const BY_MODEL_OR_MACHINE: [&str; 2] = ["slide.library", "slide.too-coarse"];
        self.id()
            .is_some_and(|id| (id.starts_with("slide.") && !BY_MODEL_OR_MACHINE.contains(&id)) || id == UNREGISTERED)
    }

    /// The fault that was told in this text.
    pub fn from_text(text: &str) -> Self {
        match text.split_once("; hint: ") {
            Some((reason, hint)) => Self::new(reason, hint),
            None => Self { reason: text.into(), hint: None, id: None },
        }
    }

    /// Whether the disk or a quota was full: nothing is wrong with the job, it can be repeated when there is room.
    pub fn is_no_space(&self) -> bool {
        // Libraries and processes on the way hand an error on as text only; the system's number is always part of it.
        let full = |number: rustix::io::Errno| self.reason.contains(&format!("(os error {})", number.raw_os_error()));
        full(rustix::io::Errno::NOSPC) || full(rustix::io::Errno::DQUOT)
    }

    /// The same fault as that of a worker which does not start: nobody has looked at the job.
    #[must_use]
    pub fn without_worker(self) -> Self {
        self.with_id(NO_WORKER)
    }

    /// Whether nobody has looked at the job, because no worker starts.
    pub fn is_without_worker(&self) -> bool {
        self.id.as_deref() == Some(NO_WORKER)
    }

    /// What is wrong, and with what.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What an error and its causes say, outermost first; a hint that is part of the text becomes the fault's.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Errors that are transparent about their cause would say everything twice.
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = cause.source();
        }
        Self::from_text(&reason)
    }
}

/// Id of the fault that sections of a set do not fit each other.
pub(crate) const UNREGISTERED: &str = "set.unregistered";

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; hint: {hint}"))
    }
}

impl From<SlideError> for Fault {
    fn from(error: SlideError) -> Self {
        Self::from_error(&error).or_hint(error.hint()).with_id(error.id())
    }
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

    /// Loads a model and has it repeat its golden patches, beside those that are loaded already. It goes when the last
    /// one drops it.
    ///
    /// # Errors
    /// Why it may not serve, with the id of the refusal.
    fn load(&self, model: &Path) -> Result<Arc<dyn JobRunner>, Fault>;

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
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let fault = panicked(error.try_into_panic().ok().as_deref());
        Err(Fault { reason: format!("{subject}: {}", fault.reason), ..fault })
    })
}

/// The fault that a panic is, with its text.
pub(crate) fn panicked(panic: Option<&(dyn Any + Send)>) -> Fault {
    let text = panic.and_then(|panic| {
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str))
    });
    let reason = text.unwrap_or("no reason given").replace('\n', " ");
    Fault::new(format!("internal error: {reason}"), "this is a bug; report it with the log")
}
