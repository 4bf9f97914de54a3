//! Gaussian mixture with full covariances, by expectation–maximisation from k-means.

use tch::{Kind, TchError, Tensor};

use crate::vectors::kmeans::kmeans;
use crate::vectors::points::Points;

/// Enough for the likelihood to settle; as in scikit-learn.
const MAX_ROUNDS: usize = 100;
/// EM ends when a round raises the mean log-likelihood (nats) by less; as in scikit-learn.
const TOLERANCE: f64 = 1e-3;
/// Added to each variance, as a share of the data's mean variance, so that a cluster of a few points keeps a volume.
/// scikit-learn's 1e-6 is for data of unit scale; this does not depend on the scale, and it holds in spaces of more
/// dimensions than a cluster has points.
const RIDGE: f64 = 1e-3;

/// A fitted mixture.
#[derive(Debug)]
pub struct Mixture {
    /// Most probable component of each point.
    pub cluster: Vec<i64>,
    /// Log-likelihood of each point, nats.
    pub log_likelihoods: Vec<f64>,
    components: Vec<Component>,
}

/// One Gaussian of a mixture.
#[derive(Debug)]
struct Component {
    /// `[1, d]`.
    mean: Tensor,
    /// Lower Cholesky factor of the covariance, `[d, d]`.
    factor: Tensor,
    log_weight: Tensor,
}

impl Mixture {
    /// The Bayesian information criterion (Schwarz 1978) of this fit to `points` with `clusters` components, in nats:
    /// −2 ln L + parameters · ln n. Lower is better; half the difference of two is about the logarithm of their Bayes
    /// factor.
    pub fn bic(&self, points: &Points, clusters: usize) -> f64 {
        let (count, dims) = (points.count() as f64, points.dims());
        // Mean and covariance of each component, and all weights but one.
        let parameters = clusters * (dims + dims * (dims + 1) / 2) + clusters - 1;
        parameters as f64 * count.ln() - 2.0 * self.log_likelihoods.iter().sum::<f64>()
    }

    /// Most probable component of each of other points in the same space.
    ///
    /// # Errors
    /// An error of libtorch.
    pub fn assign(&self, points: &Points) -> Result<Vec<i64>, TchError> {
        let _frozen = tch::no_grad_guard();
        Vec::try_from(log_joint(&points.to_tensor().to_kind(Kind::Double), &self.components)?.argmax(1, false))
    }
}

/// Fits `clusters` components to `points`, starting from [`kmeans`] with `seed`.
///
/// # Errors
/// What libtorch says, as when a covariance has no Cholesky factor.
pub fn mixture(points: &Points, clusters: usize, seed: u64) -> Result<Mixture, TchError> {
    let _frozen = tch::no_grad_guard();
    let x = points.to_tensor().to_kind(Kind::Double);
    let start = Tensor::from_slice(&kmeans(points, clusters, seed).cluster);
    let ridge = RIDGE * x.var_dim([0i64].as_slice(), false, false).mean(Kind::Double).double_value(&[]).max(1e-12);
    let mut responsibility = start.one_hot(clusters as i64).to_kind(Kind::Double);
    let mut log_likelihoods = Tensor::full([x.size()[0]], f64::NEG_INFINITY, (Kind::Double, x.device()));
    let mut components = Vec::new();
    for _ in 0..MAX_ROUNDS {
        components = maximised(&x, &responsibility, ridge)?;
        let joint = log_joint(&x, &components)?;
        let evidence = joint.logsumexp([1i64].as_slice(), true);
        responsibility = (joint - &evidence).exp();
        let before = std::mem::replace(&mut log_likelihoods, evidence.squeeze_dim(1));
        if (log_likelihoods.mean(Kind::Double) - before.mean(Kind::Double)).double_value(&[]) < TOLERANCE {
            break;
        }
    }
    let cluster = Vec::try_from(responsibility.argmax(1, false))?;
    Ok(Mixture { cluster, log_likelihoods: Vec::try_from(log_likelihoods)?, components })
}

/// The components that `responsibility` `[n, K]` leads to: the M step.
fn maximised(x: &Tensor, responsibility: &Tensor, ridge: f64) -> Result<Vec<Component>, TchError> {
    let (count, dims) = x.size2()?;
    let ridge = Tensor::eye(dims, (Kind::Double, x.device())) * ridge;
    let of = |weight: Tensor| {
        // A component that nobody belongs to keeps a weight above 0, or its mean would be no number.
        let mass = weight.sum(Kind::Double).clamp_min(f64::EPSILON);
        let mean = weight.unsqueeze(0).matmul(x) / &mass;
        let centred = x - &mean;
        let covariance = (&centred * weight.unsqueeze(1)).tr().matmul(&centred) / &mass + &ridge;
        let factor = covariance.f_linalg_cholesky(false)?;
        Ok(Component { mean, factor, log_weight: (mass / count as f64).log() })
    };
    responsibility.unbind(1).into_iter().map(of).collect()
}

/// ln p(x, component) `[n, K]`.
fn log_joint(x: &Tensor, components: &[Component]) -> Result<Tensor, TchError> {
    let constant = 0.5 * x.size2()?.1 as f64 * std::f64::consts::TAU.ln();
    let density = |Component { mean, factor, log_weight }: &Component| {
        let standardised = factor.f_linalg_solve_triangular(&(x - mean).tr(), false, true, false)?;
        let log_volume = factor.diagonal(0, 0, 1).log().sum(Kind::Double);
        let square = standardised.square().sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
        Ok(square * -0.5 - log_volume - constant + log_weight)
    };
    let densities = components.iter().map(density).collect::<Result<Vec<_>, TchError>>()?;
    Ok(Tensor::stack(&densities, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gaussian_points, planted_points};
    use crate::vectors::agreement::Agreement;
    use crate::vectors::labels::Labels;

    #[test]
    fn tells_a_dense_spot_within_a_wide_cloud_where_kmeans_cannot() {
        let class: Vec<i64> = (0..800).map(|i| i % 2).collect();
        let noise = gaussian_points(1, 800, 2);
        let values = noise.rows().zip(&class).flat_map(|(row, &c)| {
            if c == 0 { [row[0] * 4.0, row[1] * 4.0] } else { [row[0] * 0.3 + 3.0, row[1] * 0.3] }
        });
        let points = Points::new(values.collect(), 2).expect("points");
        let ari = |cluster: &[i64]| Agreement::new(&Labels::new(&class), &Labels::new(cluster)).ari;
        let [found, by_kmeans] =
            [mixture(&points, 2, 1).expect("fits").cluster, kmeans(&points, 2, 1).cluster].map(|c| ari(&c));
        assert!(found > 0.9 && by_kmeans < 0.7, "{found} {by_kmeans}");
        let fit = mixture(&points, 2, 1).expect("fits");
        let again = ari(&fit.assign(&points).expect("assigns"));
        assert!((again - found).abs() < 0.02, "the same points go where they went: {again} {found}");
    }

    #[test]
    fn one_component_has_the_likelihood_of_the_maximum_likelihood_gaussian() {
        let points = gaussian_points(2, 500, 3);
        let x = points.to_tensor().to_kind(Kind::Double);
        let covariance = x.tr().cov(0, None::<&Tensor>, None::<&Tensor>);
        let log_determinant = Tensor::linalg_slogdet(&covariance).1.double_value(&[]);
        let expected = -0.5 * (3.0 * std::f64::consts::TAU.ln() + log_determinant + 3.0);
        let found = mixture(&points, 1, 1).expect("fits").log_likelihoods.iter().sum::<f64>() / 500.0;
        assert!((found - expected).abs() < 0.005, "{found} {expected}");
    }

    #[test]
    fn bic_is_lowest_at_the_planted_number_and_grows_by_the_parameters() {
        // Seed 4, for one, draws two centres so close that one component for both costs less.
        let (points, _) = planted_points(2, 5, 500, 4, 5.0);
        let bic = |clusters| mixture(&points, clusters, 1).expect("fits").bic(&points, clusters);
        let found: Vec<f64> = (2..=8).map(bic).collect();
        assert!(found.iter().all(|&other| other >= found[3]), "{found:?}");
        let flat = Mixture { cluster: Vec::new(), log_likelihoods: vec![0.0; 500], components: Vec::new() };
        assert!(
            (flat.bic(&points, 3) - 44.0 * 500f64.ln()).abs() < 1e-9,
            "3 means of 4, 3 covariances of 10, 2 weights"
        );
    }

    #[test]
    fn more_dimensions_than_points_of_a_cluster_still_fit() {
        let (points, truth) = planted_points(3, 4, 60, 30, 4.0);
        let found = mixture(&points, 4, 1).expect("fits");
        assert!(Agreement::new(&truth, &Labels::new(&found.cluster)).ari > 0.95);
    }
}
