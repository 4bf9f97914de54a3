//! Sizes, collapse and order of the clusters that a fit found.

use tch::{Kind, Tensor};

use crate::data::patches::Patches;
use crate::model::imsat::entropies;
use crate::system::error::TrainError;
use crate::system::tensors::chunks;

/// If a cluster has more than this share of all patches, a map shows nothing. The limit is high because tissue is unbalanced.
const LARGEST_SHARE: f64 = 0.95;
/// If the mean entropy of the predictions exceeds this share of ln K, they are nearly uniform: the clusterer learnt nothing.
const UNIFORM_SHARE: f64 = 0.9;

/// The cluster of each patch, with figures that show a collapse.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Most probable cluster of each patch, from 0.
    pub cluster: Vec<i64>,
    /// Patches per cluster.
    pub sizes: Vec<usize>,
    /// H(Y|X) over all patches, nats.
    pub conditional_entropy: f64,
    /// H(Y) over all patches, nats.
    pub marginal_entropy: f64,
}

impl Assignment {
    /// From log-probabilities `[N, K]`.
    ///
    /// # Errors
    /// An error of libtorch.
    pub fn new(log_probs: &Tensor) -> Result<Self, tch::TchError> {
        let cluster = Vec::<i64>::try_from(log_probs.argmax(1, false))?;
        let mut sizes = vec![0; usize::try_from(log_probs.size()[1]).unwrap_or(0)];
        for &c in &cluster {
            sizes[c as usize] += 1;
        }
        let (conditional, marginal) = entropies(log_probs);
        Ok(Self {
            cluster,
            sizes,
            conditional_entropy: f64::try_from(conditional)?,
            marginal_entropy: f64::try_from(marginal)?,
        })
    }

    /// The reason, if the clustering collapsed: one cluster has nearly all patches, or predictions are nearly uniform.
    pub fn collapse(&self) -> Option<String> {
        let largest = self.sizes.iter().copied().max().unwrap_or(0) as f64 / self.cluster.len().max(1) as f64;
        if largest > LARGEST_SHARE {
            return Some(format!("one cluster took {:.1} % of the patches", 100.0 * largest));
        }
        let share = self.conditional_entropy / (self.sizes.len() as f64).ln();
        (share > UNIFORM_SHARE)
            .then(|| format!("predictions are near uniform (their mean entropy is {:.1} % of ln K)", 100.0 * share))
    }

    /// The order of the clusters from the darkest tissue to the brightest, by the mean grey value of their `patches`; empty clusters are last.
    /// Entry `i` is the present number of the future cluster `i`.
    ///
    /// # Errors
    /// [`TrainError`] if patches cannot be read.
    pub fn order_by_brightness(&self, patches: &Patches) -> Result<Vec<i64>, TrainError> {
        let mut brightness = vec![0.0; self.sizes.len()];
        for (from, to) in chunks(patches.count()) {
            let means =
                patches.range(from, to)?.to_kind(Kind::Float).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double);
            for (&cluster, mean) in self.cluster[from as usize..].iter().zip(Vec::<f64>::try_from(means)?) {
                brightness[cluster as usize] += mean;
            }
        }
        let key = |c: i64| match self.sizes[c as usize] {
            0 => f64::INFINITY,
            size => brightness[c as usize] / size as f64,
        };
        let mut order: Vec<i64> = (0..self.sizes.len() as i64).collect();
        order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::somewhere;
    use tch::Device;

    fn assignment(probs: &[&[f64]]) -> Assignment {
        Assignment::new(&Tensor::from_slice2(probs).to_kind(Kind::Float).log()).expect("assignment")
    }

    #[test]
    fn sizes_count_the_most_probable_cluster() {
        let found = assignment(&[&[0.8, 0.1, 0.1], &[0.1, 0.8, 0.1], &[0.7, 0.2, 0.1]]);
        assert_eq!((found.cluster.as_slice(), found.sizes.as_slice()), ([0, 1, 0].as_slice(), [2, 1, 0].as_slice()));
        assert_eq!(found.collapse(), None);
    }

    #[test]
    fn both_collapses_are_told_apart() {
        let all_in_one = vec![[0.98, 0.02].as_slice(); 40];
        assert!(assignment(&all_in_one).collapse().expect("collapsed").contains("one cluster took 100.0 %"));
        let mut undecided = vec![[0.51, 0.49].as_slice(); 20];
        undecided.extend(vec![[0.49, 0.51].as_slice(); 20]);
        assert!(assignment(&undecided).collapse().expect("collapsed").contains("near uniform"));
    }

    #[test]
    fn clusters_are_ordered_dark_to_bright_with_empty_ones_last() {
        let found = assignment(&[&[0.1, 0.8, 0.1], &[0.1, 0.1, 0.8], &[0.1, 0.1, 0.8]]);
        let grey = |v: i64| Tensor::full([1, 3, 2, 2], v, (Kind::Uint8, Device::Cpu));
        let patches = Tensor::cat(&[grey(200), grey(40), grey(60)], 0);
        assert_eq!(found.order_by_brightness(&somewhere(&patches)).expect("read"), [2, 1, 0]);
    }
}
