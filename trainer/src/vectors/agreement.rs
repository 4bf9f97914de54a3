//! Agreement of two labelings of the same samples: of a clustering with known classes, or of two clusterings.
//!
//! NMI and ARI equal scikit-learn's. No figure depends on how clusters are numbered.

use std::iter;

use crate::vectors::labels::Labels;

/// Agreement of a clustering with known classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Share of samples that are right when each cluster stands for at most one class and each class for at most one
    /// cluster, in the best way there is (Hungarian matching).
    pub accuracy: f64,
    /// Normalised mutual information, by the arithmetic mean of both entropies: 0 unrelated, 1 equal.
    pub nmi: f64,
    /// Adjusted Rand index (Hubert & Arabie 1985): 0 is what chance gives, 1 equal.
    pub ari: f64,
    /// Share of samples that belong to their cluster's most frequent class. Grows with the number of clusters.
    pub purity: f64,
}

impl Agreement {
    /// Of the clustering `found` with the classes `truth`, sample by sample.
    ///
    /// # Panics
    /// Where they are not of the same samples, that is, of equal count, above 0.
    pub fn new(truth: &Labels, found: &Labels) -> Self {
        let counts = Counts::new(truth, found);
        let largest = |cluster: usize| counts.of.iter().map(|row| row[cluster]).max().unwrap_or(0);
        Self {
            accuracy: counts.matched() as f64 / counts.samples,
            nmi: counts.nmi(),
            ari: counts.ari(),
            purity: (0..found.kinds()).map(largest).sum::<u64>() as f64 / counts.samples,
        }
    }

    /// Mean of figures of disjoint samples, one set of them for each; `all` is not empty.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |figure: fn(&Self) -> f64| all.iter().map(figure).sum::<f64>() / all.len() as f64;
        Self { accuracy: mean(|a| a.accuracy), nmi: mean(|a| a.nmi), ari: mean(|a| a.ari), purity: mean(|a| a.purity) }
    }

    /// Mean and standard deviation (of the sample: over n − 1; 0 for one) of accuracy, NMI and ARI over several fits.
    pub fn spread(all: &[Self]) -> [(f64, f64); 3] {
        let figures: [fn(&Self) -> f64; 3] = [|a| a.accuracy, |a| a.nmi, |a| a.ari];
        figures.map(|figure| {
            let mean = all.iter().map(figure).sum::<f64>() / all.len() as f64;
            let squares: f64 = all.iter().map(|a| (figure(a) - mean).powi(2)).sum();
            (mean, (squares / (all.len().max(2) - 1) as f64).sqrt())
        })
    }
}

/// Mean adjusted Rand index over all pairs of `labelings` of the same samples (fits that differ in their seed): 1 where
/// all agree; none for fewer than two.
pub fn stability(labelings: &[Labels]) -> Option<f64> {
    let pairs = labelings.iter().enumerate().flat_map(|(i, a)| labelings[..i].iter().map(move |b| (a, b)));
    let aris: Vec<f64> = pairs.map(|(a, b)| Counts::new(a, b).ari()).collect();
    (!aris.is_empty()).then(|| aris.iter().sum::<f64>() / aris.len() as f64)
}

/// How many samples have which pair of labels.
struct Counts<'a> {
    /// `[class][cluster]`.
    of: Vec<Vec<u64>>,
    samples: f64,
    class_sizes: &'a [usize],
    cluster_sizes: &'a [usize],
}

impl<'a> Counts<'a> {
    fn new(truth: &'a Labels, found: &'a Labels) -> Self {
        assert_eq!(truth.count(), found.count(), "both labelings are of the same samples");
        assert!(truth.count() > 0, "there is at least one sample");
        let mut of = vec![vec![0; found.kinds()]; truth.kinds()];
        for (&class, &cluster) in truth.of().iter().zip(found.of()) {
            of[class as usize][cluster as usize] += 1;
        }
        Self { of, samples: truth.count() as f64, class_sizes: truth.sizes(), cluster_sizes: found.sizes() }
    }

    /// Samples on the best one-to-one matching of clusters and classes.
    fn matched(&self) -> u64 {
        let side = self.class_sizes.len().max(self.cluster_sizes.len());
        let gain = |i: usize, j: usize| self.of.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0);
        (0..side).zip(matching(side, |i, j| -(gain(i, j) as f64))).map(|(i, j)| gain(i, j)).sum()
    }

    fn nmi(&self) -> f64 {
        let entropy = |sizes: &[usize]| -> f64 {
            sizes.iter().map(|&size| size as f64 / self.samples).map(|share| -share * share.ln()).sum()
        };
        let (class, cluster) = (entropy(self.class_sizes), entropy(self.cluster_sizes));
        if self.class_sizes.len() == 1 || self.cluster_sizes.len() == 1 {
            // Nothing to know about one, so nothing the other could tell; equal only if both are trivial.
            return if self.class_sizes.len() == self.cluster_sizes.len() { 1.0 } else { 0.0 };
        }
        let information: f64 = iter::zip(&self.of, self.class_sizes)
            .flat_map(|(row, &a)| {
                iter::zip(row, self.cluster_sizes).map(move |(&n, &b)| (n as f64, a as f64, b as f64))
            })
            .filter(|&(n, ..)| n > 0.0)
            .map(|(n, a, b)| n / self.samples * (n * self.samples / (a * b)).ln())
            .sum();
        information / (0.5 * (class + cluster))
    }

    fn ari(&self) -> f64 {
        let pairs = |n: f64| n * (n - 1.0) / 2.0;
        let together: f64 = self.of.iter().flatten().map(|&n| pairs(n as f64)).sum();
        let in_sizes = |sizes: &[usize]| sizes.iter().map(|&n| pairs(n as f64)).sum::<f64>();
        let (class, cluster) = (in_sizes(self.class_sizes), in_sizes(self.cluster_sizes));
        let expected = class * cluster / pairs(self.samples).max(1.0);
        let largest = 0.5 * (class + cluster);
        // Both trivial in the same way: one cluster each, or every sample by itself.
        if largest == expected { 1.0 } else { (together - expected) / (largest - expected) }
    }
}

/// The column of each row in the assignment with the smallest total cost on a square matrix: the Hungarian method with
/// potentials, by shortest augmenting paths, O(n³) (Jonker & Volgenant 1987).
fn matching(side: usize, cost: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    // Column `side` is where each row's search starts from.
    let mut row_of: Vec<Option<usize>> = vec![None; side + 1];
    let (mut row_potential, mut column_potential) = (vec![0.0; side], vec![0.0; side + 1]);
    for start in 0..side {
        row_of[side] = Some(start);
        let mut slack = vec![f64::INFINITY; side];
        let mut came_from = vec![side; side];
        let mut visited = vec![false; side + 1];
        let mut column = side;
        while let Some(row) = row_of[column] {
            visited[column] = true;
            for j in (0..side).filter(|&j| !visited[j]) {
                let reduced = cost(row, j) - row_potential[row] - column_potential[j];
                if reduced < slack[j] {
                    (slack[j], came_from[j]) = (reduced, column);
                }
            }
            let open = (0..side).filter(|&j| !visited[j]);
            let Some(next) = open.min_by(|&a, &b| slack[a].total_cmp(&slack[b])) else { break };
            let step = slack[next];
            for j in 0..=side {
                if visited[j] {
                    column_potential[j] -= step;
                    row_of[j].into_iter().for_each(|row| row_potential[row] += step);
                } else {
                    slack[j] -= step;
                }
            }
            column = next;
        }
        while column != side {
            row_of[column] = row_of[came_from[column]];
            column = came_from[column];
        }
    }
    let mut column_of = vec![0; side];
    for (column, row) in row_of[..side].iter().enumerate() {
        row.iter().for_each(|&row| column_of[row] = column);
    }
    column_of
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// What scikit-learn said, and the assignment solver it uses: golden/make.py.
    #[derive(Deserialize)]
    struct Golden {
        truth: Vec<i64>,
        found: Vec<i64>,
        accuracy: f64,
        nmi: f64,
        ari: f64,
        purity: f64,
    }

    #[test]
    fn the_spread_of_several_fits_is_that_of_a_sample() {
        let reached = |value: f64| Agreement { accuracy: value, nmi: 2.0 * value, ari: -value, purity: 0.0 };
        assert_eq!(Agreement::spread(&[1.0, 2.0, 3.0].map(reached)), [(2.0, 1.0), (4.0, 2.0), (-2.0, 1.0)]);
        assert_eq!(Agreement::spread(&[reached(4.0)]), [(4.0, 0.0), (8.0, 0.0), (-4.0, 0.0)]);
    }

    #[test]
    fn figures_equal_those_of_scikit_learn() {
        let cases: BTreeMap<String, Golden> =
            serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/agreement.json")))
                .expect("golden numbers");
        assert_eq!(cases.len(), 5);
        for (name, golden) in cases {
            let found = Agreement::new(&Labels::new(&golden.truth), &Labels::new(&golden.found));
            let pairs = [
                (found.accuracy, golden.accuracy),
                (found.nmi, golden.nmi),
                (found.ari, golden.ari),
                (found.purity, golden.purity),
            ];
            assert!(pairs.iter().all(|(a, b)| (a - b).abs() < 1e-9), "{name}: {found:?} {pairs:?}");
        }
    }

    #[test]
    fn trivial_labelings_agree_with_themselves_only() {
        let (one, each) = (Labels::new(&[5, 5, 5]), Labels::new(&[0, 1, 2]));
        for same in [&one, &each] {
            let Agreement { accuracy, nmi, ari, purity } = Agreement::new(same, same);
            assert_eq!((accuracy, ari, purity), (1.0, 1.0, 1.0));
            assert!((nmi - 1.0).abs() < 1e-12);
        }
        let different = Agreement::new(&one, &each);
        assert_eq!((different.nmi, different.ari), (0.0, 0.0));
    }

    #[test]
    fn stability_is_the_mean_over_pairs() {
        let [a, b] = [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]].map(|numbers| Labels::new(&numbers));
        let single = stability(&[a.clone(), b.clone()]).expect("a pair");
        let three = stability(&[a.clone(), b, a.clone()]).expect("three pairs");
        assert!((three - (1.0 + 2.0 * single) / 3.0).abs() < 1e-12);
        assert_eq!(stability(&[a]), None);
    }

    fn best_by_trial(side: usize, cost: &[f64], row: usize, free: &mut Vec<usize>) -> f64 {
        if row == side {
            return 0.0;
        }
        let mut best = f64::INFINITY;
        for at in 0..free.len() {
            let column = free.swap_remove(at);
            best = best.min(cost[row * side + column] + best_by_trial(side, cost, row + 1, free));
            free.push(column);
            let last = free.len() - 1;
            free.swap(at, last);
        }
        best
    }

    proptest! {
        #[test]
        fn matching_is_the_best_of_all_permutations(side in 1usize..6, cost in prop::collection::vec(-9i32..9, 36)) {
            let cost: Vec<f64> = cost.into_iter().map(f64::from).collect();
            let columns = matching(side, |i, j| cost[i * side + j]);
            let total: f64 = columns.iter().enumerate().map(|(i, &j)| cost[i * side + j]).sum();
            let mut sorted = columns;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..side).collect::<Vec<_>>());
            prop_assert_eq!(total, best_by_trial(side, &cost, 0, &mut (0..side).collect()));
        }

        #[test]
        fn figures_do_not_depend_on_names_or_order(pairs in prop::collection::vec((0i64..4, 0i64..5), 2..60)) {
            let of = |pairs: &[(i64, i64)], rename: i64| {
                let (truth, found): (Vec<i64>, Vec<i64>) = pairs.iter().map(|&(a, b)| (a * rename, b * -rename)).unzip();
                Agreement::new(&Labels::new(&truth), &Labels::new(&found))
            };
            let reversed: Vec<_> = pairs.iter().rev().copied().collect();
            let (a, b) = (of(&pairs, 1), of(&reversed, -3));
            prop_assert_eq!((a.accuracy, a.purity), (b.accuracy, b.purity));
            prop_assert!((a.nmi - b.nmi).abs() < 1e-9 && (a.ari - b.ari).abs() < 1e-9);
        }
    }
}
