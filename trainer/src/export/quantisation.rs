//! What float16 and 8-bit integers make of numbers, and how the steps of the integers are chosen.

use tch::{Kind, Tensor};

use crate::data::patches::Patches;
use crate::model::layers::Operator;
use crate::system::error::TrainError;
use crate::system::tensors::to_vec;

/// Weights are integers of −63 to 63. With 8 bits, processors without integer dot products (x86 before AVX-VNNI) multiply
/// pairs of uint8 and int8 into 16 bits and cut off what does not fit: 2·255·127 does not, 2·255·63 does. Seven bits give
/// the same sums on every machine.
const LARGEST_WEIGHT: f64 = 63.0;

/// Patches on which ranges are measured: enough for a quantile of values, of which each patch has thousands.
const CALIBRATION_PATCHES: i64 = 512;
/// Patches of one measurement; the widest of all measurements counts.
const CALIBRATION_BATCH: usize = 64;
/// Share of the values that a range may cut off at either end: a few outliers would else coarsen the steps of all others.
const CUT_OFF: f64 = 1e-4;

/// int32 holds a bias of up to this many steps, with as much again to spare for the sum of products.
const LARGEST_BIAS: f64 = (1 << 30) as f64;
/// No step is smaller: products of two steps stay ordinary float32 numbers.
const SMALLEST_STEP: f64 = 1e-12;

/// The 256 numbers that a uint8 stands for: `(code − zero)·step`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantisation {
    /// Distance of two numbers.
    pub(super) step: f32,
    /// The code of the number 0, which every grid has: padding and ReLU are exact.
    pub(super) zero: u8,
}

impl Quantisation {
    /// The finest one that spans `least..=most` and 0.
    pub(super) fn spanning(least: f32, most: f32) -> Self {
        let (least, most) = (f64::from(least.min(0.0)), f64::from(most.max(0.0)));
        let step = ((most - least) / 255.0).max(SMALLEST_STEP);
        Self { step: step as f32, zero: (-least / step).round() as u8 }
    }

    /// The nearest number of the grid to each of `x`; ties go to the even code, as ONNX says.
    pub(super) fn round(self, x: &Tensor) -> Tensor {
        let (step, zero) = (f64::from(self.step), f64::from(self.zero));
        (x / step).round().clamp(-zero, 255.0 - zero) * step
    }
}

/// The nearest float16 number to each of `x`, as float32.
pub(super) fn half(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Half).to_kind(Kind::Float)
}

/// The bits of numbers that are float16 already.
///
/// # Errors
/// An error of libtorch.
pub(super) fn half_bits(x: &Tensor) -> Result<Vec<u16>, tch::TchError> {
    let bits = Vec::<i16>::try_from(x.to_kind(Kind::Half).view_dtype(Kind::Int16).reshape([-1]))?;
    Ok(bits.into_iter().map(i16::cast_unsigned).collect())
}

/// The step of each output's weights, `[out]`: as small as the largest weight and a bias in steps of the product allow.
pub(super) fn weight_steps(operator: Operator, weight: &Tensor, bias: &Tensor, input: Option<Quantisation>) -> Tensor {
    let others: &[i64] = match operator {
        Operator::Conv => &[1, 2, 3],
        Operator::ConvTranspose => &[0, 2, 3],
        Operator::Linear => &[1],
    };
    let steps = (weight.abs().amax(others, false) / LARGEST_WEIGHT).clamp_min(SMALLEST_STEP);
    input.map_or_else(
        || steps.shallow_clone(),
        |grid| steps.maximum(&(bias.abs() / (f64::from(grid.step) * LARGEST_BIAS))),
    )
}

/// The grid of what each step of a network reads. `run` walks the network over patches and tells what it sees, step by step.
///
/// # Errors
/// [`TrainError`] if patches cannot be read.
pub(super) fn ranges(
    patches: &Patches,
    run: impl Fn(&Tensor, &mut dyn FnMut(usize, &Tensor)),
) -> Result<Vec<Quantisation>, TrainError> {
    let _frozen = tch::no_grad_guard();
    let every = (patches.count() / CALIBRATION_PATCHES).max(1);
    let chosen: Vec<i64> = (0..patches.count()).step_by(every as usize).take(CALIBRATION_PATCHES as usize).collect();
    let mut ranges: Vec<(f32, f32)> = Vec::new();
    for batch in chosen.chunks(CALIBRATION_BATCH) {
        let mut failure = None;
        run(&patches.gather(batch)?, &mut |step, values| match inner_range(values) {
            Ok((least, most)) => {
                if ranges.len() <= step {
                    ranges.resize(step + 1, (0.0, 0.0));
                }
                ranges[step] = (ranges[step].0.min(least), ranges[step].1.max(most));
            }
            Err(error) => failure = Some(error),
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
    }
    Ok(ranges.into_iter().map(|(least, most)| Quantisation::spanning(least, most)).collect())
}

/// The range that holds all values but a share of [`CUT_OFF`] at either end.
fn inner_range(values: &Tensor) -> Result<(f32, f32), tch::TchError> {
    let flat = values.reshape([-1]);
    let cut = (flat.size()[0] as f64 * CUT_OFF).floor() as i64;
    let (lowest, _) = flat.topk(cut + 1, 0, false, true);
    let (highest, _) = flat.topk(cut + 1, 0, true, true);
    Ok((to_vec(&lowest)?[cut as usize], to_vec(&highest)?[cut as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_grid_has_zero_and_is_nowhere_off_by_more_than_half_a_step() {
        for (least, most) in [(-1.0f32, 3.0f32), (0.0, 2.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)] {
            let grid = Quantisation::spanning(least, most);
            let x =
                Tensor::linspace(f64::from(least.min(0.0)), f64::from(most.max(0.0)), 1001, (Kind::Float, Device::Cpu));
            let off = f64::try_from((grid.round(&x) - &x).abs().max()).expect("number");
            // The ends may lose half a step to zero's being on the grid.
            assert!(off <= f64::from(grid.step) * 1.001, "{least} {most}: {off} of {grid:?}");
            let inside = x.narrow(0, 100, 800);
            let off = f64::try_from((grid.round(&inside) - &inside).abs().max()).expect("number");
            assert!(off <= f64::from(grid.step) * 0.501, "{least} {most}: {off} of {grid:?}");
            assert_eq!(
                f64::try_from(grid.round(&Tensor::zeros([1], (Kind::Float, Device::Cpu)))).expect("number"),
                0.0
            );
        }
        let beyond = Quantisation::spanning(-1.0, 1.0).round(&Tensor::from_slice(&[-9.0f32, 9.0]));
        assert!(beyond.abs().less(1.02).all() == Tensor::from(true), "values beyond the range are cut off");
    }

    #[test]
    fn weight_steps_are_per_output_and_leave_room_for_the_bias() {
        let weight = Tensor::from_slice2(&[[1.0f32, -63.0], [0.5, 0.0], [0.0, 0.0]]);
        let bias = Tensor::from_slice(&[0.0f32, 0.0, 5.0]);
        let grid = Quantisation { step: 0.01, zero: 0 };
        let steps = to_vec(&weight_steps(Operator::Linear, &weight, &bias, Some(grid))).expect("floats");
        assert_eq!(steps[0], 1.0);
        assert!((steps[1] - 0.5 / 63.0).abs() < 1e-9);
        let bias_code = 5.0 / (f64::from(steps[2]) * 0.01);
        assert!(bias_code <= LARGEST_BIAS * 1.000_001, "{bias_code}");
        let deconvolution = Tensor::ones([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        assert_eq!(weight_steps(Operator::ConvTranspose, &deconvolution, &bias, None).size(), [3]);
    }

    #[test]
    fn float16_bits_are_those_of_the_standard() {
        let x = half(&Tensor::from_slice(&[1.0f32, -2.0, 0.1, 65504.0]));
        assert_eq!(half_bits(&x).expect("bits"), [0x3c00, 0xc000, 0x2e66, 0x7bff]);
    }

    #[test]
    fn outliers_do_not_stretch_a_range() {
        let values = Tensor::linspace(0.0, 1.0, 20_000, (Kind::Float, Device::Cpu));
        let _ = values.narrow(0, 19_999, 1).fill_(1e6);
        let (least, most) = inner_range(&values).expect("range");
        assert!(least >= 0.0 && most <= 1.0 && most > 0.99, "{least} {most}");
    }
}
