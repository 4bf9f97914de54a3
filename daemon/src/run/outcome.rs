//! What follows from the outcome of a job.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tissuemap::road::SetResult;

use super::Daemon;
use super::jobs::{By, Full, Running};
use super::models::retire;
use crate::disk::{self, Shortage};
use crate::job::{Fault, Processed};
use crate::journal::{Change, JobState};
use crate::schedule::Waiting;
use crate::status::Product;

/// The longest wait after a job has filled the disk although there seemed to be room: a try costs minutes of work.
const DISK_FULL_WAIT_MAX: Duration = Duration::from_mins(10);

impl Daemon {
    pub(super) fn finish_job(&mut self, outcome: Result<Processed, Fault>) {
        let Some(running) = self.running.take() else { return };
        let runner = Arc::clone(&running.runner);
        self.conclude(running, outcome);
        // Another model may have taken its place meanwhile.
        retire(runner);
    }

    fn conclude(&mut self, running: Running, outcome: Result<Processed, Fault>) {
        let now = self.now();
        let (id, key, folder) = (running.waiting.job, running.set().clone(), running.waiting.folder);
        let seconds = now.saturating_sub(running.begun).as_secs_f64();
        self.untold = true;
        self.view.totals.last_job_seconds = Some(seconds);
        match (outcome, running.cancelled) {
            (Ok(processed), _) => {
                match &processed {
                    Processed::Before => tracing::info!(set = %key, "Set has its results already"),
                    Processed::Poorer(besides) => tracing::warn!(
                        set = %key, ?besides,
                        "Set has results that were made with stains which are not there now; they stay"
                    ),
                    Processed::Now(result) => {
                        tracing::info!(
                            set = %key, slides = result.outputs.len(), tissue_cells = result.tissue_cells,
                            warnings = ?result.warnings, seconds, "Set processed"
                        );
                        self.account(&running, JobState::Done, "", &result.outputs, seconds);
                        let SetResult { outputs, registration, moved, .. } = result.clone();
                        moved.iter().for_each(|moved| tracing::warn!(set = %key, "{moved}"));
                        self.view.push_outcome(key.to_string(), Ok(Product { outputs, registration, moved }));
                        self.full = Full::default();
                        self.models.job_done(&running.runner.model().sha256);
                    }
                }
                if !running.waiting.done {
                    let reason = match &processed {
                        Processed::Before => "results were there already".into(),
                        Processed::Poorer(besides) => format!("results made with {} stay", besides.join(", ")),
                        Processed::Now(_) => String::new(),
                    };
                    let contents = running.waiting.contents;
                    self.record(id, Change::Done { contents, reason }, now);
                }
                match processed {
                    Processed::Poorer(besides) => self.folders[folder].keep(&key, besides),
                    Processed::Before | Processed::Now(_) => self.folders[folder].finish(&key, Ok(())),
                }
            }
            (Err(_), Some(By::Person)) => {
                tracing::warn!(set = %key, seconds, "Set cancelled");
                self.account(&running, JobState::Cancelled, "on request", &[], seconds);
                self.record(id, Change::Cancelled { reason: "on request".into() }, now);
                self.folders[folder].finish(&key, Ok(()));
            }
            (Err(_), Some(By::Daemon)) => {
                tracing::warn!(set = %key, seconds, "Set cancelled; it starts again with the daemon");
                self.record(id, Change::PutBack { reason: "the daemon was asked to end".into() }, now);
                self.folders[folder].put_back(&key, None);
            }
            (Err(fault), None) if fault.is_no_space() => self.filled_the_disk(running, &fault, now),
            (Err(fault), None) if fault.is_without_worker() || fault.is_unreachable() => {
                self.found_out_of_reach(running, fault, now);
            }
            (Err(fault), None) => self.failed(running, fault, seconds, now),
        }
    }

    /// The disk was full: nothing is wrong with the job, and the try does not count.
    fn filled_the_disk(&mut self, mut running: Running, fault: &Fault, now: Duration) {
        self.full.in_a_row += 1;
        let wait = self.config.schedule.retry_wait(self.full.in_a_row).min(DISK_FULL_WAIT_MAX);
        tracing::warn!(set = %running.set(), reason = %fault, again_seconds = wait.as_secs(), "No room; the set waits");
        let folder = disk::outputs(&running.job).next().unwrap_or(Path::new("/")).to_path_buf();
        running.waiting.attempts = running.waiting.attempts.saturating_sub(1);
        self.record(running.waiting.job, Change::PutBack { reason: fault.clone().into() }, now);
        self.put_back(running);
        self.wait_for_room(Shortage { path: folder, free: None, needed: self.config.schedule.min_free() }, wait, now);
    }

    /// No worker starts, as in the midst of an update, or a slide or its folder cannot be reached: nothing is wrong with the
    /// job, and the try does not count.
    fn found_out_of_reach(&mut self, running: Running, fault: Fault, now: Duration) {
        let Running { waiting, .. } = running;
        let unreached = waiting.unreached + 1;
        let wait = self.config.schedule.retry_wait(unreached);
        tracing::error!(set = %waiting.key, reason = %fault, again_seconds = wait.as_secs(), "Out of reach; the set waits");
        self.record(waiting.job, Change::PutBack { reason: fault.clone().into() }, now);
        // The folder itself may be away; a look tells.
        self.folders[waiting.folder].hint();
        if self.folders[waiting.folder].put_back(&waiting.key, Some(fault)) {
            let attempts = waiting.attempts.saturating_sub(1);
            self.queue.push(Waiting { attempts, unreached, not_before: now + wait, done: false, ..waiting });
        }
    }

    fn failed(&mut self, running: Running, fault: Fault, seconds: f64, now: Duration) {
        let attempts = running.waiting.attempts.max(1);
        let given_up_now = attempts >= self.config.schedule.tries;
        let state = if given_up_now { JobState::Quarantined } else { JobState::Failed };
        self.account(&running, state, &fault.to_string(), &[], seconds);
        let Running { waiting, runner, .. } = running;
        self.job_failed_with(&runner.model().sha256, waiting.job, attempts, &fault);
        self.view.push_outcome(waiting.key.to_string(), Err(fault.to_string()));
        if given_up_now {
            self.view.totals.quarantined += 1;
            tracing::error!(set = %waiting.key, reason = %fault, attempts, "Set failed and is quarantined");
            self.record(waiting.job, Change::Quarantined { attempts, fault: fault.clone() }, now);
            self.folders[waiting.folder].finish(&waiting.key, Err(given_up(attempts, fault)));
            return;
        }
        let wait = self.config.schedule.retry_wait(attempts);
        tracing::error!(set = %waiting.key, reason = %fault, attempts, again_seconds = wait.as_secs(), "Set failed");
        let not_before = SystemTime::now() + wait;
        self.record(waiting.job, Change::Failed { attempts, not_before, fault: fault.clone() }, now);
        if self.folders[waiting.folder].put_back(&waiting.key, Some(fault)) {
            self.queue.push(Waiting { attempts, not_before: now + wait, done: false, ..waiting });
        }
    }
}

/// What is told of a set that is left alone.
pub(super) fn given_up(attempts: u32, fault: Fault) -> Fault {
    let tries = if attempts == 1 { "1 try".to_owned() } else { format!("{attempts} tries") };
    fault.within(format!("given up after {tries}"))
}
