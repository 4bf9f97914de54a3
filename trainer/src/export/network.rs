//! The fitted network as it is stored in the file: BatchNorm folded into the operators, everything rounded to one precision.
//!
//! It computes on libtorch the same as the exported graph, with rounding at the same places. The golden patches of fp16 and int8 come from
//! this computation, so ONNX Runtime is not compared with itself.

use tch::{Device, Kind, Tensor};
use tissuemap::contract::Precision;

use crate::config::AutoencoderShape;
use crate::data::patches::Patches;
use crate::export::quantisation::{Quantisation, half, ranges, weight_steps};
use crate::fit::{Evaluation, FittedModel};
use crate::model::autoencoder::Autoencoder;
use crate::model::layers::{Layer, Operator};
use crate::system::error::TrainError;
use crate::system::tensors::chunks;

/// The network in one precision, on the CPU.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) precision: Precision,
    /// `[1, C, 1, 1]`, uint8 units.
    pub(super) mean: Tensor,
    /// Likewise.
    pub(super) deviation: Tensor,
    pub(super) shape: AutoencoderShape,
    pub(super) encoder: Vec<NetworkLayer>,
    pub(super) clusterer: Vec<NetworkLayer>,
    pub(super) decoder: Vec<NetworkLayer>,
}

/// One operator, with a ReLU or without.
#[derive(Debug)]
pub(super) struct NetworkLayer {
    pub(super) operator: Operator,
    /// Rounded as in the file, like the bias.
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) relu: bool,
    pub(super) kept: StoredWeights,
}

/// How the constants of a layer are stored. This also says in what the layer computes.
#[derive(Debug)]
pub(super) enum StoredWeights {
    /// float32.
    Single,
    /// float16; so is the output of the layer.
    Half,
    /// int8 with one step size per output (float32 `[out]`).
    Quantised {
        /// Quantisation of the input. `None`: the layer computes in float32, only its weights are int8.
        input: Option<Quantisation>,
        steps: Tensor,
    },
}

/// Output of the network for one batch.
struct NetworkOutput {
    latent: Tensor,
    logits: Tensor,
    decoded: Tensor,
}

impl Network {
    /// Converts `fitted` to `precision`. The ranges of the layer inputs are measured on `calibration` if they are needed.
    pub(super) fn new(fitted: &FittedModel, precision: Precision, calibration: &Patches) -> Result<Self, TrainError> {
        let (mean, deviation) = fitted.autoencoder.normalisation();
        let mut network = Self {
            precision,
            mean: mean.to_device(Device::Cpu),
            deviation: deviation.to_device(Device::Cpu),
            shape: fitted.autoencoder.shape().clone(),
            encoder: fitted.autoencoder.encoder_layers().map(NetworkLayer::single).collect(),
            clusterer: fitted.clusterer.layers().iter().map(NetworkLayer::single).collect(),
            decoder: fitted.autoencoder.decoder_layers().map(NetworkLayer::single).collect(),
        };
        match precision {
            Precision::Fp32 => {}
            Precision::Fp16 => network.steps_mut().for_each(NetworkLayer::halve),
            Precision::Int8 => {
                let grids = ranges(calibration, |patches, see| {
                    network.give(&network.normalise(patches), see);
                })?;
                network.steps_mut().zip(grids).for_each(|(step, grid)| step.quantise(grid));
            }
        }
        Ok(network)
    }

    /// Runs the network over patches.
    pub(super) fn evaluate(&self, patches: &Patches) -> Result<Evaluation, TrainError> {
        let _frozen = tch::no_grad_guard();
        let (mut latents, mut log_probs, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (from, to) in chunks(patches.count()) {
            let x = self.normalise(&patches.range(from, to)?);
            let NetworkOutput { latent, logits, decoded } = self.give(&x, &mut |_, _| ());
            errors.push(Autoencoder::reconstruction_error(&x, &decoded));
            log_probs.push(logits.log_softmax(1, Kind::Float));
            latents.push(latent);
        }
        let join = |parts: &[Tensor]| Tensor::cat(parts, 0);
        Ok(Evaluation { latent: join(&latents), log_probs: join(&log_probs), reconstruction_error: join(&errors) })
    }

    fn normalise(&self, patches: &Tensor) -> Tensor {
        (patches.to_kind(Kind::Float) - &self.mean) / &self.deviation
    }

    fn steps_mut(&mut self) -> impl Iterator<Item = &mut NetworkLayer> {
        self.encoder.iter_mut().chain(&mut self.clusterer).chain(&mut self.decoder)
    }

    /// Walks all steps in the order encoder, clusterer, decoder; `see` is told each one's number and what it reads.
    fn give(&self, normalised: &Tensor, see: &mut dyn FnMut(usize, &Tensor)) -> NetworkOutput {
        let mut number = 0;
        let mut walk = |steps: &[NetworkLayer], start: &Tensor| {
            steps.iter().fold(start.shallow_clone(), |x, step| {
                let x = if step.operator == Operator::Linear { x.flatten(1, -1) } else { x };
                see(number, &x);
                number += 1;
                step.forward(&x)
            })
        };
        let start = if self.precision == Precision::Fp16 { half(normalised) } else { normalised.shallow_clone() };
        let latent = walk(&self.encoder, &start);
        let logits = walk(&self.clusterer, &latent);
        let side = self.shape.inner_px();
        let inner = walk(&self.decoder[..1], &latent).view([-1, self.shape.inner_channels(), side, side]);
        let decoded = walk(&self.decoder[1..], &inner);
        NetworkOutput { latent, logits, decoded }
    }
}

impl NetworkLayer {
    fn single(layer: &Layer) -> Self {
        let (weight, bias) = layer.folded();
        let here = |x: &Tensor| x.to_device(Device::Cpu);
        let (operator, relu) = (layer.operator(), layer.has_relu());
        Self { operator, weight: here(&weight), bias: here(&bias), relu, kept: StoredWeights::Single }
    }

    fn halve(&mut self) {
        (self.weight, self.bias, self.kept) = (half(&self.weight), half(&self.bias), StoredWeights::Half);
    }

    /// `grid` is that of what the step reads. ONNX Runtime has no integer kernel for transposed convolutions: theirs are
    /// computed in float32, and only kept small.
    fn quantise(&mut self, grid: Quantisation) {
        let input = (self.operator != Operator::ConvTranspose).then_some(grid);
        let steps = weight_steps(self.operator, &self.weight, &self.bias, input);
        let along_outputs = steps.view(self.operator.output_axis());
        self.weight = (&self.weight / &along_outputs).round() * along_outputs;
        if let Some(grid) = input {
            let bias_steps = &steps * f64::from(grid.step);
            self.bias = (&self.bias / &bias_steps).round() * bias_steps;
        }
        self.kept = StoredWeights::Quantised { input, steps };
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let rounded = match &self.kept {
            StoredWeights::Quantised { input: Some(grid), .. } => grid.round(x),
            _ => x.shallow_clone(),
        };
        let y = self.operator.apply(&rounded, &self.weight, Some(&self.bias));
        let y = if self.relu { y.relu() } else { y };
        if matches!(self.kept, StoredWeights::Half) { half(&y) } else { y }
    }
}
