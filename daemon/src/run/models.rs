//! Models on their way: from the folder or a command to the proof, and from the proof to serving.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tissuemap::infer::ProofStep;
use tissuemap::section_set::Namer;

use super::commands::answer;
use super::waits::Awaited;
use super::{Daemon, Done};
use crate::arrive::members::Fingerprint;
use crate::command::{RefusalKind, Reply};
use crate::config::Watch;
use crate::job::{Fault, JobRunner, blocking, namer};
use crate::journal::{JobId, JobState};
use crate::models::{Dropped, Kept, Look, ModelRow, Proof, Proved, Verified, look};
use crate::sets::same_stains;
use crate::status::proof_in_words;

/// Time until a model is tried again for which there was no room on the disk.
const ROOM_WAIT: Duration = Duration::from_secs(30);

const MOVE_HINT: &str = "remove it, or let the daemon write the model folder";

/// A model to be proved.
pub(super) enum Task {
    /// It was dropped: it is to serve.
    Dropped { dropped: Dropped, not_before: Duration },
    /// It is in the store.
    Kept { kept: Kept, purpose: Purpose },
}

/// What a model in the store is to be proved for.
pub(super) enum Purpose {
    /// A person wants it to serve.
    Activate(Reply<ModelRow>),
    /// It is to serve again in place of one that is given up.
    GoBack(GoBack),
    /// A person wants to know whether it could serve.
    Verify(Reply<Verified>),
}

pub(super) struct GoBack {
    /// The model that is given up.
    from: Kept,
    fault: Fault,
    /// What else could serve, nearest first.
    others: Vec<Kept>,
    reply: Option<Reply<ModelRow>>,
}

/// The proof that is under way.
pub(super) struct Proving {
    name: String,
    /// Nothing else begins before it has come to an end.
    goes_back: bool,
}

/// What came of a proof.
pub(super) enum Outcome {
    Dropped { dropped: Dropped, proof: Proof },
    Kept { kept: Kept, purpose: Purpose, proof: Result<Proved, Fault> },
}

impl Task {
    fn not_before(&self) -> Duration {
        match self {
            Self::Dropped { not_before, .. } => *not_before,
            Self::Kept { .. } => Duration::ZERO,
        }
    }

    fn goes_back(&self) -> bool {
        matches!(self, Self::Kept { purpose: Purpose::GoBack(_), .. })
    }

    fn name(&self) -> String {
        match self {
            Self::Dropped { dropped, .. } => dropped.name(),
            Self::Kept { kept, .. } => kept.name.clone(),
        }
    }
}

impl Daemon {
    /// When something is to be done about models if nothing happens before.
    pub(super) fn next_model_due(&self) -> Option<Duration> {
        let proof = if self.proving.is_none() { self.proofs.iter().map(Task::not_before).min() } else { None };
        [self.models.next_due(), proof].into_iter().flatten().min()
    }

    /// Begins a look at the model folder, or a proof, when one is due.
    pub(super) fn begin_models(&mut self, now: Duration) {
        if let Some(folder) = self.models.begin_look(now) {
            self.waits.begin(Awaited::ModelFolder, format!("the model folder {}", folder.display()), None);
            let work = async move { blocking("model folder", move || look(&folder)).await };
            self.tasks.spawn(async move { Done::ModelLook { begun: now, look: work.await } });
        }
        if self.proving.is_some() {
            return;
        }
        let Some(next) = self.proofs.iter().position(|task| task.not_before() <= now) else { return };
        let Some(task) = self.proofs.remove(next) else { return };
        let proving = self.proving.insert(Proving { name: task.name(), goes_back: task.goes_back() });
        self.waits.begin(
            Awaited::Proof,
            proof_in_words(&proving.name, ProofStep::Preflight),
            Some(self.config.worker.load_limit()),
        );
        let steps = self.steps.clone();
        let tell = move |step| {
            steps.send_replace(Some(step));
        };
        let backend = Arc::clone(&self.backend);
        match task {
            Task::Dropped { dropped, .. } => {
                let proof = self.models.proof_of_dropped(dropped.clone(), backend, tell);
                self.tasks.spawn(async move {
                    let proof = blocking("model", move || Ok(proof())).await;
                    let proof = proof.unwrap_or_else(|fault| Proof::Refused { sha256: None, fault });
                    Done::Model(Outcome::Dropped { dropped, proof })
                });
            }
            Task::Kept { kept, purpose } => {
                let proof = self.models.proof_of_kept(kept.clone(), backend, tell);
                self.tasks.spawn(async move {
                    Done::Model(Outcome::Kept { kept, purpose, proof: blocking("model", proof).await })
                });
            }
        }
    }

    /// The proof that is under way has come to this step.
    pub(super) fn proof_stepped(&mut self) {
        let step = *self.stepped.borrow_and_update();
        if let (Some(step), Some(proving)) = (step, &self.proving) {
            self.waits.rename(Awaited::Proof, proof_in_words(&proving.name, step));
        }
    }

    pub(super) fn looked_for_models(&mut self, begun: Duration, look: Result<Look, Fault>) {
        self.waits.end(Awaited::ModelFolder);
        for dropped in self.models.looked(begun..self.now(), look) {
            tracing::info!(model = dropped.name(), "Model arrived");
            self.proofs.push_back(Task::Dropped { dropped, not_before: Duration::ZERO });
        }
    }

    /// Whether jobs may begin: not without a model, and not while one that is given up has no successor.
    pub(super) fn has_models(&self) -> bool {
        let goes_back = self.proving.iter().any(|proving| proving.goes_back);
        !self.models.serving().is_empty() && !goes_back && !self.proofs.iter().any(Task::goes_back)
    }

    pub(super) fn proved(&mut self, outcome: Outcome) {
        self.proving = None;
        self.waits.end(Awaited::Proof);
        let (kept, purpose, proof) = match outcome {
            Outcome::Dropped { dropped, proof } => return self.dropped_was_proved(dropped, proof),
            Outcome::Kept { kept, purpose, proof } => (kept, purpose, proof),
        };
        match purpose {
            Purpose::Activate(reply) => {
                let outcome = proof.and_then(|proved| self.activate_proved(proved, "on request"));
                if let Err(fault) = &outcome {
                    self.note_model(&kept.name, None, "refused", &fault.to_string());
                }
                // Whoever looks after the answer sees what became of it.
                self.tell();
                answer(reply, outcome.map_err(|fault| RefusalKind::ModelRefused.with(fault)));
            }
            Purpose::GoBack(back) => self.go_back(back, proof),
            Purpose::Verify(reply) => {
                let outcome = proof.map(|proved| {
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
                return self.proofs.push_back(Task::Dropped { dropped, not_before });
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
        self.prune_models();
        self.bring_up_to_date();
    }

    /// Removes the copies of models that are not kept.
    pub(super) fn prune_models(&mut self) {
        let keep = self.config.models.keep;
        for Kept { sha256, name } in self.models.prune() {
            self.note_model(&name, Some(&sha256), "removed", &format!("a copy beyond `keep = {keep}`"));
        }
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
        match self.models.find(which).map(ModelRow::kept) {
            Ok(kept) => self.proofs.push_back(Task::Kept { kept, purpose: Purpose::Activate(reply) }),
            Err(fault) => answer(reply, Err(RefusalKind::NoSuchModel.with(fault))),
        }
    }

    pub(super) fn verify(&mut self, which: &str, reply: Reply<Verified>) {
        match self.models.find(which).map(ModelRow::kept) {
            Ok(kept) => self.proofs.push_back(Task::Kept { kept, purpose: Purpose::Verify(reply) }),
            Err(fault) => answer(reply, Err(RefusalKind::NoSuchModel.with(fault))),
        }
    }

    pub(super) fn roll_back_on_request(&mut self, reply: Reply<ModelRow>) {
        let Some(row) = self.models.latest_with_predecessor() else {
            let hint = "`tissuemapctl models activate` has any model serve that is listed";
            let reason = "no model that serves has replaced another one";
            return answer(reply, Err(RefusalKind::WrongState.because(reason, hint)));
        };
        let (from, fault) = (row.kept(), Fault::plain("rolled back on request"));
        self.roll_back(from, fault, Some(reply));
    }

    fn roll_back(&mut self, from: Kept, fault: Fault, reply: Option<Reply<ModelRow>>) {
        let mut others = self.models.before(&from.sha256);
        if others.is_empty() {
            self.models.acquit(&from.sha256);
            return;
        }
        let kept = others.remove(0);
        let purpose = Purpose::GoBack(GoBack { from, fault, others, reply });
        // Everything waits for it.
        self.proofs.push_front(Task::Kept { kept, purpose });
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
            self.roll_back(Kept { sha256: sha256.into(), name }, fault, None);
        }
    }

    fn go_back(&mut self, mut back: GoBack, proof: Result<Proved, Fault>) {
        let GoBack { from: Kept { sha256, name }, .. } = &back;
        let outcome = proof.and_then(|proved| Ok((self.namers_with(&proved)?, proved)));
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
                let kept = back.others.remove(0);
                self.proofs.push_front(Task::Kept { kept, purpose: Purpose::GoBack(back) });
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

/// Ending a worker takes a moment, which the loop does not wait for.
pub(super) fn retire(runner: Arc<dyn JobRunner>) {
    drop(tokio::task::spawn_blocking(move || drop(runner)));
}
