//! Models that arrive as files while the daemon serves (hazards h09 and h11).
//!
//! ```text
//!  dropped ─► settled ─► copied into the store ─► loaded and proved in a worker of its own ─► Active ─► next job
//!                │ hash, signature                    │ preflight, contract, golden patches      │ replaced, rolled back
//!                └──────────── refused ◄──────────────┘                                          ▼
//!                     rejected/NAME.onnx, with the reason                                     Standby ─► activate
//! ```
//!
//! **Invariants.** A model that is refused changes nothing of what serves. A job keeps the model that it began with: it
//! holds the worker, whatever serves meanwhile. The supervisor reads models as bytes, to copy and hash them, and in no
//! other way.
//!
//! One model serves for each list of stains; a new one takes the place of the one with the same stains. A model that was
//! replaced or rolled back does not come back by dropping its file again, only by a person's `activate`: an old file that
//! is copied by mistake, or by somebody who knows its weakness, changes nothing.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod inbox;
mod proof;
mod registry;
mod start;
mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tissuemap::contract::is_ahead_of_time;

pub use self::proof::Verified;
pub use self::registry::{ModelRow, ModelState};

pub(crate) use self::inbox::{Dropped, Look, look};
pub(crate) use self::proof::{Kept, Proof, Proved};

use self::inbox::Inbox;
use self::registry::{Coming, Registry};
use self::store::Store;
use crate::config::Config;
use crate::job::{Fault, JobRunner};
use crate::journal::JobId;
use crate::sets::{choose, same_stains};

/// A model that was refused or rolled back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rejection {
    /// Counts since the daemon started, from 1.
    pub number: u64,
    /// Its file name.
    pub name: String,
    /// The stable id of the broken rule.
    pub id: String,
    /// What is wrong, and what a person can do.
    pub reason: String,
}

/// All models: those that serve, those that arrive, and what is remembered of both.
pub struct Models {
    inbox: Inbox,
    store: Arc<Store>,
    registry: Registry,
    /// Where the registry is kept.
    file: PathBuf,
    /// Why it could not be.
    unwritten: Option<String>,
    /// `keep` in [models].
    keep: usize,
    serving: Vec<Arc<dyn JobRunner>>,
    /// What went wrong at the start and is made up for meanwhile.
    fallen: Option<String>,
    /// What was known of models is lost, since this start.
    lost: Option<String>,
    pub(crate) rejections: VecDeque<Rejection>,
}

/// The files that a daemon with this configuration would load: of the models that serve, by what its state folder tells,
/// or of the configured one. Changes nothing.
///
/// # Errors
/// What the state folder tells cannot be read, or a model in it is gone or not signed as wanted.
pub fn files(config: &Config) -> Result<Vec<PathBuf>, Fault> {
    let state = config.state_folder();
    let registry = Registry::peek(&state.join(FILE)).map_err(|error| {
        let reason = format!("{}: {error}", state.join(FILE).display());
        Fault::new(reason, "run this as the daemon's user; a damaged file is moved aside at its next start")
    })?;
    let store = Store::to_read(&state, config.models.keys());
    let active = registry.rows().iter().filter(|row| row.state == ModelState::Active);
    let kept = active.map(|row| store.get(&row.sha256, &row.name).map(|stored| stored.path));
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    Ok(if kept.is_empty() { config.model.iter().cloned().collect() } else { kept })
}

/// The registry's file in the state folder.
pub(crate) const FILE: &str = "models.json";

/// So many refusals are told.
const REJECTIONS: usize = 16;

/// Id of a refusal for a reason that lies in the machine, and has no id of its own.
const NOT_LOADED: &str = "model.not-loaded";

/// Id of the refusal to serve a model whose time is over.
const DOWNGRADE: &str = "model.downgrade";

impl Models {
    /// The models that serve.
    pub(crate) fn serving(&self) -> &[Arc<dyn JobRunner>] {
        &self.serving
    }

    /// The stains of each model that serves.
    pub(crate) fn panels(&self) -> Vec<Vec<String>> {
        self.serving.iter().map(|runner| runner.model().stain_names()).collect()
    }

    /// The model for a set of these slides, by stain; none where none serves.
    pub(crate) fn runner_for(&self, slides: &BTreeMap<String, PathBuf>) -> Option<Arc<dyn JobRunner>> {
        choose(&self.panels(), slides).map(|index| Arc::clone(&self.serving[index]))
    }

    /// What is remembered of all models, in the order they came.
    pub fn rows(&self) -> &[ModelRow] {
        self.registry.rows()
    }

    /// Name and hash of each model that serves.
    pub fn serving_in_words(&self) -> String {
        let active = self.registry.rows().iter().filter(|row| row.state == ModelState::Active);
        active.map(|row| format!("{} sha256:{}", row.name, row.sha256)).collect::<Vec<_>>().join(", ")
    }

    /// What the models that serve compute on.
    pub(crate) fn providers_in_words(&self) -> String {
        let active = self.registry.rows().iter().filter(|row| row.state == ModelState::Active);
        let providers: BTreeSet<String> = active.filter_map(|row| Some(row.provider?.to_string())).collect();
        providers.into_iter().collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn find(&self, which: &str) -> Result<&ModelRow, Fault> {
        self.registry.find(which)
    }

    /// When a look at the folder is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.inbox.next_due()
    }

    /// The folder to be looked at, when a look is due; report it with [`Models::looked`].
    pub(crate) fn begin_look(&mut self, now: Duration) -> Option<PathBuf> {
        self.inbox.begin_look(now).then(|| self.inbox.folder().to_path_buf())
    }

    /// Takes in a look; gives the models that have settled and were not dealt with before.
    pub(crate) fn looked(&mut self, time: Range<Duration>, look: Result<Look, Fault>) -> Vec<Dropped> {
        let (settled, there) = self.inbox.looked(time, look);
        if there.is_some_and(|there: BTreeSet<PathBuf>| self.registry.forget_missing(&there))
            || self.unwritten.is_some()
        {
            self.save();
        }
        for (name, fault) in self.inbox.take_news() {
            self.refuse(&name, None, &fault);
        }
        settled.into_iter().filter(|dropped| !self.registry.has_handled(&dropped.path, &dropped.state())).collect()
    }

    /// Whether a proved model may serve beside or in place of what does.
    ///
    /// # Errors
    /// It is older than the one of its stains.
    pub(crate) fn admit(&self, proved: &Proved) -> Result<(), Fault> {
        let info = proved.runner.model();
        let Some(active) = self.registry.active(&info.stain_names()) else { return Ok(()) };
        if info.revision >= active.revision {
            return Ok(());
        }
        let revision =
            |revision: Option<u64>| revision.map_or("no revision".into(), |number| format!("revision {number}"));
        let (name, theirs) = (&proved.stored.name, revision(active.revision));
        let reason = format!("{name}: is {}, and {theirs} ({}) serves", revision(info.revision), active.name);
        Err(Fault::new(reason, "name it on purpose with `tissuemapctl models activate`").with_id(DOWNGRADE))
    }

    /// Keeps a proved model that does not serve by itself, so that a person can activate it.
    pub(crate) fn keep(&mut self, proved: &Proved, fault: &Fault) {
        self.registry.keep(proved.runner.model(), &proved.stored.name, fault.reason());
        self.save();
    }

    /// Has a proved model serve from the next job on. Gives the one in whose place it does, if there is one.
    pub(crate) fn activate(&mut self, proved: Proved, reason: &str) -> Option<Arc<dyn JobRunner>> {
        self.take_up(proved, Coming::New, reason)
    }

    /// Gives a model up (`why`) and has a proved one serve again in its place.
    pub(crate) fn go_back(&mut self, from: &str, why: &str, proved: Proved) -> Option<Arc<dyn JobRunner>> {
        let name = self.registry.get(from).map(|row| row.name.clone()).unwrap_or_default();
        self.registry.set_aside(from, why);
        self.take_up(proved, Coming::Back, &format!("again, in place of {name}"))
    }

    fn take_up(&mut self, proved: Proved, coming: Coming, reason: &str) -> Option<Arc<dyn JobRunner>> {
        let info = proved.runner.model();
        self.registry.activate(info, &proved.stored.name, coming, reason);
        tracing::info!(
            model = proved.stored.name, sha256 = info.sha256, stains = info.stain_names().join(","),
            provider = %info.provider, golden = info.golden, reason, "Model serves from the next job on"
        );
        self.fallen = None;
        self.save();
        self.serve(proved.runner)
    }

    fn serve(&mut self, runner: Arc<dyn JobRunner>) -> Option<Arc<dyn JobRunner>> {
        let stains = runner.model().stain_names();
        let same = |other: &Arc<dyn JobRunner>| same_stains(&other.model().stain_names(), &stains);
        let Some(index) = self.serving.iter().position(same) else {
            self.serving.push(runner);
            return None;
        };
        Some(std::mem::replace(&mut self.serving[index], runner))
    }

    /// Removes copies of models that do not serve, but those that are to be kept; gives what was removed. Blocks for as long
    /// as removing files takes.
    pub(crate) fn prune(&mut self) -> Vec<Kept> {
        let superfluous = self.registry.superfluous(self.keep);
        for Kept { sha256, name } in &superfluous {
            self.store.discard(sha256);
            self.registry.removed(sha256);
            tracing::info!(model = name, sha256, keep = self.keep, "Copy of a model removed; its file is left alone");
        }
        if !superfluous.is_empty() {
            self.save();
        }
        superfluous
    }

    /// A dropped file was dealt with: it is not looked at again unless it changes.
    pub(crate) fn handled(&mut self, dropped: &Dropped) {
        self.registry.handle(&dropped.path, dropped.state());
        self.save();
    }

    /// A refused file cannot be moved aside.
    pub(crate) fn stays(&mut self, dropped: &Dropped, fault: &Fault) {
        let problem = format!("{}: refused, and cannot be moved to `rejected`: {fault}", dropped.path.display());
        tracing::error!(reason = problem, "Refused model not moved");
        self.fallen = Some(problem);
        self.handled(dropped);
    }

    /// Remembers that a model may not serve.
    pub(crate) fn refuse(&mut self, name: &str, sha256: Option<&str>, fault: &Fault) {
        // One that served before was taken into the store to be recognised, and can be activated from there.
        if let Some(sha256) = sha256.filter(|_| fault.id() == Some(DOWNGRADE)) {
            self.registry.is_back(sha256);
        }
        tracing::error!(
            model = name,
            id = fault.id().unwrap_or(NOT_LOADED),
            reason = fault.reason(),
            hint = fault.hint(),
            "Model refused"
        );
        if let Some(sha256) = sha256 {
            self.registry.reject(sha256, name, fault.reason());
            self.save();
        }
        self.tell_rejection(name, fault);
    }

    pub(crate) fn tell_rejection(&mut self, name: &str, fault: &Fault) {
        let number = self.rejections.back().map_or(0, |last| last.number) + 1;
        let id = fault.id().unwrap_or(NOT_LOADED).to_owned();
        self.rejections.push_back(Rejection { number, name: name.into(), id, reason: fault.to_string() });
        while self.rejections.len() > REJECTIONS {
            self.rejections.pop_front();
        }
    }

    /// A job was done with this model.
    pub(crate) fn job_done(&mut self, sha256: &str) {
        self.registry.job_done(sha256);
        self.save();
    }

    /// A job failed with this model, `first` in its first try. Gives why the model is to be rolled back, if it is.
    ///
    /// Counted are sets, each once, of which the first try fails while no job has succeeded with the model: a set that
    /// failed before with another model, and one whose slides are at fault for sure ([`Fault::blames_slide`]), says
    /// nothing about this one.
    pub(crate) fn job_failed(
        &mut self,
        sha256: &str,
        job: JobId,
        first: bool,
        fault: &Fault,
        canary: u32,
    ) -> Option<Fault> {
        let suspects = self.registry.job_failed(sha256, job, first && !fault.blames_slide());
        let on_trial = self.registry.get(sha256).is_some_and(|row| row.on_trial);
        self.save();
        (on_trial && canary > 0 && suspects >= canary as usize).then(|| {
            let reason = format!("all of the first {suspects} sets failed, the last one with: {}", fault.reason());
            Fault::new(reason, "see why in the log; the model before it serves again").with_id("model.rolled-back")
        })
    }

    /// The jobs that failed with a model on trial.
    pub(crate) fn suspects(&self, sha256: &str) -> Vec<JobId> {
        self.registry.get(sha256).map(|row| row.suspects.clone()).unwrap_or_default()
    }

    /// What this model replaced and what that one did, nearest first.
    pub(crate) fn before(&self, sha256: &str) -> Vec<Kept> {
        self.registry.before(sha256).into_iter().map(ModelRow::kept).collect()
    }

    /// The model that came last of those that serve and have one to go back to.
    pub(crate) fn latest_with_predecessor(&self) -> Option<&ModelRow> {
        let rows = self.registry.rows().iter().filter(|row| row.state == ModelState::Active);
        rows.filter(|row| !self.registry.before(&row.sha256).is_empty()).max_by_key(|row| row.since)
    }

    /// There is nothing to go back to: the model goes on serving.
    pub(crate) fn acquit(&mut self, sha256: &str) {
        self.registry.acquit(sha256);
        self.save();
    }

    /// What needs a person.
    pub(crate) fn problems(&self) -> Vec<String> {
        let folder = self.inbox.folder().display();
        let none = self.serving.is_empty().then(|| format!("no model serves; hint: drop one into {folder}"));
        let unwritten = self.unwritten.iter().map(|reason| format!("{}: {reason}", self.file.display()));
        let now = SystemTime::now();
        let active = self.registry.rows().iter().filter(|row| row.state == ModelState::Active);
        let ahead = active.filter(|row| row.revision.is_some_and(|revision| is_ahead_of_time(revision, now)));
        let ahead = ahead.map(|row| {
            let (name, revision) = (&row.name, row.revision.unwrap_or_default());
            format!(
                "model {name} serves with revision {revision}, greater than any count or date of today: a later model with a \
                 smaller one is refused; hint: export {name} with a smaller revision, or have others serve with \
                 `tissuemapctl models activate`"
            )
        });
        none.into_iter()
            .chain(ahead)
            .chain(self.lost.clone())
            .chain(self.fallen.clone())
            .chain(unwritten)
            .chain(self.inbox.problems())
            .collect()
    }

    /// What cannot be written stays in memory and is tried again; until then a restart would bring back what served
    /// before.
    fn save(&mut self) {
        let written = self.registry.write(&self.file);
        self.unwritten = written.err().map(|error| {
            tracing::error!(file = %self.file.display(), reason = %error, "What is known of models not written");
            format!("{error}; hint: check the disk of the state folder")
        });
    }
}

impl Dropped {
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}
