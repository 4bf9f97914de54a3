//! What people ask for ([`Command`]), and the answers.

use std::fmt::Display;
use std::path::Path;

use tissuemap::section_set::SetKey;

use super::Daemon;
use super::jobs::By;
use super::waits::Awaited;
use crate::audit::{Event, Requester};
use crate::command::{Command, Refusal, RefusalKind, Reply, Wish};
use crate::config::Config;
use crate::job::Fault;
use crate::journal::{Change, JobId, JobRow, JobState, JournalError};

impl Daemon {
    pub(super) fn obey(&mut self, (by, command): Wish) {
        match command {
            Command::Submit { slide, reply } => {
                let outcome = self.submit(&slide);
                self.answer(by, "submit", &slide.display(), outcome, reply);
            }
            Command::Cancel { job, reply } => {
                let outcome = self.cancel_job(job);
                self.answer(by, "cancel", &job, outcome, reply);
            }
            Command::Retry { job, reply } => {
                let outcome = self.retry(job);
                self.answer(by, "retry", &job, outcome, reply);
            }
            Command::Pause { reply } => {
                let outcome = self.pause(true);
                self.answer(by, "pause", &"", outcome, reply);
            }
            Command::Resume { reply } => {
                let outcome = self.pause(false);
                self.answer(by, "resume", &"", outcome, reply);
            }
            Command::Reload { config, reply } => {
                let outcome = self.reload(*config);
                self.answer(by, "reload", &"", outcome, reply);
            }
            // Answered later; what comes of it is an entry of its own.
            Command::Activate { which, reply } => {
                self.note_wish(by, "activate", &which, None);
                self.activate(&which, reply);
            }
            Command::Rollback { reply } => {
                self.note_wish(by, "rollback", &"", None);
                self.roll_back_on_request(reply);
            }
            // These change nothing, and so are not written down.
            Command::Explain { slide, reply } => answer(reply, self.explain(&slide)),
            Command::Models { reply } => answer(reply, Ok::<_, Refusal>(self.models.rows().to_vec())),
            Command::Verify { which, reply } => self.verify(&which, reply),
        }
    }

    fn answer<T>(
        &mut self,
        by: Requester,
        action: &str,
        subject: &dyn Display,
        outcome: Result<T, impl Into<Refusal>>,
        reply: Reply<T>,
    ) {
        let outcome = outcome.map_err(Into::into);
        self.note_wish(by, action, subject, outcome.as_ref().err());
        // Whoever looks after the answer sees what became of it.
        self.tell();
        answer(reply, outcome);
    }

    fn note_wish(&mut self, by: Requester, action: &str, subject: &dyn Display, refused: Option<&Refusal>) {
        let (action, refused) = (action.into(), refused.map(ToString::to_string));
        self.note(Event::Asked { by, action, subject: subject.to_string(), refused });
    }

    fn submit(&mut self, slide: &Path) -> Result<JobId, Refusal> {
        let folder = self.folder_of(slide)?;
        self.folders[folder].hint();
        let Some(key) = self.folders[folder].set_of(slide).cloned() else {
            let why = self.explain(slide)?;
            let hint = why.hint.unwrap_or_else(|| "submit it when it is ready".into());
            return Err(RefusalKind::NotReady.because(format!("{} {}", slide.display(), why.sentence), hint));
        };
        let runs = self.running.as_ref().filter(|running| (running.waiting.folder, running.set()) == (folder, &key));
        if let Some(running) = runs {
            return Ok(running.waiting.job);
        }
        self.demand(folder, &key)
    }

    fn retry(&mut self, id: JobId) -> Result<(), Refusal> {
        let row = self.job(id)?;
        match row.state {
            JobState::Failed | JobState::Quarantined | JobState::Cancelled => {}
            JobState::Done => {
                return Err(RefusalKind::WrongState.because(
                    format!("job {id} ({}) is done", row.set),
                    "move the result folders beside its slides away and submit one of them to have it done again",
                ));
            }
            JobState::Requested | JobState::Running | JobState::Gone => {
                let state = row.state;
                let reason = format!("job {id} ({}) is {state}", row.set);
                return Err(RefusalKind::WrongState.because(reason, "`tissuemapctl queue` shows it"));
            }
        }
        let folder = self.folders.iter().position(|folder| folder.watch().folder.to_string_lossy() == row.folder);
        let folder = folder.ok_or_else(|| {
            RefusalKind::NotWatched.because(format!("{}: not watched any more", row.folder), "watch it")
        })?;
        self.demand(folder, &row.set).map(drop)
    }

    /// Queues a set as its slides are now, whatever became of it before.
    pub(super) fn demand(&mut self, folder: usize, key: &SetKey) -> Result<JobId, Refusal> {
        let not_there = || {
            RefusalKind::NotReady
                .because(format!("set {key}: its slides are not there, or not ready"), "bring them back")
        };
        if self.models.serving().is_empty() {
            return Err(RefusalKind::NotReady.because("no model serves", "drop one into the model folder"));
        }
        if !self.folders[folder].queue(key) {
            return Err(not_there());
        }
        let job = self.folders[folder].queued(key).ok_or_else(not_there)?;
        let (watch, model) = (&self.folders[folder].watch().folder, self.model_for(&job));
        let requested = self.journal.request(watch, key, &model, true, &crate::journal::inputs(&job));
        let (row, contents) = requested.map_err(|error| refused(&error))?;
        let id = row.id;
        let row = if matches!(row.state, JobState::Failed | JobState::Quarantined | JobState::Cancelled) {
            self.journal.apply(id, &Change::Retried).map_err(|error| refused(&error))?;
            self.job(id)?
        } else {
            row
        };
        let now = self.now();
        self.admit(folder, &job, &row, contents, (true, true), now);
        Ok(id)
    }

    fn cancel_job(&mut self, id: JobId) -> Result<(), Refusal> {
        if let Some(running) = self.running.as_mut().filter(|running| running.waiting.job == id) {
            if running.cancel(By::Person) {
                let what = format!("the cancelled job {}", running.set());
                self.waits.begin(Awaited::Cancellation, what, Some(super::CANCEL_GRACE));
            }
            return Ok(());
        }
        let row = self.job(id)?;
        if !matches!(row.state, JobState::Requested | JobState::Failed | JobState::Quarantined) {
            let state = row.state;
            let reason = format!("job {id} ({}) is {state}", row.set);
            return Err(RefusalKind::WrongState.because(reason, "there is nothing to cancel"));
        }
        self.journal.apply(id, &Change::Cancelled { reason: "on request".into() }).map_err(|error| refused(&error))?;
        self.untold = true;
        if let Some(waiting) = self.queue.remove(id) {
            self.folders[waiting.folder].leave(&waiting.key, None);
        } else if let Some(folder) =
            self.folders.iter_mut().find(|folder| folder.watch().folder.to_string_lossy() == row.folder)
            && folder.queue(&row.set)
        {
            // Given up: it is no problem any more.
            folder.leave(&row.set, None);
        }
        Ok(())
    }

    fn pause(&mut self, paused: bool) -> Result<(), Refusal> {
        self.journal.set_paused(paused).map_err(|error| refused(&error))?;
        if self.paused != paused {
            tracing::warn!("{}", if paused { "Paused on request" } else { "Resumed on request" });
        }
        self.paused = paused;
        Ok(())
    }

    fn reload(&mut self, config: Config) -> Result<(), Fault> {
        let old = &self.config;
        let fixed = [
            ("model", old.model != config.model),
            ("state_folder", old.state_folder != config.state_folder),
            ("[[watch]]", old.watch != config.watch),
            ("[naming]", old.naming != config.naming),
            ("[models]", old.models != config.models),
            ("[worker]", old.worker != config.worker),
            ("[bus]", old.bus != config.bus),
            ("[leds]", old.leds != config.leds),
            ("[metrics]", old.metrics != config.metrics),
            ("[audit]", old.audit != config.audit),
            ("[road]", old.road != config.road),
        ];
        let changed: Vec<&str> = fixed.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect();
        if !changed.is_empty() {
            return Err(Fault::new(
                format!("changes of {} are not taken over while running, and nothing was", changed.join(", ")),
                "restart tissuemapd",
            ));
        }
        self.folders.iter_mut().for_each(|folder| folder.reconfigure(&config.group));
        self.config = config;
        self.untold = true;
        tracing::info!("Configuration read again");
        Ok(())
    }

    pub(super) fn folder_of(&self, slide: &Path) -> Result<usize, Refusal> {
        self.folders.iter().position(|folder| slide.starts_with(&folder.watch().folder)).ok_or_else(|| {
            let reason = format!("{}: in none of the watched folders", slide.display());
            RefusalKind::NotWatched.because(reason, "bring it into one of them, and give its full path")
        })
    }

    fn job(&self, id: JobId) -> Result<JobRow, Refusal> {
        let row = self.journal.job(id).map_err(|error| refused(&error))?;
        row.ok_or_else(|| {
            RefusalKind::NoSuchJob.because(format!("there is no job {id}"), "`tissuemapctl queue` lists them")
        })
    }
}

pub(super) fn refused(error: &JournalError) -> Fault {
    Fault::from_error(error).or_hint("check the disk of the state folder")
}

/// Whoever asked may have gone.
pub(super) fn answer<T>(reply: Reply<T>, outcome: Result<T, impl Into<Refusal>>) {
    let _ = reply.send(outcome.map_err(Into::into));
}
