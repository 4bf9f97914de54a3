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
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tissuemap::road::{Stage, StainVerdict};

use crate::disk::Shortage;
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
