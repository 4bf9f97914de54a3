//! A fitted model and the file of its weights.

use std::path::Path;

use tch::nn::VarStore;
use tch::{Device, Tensor};

use tissuemap::untrusted;

use super::assignment::Assignment;
use super::networks::{Evaluation, Networks, evaluate};
use crate::config::Config;
use crate::data::patches::{PatchSet, Patches};
use crate::model::autoencoder::Autoencoder;
use crate::model::imsat::Clusterer;
use crate::system::error::TrainError;
use crate::system::files::write_tensors;

/// Name of the digest of the patches in a file of weights.
const PATCHES: &str = "patches.sha256";

/// A fitted model.
#[derive(Debug)]
pub struct FittedModel {
    pub(super) store: VarStore,
    /// Digest of the training patches.
    pub(super) patches: [u8; 32],
    /// Patch → latent → patch.
    pub autoencoder: Autoencoder,
    /// Latent → cluster, clusters ordered from dark to bright tissue.
    pub clusterer: Clusterer,
    /// The clusters of the training patches.
    pub assignment: Assignment,
}

impl FittedModel {
    /// Writes the weights to one file, which replaces an older one in one step.
    ///
    /// # Errors
    /// [`TrainError`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let mut variables = self.store.variables();
        variables.insert(PATCHES.to_owned(), Tensor::from_slice(&self.patches));
        write_tensors(&variables.iter().collect::<Vec<_>>(), path)
    }

    /// Reads the model that [`FittedModel::write`] wrote, on `device`. `config` and `patches` must be those of the fit.
    ///
    /// # Errors
    /// [`TrainError`] if the file is missing, or belongs to another configuration or to other patches.
    pub fn read(path: &Path, config: &Config, patches: &PatchSet, device: Device) -> Result<Self, TrainError> {
        let Networks { mut store, autoencoder, clusterer } = Networks::new(config, device, None);
        untrusted::check(path)?;
        store.load(path)?;
        let kept = Tensor::read_safetensors(path)?.into_iter().find(|(name, _)| name == PATCHES);
        let kept = kept.map(|(_, digest)| Vec::<u8>::try_from(digest)).transpose()?;
        let digest = patches.digest();
        if kept.as_deref() != Some(&digest) {
            return Err(TrainError::OtherPatches { path: path.to_owned() });
        }
        let assignment = Assignment::new(&evaluate(&autoencoder, &clusterer, &patches.train)?.log_probs)?;
        Ok(Self { store, patches: digest, autoencoder, clusterer, assignment })
    }

    /// Outputs of the model in full float32, computed on the CPU: convolutions on a GPU round their inputs (TF32, 10 bits of mantissa).
    ///
    /// # Errors
    /// As [`evaluate`].
    pub(crate) fn evaluate_on_cpu(&self, config: &Config, patches: &Patches) -> Result<Evaluation, TrainError> {
        if self.store.device() == Device::Cpu {
            return evaluate(&self.autoencoder, &self.clusterer, patches);
        }
        let Networks { mut store, autoencoder, clusterer } = Networks::new(config, Device::Cpu, None);
        store.copy(&self.store)?;
        evaluate(&autoencoder, &clusterer, patches)
    }
}
