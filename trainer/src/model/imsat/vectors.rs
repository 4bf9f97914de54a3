//! The clusterer by itself, on vectors that stay as they are: published data, or latents that are already made.

use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::config::ImsatConfig;
use crate::model::adam::Adam;
use crate::model::imsat::{Clusterer, loss_terms, radius};
use crate::model::layers::Mode;
use crate::system::tensors::rows;

/// Vectors that are assigned at once: bounds the memory of their activations.
const CHUNK: i64 = 2000;

/// Trains a clusterer with `clusters` outputs on vectors `[N, D]` (on the device where they lie; at least one batch)
/// with the settings of `config` and random numbers from `seed`. `each_epoch` sees the epoch's number, from 1, and the
/// clusterer as it then is.
pub fn fit_vectors(
    vectors: &Tensor,
    clusters: u32,
    config: &ImsatConfig,
    seed: u64,
    each_epoch: &mut dyn FnMut(u32, &Clusterer),
) -> Clusterer {
    tch::manual_seed(seed as i64);
    let (count, dims, device) = (vectors.size()[0], vectors.size()[1], vectors.device());
    let store = VarStore::new(device);
    let hidden: Vec<i64> = config.hidden.iter().copied().map(i64::from).collect();
    let clusterer = Clusterer::new(&store.root(), dims, &hidden, i64::from(clusters));
    let mut adam = Adam::new(&store, "", config.learning_rate);
    let radius = radius(vectors, config);
    let weights = config.weights();
    let batch = i64::from(config.batch);
    for epoch in 1..=config.epochs {
        let order = Tensor::randperm(count, (Kind::Int64, device));
        // As in the whole fit, an incomplete last batch waits for the next order.
        for start in (0..=count - batch).step_by(batch as usize) {
            let chosen = order.narrow(0, start, batch);
            let (latent, radius) = (vectors.index_select(0, &chosen), radius.index_select(0, &chosen));
            let terms = loss_terms(&clusterer, &latent, None, &radius, &weights, &latent.randn_like());
            adam.minimise(&terms.loss(&weights));
        }
        each_epoch(epoch, &clusterer);
    }
    clusterer
}

/// Most probable cluster of each vector `[N, D]`, in evaluation mode.
///
/// # Errors
/// An error of libtorch.
pub fn assign(clusterer: &Clusterer, vectors: &Tensor) -> Result<Vec<i64>, tch::TchError> {
    let _frozen = tch::no_grad_guard();
    let count = vectors.size()[0];
    let assigned = (0..count).step_by(CHUNK as usize).map(|from| {
        let log_probs = clusterer.log_probs(&rows(vectors, from, (from + CHUNK).min(count)), Mode::Eval);
        Vec::<i64>::try_from(log_probs.argmax(1, false))
    });
    Ok(assigned.collect::<Result<Vec<_>, _>>()?.concat())
}
