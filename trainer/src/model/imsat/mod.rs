//! IMSAT: clustering by information maximisation with self-augmented training.
//!
//! Hu, Miyato, Tokui, Matsumoto, Sugiyama: "Learning Discrete Representations via Information Maximizing Self-Augmented
//! Training", ICML 2017 (arXiv 1702.08720). Minimised is
//! `R_VAT(x) + λ·[H(Y|X) − μ·H(Y)]`; entropies in nats. The perturbation is that of Miyato et al., "Virtual Adversarial
//! Training" (arXiv 1704.03976), with one power iteration and a radius per sample. Where the authors' published code
//! differs from their text (it takes the 11th neighbour, and hides a sample from itself by a constant that real distances
//! can exceed), the text is followed.

pub mod vectors;

use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use crate::config::ImsatConfig;
use crate::config::LossWeights;
use crate::model::layers::{Activation, Layer, Mode, Operator, chain};
use crate::system::tensors::rows;

/// Standard deviation of the hidden layers' first weights, times the square root of a layer's inputs: √0.1, because the
/// framework of the authors' code (Chainer 1) takes the square root of the `wscale` that is given to it, here 0.1.
/// BatchNorm takes the scale out of what a layer computes, but not out of how fast it learns: smaller weights turn faster
/// under Adam. With 0.1 itself one of three fits to MNIST had not found all ten digits after the published 50 epochs.
const HIDDEN_SCALE: f64 = 0.316_227_766_016_837_94;
/// The same of the output layer, for a `wscale` of 1e-4: all outputs start out near uniform, so that no cluster is
/// favoured before the first step.
const OUTPUT_SCALE: f64 = 1e-2;

/// How many times the information that planes can gain has to outweigh what the perturbation costs them. At 1, fits with two
/// clusters stay uniform; at 1.1 some do; from 1.25 on none did, and what they find does not depend on it (docs/ARCHITECTURE.md).
const MARGIN: f64 = 1.5;

/// Rows per block of the distance matrix: bounds its memory to this many times the number of samples.
const DISTANCE_BLOCK: i64 = 1024;

/// The network d – hidden… – K over latent vectors.
#[derive(Debug)]
pub struct Clusterer {
    layers: Vec<Layer>,
}

impl Clusterer {
    /// Parameters below `path`: latent of `inputs` values, `hidden` widths (BatchNorm + ReLU each), `clusters` outputs.
    pub fn new(path: &Path<'_>, inputs: i64, hidden: &[i64], clusters: i64) -> Self {
        let mut width = inputs;
        let mut layers = Vec::with_capacity(hidden.len() + 1);
        for (i, &next) in hidden.iter().enumerate() {
            layers.push(linear(&(path / i), width, next, Activation::NormRelu, HIDDEN_SCALE));
            width = next;
        }
        layers.push(linear(&(path / "output"), width, clusters, Activation::None, OUTPUT_SCALE));
        Self { layers }
    }

    /// Log-probabilities `[N, K]` of latent vectors `[N, D]`.
    pub fn log_probs(&self, latent: &Tensor, mode: Mode) -> Tensor {
        chain(&self.layers, latent, mode).log_softmax(-1, Kind::Float)
    }

    /// Its layers in order; softmax follows the last.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Makes a weight no number, as a test's broken model.
    #[cfg(test)]
    pub(crate) fn set_nan(&mut self) {
        self.layers[0].set_nan();
    }

    /// Renumbers the clusters: new cluster `i` is the old cluster `order[i]`.
    pub fn reorder(&mut self, order: &[i64]) {
        if let Some(output) = self.layers.last_mut() {
            output.permute_outputs(order);
        }
    }
}

fn linear(path: &Path<'_>, inputs: i64, outputs: i64, activation: Activation, scale: f64) -> Layer {
    Layer::with_deviation(path, Operator::Linear, inputs, outputs, activation, scale / (inputs as f64).sqrt())
}

/// The terms of one batch's loss, scalars.
#[derive(Debug)]
pub struct LossTerms {
    /// R_VAT: mean KL divergence between clean and perturbed predictions.
    pub vat: Tensor,
    /// The same between clean predictions and those for another view of the tissue, where there is one.
    pub view: Option<Tensor>,
    /// H(Y|X): mean entropy of a prediction; 0 when every prediction is certain.
    pub conditional_entropy: Tensor,
    /// H(Y): entropy of the mean prediction; ln K when clusters are equally full.
    pub marginal_entropy: Tensor,
}

impl LossTerms {
    /// `R + λ·[H(Y|X) − μ·H(Y)]`, R being R_VAT or, with another view, the weighted mean of both divergences: λ then means
    /// the same.
    pub fn loss(&self, weights: &LossWeights) -> Tensor {
        let consistency = self
            .view
            .as_ref()
            .map_or_else(|| self.vat.shallow_clone(), |view| (&self.vat + view * weights.view) / (1.0 + weights.view));
        consistency + (&self.conditional_entropy - &self.marginal_entropy * weights.mu) * weights.lambda
    }
}

/// The terms for latent vectors `[N, D]` with radius per sample `[N]` (see [`neighbour_distance`]), for the latents of other
/// views of the same tissue, and for the noise `[N, D]` of which the probe is made. (libtorch's own random numbers are one
/// stream a process, from which fits that run side by side would draw in no fixed order.) One pass in [`Mode::Train`], the
/// others in [`Mode::Perturbed`]. Gradients reach the clusterer's parameters, `latent` and `view`.
pub fn loss_terms(
    clusterer: &Clusterer,
    latent: &Tensor,
    view: Option<&Tensor>,
    radius: &Tensor,
    weights: &LossWeights,
    noise: &Tensor,
) -> LossTerms {
    let log_probs = clusterer.log_probs(latent, Mode::Train);
    let (conditional_entropy, marginal_entropy) = entropies(&log_probs);
    let clean = log_probs.detach();
    let direction = adversarial_direction(clusterer, &latent.detach(), &clean, weights.xi, noise);
    let perturbed = latent + direction * radius.unsqueeze(1);
    let vat = kl_divergence(&clean, &clusterer.log_probs(&perturbed, Mode::Perturbed));
    let view = view.map(|view| kl_divergence(&clean, &clusterer.log_probs(view, Mode::Perturbed)));
    LossTerms { vat, view, conditional_entropy, marginal_entropy }
}

/// (H(Y|X), H(Y)) of log-probabilities `[N, K]`: mean of the entropies, entropy of the mean.
pub fn entropies(log_probs: &Tensor) -> (Tensor, Tensor) {
    let probs = log_probs.exp();
    let conditional = -(&probs * log_probs).sum_dim_intlist(1, false, Kind::Float).mean(Kind::Float);
    let marginal = probs.mean_dim(0, false, Kind::Float);
    // xlogy(0, 0) = 0: a cluster that no sample of the batch chooses adds nothing.
    let entropy = -marginal.xlogy(&marginal).sum(Kind::Float);
    (conditional, entropy)
}

/// Mean over samples of KL(p ‖ q), both given as log-probabilities `[N, K]`.
pub fn kl_divergence(p: &Tensor, q: &Tensor) -> Tensor {
    (p.exp() * (p - q)).sum_dim_intlist(1, false, Kind::Float).mean(Kind::Float)
}

/// The unit vectors `[N, D]` along which the prediction changes fastest: the normalised gradient of
/// KL(clean ‖ prediction at latent + ξ·d₀) for d₀, the `noise` scaled to unit length (one power iteration). `latent` and
/// `clean` carry no gradient.
pub fn adversarial_direction(
    clusterer: &Clusterer,
    latent: &Tensor,
    clean: &Tensor,
    xi: f64,
    noise: &Tensor,
) -> Tensor {
    let probe = unit(noise).set_requires_grad(true);
    let moved = clusterer.log_probs(&(latent + &probe * xi), Mode::Perturbed);
    let divergence = kl_divergence(clean, &moved);
    let gradient = Tensor::run_backward(&[divergence], &[&probe], false, false);
    // One input gives one gradient.
    unit(&gradient[0])
}

/// Each row scaled to length 1; rows of zeros stay zeros. Scaled by the largest entry first, because the gradients of a
/// fresh clusterer are so small that their squares underflow.
fn unit(x: &Tensor) -> Tensor {
    let _frozen = tch::no_grad_guard();
    let scaled = x / x.abs().amax([1i64].as_slice(), true).clamp_min(f64::from(f32::MIN_POSITIVE));
    let length = scaled.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
    // After the scaling a length is at least 1, or 0.
    &scaled / length.clamp_min(0.5)
}

/// How far each of the latent vectors `[N, D]` is perturbed, `[N]`: `radius_factor` times its [`neighbour_distance`]; where
/// clusters are parted by planes, all of them made smaller where they would keep predictions uniform.
///
/// To second order around uniform predictions, and but for a common factor, logits of variance s² take s² off H(Y|X) and leave
/// H(Y), and moving by r along their gradient w costs r²|w|². With a covariance whose largest eigenvalue is e, s² is at most
/// e|w|², so that uniform predictions are a minimum of the loss unless λe > r². The mean of r² is held to λe / [`MARGIN`].
pub fn radius(latents: &Tensor, config: &ImsatConfig) -> Tensor {
    let _frozen = tch::no_grad_guard();
    let wanted = neighbour_distance(latents, i64::from(config.neighbour)) * config.radius_factor;
    let mean = wanted.square().mean(Kind::Double).double_value(&[]);
    // Latents that are no numbers have no eigenvalues either; the loss will tell.
    if !config.hidden.is_empty() || !mean.is_finite() {
        return wanted;
    }
    let centred = latents - latents.mean_dim([0i64].as_slice(), true, None);
    let covariance = centred.transpose(0, 1).matmul(&centred) / latents.size()[0] as f64;
    let largest = covariance.to_device(Device::Cpu).linalg_eigvalsh("L").max();
    let room = largest.double_value(&[]) * config.lambda / MARGIN;
    wanted * if mean > room { (room / mean).sqrt() } else { 1.0 }
}

/// Euclidean distance of each row of `x` `[N, D]` to its `k`-th nearest **other** row (k ≥ 1; with fewer than k others,
/// to the farthest): `[N]`. A row is excluded by its index, so exact duplicates count as neighbours at distance 0.
pub fn neighbour_distance(x: &Tensor, k: i64) -> Tensor {
    let _frozen = tch::no_grad_guard();
    let count = x.size()[0];
    if count < 2 {
        return Tensor::zeros([count], (Kind::Float, x.device()));
    }
    let k = k.clamp(1, count - 1);
    let blocks: Vec<Tensor> = (0..count)
        .step_by(DISTANCE_BLOCK as usize)
        .map(|from| {
            let distances = Tensor::cdist(&rows(x, from, (from + DISTANCE_BLOCK).min(count)), x, 2.0, None);
            let _self_distance = distances.diagonal(from, 0, 1).fill_(f64::INFINITY);
            // A tenth of the time of kthvalue, which sorts out whole rows.
            distances.topk(k, 1, false, true).0.select(1, k - 1)
        })
        .collect();
    Tensor::cat(&blocks, 0)
}

#[cfg(test)]
mod tests;
