//! The building block of all networks: a linear operator, optionally BatchNorm, optionally ReLU.
//!
//! The layers of tch are not used for two reasons. Its BatchNorm always updates the running statistics in training mode, but the adversarial
//! passes of IMSAT must not update them. And export needs access to the parts of a layer, to fold BatchNorm into the operator.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

/// The statistics that BatchNorm uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch, which also update the running ones.
    Train,
    /// Statistics of the batch; the running ones are not updated (Hu et al. 2017, published code: `update_batch_stats=False`).
    Perturbed,
    /// The running statistics, as in the exported model.
    Eval,
}

/// Kernel, stride and padding with which a convolution halves and a transposed one doubles an even side exactly;
/// kernel = 2·stride keeps the transposed one free of the checkerboard of unevenly covered pixels.
pub const KERNEL: i64 = 4;
/// See [`KERNEL`].
pub const STRIDE: i64 = 2;
/// See [`KERNEL`].
pub const PADDING: i64 = 1;

/// PyTorch's customary value; only guards the division against channels that never vary.
const NORM_EPSILON: f64 = 1e-5;
/// Share of the newest batch in the running statistics; the published IMSAT code decays by 0.9 a batch.
const NORM_MOMENTUM: f64 = 0.1;

/// The linear part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `[N, in, H, W]` → `[N, out, H/2, W/2]`; weight `[out, in, 4, 4]`.
    Conv,
    /// `[N, in, H, W]` → `[N, out, 2H, 2W]`; weight `[in, out, 4, 4]`.
    ConvTranspose,
    /// `[N, in]` → `[N, out]`; weight `[out, in]`.
    Linear,
}

impl Operator {
    fn weight_shape(self, inputs: i64, outputs: i64) -> Vec<i64> {
        match self {
            Self::Conv => vec![outputs, inputs, KERNEL, KERNEL],
            Self::ConvTranspose => vec![inputs, outputs, KERNEL, KERNEL],
            Self::Linear => vec![outputs, inputs],
        }
    }

    /// How many inputs feed one output value: the fan-in of He et al. 2015.
    fn fan_in(self, inputs: i64) -> i64 {
        match self {
            Self::Conv => inputs * KERNEL * KERNEL,
            Self::ConvTranspose => inputs * (KERNEL / STRIDE) * (KERNEL / STRIDE),
            Self::Linear => inputs,
        }
    }

    /// The linear part by itself; shapes as above.
    pub fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        match self {
            Self::Conv => x.conv2d(weight, bias, [STRIDE], [PADDING], [1], 1),
            Self::ConvTranspose => x.conv_transpose2d(weight, bias, [STRIDE], [PADDING], [0], 1, [1]),
            Self::Linear => x.linear(weight, bias),
        }
    }

    /// The shape that lets a per-output vector scale the weight.
    pub fn output_axis(self) -> &'static [i64] {
        match self {
            Self::Conv => &[-1, 1, 1, 1],
            Self::ConvTranspose => &[1, -1, 1, 1],
            Self::Linear => &[-1, 1],
        }
    }
}

/// What follows the linear operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// BatchNorm with trained scale and shift, then ReLU.
    NormRelu,
    /// BatchNorm without scale and shift: zero mean and unit variance per output.
    Standardise,
    /// ReLU.
    Relu,
    /// Nothing: the layer is affine.
    None,
}

#[derive(Debug)]
struct Norm {
    scale: Option<Tensor>,
    shift: Option<Tensor>,
    running_mean: Tensor,
    running_var: Tensor,
}

/// One layer: operator, then [`Activation`].
#[derive(Debug)]
pub struct Layer {
    operator: Operator,
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<Norm>,
    relu: bool,
}

impl Layer {
    /// Parameters below `path`; weights drawn from N(0, 2 / fan-in) (He et al. 2015) out of torch's generator.
    pub fn new(path: &Path<'_>, operator: Operator, inputs: i64, outputs: i64, activation: Activation) -> Self {
        let deviation = (2.0 / operator.fan_in(inputs) as f64).sqrt();
        Self::with_deviation(path, operator, inputs, outputs, activation, deviation)
    }

    /// As [`Layer::new`], with the standard deviation of the initial weights given.
    pub fn with_deviation(
        path: &Path<'_>,
        operator: Operator,
        inputs: i64,
        outputs: i64,
        activation: Activation,
        deviation: f64,
    ) -> Self {
        let random = Init::Randn { mean: 0.0, stdev: deviation };
        let weight = path.var("weight", &operator.weight_shape(inputs, outputs), random);
        let trained = matches!(activation, Activation::NormRelu);
        let norm = matches!(activation, Activation::NormRelu | Activation::Standardise).then(|| Norm {
            scale: trained.then(|| path.ones("scale", &[outputs])),
            shift: trained.then(|| path.zeros("shift", &[outputs])),
            running_mean: path.zeros_no_train("running_mean", &[outputs]),
            running_var: path.ones_no_train("running_var", &[outputs]),
        });
        // BatchNorm subtracts any bias again.
        let bias = norm.is_none().then(|| path.zeros("bias", &[outputs]));
        Self { operator, weight, bias, norm, relu: matches!(activation, Activation::NormRelu | Activation::Relu) }
    }

    /// Applies the layer; shapes as in [`Operator`].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.operator.apply(x, &self.weight, self.bias.as_ref());
        let y = match &self.norm {
            None => y,
            Some(norm) => norm.forward(&y, mode),
        };
        if self.relu { y.relu() } else { y }
    }

    /// The linear part of the layer.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// Whether a ReLU follows.
    pub fn has_relu(&self) -> bool {
        self.relu
    }

    /// Weight and bias of the operator that computes in one step what operator and BatchNorm do in [`Mode::Eval`]:
    /// `w·s` and `b·s + shift − mean·s` with `s = scale / sqrt(var + ε)`, per output.
    pub fn folded(&self) -> (Tensor, Tensor) {
        let _frozen = tch::no_grad_guard();
        let Some(norm) = &self.norm else {
            let outputs = self.output_count();
            let bias = self
                .bias
                .as_ref()
                .map_or_else(|| Tensor::zeros([outputs], (Kind::Float, self.weight.device())), Tensor::shallow_clone);
            return (self.weight.detach().copy(), bias.detach().copy());
        };
        let inverse = (&norm.running_var + NORM_EPSILON).rsqrt();
        let factor = norm.scale.as_ref().map_or_else(|| inverse.shallow_clone(), |scale| scale * &inverse);
        let bias = -(&norm.running_mean * &factor);
        let bias = norm.shift.as_ref().map_or_else(|| bias.shallow_clone(), |shift| &bias + shift);
        (&self.weight * factor.view(self.operator.output_axis()), bias)
    }

    /// Reorders the outputs: new output `i` is the old output `order[i]`. For affine linear layers (the clusterer's last).
    pub fn permute_outputs(&mut self, order: &[i64]) {
        let _frozen = tch::no_grad_guard();
        let index = Tensor::from_slice(order).to_device(self.weight.device());
        self.weight.copy_(&self.weight.index_select(0, &index));
        if let Some(bias) = &mut self.bias {
            bias.copy_(&bias.index_select(0, &index));
        }
    }

    #[cfg(test)]
    pub(crate) fn set_nan(&mut self) {
        let _ = tch::no_grad(|| self.weight.view([-1]).get(0).fill_(f64::NAN));
    }

    fn output_count(&self) -> i64 {
        let shape = self.weight.size();
        if self.operator == Operator::ConvTranspose { shape[1] } else { shape[0] }
    }
}

impl Norm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let running = (mode != Mode::Perturbed).then_some((&self.running_mean, &self.running_var));
        Tensor::batch_norm(
            x,
            self.scale.as_ref(),
            self.shift.as_ref(),
            running.map(|r| r.0),
            running.map(|r| r.1),
            mode != Mode::Eval,
            NORM_MOMENTUM,
            NORM_EPSILON,
            true,
        )
    }
}

/// Applies `layers` in order.
pub fn chain(layers: &[Layer], x: &Tensor, mode: Mode) -> Tensor {
    layers.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x, mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seeded;
    use tch::Device;
    use tch::nn::VarStore;

    fn layer(store: &VarStore, operator: Operator, activation: Activation) -> Layer {
        Layer::new(&store.root(), operator, 5, 7, activation)
    }

    fn input(operator: Operator) -> Tensor {
        let shape: &[i64] = if operator == Operator::Linear { &[16, 5] } else { &[16, 5, 8, 8] };
        Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 2.0 + 1.0
    }

    #[test]
    fn convolution_halves_and_its_transpose_doubles() {
        let _turn = seeded(3);
        let store = VarStore::new(Device::Cpu);
        let down = layer(&store, Operator::Conv, Activation::None);
        assert_eq!(down.forward(&input(Operator::Conv), Mode::Eval).size(), [16, 7, 4, 4]);
        let store = VarStore::new(Device::Cpu);
        let up = layer(&store, Operator::ConvTranspose, Activation::None);
        assert_eq!(up.forward(&input(Operator::ConvTranspose), Mode::Eval).size(), [16, 7, 16, 16]);
    }

    #[test]
    fn perturbed_mode_normalises_by_the_batch_and_leaves_running_statistics_alone() {
        let _turn = seeded(3);
        let store = VarStore::new(Device::Cpu);
        let layer = layer(&store, Operator::Linear, Activation::Standardise);
        let x = input(Operator::Linear);
        let running = || store.variables()["running_mean"].copy();
        let before = running();
        let perturbed = layer.forward(&x, Mode::Perturbed);
        assert_eq!(before, running());
        assert!(f64::try_from(perturbed.mean_dim(0, false, Kind::Float).abs().max()).expect("scalar") < 1e-5);
        let trained = layer.forward(&x, Mode::Train);
        assert_ne!(before, running());
        assert!(trained.allclose(&perturbed, 1e-5, 1e-6, false));
    }

    #[test]
    fn folding_equals_operator_and_batch_norm_in_eval_mode() {
        let _turn = seeded(3);
        for operator in [Operator::Conv, Operator::ConvTranspose, Operator::Linear] {
            for activation in [Activation::NormRelu, Activation::Standardise, Activation::None] {
                let store = VarStore::new(Device::Cpu);
                let layer = layer(&store, operator, activation);
                let x = input(operator);
                for _ in 0..5 {
                    let _ = layer.forward(&x, Mode::Train);
                }
                let (weight, bias) = layer.folded();
                let folded = Layer { operator, weight, bias: Some(bias), norm: None, relu: layer.relu };
                let (a, b) = (layer.forward(&x, Mode::Eval), folded.forward(&x, Mode::Eval));
                assert!(a.allclose(&b, 1e-4, 1e-5, false), "{operator:?} {activation:?}");
            }
        }
    }
}
