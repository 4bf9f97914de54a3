//! Principal components of many long rows, such as all pixels of a patch.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, TchError, Tensor};

use crate::system::tensors::chunks;
use crate::system::tensors::rows;

/// Directions carried along beside those asked for, and rounds of iteration: enough for spectra that fall as slowly as
/// those of tissue (Halko, Martinsson & Tropp 2011, section 4.5).
const SPARE: i64 = 10;
/// See [`SPARE`].
const ROUNDS: usize = 12;

/// The subspace of largest variance.
#[derive(Debug)]
pub struct Pca {
    /// `[d]`.
    pub mean: Tensor,
    /// `[d, c]`: orthonormal columns, largest variance first, the largest entry of each positive.
    pub components: Tensor,
    /// `[c]`: variance along each, in squared units of the data.
    pub variance: Tensor,
}

impl Pca {
    /// The first `components` directions (at most n and d) of n ≥ 1 samples `[n, …]` of any kind,
    /// each flattened to d values, by subspace iteration from a start drawn with `seed`. Works through the samples in
    /// pieces: uint8 patches are never all turned into floats at once.
    ///
    /// # Errors
    /// An error of libtorch.
    pub fn fit(samples: &Tensor, components: i64, seed: u64) -> Result<Self, TchError> {
        let _frozen = tch::no_grad_guard();
        let count = samples.size()[0];
        let dims = samples.size()[1..].iter().product::<i64>();
        let components = components.min(dims).min(count);
        let mean = pieces(samples).map(|x| x.sum_dim_intlist([0i64].as_slice(), false, Kind::Double)).sum::<Tensor>();
        let mean = (mean / count as f64).to_kind(Kind::Float);
        // Covariance times the columns of `basis`.
        let spread = |basis: &Tensor| {
            let product = |x: Tensor| {
                let centred = x - &mean;
                centred.tr().matmul(&centred.matmul(basis))
            };
            pieces(samples).map(product).sum::<Tensor>() / count as f64
        };
        let sketch = (components + SPARE).min(dims);
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let start: Vec<f32> = (0..dims * sketch).map(|_| generator.random_range(-1.0..1.0)).collect();
        let orthonormal = |columns: &Tensor| Tensor::f_linalg_qr(columns, "reduced").map(|(basis, _)| basis);
        let mut basis = orthonormal(&Tensor::from_slice(&start).view([dims, sketch]))?;
        for _ in 0..ROUNDS {
            basis = orthonormal(&spread(&basis))?;
        }
        let (variance, rotation) = basis.tr().matmul(&spread(&basis)).f_linalg_eigh("L")?;
        // Ascending by variance.
        let last = |x: Tensor| x.narrow(-1, sketch - components, components).flip([-1]);
        let components = basis.matmul(&last(rotation));
        let largest = components.gather(0, &components.abs().argmax(0, true), false);
        Ok(Self { mean, components: components * largest.sign(), variance: last(variance) })
    }

    /// The coordinates `[n, c]` of samples `[n, …]`.
    pub fn project(&self, samples: &Tensor) -> Tensor {
        let _frozen = tch::no_grad_guard();
        Tensor::cat(&pieces(samples).map(|x| (x - &self.mean).matmul(&self.components)).collect::<Vec<_>>(), 0)
    }
}

/// The samples as float rows, some at a time.
fn pieces(samples: &Tensor) -> impl Iterator<Item = Tensor> + '_ {
    chunks(samples.size()[0]).map(|(from, to)| rows(samples, from, to).flatten(1, -1).to_kind(Kind::Float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    use crate::testing::seeded;

    #[test]
    fn components_equal_those_of_the_whole_covariance() {
        let _turn = seeded(1);
        let scale = Tensor::arange(40, (Kind::Float, Device::Cpu)) * -0.08;
        let samples = Tensor::randn([700, 40], (Kind::Float, Device::Cpu)) * scale.exp() + 3.0;
        let found = Pca::fit(&samples, 5, 1).expect("fits");
        let covariance = samples.to_kind(Kind::Double).tr().cov(0, None::<&Tensor>, None::<&Tensor>);
        let (variance, vectors) = covariance.linalg_eigh("L");
        let (variance, vectors) = (variance.flip([0]).narrow(0, 0, 5), vectors.flip([1]).narrow(1, 0, 5));
        assert!(found.variance.to_kind(Kind::Double).allclose(&variance, 1e-3, 1e-6, false));
        let cosine =
            (found.components.to_kind(Kind::Double) * vectors).sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
        assert!(cosine.abs().allclose(&Tensor::ones_like(&cosine), 1e-3, 0.0, false), "{cosine}");
    }

    #[test]
    fn projections_of_bytes_are_centred_and_uncorrelated_with_the_stated_variance() {
        let _turn = seeded(2);
        let patches = Tensor::randint(200, [300, 3, 4, 4], (Kind::Uint8, Device::Cpu));
        let pca = Pca::fit(&patches, 4, 1).expect("fits");
        let scores = pca.project(&patches).to_kind(Kind::Double);
        assert_eq!(scores.size(), [300, 4]);
        let covariance = scores.tr().cov(0, None::<&Tensor>, None::<&Tensor>) * (299.0 / 300.0);
        let expected = Tensor::diag(&pca.variance.to_kind(Kind::Double), 0);
        assert!(covariance.allclose(&expected, 1e-2, 1.0, false), "{covariance} {expected}");
        assert!(scores.mean_dim([0i64].as_slice(), false, Kind::Double).abs().max().double_value(&[]) < 1e-2);
    }

    #[test]
    fn fewer_samples_than_components_give_as_many_components_as_samples() {
        let _turn = seeded(3);
        let samples = Tensor::randn([3, 20], (Kind::Float, Device::Cpu));
        assert_eq!(Pca::fit(&samples, 8, 1).expect("fits").project(&samples).size(), [3, 3]);
    }
}
