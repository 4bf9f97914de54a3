//! What the daemon remembers of models: which serve, which did, how they fared.
//!
//! A small file of its own, `models.json` in the state folder, and no table of the journal: a damaged journal is begun
//! anew from what lies beside the slides, but nothing lies there that tells which model a person has rolled back. It is
//! replaced in one step and flushed before a model serves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tissuemap::durable::write_file;
use tissuemap::infer::Provider;
use tissuemap::untrusted::{self, UntrustedError};

use super::proof::Kept;
use crate::aside::move_aside;
use crate::job::{Fault, ModelInfo};
use crate::journal::JobId;
use crate::sets::same_stains;

/// Whether a model serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// It serves the sets of its stains.
    Active,
    /// It served, or could: `activate` brings it back.
    Standby,
    /// It may not serve.
    Rejected,
}

impl ModelState {
    /// The word that D-Bus and the command line show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Rejected => "rejected",
        }
    }
}

/// What is known of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRow {
    /// Of its file: its identity in results.
    pub sha256: String,
    /// The file name that it came under.
    pub name: String,
    pub state: ModelState,
    /// Since when it has this state.
    pub since: SystemTime,
    /// Why it has this state, in plain words; may be empty.
    pub reason: String,
    /// In contract order; empty where it was refused before that was known.
    pub stains: Vec<String>,
    /// What its maker calls this state of it: a later one has a greater number.
    pub revision: Option<u64>,
    /// What it was proved on.
    pub provider: Option<Provider>,
    /// How its golden patches came out, in words.
    pub golden: String,
    /// The model in whose place it serves, by SHA-256: what a rollback goes back to.
    pub replaced: Option<String>,
    /// No job has succeeded with it yet, and failures roll it back.
    pub on_trial: bool,
    /// Jobs that failed with it on trial.
    pub suspects: Vec<JobId>,
    pub jobs_done: u64,
    pub jobs_failed: u64,
    /// The daemon's copy was removed: its file must be dropped again before it can serve.
    #[serde(default)]
    pub removed: bool,
}

impl ModelRow {
    fn new(sha256: &str, name: &str) -> Self {
        Self {
            sha256: sha256.into(),
            name: name.into(),
            state: ModelState::Rejected,
            since: SystemTime::now(),
            reason: String::new(),
            stains: Vec::new(),
            revision: None,
            provider: None,
            golden: String::new(),
            replaced: None,
            on_trial: false,
            suspects: Vec::new(),
            jobs_done: 0,
            jobs_failed: 0,
            removed: false,
        }
    }

    fn become_(&mut self, state: ModelState, reason: &str) {
        let reason = reason.chars().take(REASON_CHARS).collect();
        (self.state, self.since, self.reason) = (state, SystemTime::now(), reason);
        (self.on_trial, self.suspects) = (false, Vec::new());
    }

    fn describe(&mut self, info: &ModelInfo) {
        (self.stains, self.revision) = (info.stain_names(), info.revision);
        (self.provider, self.golden) = (Some(info.provider), info.golden.clone());
    }

    /// Where it is in the store.
    pub(crate) fn kept(&self) -> Kept {
        Kept { sha256: self.sha256.clone(), name: self.name.clone() }
    }

    /// Whether both are for sets of the same stains: then only one of them serves.
    pub fn has_stains_of(&self, stains: &[String]) -> bool {
        same_stains(&self.stains, stains)
    }
}

/// How a model comes to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coming {
    /// On trial where another one stands behind it.
    New,
    /// In place of one that is given up; it served before.
    Back,
}

/// More refused models than this are not remembered.
const REJECTED: usize = 32;

/// Nor more that served, so that their files do not bring them back by themselves.
const REMEMBERED: usize = 1000;

/// More files of the model folder than this are not remembered: they are looked at again.
const HANDLED: usize = 10_000;

const REASON_CHARS: usize = 2000;

/// A thousand models with their reasons, and ten thousand files.
const MOST_BYTES: u64 = 16 << 20;

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Registry {
    rows: Vec<ModelRow>,
    /// Files of the model folder that were dealt with, and in which state they were.
    handled: BTreeMap<String, String>,
}

impl Registry {
    /// What the file says; nothing where there is none.
    ///
    /// # Errors
    /// It cannot be read; `InvalidData` where it is damaged.
    pub(super) fn peek(path: &Path) -> io::Result<Self> {
        match untrusted::open_named(path, MOST_BYTES).and_then(untrusted::Bounded::bytes) {
            Ok(text) => {
                Ok(serde_json::from_slice(&text).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?)
            }
            Err(error) if error.is_not_found() => Ok(Self::default()),
            Err(error @ (UntrustedError::TooLarge { .. } | UntrustedError::NotRegular { .. })) => {
                Err(io::Error::new(ErrorKind::InvalidData, error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Registry::peek`], but a damaged file is moved aside and says nothing; also gives where it lies then.
    pub(super) fn read(path: &Path) -> io::Result<(Self, Option<PathBuf>)> {
        Self::peek(path).map(|registry| (registry, None)).or_else(|error| {
            if error.kind() != ErrorKind::InvalidData {
                return Err(error);
            }
            let aside = move_aside(path)?;
            tracing::error!(
                file = %path.display(), reason = %error, moved_to = %aside.display(),
                "MODEL MEMORY DAMAGED and moved aside; models in the model folder are taken for new; hint: check the disk"
            );
            Ok((Self::default(), Some(aside)))
        })
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        write_file(path, &serde_json::to_vec_pretty(self)?)
    }

    /// All models, in the order they came.
    pub(super) fn rows(&self) -> &[ModelRow] {
        &self.rows
    }

    pub(super) fn get(&self, sha256: &str) -> Option<&ModelRow> {
        self.rows.iter().find(|row| row.sha256 == sha256)
    }

    fn get_mut(&mut self, sha256: &str) -> Option<&mut ModelRow> {
        self.rows.iter_mut().find(|row| row.sha256 == sha256)
    }

    /// The model that serves sets of these stains.
    pub(super) fn active(&self, stains: &[String]) -> Option<&ModelRow> {
        self.rows.iter().find(|row| row.state == ModelState::Active && row.has_stains_of(stains))
    }

    /// The model of this name, or whose SHA-256 begins so; of several of one name the latest that may serve.
    pub(super) fn find(&self, which: &str) -> Result<&ModelRow, Fault> {
        let by_name = self.rows.iter().filter(|row| row.name == which);
        let by_name = by_name.max_by_key(|row| (row.state != ModelState::Rejected, row.since));
        let mut by_hash = self.rows.iter().filter(|row| which.len() >= 4 && row.sha256.starts_with(which));
        let (first, second) = (by_hash.next(), by_hash.next());
        match (by_name, first, second) {
            (Some(row), _, _) | (None, Some(row), None) => Ok(row),
            (None, Some(_), Some(_)) => {
                Err(Fault::new(format!("{which}: begins the SHA-256 of several models"), "give more digits"))
            }
            (None, None, _) => Err(Fault::new(
                format!("{which}: there is no such model"),
                "`tissuemapctl models list` shows them; a name, or at least four digits of the SHA-256",
            )),
        }
    }

    /// The model serves from now on, in place of the one of its stains.
    pub(super) fn activate(&mut self, info: &ModelInfo, name: &str, coming: Coming, reason: &str) {
        let before =
            self.active(&info.stain_names()).map(|row| row.sha256.clone()).filter(|before| *before != info.sha256);
        if let Some(before) = before.as_deref().and_then(|before| self.get_mut(before)) {
            before.become_(ModelState::Standby, &format!("replaced by {name}"));
        }
        let row = self.entry(&info.sha256, name);
        row.become_(ModelState::Active, reason);
        row.describe(info);
        row.removed = false;
        if coming == Coming::New {
            row.on_trial = before.is_some();
            row.replaced = before.or(row.replaced.take());
        }
    }

    /// The model could serve, but only a person has it do so.
    pub(super) fn keep(&mut self, info: &ModelInfo, name: &str, reason: &str) {
        let row = self.entry(&info.sha256, name);
        row.become_(ModelState::Standby, reason);
        row.describe(info);
    }

    /// Where a model is given up: why.
    pub(super) fn set_aside(&mut self, sha256: &str, reason: &str) {
        if let Some(row) = self.get_mut(sha256) {
            row.become_(ModelState::Standby, reason);
        }
    }

    /// The model may not serve. What is known of one that served before stays.
    pub(super) fn reject(&mut self, sha256: &str, name: &str, reason: &str) {
        let row = self.entry(sha256, name);
        if row.state == ModelState::Rejected {
            row.become_(ModelState::Rejected, reason);
        }
        let rejected = |row: &ModelRow| row.state == ModelState::Rejected;
        while self.rows.iter().filter(|row| rejected(row)).count() > REJECTED {
            let oldest = self.rows.iter().position(rejected);
            oldest.map(|oldest| self.rows.remove(oldest));
        }
    }

    fn entry(&mut self, sha256: &str, name: &str) -> &mut ModelRow {
        let index = self.rows.iter().position(|row| row.sha256 == sha256).unwrap_or_else(|| {
            self.rows.push(ModelRow::new(sha256, name));
            self.rows.len() - 1
        });
        let row = &mut self.rows[index];
        row.name = name.into();
        row
    }

    /// A job succeeded: the trial is over.
    pub(super) fn job_done(&mut self, sha256: &str) {
        if let Some(row) = self.get_mut(sha256) {
            row.jobs_done = row.jobs_done.saturating_add(1);
            (row.on_trial, row.suspects) = (false, Vec::new());
        }
    }

    /// A job failed; `suspect` where it may be the model's fault. Gives how many jobs speak against a model on trial.
    pub(super) fn job_failed(&mut self, sha256: &str, job: JobId, suspect: bool) -> usize {
        let Some(row) = self.get_mut(sha256) else { return 0 };
        row.jobs_failed = row.jobs_failed.saturating_add(1);
        if row.on_trial && suspect && !row.suspects.contains(&job) {
            row.suspects.push(job);
        }
        row.suspects.len()
    }

    /// The trial is over without a verdict: there is nothing to go back to.
    pub(super) fn acquit(&mut self, sha256: &str) {
        if let Some(row) = self.get_mut(sha256) {
            (row.on_trial, row.suspects) = (false, Vec::new());
        }
    }

    /// What a rollback goes back to, nearest first.
    pub(super) fn before(&self, sha256: &str) -> Vec<&ModelRow> {
        let mut chain: Vec<&ModelRow> = Vec::new();
        let mut next = self.get(sha256).and_then(|row| row.replaced.as_deref());
        while let Some(row) = next.and_then(|sha256| self.get(sha256)) {
            if row.sha256 == sha256 || chain.iter().any(|known| known.sha256 == row.sha256) {
                break;
            }
            chain.push(row);
            next = row.replaced.as_deref();
        }
        chain.retain(|row| row.state == ModelState::Standby && !row.removed);
        chain
    }

    /// The models whose copies are not kept: those on standby but the `keep` newest, and but those to which a rollback of one
    /// that serves would go back first.
    pub(super) fn superfluous(&self, keep: usize) -> Vec<Kept> {
        let active = self.rows.iter().filter(|row| row.state == ModelState::Active);
        let behind: BTreeSet<&str> =
            active.filter_map(|row| self.before(&row.sha256).first().map(|row| row.sha256.as_str())).collect();
        let mut others: Vec<&ModelRow> = self
            .rows
            .iter()
            .filter(|row| row.state == ModelState::Standby && !row.removed && !behind.contains(row.sha256.as_str()))
            .collect();
        others.sort_by_key(|row| std::cmp::Reverse(row.since));
        others.into_iter().skip(keep).map(ModelRow::kept).collect()
    }

    /// The copy of a model was removed. It is remembered that it served.
    pub(super) fn removed(&mut self, sha256: &str) {
        if let Some(row) = self.get_mut(sha256) {
            row.removed = true;
            let reason = format!("{}; its copy was removed (`keep` in [models]): drop its file again", row.reason);
            row.reason = reason.chars().take(REASON_CHARS).collect();
        }
        while self.rows.len() > REMEMBERED {
            let Some(oldest) = self.rows.iter().position(|row| row.removed) else { break };
            self.rows.remove(oldest);
        }
    }

    /// The copy of a model is there again.
    pub(super) fn is_back(&mut self, sha256: &str) {
        if let Some(row) = self.get_mut(sha256).filter(|row| row.removed) {
            (row.removed, row.since) = (false, SystemTime::now());
        }
    }

    /// Notes that a file of the model folder was dealt with as it is now.
    pub(super) fn handle(&mut self, file: &Path, state: String) {
        if self.handled.len() >= HANDLED {
            self.handled.pop_first();
        }
        self.handled.insert(file.to_string_lossy().into_owned(), state);
    }

    /// Whether a file of the model folder was dealt with in this state.
    pub(super) fn has_handled(&self, file: &Path, state: &str) -> bool {
        self.handled.get(&*file.to_string_lossy()).is_some_and(|handled| handled == state)
    }

    /// Forgets files that are not there any more; true when there were some.
    pub(super) fn forget_missing(&mut self, there: &BTreeSet<PathBuf>) -> bool {
        let before = self.handled.len();
        self.handled.retain(|file, _| there.contains(Path::new(file)));
        self.handled.len() < before
    }
}

#[cfg(test)]
mod tests;
