//! What the daemon is doing, as one value.
//!
//! **Invariant:** every way to ask (D-Bus, systemd, lights, metrics) reads this value and nothing else, so they cannot
//! disagree.

pub mod dbus;
pub mod leds;
pub mod metrics;
pub mod pulse;
pub mod systemd;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tissuemap::infer::ProofStep;
use tissuemap::road::{Stage, StainVerdict};

use crate::disk::Shortage;
use crate::explain::span;
use crate::journal::{JobId, JobRow};
use crate::models::{ModelRow, Rejection};

/// The daemon as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The model is being loaded.
    #[default]
    Starting,
    /// Nothing to process.
    Idle,
    /// A set is being processed.
    Busy,
    /// Ending: nothing new is begun.
    Draining,
}

impl State {
    /// The word that D-Bus and the command line show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Draining => "draining",
        }
    }
}

/// The set that is being processed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurrentJob {
    pub id: JobId,
    pub set: String,
    pub stage: &'static str,
    /// 0 to 1, of this stage.
    pub progress: f64,
    /// How long the rest of this stage takes, as was known at its last step.
    pub left: Option<Duration>,
}

/// What became of one job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Counts the jobs since the daemon started, from 1.
    pub number: u64,
    pub set: String,
    /// What was produced, or the reason of the failure.
    pub result: Result<Product, String>,
}

/// What a successful job left.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Product {
    /// The output directories.
    pub outputs: Vec<PathBuf>,
    /// How each stain's registration was judged.
    pub registration: Vec<StainVerdict>,
    /// What became of files of people in the places of the results.
    pub moved: Vec<String>,
}

/// What was counted since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Jobs that left results.
    pub done: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Sets that were given up.
    pub quarantined: u64,
    /// Workers that had to be replaced.
    pub worker_restarts: u32,
    /// How long the last job took, whatever became of it.
    pub last_job_seconds: Option<f64>,
}

/// What the wait for the proof of a model begins with.
pub const PROVING: &str = "proving model ";

/// The wait for the proof of a model, which is at this step.
pub(crate) fn proof_in_words(model: &str, step: ProofStep) -> String {
    format!("{PROVING}{model} (step: {})", step.as_str())
}

/// Something that the daemon waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// For people, such as `proving model mouse.onnx (step: golden)`.
    pub what: String,
    pub since: SystemTime,
    /// When it is given up after that, where it is.
    pub limit: Option<Duration>,
}

impl Wait {
    /// `proving model mouse.onnx (step: golden) for 12 s, at most 15 min`.
    pub fn in_words(&self, now: SystemTime) -> String {
        let so_far = span(Duration::from_secs(now.duration_since(self.since).unwrap_or_default().as_secs()));
        let limit = self.limit.map(|limit| format!(", at most {}", span(limit))).unwrap_or_default();
        format!("{} for {so_far}{limit}", self.what)
    }
}

/// A list as it is told to others: no more entries than anyone reads, each of bounded length, and how many more there are.
/// A folder with a million bad files must not become an answer that cannot be given (hazard h29).
pub fn listed(entries: &[String]) -> Vec<String> {
    let clipped = |entry: &String| match entry.char_indices().nth(LISTED_CHARS) {
        Some((end, _)) => format!("{}…", &entry[..end]),
        None => entry.clone(),
    };
    let more = entries.len().saturating_sub(LISTED);
    let rest = (more > 0).then(|| format!("and {more} more"));
    entries.iter().take(LISTED).map(clipped).chain(rest).collect()
}

/// Entries of a list that are told.
pub const LISTED: usize = 1000;
const LISTED_CHARS: usize = 2000;

/// Everything there is to know from outside.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    pub state: State,
    /// Name and hash of the model that serves, of each where there are several; empty while starting and without one.
    pub model: String,
    /// What it computes on: `tensorrt`, `cuda` or `cpu`, of each where they differ; empty like `model`.
    pub provider: String,
    /// All models that are remembered, in the order they came. Shared, because it seldom changes.
    pub models: Arc<Vec<ModelRow>>,
    /// The latest models that were refused or rolled back, oldest first.
    pub rejections: VecDeque<Rejection>,
    pub job: Option<CurrentJob>,
    /// What is waited for.
    pub waits: Vec<Wait>,
    /// A person wants nothing new to be begun.
    pub paused: bool,
    /// Why nothing is begun for want of room; none while there is enough.
    pub disk: Option<Shortage>,
    /// All jobs that are neither done nor gone, by id. Shared, because it is long after a burst and seldom changes.
    pub jobs: Arc<Vec<JobRow>>,
    /// Sets that will be processed, next first.
    pub queue: Vec<String>,
    /// Their jobs, in the same order. A job that is done may be among them, to be looked at again after a restart.
    pub queued: Arc<Vec<JobId>>,
    /// Sets that lack stains, with the stains.
    pub waiting: Vec<String>,
    /// Slides that are still being copied or tested.
    pub arriving: Vec<String>,
    /// Folders, slides and sets that need a person: `what: reason; hint: remedy`. An entry goes when its cause goes.
    pub problems: Vec<String>,
    /// What people should know, and need do nothing about: slides that went away while their results stay, and what became
    /// of files of people in the places of the latest results.
    pub notes: Vec<String>,
    /// The newest entry that came to `problems`, kept for good.
    pub last_error: String,
    /// The latest jobs, oldest first.
    pub outcomes: VecDeque<Outcome>,
    pub totals: Totals,
}

/// The status value keeps so many outcomes. More jobs than this cannot end between two looks of a reader that is awake.
const OUTCOMES: usize = 64;

impl Status {
    /// Adds the outcome of the next job.
    pub fn push_outcome(&mut self, set: String, result: Result<Product, String>) {
        let number = self.outcomes.back().map_or(0, |last| last.number) + 1;
        match result {
            Ok(_) => self.totals.done += 1,
            Err(_) => self.totals.failed += 1,
        }
        self.outcomes.push_back(Outcome { number, set, result });
        while self.outcomes.len() > OUTCOMES {
            self.outcomes.pop_front();
        }
    }

    /// An open job.
    pub fn row(&self, id: JobId) -> Option<&JobRow> {
        self.jobs.binary_search_by_key(&id, |row| row.id).ok().map(|index| &self.jobs[index])
    }

    /// The latest successful job.
    pub fn last_result(&self) -> Option<&Outcome> {
        self.outcomes.iter().rev().find(|outcome| outcome.result.is_ok())
    }
}

/// The word for a stage that D-Bus, log and progress bars show.
pub fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Open => "open",
        Stage::Register => "register",
        Stage::Tissue => "tissue",
        Stage::Refine => "refine",
        Stage::Infer => "infer",
        Stage::Overlay => "overlay",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h29_long_lists_are_told_in_part_and_counted() {
        let entries: Vec<String> = (0..20_000).map(|i| format!("{i}.svs: damaged")).collect();
        let told = listed(&entries);
        assert_eq!((told.len(), told.last().map(String::as_str)), (LISTED + 1, Some("and 19000 more")));
        assert_eq!(listed(&entries[..LISTED]), entries[..LISTED]);
        assert!(listed(&["ä".repeat(1 << 20)])[0].len() < 5000);
    }

    #[test]
    fn a_wait_says_what_for_since_when_and_how_long_at_most() {
        let now = SystemTime::now();
        let since = now - Duration::from_secs(12);
        let mut wait = Wait { what: "proving model m.onnx (step: golden)".into(), since, limit: None };
        assert_eq!(wait.in_words(now), "proving model m.onnx (step: golden) for 12 s");
        wait.limit = Some(Duration::from_mins(15));
        assert_eq!(wait.in_words(now), "proving model m.onnx (step: golden) for 12 s, at most 15 min");
    }

    #[test]
    fn outcomes_are_numbered_without_gaps_and_only_the_latest_are_kept() {
        let mut status = Status::default();
        for i in 0..100 {
            status.push_outcome(format!("case{i}"), if i % 2 == 0 { Ok(Product::default()) } else { Err("no".into()) });
        }
        let numbers: Vec<u64> = status.outcomes.iter().map(|o| o.number).collect();
        assert_eq!(numbers, (37..=100).collect::<Vec<_>>());
        assert_eq!(status.last_result().map(|o| o.set.as_str()), Some("case98"));
        assert_eq!((status.totals.done, status.totals.failed), (50, 50));
    }
}
