//! From a set that is due to its work: journal, queue, examination.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tissuemap::section_set::SetKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::examine::{Finding, examine, first_look};
use super::outcome::given_up;
use super::pace::Pace;
use super::waits::Awaited;
use super::{Daemon, Done, Phase};
use crate::arrive::members::Fingerprint;
use crate::disk::Shortage;
use crate::done::Maker;
use crate::job::{Fault, FaultKind, Job, JobProgress, JobRunner, Processed, Step, answered, blocking};
use crate::journal::{self, Change, Contents, JobId, JobRow, JobState};
use crate::outputs;
use crate::schedule::Waiting;

/// Time between two looks whether there is room again; a look is one system call.
const DISK_LOOK: Duration = Duration::from_secs(3);

/// Sets that are entered into the journal in one turn of the loop. Each may cost a flush of the disk, and the loop
/// must stay awake after a burst of thousands.
const ENTERED_PER_TURN: usize = 64;

/// Who cancelled a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// It begins again with the next start.
    Daemon,
    /// It does not.
    Person,
}

/// The job that is running or being examined.
pub(super) struct Running {
    pub(super) waiting: Waiting,
    pub(super) job: Arc<Job>,
    /// The model that it began with, and keeps whatever serves meanwhile.
    pub(super) runner: Arc<dyn JobRunner>,
    pub(super) begun: Duration,
    cancel: CancellationToken,
    pub(super) cancelled: Option<By>,
    steps: watch::Receiver<Step>,
    pub(super) pace: Pace,
    /// What the work reports to; taken when it begins.
    progress: Option<JobProgress>,
}

impl Running {
    pub(super) fn set(&self) -> &SetKey {
        &self.waiting.key
    }

    pub(super) fn step(&self) -> Step {
        *self.steps.borrow()
    }

    pub(super) fn steps(&mut self) -> &mut watch::Receiver<Step> {
        &mut self.steps
    }

    /// False when it was cancelled before.
    pub(super) fn cancel(&mut self, by: By) -> bool {
        let first = self.cancelled.is_none();
        if first {
            tracing::warn!(set = %self.set(), "Job cancelled");
            self.cancelled = Some(by);
            self.cancel.cancel();
        }
        first
    }
}

/// Whether the disk is full, as far as was noticed.
#[derive(Debug, Default)]
pub(super) struct Full {
    shortage: Option<Shortage>,
    /// When to try again.
    again: Duration,
    /// Jobs in a row that filled it.
    pub(super) in_a_row: u32,
}

impl Full {
    pub(super) fn shortage(&self) -> Option<&Shortage> {
        self.shortage.as_ref()
    }

    fn blocks(&self, now: Duration) -> bool {
        self.shortage.is_some() && self.again > now
    }
}

impl Daemon {
    /// When something is to be done about jobs if nothing happens before.
    pub(super) fn next_job_due(&self, now: Duration) -> Option<Duration> {
        let entry = (!self.due.is_empty() || !self.unwritten.is_empty()).then(|| self.full.again.max(now));
        let job = self.running.is_none() && !self.paused;
        let retry = job.then(|| self.queue.next_due(now)).flatten();
        let room = (job && self.full.blocks(now)).then_some(self.full.again);
        let writable = job.then(|| self.blocked.next_due().filter(|due| *due > now)).flatten();
        [entry, retry, room, writable].into_iter().flatten().min()
    }

    /// Enters sets that are due into the journal and the queue.
    pub(super) fn enqueue(&mut self, now: Duration) {
        for _ in 0..ENTERED_PER_TURN {
            if self.full.blocks(now) {
                return;
            }
            let Some((folder, key)) = self.due.front().cloned() else { return };
            if let Some(job) = self.folders[folder].queued(&key) {
                let renew = self.keeps_up_to_date(&job.inputs);
                match self.enter(folder, &job, renew) {
                    Ok(Some((row, contents))) => self.admit(folder, &job, &row, contents, (renew, false), now),
                    Ok(None) => return,
                    Err(shortage) => return self.wait_for_room(shortage, DISK_LOOK, now),
                }
            }
            self.due.pop_front();
        }
    }

    fn enter(&mut self, folder: usize, job: &Job, renew: bool) -> Result<Option<(JobRow, Contents)>, Shortage> {
        let (watch, model) = (&self.folders[folder].watch().folder, self.model_for(job));
        let entered = self.journal.request(watch, &job.set.key, &model, renew, &journal::inputs(job));
        if matches!(&entered, Err(error) if error.is_no_space()) {
            return Err(self.no_room_for_state());
        }
        Ok(self.checked(entered))
    }

    /// The hash of the model that would process this job; empty where none serves.
    pub(super) fn model_for(&self, job: &Job) -> String {
        self.models.runner_for(&job.set.slides).map(|runner| runner.model().sha256.clone()).unwrap_or_default()
    }

    /// Queues a job, unless the journal says that it is to be left alone.
    pub(super) fn admit(
        &mut self,
        folder: usize,
        job: &Job,
        row: &JobRow,
        contents: Contents,
        (renew, asked): (bool, bool),
        now: Duration,
    ) {
        self.untold = true;
        match row.state {
            JobState::Quarantined => {
                self.folders[folder].leave(&row.set, Some(given_up(row.attempts, row.reason.clone().into_fault())));
            }
            JobState::Cancelled => self.folders[folder].leave(&row.set, None),
            _ => {
                let longest = Duration::from_secs(self.config.schedule.retry_max_seconds);
                // The clock may have been set since.
                let wait = row.not_before.and_then(|time| time.duration_since(SystemTime::now()).ok());
                self.queue.push(Waiting {
                    job: row.id,
                    folder,
                    key: row.set.clone(),
                    scanned: scanned(job),
                    attempts: row.attempts,
                    unreached: 0,
                    not_before: now + wait.unwrap_or_default().min(longest),
                    done: row.state == JobState::Done,
                    renew,
                    asked,
                    contents,
                });
            }
        }
    }

    /// Begins the next job, if one may begin.
    pub(super) fn begin_next(&mut self, now: Duration) {
        if self.running.is_some() || self.paused || self.full.blocks(now) || !self.has_models() {
            return;
        }
        self.forget_blocked(now);
        while let Some(waiting) = self.next_in_reach(now) {
            self.untold = true;
            let Some(job) = self.folders[waiting.folder].start(&waiting.key) else { continue };
            if let Some(runner) = self.models.runner_for(&job.set.slides) {
                return self.begin_examination(waiting, job, runner, now);
            }
        }
    }

    /// Takes the next job out of the queue. What lies in a folder that is away, or in which results cannot be written, lets
    /// others pass.
    fn next_in_reach(&mut self, now: Duration) -> Option<Waiting> {
        let (folders, blocked) = (&self.folders, &self.blocked);
        let may = |waiting: &Waiting| {
            let folder = &folders[waiting.folder];
            let held = |job: Job| blocked.holds(&results(&job), now).is_some();
            folder.is_reachable(now) && (blocked.is_empty() || !folder.queued(&waiting.key).is_some_and(held))
        };
        self.queue.next(self.config.schedule.order, now, may)
    }

    /// Folders for which no set waits any more are no problem.
    fn forget_blocked(&mut self, now: Duration) {
        if self.blocked.next_due().is_some_and(|due| due <= now) {
            let jobs = self.queue.iter().filter_map(|waiting| self.folders[waiting.folder].queued(&waiting.key));
            self.blocked.retain(&jobs.flat_map(|job| results(&job)).collect());
        }
    }

    fn begin_examination(&mut self, waiting: Waiting, job: Job, runner: Arc<dyn JobRunner>, begun: Duration) {
        let bytes = journal::inputs(&job).values().map(|input| input.bytes).sum();
        let maker = if waiting.renew { Maker::This } else { Maker::Any };
        let model = (maker == Maker::This).then(|| runner.model().sha256.as_str());
        let past = self.journal.past(model, bytes);
        let Some(past) = self.checked(past) else { return };
        let (progress, steps, cancel) = JobProgress::new();
        let (job, known) = (Arc::new(job), waiting.contents.clone());
        let its_runner = Arc::clone(&runner);
        let (state, min_free) = (self.config.state_folder(), self.config.schedule.min_free());
        let (examined, asked) = (Arc::clone(&job), waiting.asked);
        let (first, first_known, first_runner) = (Arc::clone(&examined), known.clone(), Arc::clone(&runner));
        let first = move || Ok(first_look(&first, &first_known, (first_runner.model(), maker), min_free));
        let work = move || Ok(examine(&examined, &known, &past, (its_runner.model(), maker), asked, &state, min_free));
        let what = format!("what lies beside the slides of {}", waiting.key);
        self.waits.begin(Awaited::Examination, what, None);
        let watched = self.folders[waiting.folder].watch().folder.clone();
        self.tasks.spawn(async move {
            let finding = match answered(&watched, first).await {
                Ok(None) => blocking("examination", work).await,
                Ok(Some(finding)) => Ok(finding),
                Err(fault) => Err(fault),
            };
            Done::Examined { finding }
        });
        self.running = Some(Running {
            waiting,
            job,
            runner,
            begun,
            cancel,
            cancelled: None,
            steps,
            pace: Pace::default(),
            progress: Some(progress),
        });
    }

    pub(super) fn examined(&mut self, finding: Result<Finding, Fault>) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        match finding {
            Err(fault) => self.finish_job(Err(fault)),
            Ok(Finding::Before(contents)) => {
                // A second line in the history for each restart would be noise.
                running.waiting.done &= running.waiting.contents == contents;
                running.waiting.contents = contents;
                self.finish_job(Ok(Processed::Before));
            }
            Ok(Finding::Poorer(besides, contents)) => {
                running.waiting.done &= running.waiting.contents == contents;
                running.waiting.contents = contents;
                self.finish_job(Ok(Processed::Poorer(besides)));
            }
            Ok(Finding::Short(shortage, contents)) => {
                running.waiting.contents = contents;
                self.put_back_running();
                self.wait_for_room(shortage, DISK_LOOK, now);
            }
            Ok(Finding::Unwritable(folder, fault)) => {
                self.put_back_running();
                if self.blocked.add(folder, fault.clone(), &self.config.schedule, now) {
                    tracing::warn!(reason = %fault, "Sets wait until results can be written");
                }
            }
            Ok(Finding::Fit(_)) if running.cancelled.is_some() => {
                self.finish_job(Err(Fault::plain("cancelled").with_kind(FaultKind::Cancelled)));
            }
            Ok(Finding::Fit(_)) if self.phase != Phase::Serving => self.put_back_running(),
            Ok(Finding::Fit(contents)) => {
                running.waiting.contents = contents;
                self.begin_work(now);
            }
        }
    }

    fn begin_work(&mut self, now: Duration) {
        let Some(running) = &mut self.running else { return };
        let Some(progress) = running.progress.take() else { return };
        running.begun = now;
        running.pace = Pace::default();
        running.waiting.attempts += 1;
        self.blocked.remove(&results(&running.job));
        let (id, attempt) = (running.waiting.job, running.waiting.attempts);
        let (job, runner) = (Arc::clone(&running.job), Arc::clone(&running.runner));
        let model = runner.model().sha256.clone();
        if self.full.in_a_row == 0 {
            self.full.shortage = None;
        }
        self.record(id, Change::Begun { attempt, model }, now);
        let work = move || runner.process(&job, &progress).map(Processed::Now);
        self.tasks.spawn(async move { Done::Job { outcome: blocking("job", work).await } });
    }

    fn put_back_running(&mut self) {
        if let Some(running) = self.running.take() {
            self.put_back(running);
        }
    }

    /// The job waits again as if it had not begun.
    pub(super) fn put_back(&mut self, running: Running) {
        self.untold = true;
        let Running { waiting, .. } = running;
        if self.folders[waiting.folder].put_back(&waiting.key, None) {
            self.queue.push(waiting);
        }
    }

    /// Begins nothing until the next look for room.
    pub(super) fn wait_for_room(&mut self, shortage: Shortage, wait: Duration, now: Duration) {
        if self.full.shortage.as_ref().is_none_or(|known| known.path != shortage.path) {
            tracing::warn!(reason = %shortage, "Waiting for room");
        }
        self.full.shortage = Some(shortage);
        self.full.again = now + wait;
    }

    fn no_room_for_state(&self) -> Shortage {
        Shortage { path: self.config.state_folder(), free: None, needed: self.config.schedule.min_free() }
    }

    /// Has a change written into the journal, now or when there is room for it. Until then the journal says less than is
    /// known; a crash in between costs a look at results that are there.
    pub(super) fn record(&mut self, job: JobId, change: Change, now: Duration) {
        self.unwritten.push_back((job, change));
        self.untold = true;
        if self.unwritten.len() == 1 {
            self.flush(now);
        }
    }

    /// Tries again to write what there was no room for.
    pub(super) fn write_down(&mut self, now: Duration) {
        if !self.full.blocks(now) {
            self.flush(now);
        }
    }

    fn flush(&mut self, now: Duration) {
        while let Some((job, change)) = self.unwritten.front() {
            let written = self.journal.apply(*job, change);
            if matches!(&written, Err(error) if error.is_no_space()) {
                return self.wait_for_room(self.no_room_for_state(), DISK_LOOK, now);
            }
            if self.checked(written).is_none() {
                return;
            }
            self.unwritten.pop_front();
            self.untold = true;
        }
    }
}

/// Where the results of a job appear.
pub(super) fn results(job: &Job) -> BTreeSet<PathBuf> {
    outputs::folders(job.set.slides.values())
}

/// When the newest file of a set was written.
fn scanned(job: &Job) -> SystemTime {
    let members = job.inputs.values().flat_map(Fingerprint::members);
    members.map(|member| member.modified).max().unwrap_or(SystemTime::UNIX_EPOCH)
}
