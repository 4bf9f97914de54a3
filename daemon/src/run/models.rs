//! Models on their way: from the folder or a command to the proof, and from the proof to serving.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tissuemap::section_set::Namer;

use super::commands::answer;
use super::{Daemon, Done};
use crate::arrive::members::Fingerprint;
use crate::command::{RefusalKind, Reply};
use crate::config::Watch;
use crate::job::{Fault, JobRunner, blocking, namer};
use crate::journal::{JobId, JobState};
use crate::models::{Dropped, Look, ModelRow, Proof, Proved, Source, Verified, look};
use crate::sets::same_stains;

/// Time until a model is tried again for which there was no room on the disk.
const ROOM_WAIT: Duration = Duration::from_secs(30);

const MOVE_HINT: &str = "remove it, or let the daemon write the model folder";

/// A model to be proved.
pub(super) struct Task {
    source: Source,
    purpose: Purpose,
    not_before: Duration,
}

/// What for.
enum Purpose {
    /// It was dropped: it is to serve.
    Serve,
    /// A person wants it to serve.
    Activate(Reply<ModelRow>),
    /// It is to serve again in place of one that is given up.
    GoBack(GoBack),
    /// A person wants to know whether it could serve.
    Verify(Reply<Verified>),
}

struct GoBack {
    /// SHA-256 and name of the model that is given up.
    from: (String, String),
    fault: Fault,
    /// What else could serve, nearest first.
    others: Vec<Source>,
    reply: Option<Reply<ModelRow>>,
}

impl Daemon {
    /// When something is to be done about models if nothing happens before.
    pub(super) fn next_model_due(&self) -> Option<Duration> {
        let proof = if self.proving.is_none() { self.proofs.iter().map(|task| task.not_before).min() } else { None };
        [self.models.next_due(), proof].into_iter().flatten().min()
    }

    /// Begins a look at the model folder, or a proof, when one is due.
    pub(super) fn begin_models(&mut self, now: Duration) {
        if let Some(folder) = self.models.begin_look(now) {
            let work = async move { blocking("model folder", move || look(&folder)).await };
            self.tasks.spawn(async move { Done::ModelLook { begun: now, look: work.await } });
        }
        if self.proving.is_some() {
            return;
        }
        let Some(next) = self.proofs.iter().position(|task| task.not_before <= now) else { return };
        self.proving = self.proofs.remove(next);
        let Some(task) = &self.proving else { return };
        let proof = self.models.proof(task.source.clone(), Arc::clone(&self.backend));
        self.tasks.spawn(async move {
            let proof = blocking("model", move || Ok(proof())).await;
            Done::Model { proof: proof.unwrap_or_else(|fault| Proof::Refused { sha256: None, fault }) }
        });
    }

    pub(super) fn looked_for_models(&mut self, begun: Duration, look: Result<Look, Fault>) {
        for dropped in self.models.looked(begun..self.now(), look) {
            tracing::info!(model = dropped.name(), "Model arrived");
            self.prove(Source::Dropped(dropped), Purpose::Serve);
        }
    }

    fn prove(&mut self, source: Source, purpose: Purpose) {
        self.proofs.push_back(Task { source, purpose, not_before: Duration::ZERO });
    }

    /// Whether jobs may begin: not without a model, and not while one that is given up has no successor.
    pub(super) fn has_models(&self) -> bool {
        let goes_back = |task: &Task| matches!(task.purpose, Purpose::GoBack(_));
        !self.models.serving().is_empty() && !self.proofs.iter().chain(&self.proving).any(goes_back)
    }

    pub(super) fn proved(&mut self, proof: Proof) {
        let Some(Task { source, purpose, .. }) = self.proving.take() else { return };
        match (purpose, source) {
            (Purpose::Serve, Source::Dropped(dropped)) => self.dropped_was_proved(dropped, proof),
            // What was not dropped has somebody who waits for it.
            (Purpose::Serve, Source::Kept { .. }) => {}
            (Purpose::Activate(reply), source) => {
                let outcome = proved(proof).and_then(|proved| self.activate_proved(proved, "on request"));
                if let Err(fault) = &outcome {
                    self.note_model(&source.name(), None, "refused", &fault.to_string());
                }
                // Whoever looks after the answer sees what became of it.
                self.tell();
                answer(reply, outcome.map_err(|fault| RefusalKind::ModelRefused.with(fault)));
            }
            (Purpose::GoBack(back), _) => self.go_back(back, proof),
            (Purpose::Verify(reply), _) => {
                let outcome = proved(proof).map(|proved| {
                    let verified = proved.verified();
                    retire(proved.runner);
                    verified
                });
                answer(reply, outcome.map_err(|fault| RefusalKind::ModelRefused.with(fault)));
            }
        }
    }

    fn dropped_was_proved(&mut self, dropped: Dropped, proof: Proof) {
        let name = dropped.name();
        let (sha256, fault) = match proof {
            Proof::Changed => return,
            Proof::Known => return self.models.handled(&dropped),
            Proof::Refused { fault, .. } if fault.is_no_space() => {
                tracing::warn!(model = name, reason = %fault, "No room for the model; it waits");
                let not_before = self.now() + ROOM_WAIT;
                let (source, purpose) = (Source::Dropped(dropped), Purpose::Serve);
                return self.proofs.push_back(Task { source, purpose, not_before });
            }
            Proof::Refused { sha256, fault } => (sha256, fault),
            Proof::Proved(proved) => match self.admitted(&proved) {
                Ok(namers) => {
                    self.models.handled(&dropped);
                    let reason = "dropped into the model folder";
                    self.note_model(&name, Some(&proved.runner.model().sha256), "serves", reason);
                    let before = self.models.activate(proved, reason);
                    return self.serve_with(namers, before);
                }
                Err(fault) => {
                    self.models.keep(&proved, &fault);
                    let sha256 = proved.runner.model().sha256.clone();
                    retire(proved.runner);
                    (Some(sha256), fault)
                }
            },
        };
        self.models.refuse(&name, sha256.as_deref(), &fault);
        self.note_model(&name, sha256.as_deref(), "refused", &fault.to_string());
        self.tasks.spawn(async move {
            let (moved, subject) = (dropped.clone(), dropped.name());
            let work = move || moved.move_aside(&fault).map_err(|error| Fault::from_error(&error).or_hint(MOVE_HINT));
            Done::MovedAside { dropped, outcome: blocking(subject, work).await }
        });
    }

    /// How names would be read if this model served, for each folder.
    fn namers_with(&self, proved: &Proved) -> Result<Vec<Namer>, Fault> {
        let info = proved.runner.model();
        let others = self.models.serving().iter().map(|runner| runner.model());
        let others: Vec<_> = others.filter(|other| !same_stains(&other.stain_names(), &info.stain_names())).collect();
        let clash = |error: &dyn std::error::Error| {
            let reason = format!("{}: {error}", proved.name());
            Fault::new(reason, "change the spelling in [naming.stains] or in the model").with_id("model.naming-clash")
        };
        let namer = |watch: &Watch| {
            let rules = watch.naming.over(&self.config.naming);
            namer(&rules, others.iter().copied().chain([info]).flat_map(|model| &model.stains))
                .map_err(|error| clash(&error))
        };
        self.config.watch.iter().map(namer).collect()
    }

    fn admitted(&self, proved: &Proved) -> Result<Vec<Namer>, Fault> {
        self.models.admit(proved)?;
        self.namers_with(proved)
    }

    /// Has a model serve from the next job on.
    fn activate_proved(&mut self, proved: Proved, reason: &str) -> Result<ModelRow, Fault> {
        let namers = self.namers_with(&proved)?;
        let sha256 = proved.runner.model().sha256.clone();
        self.note_model(proved.name(), Some(&sha256), "serves", reason);
        let before = self.models.activate(proved, reason);
        self.serve_with(namers, before);
        self.models.find(&sha256).cloned()
    }

    fn serve_with(&mut self, namers: Vec<Namer>, before: Option<Arc<dyn JobRunner>>) {
        let panels = self.models.panels();
        for (folder, namer) in self.folders.iter_mut().zip(namers) {
            folder.remodel(namer, panels.clone());
        }
        before.into_iter().for_each(retire);
        self.bring_up_to_date();
    }

    /// Whether a set of these slides is processed again where another model made its results.
    pub(super) fn keeps_up_to_date(&self, inputs: &BTreeMap<PathBuf, Fingerprint>) -> bool {
        let Some(age) = self.config.models.reprocess() else { return false };
        let since = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        inputs.values().flat_map(Fingerprint::members).any(|member| member.modified >= since)
    }

    /// Queues sets that are done with, where they are to be kept up to date with the models that serve.
    fn bring_up_to_date(&mut self) {
        for index in 0..self.folders.len() {
            let recent = self.folders[index].finished().filter(|(_, inputs)| self.keeps_up_to_date(inputs));
            let keys: Vec<_> = recent.map(|(set, _)| set.key.clone()).collect();
            for key in keys {
                if self.folders[index].queue(&key) {
                    self.due.push_back((index, key));
                }
            }
        }
    }

    pub(super) fn activate(&mut self, which: &str, reply: Reply<ModelRow>) {
        match self.models.find(which).map(kept) {
            Ok(source) => self.prove(source, Purpose::Activate(reply)),
            Err(fault) => answer(reply, Err(RefusalKind::NoSuchModel.with(fault))),
        }
    }

    pub(super) fn verify(&mut self, which: &str, reply: Reply<Verified>) {
        match self.models.find(which).map(kept) {
            Ok(source) => self.prove(source, Purpose::Verify(reply)),
            Err(fault) => answer(reply, Err(RefusalKind::NoSuchModel.with(fault))),
        }
    }

    pub(super) fn roll_back_on_request(&mut self, reply: Reply<ModelRow>) {
        let Some(row) = self.models.latest_with_predecessor() else {
            let hint = "`tissuemapctl models activate` has any model serve that is listed";
            let reason = "no model that serves has replaced another one";
            return answer(reply, Err(RefusalKind::WrongState.because(reason, hint)));
        };
        let (from, fault) = ((row.sha256.clone(), row.name.clone()), Fault::plain("rolled back on request"));
        self.roll_back(from, fault, Some(reply));
    }

    fn roll_back(&mut self, from: (String, String), fault: Fault, reply: Option<Reply<ModelRow>>) {
        let mut others = self.models.before(&from.0);
        if others.is_empty() {
            self.models.acquit(&from.0);
            return;
        }
        let source = others.remove(0);
        let purpose = Purpose::GoBack(GoBack { from, fault, others, reply });
        // Everything waits for it.
        self.proofs.push_front(Task { source, purpose, not_before: Duration::ZERO });
    }

    /// A try of a job, counted from 1, failed with this model.
    pub(super) fn job_failed_with(&mut self, sha256: &str, job: JobId, attempt: u32, fault: &Fault) {
        let canary = self.config.models.canary_jobs;
        if let Some(fault) = self.models.job_failed(sha256, job, attempt == 1, fault, canary)
            && let Ok(name) = self.models.find(sha256).map(|row| row.name.clone())
        {
            tracing::error!(
                model = name,
                sha256,
                reason = fault.reason(),
                "MODEL GIVEN UP; the one before it serves again"
            );
            self.roll_back((sha256.into(), name), fault, None);
        }
    }

    fn go_back(&mut self, mut back: GoBack, proof: Proof) {
        let GoBack { from: (sha256, name), .. } = &back;
        let outcome = proved(proof).and_then(|proved| Ok((self.namers_with(&proved)?, proved)));
        match outcome {
            Ok((namers, proved)) => {
                let suspects = self.models.suspects(sha256);
                let its_sha256 = proved.runner.model().sha256.clone();
                self.note_model(name, Some(sha256), "given-up", &back.fault.to_string());
                self.note_model(proved.name(), Some(&its_sha256), "serves", "the one after it was given up");
                let before = self.models.go_back(sha256, back.fault.reason(), proved);
                self.serve_with(namers, before);
                if back.fault.id().is_some() {
                    self.models.tell_rejection(name, &back.fault);
                }
                suspects.into_iter().for_each(|job| self.ask_again(job));
                if let Some(reply) = back.reply {
                    self.tell();
                    answer(reply, self.models.find(&its_sha256).cloned());
                }
            }
            Err(fault) if back.others.is_empty() => {
                tracing::error!(model = name, reason = %fault, "NO MODEL TO GO BACK TO; it goes on serving");
                self.models.acquit(sha256);
                if let Some(reply) = back.reply {
                    answer(reply, Err(RefusalKind::ModelRefused.with(fault)));
                }
            }
            Err(fault) => {
                tracing::error!(reason = %fault, "The model before does not serve either");
                let source = back.others.remove(0);
                self.proofs.push_front(Task { source, purpose: Purpose::GoBack(back), not_before: Duration::ZERO });
            }
        }
    }

    /// A job that failed with a model that was given up is tried with the other one, as if for the first time.
    fn ask_again(&mut self, job: JobId) {
        let row = self.journal.job(job);
        let Some(Some(row)) = self.checked(row) else { return };
        let failed = matches!(row.state, JobState::Failed | JobState::Quarantined);
        let folder = self.folders.iter().position(|folder| folder.watch().folder.to_string_lossy() == row.folder);
        if let Some(folder) = folder.filter(|_| failed)
            && let Err(fault) = self.demand(folder, &row.set)
        {
            tracing::warn!(set = %row.set, reason = %fault, "Set not asked for again");
        }
    }
}

fn kept(row: &ModelRow) -> Source {
    Source::Kept { sha256: row.sha256.clone(), name: row.name.clone() }
}

fn proved(proof: Proof) -> Result<Proved, Fault> {
    match proof {
        Proof::Proved(proved) => Ok(proved),
        Proof::Refused { fault, .. } => Err(fault),
        Proof::Known | Proof::Changed => Err(Fault::new("the model is not there", "try again")),
    }
}

/// Ending a worker takes a moment, which the loop does not wait for.
pub(super) fn retire(runner: Arc<dyn JobRunner>) {
    drop(tokio::task::spawn_blocking(move || drop(runner)));
}
