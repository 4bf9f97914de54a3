//! Colour statistics of patches: what can be told without looking at any structure.

use tch::{Kind, Tensor};

use crate::data::patches::Patches;
use crate::system::error::TrainError;
use crate::system::tensors::chunks;

/// One above the brightest grey value; grey values count from 1, so that black has a finite optical density.
const WHITE: f64 = 256.0;

/// Mean and standard deviation of each colour channel, in grey values and in optical density (−log₁₀ of transmission, to
/// which dyes add up): `[N, 12·S]` from uint8 patches `[N, 3·S, P, P]`, each column scaled to zero mean and unit
/// variance over the patches.
///
/// # Errors
/// [`TrainError`] if patches cannot be read.
pub fn colour_statistics(patches: &Patches) -> Result<Tensor, TrainError> {
    let features = raw_colour_statistics(patches)?;
    Ok(standardised(&features, &features))
}

/// `features` `[N, d]` scaled so that the columns of `fitted` `[M, d]` have zero mean and unit variance.
pub fn standardised(features: &Tensor, fitted: &Tensor) -> Tensor {
    let (variance, mean) = fitted.var_mean_dim([0i64].as_slice(), false, true);
    // A column that does not vary stays 0.
    (features - mean) / variance.sqrt().clamp_min(1e-6)
}

/// [`colour_statistics`] before scaling.
///
/// # Errors
/// [`TrainError`] if patches cannot be read.
pub fn raw_colour_statistics(patches: &Patches) -> Result<Tensor, TrainError> {
    let _frozen = tch::no_grad_guard();
    let statistics = |(from, to)| {
        let grey = patches.range(from, to)?.to_kind(Kind::Float);
        let density = -((&grey + 1.0) / WHITE).log10();
        let channels = |x: &Tensor| {
            let (deviation, mean) = x.var_mean_dim([2i64, 3].as_slice(), false, false);
            [mean, deviation.sqrt()]
        };
        let ([grey_mean, grey_deviation], [density_mean, density_deviation]) = (channels(&grey), channels(&density));
        Ok(Tensor::cat(&[grey_mean, grey_deviation, density_mean, density_deviation], 1))
    };
    let parts: Vec<Tensor> = chunks(patches.count()).map(statistics).collect::<Result<_, TrainError>>()?;
    Ok(Tensor::cat(&parts, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, IndexOp};

    use crate::testing::{seeded, somewhere, texture_patches};
    use crate::vectors::kmeans::kmeans;
    use crate::vectors::points::Points;

    #[test]
    fn columns_are_standardised_and_tell_colours_apart() {
        let _turn = seeded(1);
        let features = colour_statistics(&texture_patches(2).train).expect("read");
        assert_eq!(features.size(), [240, 24]);
        assert!(features.mean_dim([0i64].as_slice(), false, Kind::Float).abs().max().double_value(&[]) < 1e-4);
        let found = kmeans(&Points::from_tensor(&features).expect("points"), 3, 1);
        assert!((3..240).all(|i| found.cluster[i] == found.cluster[i % 3]), "three colours in turn");
    }

    #[test]
    fn values_before_scaling_are_means_deviations_and_optical_density() {
        // Two patches of one channel's worth of interest: the sign of each standardised column says which is larger.
        let dark = Tensor::full([1, 3, 2, 2], 40, (Kind::Uint8, Device::Cpu));
        let bright = Tensor::from_slice(&[250u8, 200, 250, 200]).view([1, 1, 2, 2]).expand([1, 3, 2, 2], false);
        let features = colour_statistics(&somewhere(&Tensor::cat(&[dark, bright], 0))).expect("read");
        let signs = Vec::<f32>::try_from(features.i(0).sign()).expect("floats");
        // Red, green, blue of: mean, deviation, mean density, deviation of density.
        assert_eq!(signs, [[-1.0; 3], [-1.0; 3], [1.0; 3], [-1.0; 3]].concat());
    }

    #[test]
    fn a_blank_plane_gives_no_nan() {
        let features =
            colour_statistics(&somewhere(&Tensor::full([3, 3, 4, 4], 255, (Kind::Uint8, Device::Cpu)))).expect("read");
        assert_eq!(features.abs().max().double_value(&[]), 0.0);
    }
}
