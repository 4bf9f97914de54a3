//! The proof that a model may serve: taken into the store, loaded by a worker of its own, golden patches repeated.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tissuemap::infer::{ProofStep, Provider};

use super::inbox::Dropped;
use super::registry::{ModelRow, ModelState};
use super::store::{Store, Stored};
use super::{DOWNGRADE, Models};
use crate::job::{Backend, Fault, JobRunner, ModelInfo};

/// A model that repeated its golden patches on request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    pub sha256: String,
    pub name: String,
    pub provider: Provider,
    /// How they came out, in words.
    pub golden: String,
}

/// A model in a worker of its own that has proved itself there.
pub(crate) struct Proved {
    pub(super) stored: Stored,
    pub(crate) runner: Arc<dyn JobRunner>,
}

/// What the proof of a dropped model came to.
pub(crate) enum Proof {
    Proved(Proved),
    /// It serves already.
    Known,
    /// The file was written meanwhile; it will settle again.
    Changed,
    /// `sha256` where it could be read.
    Refused {
        sha256: Option<String>,
        fault: Fault,
    },
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) sha256: String,
    pub(crate) name: String,
}

impl Proved {
    pub(crate) fn name(&self) -> &str {
        &self.stored.name
    }

    pub(crate) fn verified(&self) -> Verified {
        let ModelInfo { sha256, provider, golden, .. } = self.runner.model();
        let (sha256, golden) = (sha256.clone(), golden.clone());
        Verified { sha256, name: self.stored.name.clone(), provider: *provider, golden }
    }
}

impl Models {
    /// The work of proving a dropped model, for a blocking thread; `tell` hears each step as it begins.
    pub(crate) fn proof_of_dropped<T: Fn(ProofStep) + Send + 'static>(
        &self,
        dropped: Dropped,
        backend: Arc<dyn Backend>,
        tell: T,
    ) -> impl FnOnce() -> Proof + use<T> + Send + 'static {
        let (store, rows) = (Arc::clone(&self.store), self.registry.rows().to_vec());
        move || match prove_dropped(&dropped, &store, &rows, &*backend, &tell) {
            Proof::Refused { .. } if !dropped.is_as_it_was() => Proof::Changed,
            proof => proof,
        }
    }

    /// The same for a model in the store.
    pub(crate) fn proof_of_kept<T: Fn(ProofStep) + Send + 'static>(
        &self,
        kept: Kept,
        backend: Arc<dyn Backend>,
        tell: T,
    ) -> impl FnOnce() -> Result<Proved, Fault> + use<T> + Send + 'static {
        let store = Arc::clone(&self.store);
        move || store.get(&kept.sha256, &kept.name).and_then(|stored| load(stored, &*backend, &tell))
    }
}

fn prove_dropped(
    dropped: &Dropped,
    store: &Store,
    rows: &[ModelRow],
    backend: &dyn Backend,
    tell: &dyn Fn(ProofStep),
) -> Proof {
    let stored = match store.take_in(&dropped.path) {
        Ok(stored) => stored,
        Err(fault) => return Proof::Refused { sha256: None, fault },
    };
    let sha256 = stored.sha256.clone();
    match rows.iter().find(|row| row.sha256 == sha256) {
        Some(row) if row.state == ModelState::Active => {
            tracing::warn!(model = dropped.name(), serves = row.name, sha256, "This very model serves already");
            return Proof::Known;
        }
        Some(row) if row.state == ModelState::Standby => {
            return Proof::Refused { sha256: Some(sha256), fault: served_before(&dropped.path, row) };
        }
        _ => {}
    }
    load(stored, backend, tell).map_or_else(
        |fault| {
            store.discard(&sha256);
            Proof::Refused { sha256: Some(sha256), fault }
        },
        Proof::Proved,
    )
}

/// Has a worker of its own load the model and prove it.
pub(super) fn load(stored: Stored, backend: &dyn Backend, tell: &dyn Fn(ProofStep)) -> Result<Proved, Fault> {
    let runner = backend.load(&stored.path, tell)?;
    if runner.model().sha256 != stored.sha256 {
        let reason = format!("{}: is not what was taken in, SHA-256 {}", stored.path.display(), stored.sha256);
        return Err(Fault::new(reason, "the disk may be damaged; drop the model again").with_id("model.unreadable"));
    }
    Ok(Proved { stored, runner })
}

fn served_before(path: &Path, row: &ModelRow) -> Fault {
    let reason = format!("{}: served here before, and does not any more: {}", path.display(), row.reason);
    let which = &row.sha256[..12.min(row.sha256.len())];
    Fault::new(reason, format!("`tissuemapctl models activate {which}` brings it back on purpose")).with_id(DOWNGRADE)
}
