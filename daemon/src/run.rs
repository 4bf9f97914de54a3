//! The daemon's one loop. Everything slow (looks at folders, probes, jobs) happens on blocking threads and comes back as
//! a [`Done`]; all state is changed here and nowhere else. Only the journal and what is known of models are written in
//! between: a change must be on the disk before what follows from it begins.
//!
//! At most one job, one probe and one proof of a model run at a time: a job fills the machine, and the others must not wait
//! for it.

mod account;
mod commands;
mod examine;
mod jobs;
mod models;
mod outcome;
mod pace;
mod situation;
mod tell;
mod vouch;
mod waits;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tissuemap::infer::ProofStep;
use tissuemap::section_set::{NamingError, SetKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::examine::Finding;
use self::jobs::{Full, Running};
use self::models::{Outcome, Proving, Task};
use self::waits::{Awaited, Waits};
use crate::arrive::Settled;
use crate::arrive::watch::Hints;
use crate::audit::{Audit, Event};
use crate::command::Wish;
use crate::config::{Config, Watch};
use crate::done;
use crate::folder::{Folder, Look, look};
use crate::job::{Backend, Fault, Processed, Step, answered, blocking, namer};
use crate::journal::{Change, JobId, Journal, JournalError};
use crate::models::Models;
use crate::outputs::Blocked;
use crate::schedule::Queue;
use crate::status::pulse::Heart;
use crate::status::{Status, systemd};

/// How long a cancelled job may take to notice. It looks between batches, which take seconds on a slow machine.
const CANCEL_GRACE: Duration = Duration::from_secs(20);

/// From the end of the loop to the end of the process.
const ENDING: Duration = Duration::from_secs(10);

/// What a blocking thread brought back.
enum Done {
    Look { folder: usize, begun: Duration, look: Result<Look, Fault> },
    Probe { folder: usize, settled: Settled, outcome: Result<(), Fault> },
    Examined { finding: Result<Finding, Fault> },
    Job { outcome: Result<Processed, Fault> },
    ModelLook { begun: Duration, look: Result<crate::models::Look, Fault> },
    Model(Outcome),
    MovedAside { dropped: crate::models::Dropped, outcome: Result<(), Fault> },
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
    config: Config,
    backend: Arc<dyn Backend>,
    models: Models,
    /// Models to be proved, and the one that is.
    proofs: VecDeque<Task>,
    proving: Option<Proving>,
    /// The step of that proof, and how it is heard of.
    steps: Arc<watch::Sender<Option<ProofStep>>>,
    stepped: watch::Receiver<Option<ProofStep>>,
    waits: Waits,
    folders: Vec<Folder>,
    hints: Hints,
    tasks: JoinSet<Done>,
    probing: bool,
    journal: Journal,
    audit: Option<Audit>,
    /// Sets to be processed that the journal has not been asked about.
    due: VecDeque<(usize, SetKey)>,
    queue: Queue,
    running: Option<Running>,
    /// Changes that the journal has had no room for.
    unwritten: VecDeque<(JobId, Change)>,
    full: Full,
    /// Folders in which results cannot be written.
    blocked: Blocked,
    paused: bool,
    /// Without a journal, serving makes no sense.
    journal_lost: Option<Fault>,
    commands: mpsc::Receiver<Wish>,
    phase: Phase,
    started: Instant,
    heart: Heart,
    /// Why the daemon does not vouch for itself.
    stalled: Option<Fault>,
    view: Status,
    /// Jobs or queue changed since they were last told.
    untold: bool,
    status: watch::Sender<Status>,
}

impl Daemon {
    /// A daemon that will serve `config` with `backend` and `models`, remember in `journal`, tell its state through
    /// `status` and obey `commands`.
    ///
    /// # Errors
    /// A stain spelling of the configuration means something else in a model.
    pub fn new(
        config: Config,
        backend: Arc<dyn Backend>,
        models: Models,
        journal: Journal,
        status: watch::Sender<Status>,
        commands: mpsc::Receiver<Wish>,
    ) -> Result<Self, NamingError> {
        let folder = |watch: &Watch| {
            let served = models.serving().iter().map(|runner| runner.model());
            let namer = namer(&watch.naming.over(&config.naming), served.flat_map(|model| &model.stains))?;
            Ok(Folder::new(watch.clone(), namer, models.panels(), &config.group))
        };
        let folders = config.watch.iter().map(folder).collect::<Result<_, NamingError>>()?;
        let hints = Hints::new(&config.watch);
        let loss = journal.loss().map(|fault| fault.to_string());
        let view = Status { last_error: loss.unwrap_or_default(), ..Status::default() };
        let (steps, stepped) = watch::channel(None);
        let mut daemon = Self {
            config,
            backend,
            models,
            proofs: VecDeque::new(),
            proving: None,
            steps: Arc::new(steps),
            stepped,
            waits: Waits::default(),
            folders,
            hints,
            tasks: JoinSet::new(),
            probing: false,
            paused: false,
            journal,
            audit: None,
            due: VecDeque::new(),
            queue: Queue::default(),
            running: None,
            unwritten: VecDeque::new(),
            full: Full::default(),
            blocked: Blocked::default(),
            journal_lost: None,
            commands,
            phase: Phase::Serving,
            started: Instant::now(),
            heart: Heart::new(),
            stalled: None,
            view,
            untold: true,
            status,
        };
        let paused = daemon.journal.paused();
        daemon.paused = daemon.checked(paused).unwrap_or_default();
        if daemon.paused {
            tracing::warn!("Paused since before the start: nothing is processed until it is resumed");
        }
        Ok(daemon)
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
        self.note_start();
        self.prune_models();
        loop {
            self.begin();
            self.vouch();
            self.tell();
            if let Some(fault) = self.journal_lost.take().filter(|_| outcome.is_ok()) {
                tracing::error!(reason = %fault, "Lost the journal");
                outcome = Err(fault);
                self.stop("loss");
            }
            if self.phase != Phase::Serving && self.running.is_none() {
                self.note(Event::Ended);
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
                Some(wish) = self.commands.recv() => self.obey(wish),
                Ok(()) = self.stepped.changed() => self.proof_stepped(),
                () = next_step(self.running.as_mut().map(Running::steps)) => {}
                () = sleep_until(wake) => self.overdue(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the loop must turn even if nothing happens.
    fn wake(&self) -> Instant {
        let now = self.now();
        // Any far moment: a folder that is neither being looked at nor due is due within its scan interval.
        let idle = now + Duration::from_hours(1);
        let work = match self.phase {
            Phase::Serving => {
                let folders = self.folders.iter().filter_map(Folder::next_due).min();
                let (jobs, models) = (self.next_job_due(now), self.next_model_due());
                let retry = || self.folders.iter().filter_map(Folder::next_retry).min();
                let probe = (!self.probing).then(retry).flatten();
                self.started + [folders, jobs, models, probe].into_iter().flatten().min().unwrap_or(idle)
            }
            Phase::Draining(end) | Phase::Cancelling(end) => end,
        };
        work.min(self.heart.next())
    }

    /// Begins whatever is due.
    fn begin(&mut self) {
        let now = self.now();
        self.write_down(now);
        if self.phase != Phase::Serving {
            return;
        }
        for index in 0..self.folders.len() {
            if self.folders[index].begin_look(now) {
                self.begin_look(index, now);
            }
            self.due.extend(self.folders[index].group(now).into_iter().map(|key| (index, key)));
        }
        if let Some((folder, settled)) = (!self.probing).then(|| self.next_probe(now)).flatten() {
            self.begin_probe(folder, settled);
        }
        self.begin_models(now);
        self.enqueue(now);
        self.begin_next(now);
    }

    /// The newest slide that was never tested, whichever folder it is in; where there is none, one that could not be read.
    fn next_probe(&mut self, now: Duration) -> Option<(usize, Settled)> {
        let newest = self.folders.iter().enumerate().filter_map(|(index, f)| Some((f.newest_probe(now)?, index)));
        if let Some((_, index)) = newest.max() {
            return Some((index, self.folders[index].next_probe()?));
        }
        self.folders.iter_mut().enumerate().find_map(|(index, f)| Some((index, f.next_reprobe(now)?)))
    }

    fn begin_look(&mut self, folder: usize, begun: Duration) {
        let (watch, claim) = (self.folders[folder].watch().clone(), self.folders[folder].claim());
        let what = format!("the watch folder {}", watch.folder.display());
        self.waits.begin(Awaited::Folder(folder), what, None);
        self.tasks.spawn(async move {
            let subject = watch.folder.display().to_string();
            Done::Look { folder, begun, look: blocking(subject, move || look(&watch, &claim)).await }
        });
    }

    fn begin_probe(&mut self, folder: usize, settled: Settled) {
        self.probing = true;
        let (backend, mpp) = (Arc::clone(&self.backend), self.folders[folder].watch().mpp);
        let Settled { slide, fingerprint } = settled.clone();
        let watched = self.folders[folder].watch().folder.clone();
        // After a restart a folder full of processed slides is ready at once.
        let read = slide.clone();
        let was_read = move || Ok(done::was_read(&read, &fingerprint));
        let what = format!("the first look into {}", slide.display());
        self.waits.begin(Awaited::FirstLook, what, Some(self.config.worker.probe_limit()));
        self.tasks.spawn(async move {
            let outcome = match answered(&watched, was_read).await {
                Ok(true) => Ok(()),
                Ok(false) => blocking(settled.slide.display(), move || backend.probe(&slide, mpp)).await,
                Err(fault) => Err(fault),
            };
            Done::Probe { folder, settled, outcome }
        });
    }

    fn take_in(&mut self, done: Done) {
        match done {
            Done::Look { folder, begun, look } => {
                self.waits.end(Awaited::Folder(folder));
                let reached = look.as_ref().ok().map(|look| look.identity);
                if let Ok(look) = &look {
                    self.withdraw_missing(folder, look);
                }
                let time = begun..self.now();
                self.folders[folder].looked(time, look);
                match reached {
                    Some(identity) if !self.folders[folder].watch().poll => self.hints.ensure(folder, identity),
                    Some(_) => {}
                    None => self.hints.forget(folder),
                }
            }
            Done::Probe { folder, settled, outcome } => {
                self.probing = false;
                self.waits.end(Awaited::FirstLook);
                let slide = settled.slide.display();
                match &outcome {
                    Ok(()) => tracing::info!(%slide, files = settled.fingerprint.members().len(), "Slide ready"),
                    Err(fault) => tracing::warn!(%slide, reason = %fault, "Slide rejected"),
                }
                let now = self.now();
                self.folders[folder].probed(settled, outcome, &self.config.schedule, now);
            }
            Done::Examined { finding } => {
                self.waits.end(Awaited::Examination);
                self.examined(finding);
            }
            Done::Job { outcome } => self.finish_job(outcome),
            Done::ModelLook { begun, look } => self.looked_for_models(begun, look),
            Done::Model(outcome) => self.proved(outcome),
            Done::MovedAside { dropped, outcome: Err(fault) } => self.models.stays(&dropped, &fault),
            Done::MovedAside { outcome: Ok(()), .. } => {}
        }
    }

    /// Jobs of which slides are gone are no open jobs.
    fn withdraw_missing(&mut self, folder: usize, look: &Look) {
        let there: BTreeSet<String> =
            look.snapshot.slides.keys().map(|slide| slide.to_string_lossy().into_owned()).collect();
        let withdrawn = self.journal.withdraw_missing(&self.folders[folder].watch().folder, &there);
        // Without room, the next look tries again.
        if !matches!(&withdrawn, Err(error) if error.is_no_space()) {
            self.untold |= self.checked(withdrawn).is_some_and(|jobs| jobs > 0);
        }
    }

    /// What the journal says; without an answer, the daemon ends.
    fn checked<T>(&mut self, outcome: Result<T, JournalError>) -> Option<T> {
        outcome
            .map_err(|error| {
                let hint = "check the disk; a damaged journal is moved aside at the next start";
                self.journal_lost = Some(Fault::from_error(&error).or_hint(hint));
            })
            .ok()
    }

    fn stop(&mut self, reason: &str) {
        match (self.phase, &self.running) {
            (Phase::Serving, running) => {
                tracing::info!(reason, job = running.is_some(), "Draining");
                let drain = Duration::from_secs(self.config.drain_seconds);
                systemd::stopping(drain + CANCEL_GRACE + ENDING);
                if let Some(running) = running {
                    self.waits.begin(Awaited::Drain, format!("the end of job {}", running.set()), Some(drain));
                }
                self.phase = Phase::Draining(Instant::now() + drain);
            }
            _ => self.cancel(),
        }
    }

    /// The moment that [`Daemon::wake`] named has come.
    fn overdue(&mut self) {
        match self.phase {
            Phase::Draining(end) if Instant::now() >= end => self.cancel(),
            Phase::Cancelling(end) if Instant::now() >= end => {
                if let Some(running) = self.running.take() {
                    tracing::warn!(set = %running.set(), "Job does not end; leaving it behind");
                }
            }
            _ => {}
        }
    }

    fn cancel(&mut self) {
        if let Some(running) = &mut self.running
            && running.cancel(jobs::By::Daemon)
        {
            let what = format!("the cancelled job {}", running.set());
            self.waits.begin(Awaited::Cancellation, what, Some(CANCEL_GRACE));
            self.phase = Phase::Cancelling(Instant::now() + CANCEL_GRACE);
        }
    }
}

/// Waits for the running job's next step; for ever when none runs or the job has said its last.
async fn next_step(steps: Option<&mut watch::Receiver<Step>>) {
    if let Some(steps) = steps
        && steps.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
