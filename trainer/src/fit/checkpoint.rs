//! Checkpoints: the state of a fit between two epochs, in one file that is replaced in one step.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::nn::VarStore;
use tch::{Device, Tensor};
use tissuemap::durable::clear_unfinished;

use tissuemap::untrusted;

use crate::config::{Config, ImsatConfig, SweepConfig};
use crate::data::patches::PatchSet;
use crate::fit::metrics::MetricsTable;
use crate::model::adam::Adam;
use crate::system::error::TrainError;
use crate::system::files::write_tensors;

const FILE: &str = "state.safetensors";
/// Names of the other entries. Variables have names below `autoencoder.` and `clusterer.`.
const POSITION: &str = "fit.position";
const FINGERPRINT: &str = "fit.fingerprint";
const METRICS: &str = "fit.metrics";
const RESTART_LOSSES: &str = "fit.start_losses";

/// Position of a fit in its schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct FitPosition {
    /// Index of the phase.
    pub phase: usize,
    /// Number of finished epochs of this phase.
    pub epochs_done: u32,
    /// Losses of the finished restarts of the clusterer, in order.
    pub restart_losses: Vec<f64>,
}

/// A copy of everything that the rest of the fit depends on.
#[derive(Debug)]
pub struct Checkpoint(HashMap<String, Tensor>);

impl Checkpoint {
    /// Copies the state. `fingerprint` is the digest of configuration and data.
    pub fn take(
        store: &VarStore,
        adam: &Adam,
        position: &FitPosition,
        metrics: &MetricsTable,
        fingerprint: &[u8; 32],
    ) -> Self {
        let copy = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).copy();
        let mut tensors: HashMap<String, Tensor> =
            store.variables().into_iter().chain(adam.moments()).map(|(name, tensor)| (name, copy(&tensor))).collect();
        let numbers = [position.phase as i64, i64::from(position.epochs_done), i64::from(adam.steps())];
        tensors.insert(POSITION.to_owned(), Tensor::from_slice(&numbers));
        tensors.insert(RESTART_LOSSES.to_owned(), Tensor::from_slice(&position.restart_losses));
        tensors.insert(FINGERPRINT.to_owned(), Tensor::from_slice(fingerprint));
        tensors.insert(METRICS.to_owned(), Tensor::from_slice(metrics.as_str().as_bytes()));
        Self(tensors)
    }

    /// Writes the checkpoint into `folder`, which is created if it is missing. The previous one stays until the new one is complete.
    ///
    /// # Errors
    /// [`TrainError`] if the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::File { path, source }
        };
        fs::create_dir_all(folder).map_err(fail(folder))?;
        // What a killed fit was writing is as large as this.
        clear_unfinished(folder).map_err(fail(folder))?;
        let path = folder.join(FILE);
        write_tensors(&self.0.iter().collect::<Vec<_>>(), &path)?;
        Ok(path)
    }

    /// Removes the checkpoint in `folder`, and the folder where nothing else is in it.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn remove(folder: &Path) -> Result<(), TrainError> {
        let removed = clear_unfinished(folder)
            .and_then(|()| fs::remove_file(folder.join(FILE)))
            .and_then(|()| fs::remove_dir(folder));
        removed.map_err(|source| TrainError::File { path: folder.to_owned(), source })
    }

    /// The checkpoint in `folder`, if there is one with this `fingerprint`.
    ///
    /// # Errors
    /// [`TrainError::Torch`] if it cannot be read.
    pub fn read(folder: &Path, fingerprint: &[u8; 32]) -> Result<Option<Self>, TrainError> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        untrusted::check(&path)?;
        let found = Self(Tensor::read_safetensors(&path)?.into_iter().collect());
        let stored = found.0.get(FINGERPRINT).map(Vec::<u8>::try_from).transpose()?;
        Ok((stored.as_deref() == Some(fingerprint)).then_some(found))
    }

    /// The position of the fit.
    pub fn position(&self) -> FitPosition {
        let [phase, epochs_done, _] = self.numbers();
        FitPosition {
            phase: usize::try_from(phase).unwrap_or(0),
            epochs_done: u32::try_from(epochs_done).unwrap_or(0),
            restart_losses: self
                .0
                .get(RESTART_LOSSES)
                .and_then(|losses| Vec::try_from(losses).ok())
                .unwrap_or_default(),
        }
    }

    /// The metrics up to this position.
    pub fn metrics(&self) -> MetricsTable {
        let bytes = self.0.get(METRICS).and_then(|t| Vec::<u8>::try_from(t).ok()).unwrap_or_default();
        MetricsTable::restore(String::from_utf8(bytes).unwrap_or_default())
    }

    /// Restores the variables whose names begin with `prefix`.
    ///
    /// # Errors
    /// [`TrainError::Torch`] if one is missing or has another shape.
    pub fn restore_variables(&self, store: &VarStore, prefix: &str) -> Result<(), TrainError> {
        let mut wanted = store.variables().into_iter().filter(|(name, _)| name.starts_with(prefix));
        wanted.try_for_each(|(name, target)| self.restore(&name, target))
    }

    /// Restores moments and step count of the optimiser. `adam` must be the optimiser of the phase in [`Checkpoint::position`].
    ///
    /// # Errors
    /// [`TrainError::Torch`] if one is missing or has another shape.
    pub fn restore_optimiser(&self, adam: &mut Adam) -> Result<(), TrainError> {
        adam.resume(i32::try_from(self.numbers()[2]).unwrap_or(0));
        adam.moments().into_iter().try_for_each(|(name, target)| self.restore(&name, target))
    }

    fn restore(&self, name: &str, mut target: Tensor) -> Result<(), TrainError> {
        let source = self.0.get(name).ok_or_else(|| tch::TchError::FileFormat(format!("checkpoint lacks {name}")))?;
        if source.size() != target.size() {
            return Err(tch::TchError::Shape(format!("checkpoint's {name} has another shape")).into());
        }
        tch::no_grad(|| target.f_copy_(source))?;
        Ok(())
    }

    fn numbers(&self) -> [i64; 3] {
        let stored = self.0.get(POSITION).and_then(|t| Vec::<i64>::try_from(t).ok());
        stored.and_then(|numbers| numbers.try_into().ok()).unwrap_or([0; 3])
    }
}

/// A digest of everything that determines the first phase. The clusterer is not part of it: its initial weights are drawn after those of
/// the autoencoder.
pub(crate) fn autoencoder_fingerprint(config: &Config, patches: &PatchSet) -> [u8; 32] {
    let Config { clusters, joint, sweep, imsat, .. } = Config::default();
    // The compared view is drawn at random in every phase.
    let imsat = ImsatConfig { views: config.imsat.views, ..imsat };
    fingerprint(&Config { clusters, imsat, joint, sweep, ..config.clone() }, patches)
}

/// A digest of everything that determines the result. A checkpoint is used only if it is equal.
pub(super) fn fingerprint(config: &Config, patches: &PatchSet) -> [u8; 32] {
    // The folders of the slides do not matter if the patches are equal. Nor do the sweep that chose the number of clusters, or the
    // revision.
    let config = Config { sets: Vec::new(), sweep: SweepConfig::default(), revision: None, ..config.clone() };
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(format!("{config:?}"));
    hash.update(patches.digest());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn trained() -> (VarStore, Adam) {
        let store = VarStore::new(Device::Cpu);
        let x = (store.root() / "autoencoder").ones("x", &[3]);
        let _buffer = (store.root() / "autoencoder").zeros_no_train("running", &[2]);
        let mut adam = Adam::new(&store, "", 0.1);
        adam.minimise(&x.square().sum(Kind::Float));
        (store, adam)
    }

    #[test]
    fn what_is_written_comes_back_and_only_for_its_fingerprint() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, adam) = trained();
        let position = FitPosition { phase: 2, epochs_done: 7, restart_losses: vec![-0.5, -0.75] };
        let mut metrics = MetricsTable::new();
        metrics.push("joint", 7, &crate::fit::metrics::EpochMetrics::default());
        Checkpoint::take(&store, &adam, &position, &metrics, &[9; 32]).write(folder.path()).expect("written");

        assert!(Checkpoint::read(folder.path(), &[8; 32]).expect("read").is_none());
        let found = Checkpoint::read(folder.path(), &[9; 32]).expect("read").expect("belongs");
        assert_eq!((found.position(), found.metrics()), (position, metrics));

        let other = VarStore::new(Device::Cpu);
        let _ = (other.root() / "autoencoder").zeros("x", &[3]);
        let _ = (other.root() / "autoencoder").ones_no_train("running", &[2]);
        let mut other_adam = Adam::new(&other, "", 0.1);
        found.restore_variables(&other, "").expect("fits");
        found.restore_optimiser(&mut other_adam).expect("fits");
        for (name, value) in store.variables() {
            assert_eq!(other.variables()[&name], value, "{name}");
        }
        assert_eq!(other_adam.steps(), 1);
        assert_eq!(other_adam.moments(), adam.moments());
    }

    #[test]
    fn a_checkpoint_is_a_copy_that_later_steps_do_not_change() {
        let (store, mut adam) = trained();
        let position = FitPosition { phase: 0, epochs_done: 0, restart_losses: Vec::new() };
        let taken = Checkpoint::take(&store, &adam, &position, &MetricsTable::new(), &[0; 32]);
        let before = taken.0["autoencoder.x"].copy();
        adam.minimise(&store.variables()["autoencoder.x"].square().sum(Kind::Float));
        assert_eq!(taken.0["autoencoder.x"], before);
    }

    #[test]
    fn no_checkpoint_is_no_error_and_a_damaged_one_is() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(Checkpoint::read(folder.path(), &[0; 32]).expect("none").is_none());
        fs::write(folder.path().join(FILE), b"rubbish").expect("written");
        assert!(Checkpoint::read(folder.path(), &[0; 32]).is_err());
    }
}
