//! The customary methods on the patches that the model was fitted to, for the report's table.

use tch::Tensor;

use crate::data::patches::Patches;
use crate::evaluate::colour::colour_statistics;
use crate::fit::{FittedModel, evaluate};
use crate::system::error::TrainError;
use crate::vectors::agreement::Agreement;
use crate::vectors::indices::{Indices, indices};
use crate::vectors::kmeans::kmeans;
use crate::vectors::labels::Labels;
use crate::vectors::mixture::mixture;
use crate::vectors::pca::Pca;
use crate::vectors::points::Points;

/// Fits of each method: seeds 1 to this.
const SEEDS: u64 = 3;
/// Patches that are looked at, evenly spread over all: their pixels are held in memory.
const MAX_PATCHES: usize = 4000;
/// Principal components of the pixels.
const COMPONENTS: i64 = 32;

/// A value over several seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanDeviation {
    /// Mean over seeds.
    pub mean: f64,
    /// Standard deviation over seeds; none of a single fit.
    pub deviation: Option<f64>,
}

/// One row of the table: a method on features of the patches.
#[derive(Debug, Clone, PartialEq)]
pub struct BaselineResult {
    /// How was clustered: `k-means`.
    pub method: String,
    /// What was clustered: `colour statistics`.
    pub features: String,
    /// In the method's own features, mean over seeds.
    pub indices: Option<Indices>,
    /// Accuracy by best one-to-one matching, NMI and ARI with the known classes.
    pub agreement: Option<[MeanDeviation; 3]>,
}

/// k-means and Gaussian mixtures with `clusters` clusters on colour statistics, on principal components of the pixels, and on
/// the model's latent. `classes`: of every patch, where known.
///
/// # Errors
/// [`TrainError`] if patches cannot be read, or what libtorch says.
pub(super) fn baselines(
    fitted: &FittedModel,
    patches: &Patches,
    clusters: usize,
    classes: Option<&Labels>,
) -> Result<Vec<BaselineResult>, TrainError> {
    let step = (patches.count() as usize).div_ceil(MAX_PATCHES).max(1);
    let chosen: Vec<i64> = (0..patches.count()).step_by(step).collect();
    let pixels = patches.gather(&chosen)?;
    let sample = Patches::new(&pixels, chosen.iter().map(|&i| patches.origins()[i as usize]).collect());
    let classes =
        classes.map(|all| Labels::new(&chosen.iter().map(|&i| i64::from(all.of()[i as usize])).collect::<Vec<_>>()));
    let spaces: [(&str, Tensor); 3] = [
        ("colour statistics", colour_statistics(&sample)?),
        ("pixels (PCA)", Pca::fit(&pixels, COMPONENTS, 1)?.project(&pixels)),
        ("latent", evaluate(&fitted.autoencoder, &fitted.clusterer, &sample)?.latent),
    ];
    let mut methods = Vec::new();
    for (features, space) in &spaces {
        let points = Points::from_tensor(space).map_err(|error| TrainError::Torch(error.to_string()))?;
        let by_means = (1..=SEEDS).map(|seed| Ok(kmeans(&points, clusters, seed).cluster));
        methods.push(method(
            "k-means",
            features,
            &points,
            &by_means.collect::<Result<Vec<_>, TrainError>>()?,
            classes.as_ref(),
        ));
        let by_mixture = (1..=SEEDS).map(|seed| Ok(mixture(&points, clusters, seed)?.cluster));
        let by_mixture = by_mixture.collect::<Result<Vec<_>, TrainError>>()?;
        methods.push(method("Gaussian mixture", features, &points, &by_mixture, classes.as_ref()));
    }
    Ok(methods)
}

fn method(name: &str, features: &str, points: &Points, fits: &[Vec<i64>], classes: Option<&Labels>) -> BaselineResult {
    let labels: Vec<Labels> = fits.iter().map(|fit| Labels::new(fit)).collect();
    // None where a fit put all patches into one cluster, which has no indices.
    let indices = indices(points, &labels).ok().and_then(|all| Indices::mean(&all));
    let agreement = classes.map(|classes| {
        let all: Vec<Agreement> = labels.iter().map(|labels| Agreement::new(classes, labels)).collect();
        Agreement::spread(&all).map(|(mean, deviation)| MeanDeviation { mean, deviation: Some(deviation) })
    });
    BaselineResult { method: name.to_owned(), features: features.to_owned(), indices, agreement }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::{FitContext, fit};
    use crate::testing::{seeded, texture_config, texture_patches};

    #[test]
    fn three_textures_are_told_apart_by_all_six_and_the_figures_say_so() {
        let _turn = seeded(1);
        let patches = texture_patches(1);
        let context = FitContext { device: tch::Device::Cpu, checkpoint: None, metrics: None, interrupted: &|| false };
        let fitted = fit(&texture_config(1), &patches, &context).expect("fits");
        let classes = Labels::new(&(0..240).map(|i| i % 3).collect::<Vec<_>>());
        let found = baselines(&fitted, &patches.train, 3, Some(&classes)).expect("found");
        assert_eq!(found.len(), 6);
        let first = &found[0];
        assert_eq!((first.method.as_str(), first.features.as_str()), ("k-means", "colour statistics"));
        for method in &found {
            let [accuracy, ..] = method.agreement.expect("classes are known");
            assert!(accuracy.mean > 0.99 && accuracy.deviation < Some(0.01), "{method:?}");
            assert!(method.indices.expect("three clusters").silhouette > 0.3, "{method:?}");
        }
    }
}
