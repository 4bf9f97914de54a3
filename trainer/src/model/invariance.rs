//! The invariance loss: the latent vectors of two views of the same tissue must agree, and their values must not be redundant.
//!
//! "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021 (arXiv 2103.03230). The
//! latent is standardised already, so that the cross-correlation is one product; both terms are divided by the latent's size,
//! so that their weights mean the same at any size.

use tch::{Kind, Tensor};

/// Mean of `(1 − c_ii)²` plus `redundancy` times the sum of `c_ij²` (i ≠ j) per latent value, where `c` is the
/// cross-correlation of the standardised latents `a` and `b`, `[N, D]` each. 0: both views have the same latent, whose values
/// are uncorrelated.
pub fn invariance_loss(a: &Tensor, b: &Tensor, redundancy: f64) -> Tensor {
    let size = a.size();
    let (count, dims) = (size[0] as f64, size[1] as f64);
    let correlation = a.transpose(0, 1).matmul(b) / count;
    let diagonal = correlation.diagonal(0, 0, 1);
    let agreement = (&diagonal - 1.0).square().sum(Kind::Float);
    let others = correlation.square().sum(Kind::Float) - diagonal.square().sum(Kind::Float);
    (agreement + others * redundancy) / dims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seeded;
    use tch::Device;

    fn standardised(x: &Tensor) -> Tensor {
        let (variance, mean) = x.var_mean_dim([0i64].as_slice(), false, true);
        (x - mean) / variance.sqrt()
    }

    fn loss(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from(invariance_loss(a, b, 0.5)).expect("scalar")
    }

    #[test]
    fn equal_uncorrelated_latents_cost_nothing_unrelated_ones_one_and_copies_their_redundancy() {
        let _turn = seeded(1);
        let random = || standardised(&Tensor::randn([4000, 3], (Kind::Float, Device::Cpu)));
        let (a, b) = (random(), random());
        assert!(loss(&a, &a) < 0.01, "{}", loss(&a, &a));
        assert!((loss(&a, &b) - 1.0).abs() < 0.1, "{}", loss(&a, &b));
        // Three times the same value: all six correlations beside the diagonal are 1.
        let copies = a.narrow(1, 0, 1).repeat([1, 3]);
        assert!((loss(&copies, &copies) - 0.5 * 6.0 / 3.0).abs() < 1e-3, "{}", loss(&copies, &copies));
    }
}
