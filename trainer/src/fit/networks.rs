//! The networks of a fit and their outputs.

use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::config::Config;
use crate::data::patches::Patches;
use crate::model::autoencoder::Autoencoder;
use crate::model::imsat::Clusterer;
use crate::model::layers::Mode;
use crate::system::error::TrainError;
use crate::system::tensors::chunks;

/// Outputs of the model for patches, in evaluation mode; on the CPU.
#[derive(Debug)]
pub struct Evaluation {
    /// `[N, D]`.
    pub latent: Tensor,
    /// `[N, K]`.
    pub log_probs: Tensor,
    /// `[N]`, mean squared, normalised units.
    pub reconstruction_error: Tensor,
}

/// The trained networks.
pub(super) struct Networks {
    pub(super) store: VarStore,
    pub(super) autoencoder: Autoencoder,
    pub(super) clusterer: Clusterer,
}

impl Networks {
    /// New networks. `normalisation`: mean and deviation per channel; none if they will be read from a file.
    pub(super) fn new(config: &Config, device: Device, normalisation: Option<(&[f32], &[f32])>) -> Self {
        let store = VarStore::new(device);
        let shape = config.shape();
        let unknown = vec![1.0; shape.channels as usize];
        let (mean, deviation) = normalisation.unwrap_or((&unknown, &unknown));
        let autoencoder = Autoencoder::new(&(store.root() / "autoencoder"), &shape, mean, deviation);
        let clusterer = new_clusterer(&store, config);
        Self { store, autoencoder, clusterer }
    }
}

pub(super) fn new_clusterer(store: &VarStore, config: &Config) -> Clusterer {
    let hidden: Vec<i64> = config.imsat.hidden.iter().copied().map(i64::from).collect();
    let path = store.root() / "clusterer";
    Clusterer::new(&path, config.shape().latent_dim, &hidden, i64::from(config.clusters))
}

/// The device for training a clusterer with these hidden layers on frozen latent vectors, in a fit on `device`. Without hidden layers it
/// takes thousands of very small steps; the CPU is faster at them than a GPU (docs/GPU.md).
pub(crate) fn clusterer_device(hidden: &[u32], device: Device) -> Device {
    if hidden.is_empty() { Device::Cpu } else { device }
}

/// Runs the model over patches.
///
/// # Errors
/// [`TrainError`] if patches cannot be read.
pub fn evaluate(autoencoder: &Autoencoder, clusterer: &Clusterer, patches: &Patches) -> Result<Evaluation, TrainError> {
    let _frozen = tch::no_grad_guard();
    let (mut latents, mut log_probs, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (from, to) in chunks(patches.count()) {
        let x = autoencoder.normalise(&patches.range(from, to)?);
        let latent = autoencoder.encode(&x, Mode::Eval);
        let decoded = autoencoder.decode(&latent, Mode::Eval);
        errors.push(Autoencoder::reconstruction_error(&x, &decoded).to_device(Device::Cpu));
        log_probs.push(clusterer.log_probs(&latent, Mode::Eval).to_device(Device::Cpu));
        latents.push(latent.to_device(Device::Cpu));
    }
    let join = |parts: &[Tensor]| Tensor::cat(parts, 0);
    Ok(Evaluation { latent: join(&latents), log_probs: join(&log_probs), reconstruction_error: join(&errors) })
}
