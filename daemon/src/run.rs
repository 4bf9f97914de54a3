//! The daemon's one loop. Everything slow (looks at folders, probes, jobs) happens on blocking threads and comes back as
//! a [`Done`]; all state is changed here and nowhere else.
//!
//! At most one job and one probe run at a time: a job fills the machine, and a probe must not wait for a job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tissuemap::section_set::{NamingError, SetKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::arrive::Settled;
use crate::arrive::watch::Hints;
use crate::config::{Config, Watch};
use crate::done;
use crate::folder::{Folder, Look, look};
use crate::job::{Fault, Job, JobProgress, JobRunner, Processed, Step, blocking};
use crate::status::{CurrentJob, Product, State, Status, stage_name};

/// How long a cancelled job may take to notice. It looks between batches, which take seconds on a slow machine.
const CANCEL_GRACE: Duration = Duration::from_secs(20);

/// What a blocking thread brought back.
enum Done {
    Look { folder: usize, begun: Duration, look: Result<Look, Fault> },
    Probe { folder: usize, settled: Settled, outcome: Result<(), Fault> },
    Job { outcome: Result<Processed, Fault> },
}

/// The job that is running.
struct Running {
    folder: usize,
    key: SetKey,
    begun: Duration,
    cancel: CancellationToken,
    steps: watch::Receiver<Step>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Serving,
    /// Nothing new is begun; the job may go on until then.
    Draining(Instant),
    /// The job was cancelled; the daemon ends then at the latest.
    Cancelling(Instant),
}

/// The daemon: all its state.
pub struct Daemon {
    runner: Arc<dyn JobRunner>,
    folders: Vec<Folder>,
    hints: Hints,
    tasks: JoinSet<Done>,
    probing: bool,
    running: Option<Running>,
    queue: VecDeque<(usize, SetKey)>,
    phase: Phase,
    drain: Duration,
    started: Instant,
    view: Status,
    status: watch::Sender<Status>,
}

impl Daemon {
    /// A daemon that will serve `config` with `runner` and tell its state through `status`.
    ///
    /// # Errors
    /// A stain spelling of the configuration means something else in the model.
    pub fn new(
        config: &Config,
        runner: Arc<dyn JobRunner>,
        status: watch::Sender<Status>,
    ) -> Result<Self, NamingError> {
        let model = runner.model();
        let stains: Vec<String> = model.stains.iter().map(|stain| stain.name.clone()).collect();
        let folder = |watch: &Watch| {
            let namer = model.namer(&watch.naming.over(&config.naming))?;
            Ok(Folder::new(watch.clone(), namer, stains.clone(), &config.group))
        };
        let folders = config.watch.iter().map(folder).collect::<Result<_, NamingError>>()?;
        let view = Status { model: format!("{} sha256:{}", model.path.display(), model.sha256), ..Status::default() };
        Ok(Self {
            runner,
            folders,
            hints: Hints::new(&config.watch),
            tasks: JoinSet::new(),
            probing: false,
            running: None,
            queue: VecDeque::new(),
            phase: Phase::Serving,
            drain: Duration::from_secs(config.drain_seconds),
            started: Instant::now(),
            view,
            status,
        })
    }

    /// Serves until a message on `stop` (the name of a signal, say) or until `lost` ends, then drains: the running job may
    /// finish within the configured time and is cancelled after that, or at the second message.
    ///
    /// # Errors
    /// What `lost` ended with: something without which serving makes no sense.
    pub async fn run(
        mut self,
        mut stop: mpsc::Receiver<&'static str>,
        lost: impl Future<Output = Fault>,
    ) -> Result<(), Fault> {
        tokio::pin!(lost);
        let mut outcome = Ok(());
        loop {
            self.begin();
            self.tell();
            if self.phase != Phase::Serving && self.running.is_none() {
                return outcome;
            }
            let serving = self.phase == Phase::Serving;
            let wake = self.wake();
            tokio::select! {
                Some(reason) = stop.recv() => self.stop(reason),
                fault = &mut lost, if outcome.is_ok() => {
                    tracing::error!(reason = %fault, "Lost what the daemon cannot do without");
                    outcome = Err(fault);
                    self.stop("loss");
                }
                hinted = self.hints.next(), if serving => hinted.into_iter().for_each(|folder| self.folders[folder].hint()),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.take_in(done),
                    Err(error) => tracing::error!(%error, "Task ended without a result"),
                },
                () = next_step(self.running.as_mut()) => {}
                () = sleep_until(wake) => self.overdue(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the loop must turn even if nothing happens.
    fn wake(&self) -> Instant {
        // Any far moment: a folder that is neither being looked at nor due is due within its scan interval.
        let idle = self.now() + Duration::from_hours(1);
        match self.phase {
            Phase::Serving => self.started + self.folders.iter().filter_map(Folder::next_due).min().unwrap_or(idle),
            Phase::Draining(end) | Phase::Cancelling(end) => end,
        }
    }

    /// Begins whatever is due.
    fn begin(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        let now = self.now();
        for index in 0..self.folders.len() {
            if self.folders[index].begin_look(now) {
                self.begin_look(index, now);
            }
            for key in self.folders[index].group(now) {
                if !self.queue.contains(&(index, key.clone())) {
                    self.queue.push_back((index, key));
                }
            }
        }
        if !self.probing {
            let mut settled = self.folders.iter_mut().enumerate().filter_map(|(i, f)| f.next_probe().map(|s| (i, s)));
            if let Some((folder, settled)) = settled.next() {
                self.begin_probe(folder, settled);
            }
        }
        while self.running.is_none()
            && let Some((folder, key)) = self.queue.pop_front()
        {
            if let Some(job) = self.folders[folder].start(&key) {
                self.begin_job(folder, key, job);
            }
        }
    }

    fn begin_look(&mut self, folder: usize, begun: Duration) {
        let watch = self.folders[folder].watch().clone();
        self.tasks.spawn(async move {
            let subject = watch.folder.display().to_string();
            Done::Look { folder, begun, look: blocking(subject, move || look(&watch)).await }
        });
    }

    fn begin_probe(&mut self, folder: usize, settled: Settled) {
        self.probing = true;
        let (runner, mpp) = (Arc::clone(&self.runner), self.folders[folder].watch().mpp);
        let Settled { slide, fingerprint } = settled.clone();
        let work = move || {
            // After a restart a folder full of processed slides is ready at once.
            if done::was_read(&slide, &fingerprint, runner.model()) { Ok(()) } else { runner.probe(&slide, mpp) }
        };
        self.tasks.spawn(async move {
            let outcome = blocking(settled.slide.display(), work).await;
            Done::Probe { folder, settled, outcome }
        });
    }

    fn begin_job(&mut self, folder: usize, key: SetKey, job: Job) {
        let (progress, steps, cancel) = JobProgress::new();
        let runner = Arc::clone(&self.runner);
        let work = move || {
            if done::is_done(&job, runner.model()) {
                return Ok(Processed::Before);
            }
            runner.process(&job, &progress).map(Processed::Now)
        };
        self.tasks.spawn(async move { Done::Job { outcome: blocking("job", work).await } });
        self.running = Some(Running { folder, key, begun: self.now(), cancel, steps });
    }

    fn take_in(&mut self, done: Done) {
        match done {
            Done::Look { folder, begun, look } => {
                let reached = look.is_ok();
                let time = begun..self.now();
                self.folders[folder].looked(time, look);
                match reached {
                    true if !self.folders[folder].watch().poll => self.hints.ensure(folder),
                    true => {}
                    false => self.hints.forget(folder),
                }
            }
            Done::Probe { folder, settled, outcome } => {
                self.probing = false;
                let slide = settled.slide.display();
                match &outcome {
                    Ok(()) => tracing::info!(%slide, files = settled.fingerprint.members().len(), "Slide ready"),
                    Err(fault) => tracing::warn!(%slide, reason = %fault, "Slide rejected"),
                }
                self.folders[folder].probed(settled, outcome);
            }
            Done::Job { outcome } => self.finish_job(outcome),
        }
    }

    fn finish_job(&mut self, outcome: Result<Processed, Fault>) {
        let Some(Running { folder, key, begun, cancel, .. }) = self.running.take() else { return };
        let seconds = self.now().saturating_sub(begun).as_secs_f64();
        match &outcome {
            Ok(Processed::Before) => tracing::info!(set = %key, "Set has its results already"),
            Ok(Processed::Now(result)) => {
                tracing::info!(
                    set = %key, slides = result.outputs.len(), tissue_cells = result.tissue_cells,
                    warnings = ?result.warnings, seconds, "Set processed"
                );
                let product = Product { outputs: result.outputs.clone(), registration: result.registration.clone() };
                self.view.push_outcome(key.to_string(), Ok(product));
            }
            Err(_) if cancel.is_cancelled() => {
                tracing::warn!(set = %key, seconds, "Set cancelled; it starts again with the daemon");
            }
            Err(fault) => {
                tracing::error!(set = %key, reason = %fault, seconds, "Set failed");
                self.view.push_outcome(key.to_string(), Err(fault.to_string()));
            }
        }
        self.folders[folder].finish(&key, outcome.map(drop));
    }

    fn stop(&mut self, reason: &str) {
        match (self.phase, &self.running) {
            (Phase::Serving, running) => {
                tracing::info!(reason, job = running.is_some(), "Draining");
                self.phase = Phase::Draining(Instant::now() + self.drain);
            }
            _ => self.cancel(),
        }
    }

    /// The moment that [`Daemon::wake`] named has come.
    fn overdue(&mut self) {
        match self.phase {
            Phase::Serving => {}
            Phase::Draining(_) => self.cancel(),
            Phase::Cancelling(_) => {
                if let Some(running) = self.running.take() {
                    tracing::warn!(set = %running.key, "Job does not end; leaving it behind");
                }
            }
        }
    }

    fn cancel(&mut self) {
        if let Some(running) = &self.running
            && !running.cancel.is_cancelled()
        {
            tracing::warn!(set = %running.key, "Job cancelled");
            running.cancel.cancel();
            self.phase = Phase::Cancelling(Instant::now() + CANCEL_GRACE);
        }
    }

    /// Publishes the status if it has changed.
    fn tell(&mut self) {
        let view = &mut self.view;
        view.state = match (self.phase, &self.running) {
            (Phase::Draining(_) | Phase::Cancelling(_), _) => State::Draining,
            (Phase::Serving, Some(_)) => State::Busy,
            (Phase::Serving, None) => State::Idle,
        };
        view.job = self.running.as_ref().map(|running| {
            let step = *running.steps.borrow();
            CurrentJob { set: running.key.to_string(), stage: stage_name(step.stage), progress: step.progress() }
        });
        view.queue = self.queue.iter().map(|(_, key)| key.to_string()).collect();
        view.waiting = self.folders.iter().flat_map(Folder::waiting).collect();
        view.arriving = self.folders.iter().flat_map(Folder::arriving).collect();
        let problems: Vec<String> = self.folders.iter().flat_map(Folder::problems).collect();
        for problem in problems.iter().filter(|problem| !view.problems.contains(problem)) {
            view.last_error.clone_from(problem);
        }
        view.problems = problems;
        self.status.send_if_modified(|told| {
            let changed = told != view;
            told.clone_from(view);
            changed
        });
    }
}

/// Waits for the running job's next step; for ever when none runs or the job has said its last.
async fn next_step(running: Option<&mut Running>) {
    if let Some(running) = running
        && running.steps.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
