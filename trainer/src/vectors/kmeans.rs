//! k-means: Lloyd's algorithm from k-means++ starts, the best of several.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::vectors::points::Points;

/// Starts from which the best result is taken; as scikit-learn did before it made do with one.
pub const RESTARTS: u64 = 10;
/// Enough for Lloyd's algorithm to stand still on any data met in practice.
const MAX_ROUNDS: usize = 300;

/// A partition into clusters with least squares.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// Cluster of each point.
    pub cluster: Vec<i64>,
    /// Mean of each cluster's points.
    pub centres: Vec<Vec<f64>>,
    /// Sum of squared distances of points to their centres.
    pub inertia: f64,
}

/// The best of [`RESTARTS`] runs with `clusters` clusters (at least 1, at most as many as there are points). Same points
/// and `seed`, same result, on any number of threads.
///
/// # Panics
/// Without points.
pub fn kmeans(points: &Points, clusters: usize, seed: u64) -> KMeans {
    assert!(points.count() > 0, "there is at least one point");
    let clusters = clusters.clamp(1, points.count());
    let run = |restart: u64| {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(restart);
        lloyd(points, start(points, clusters, &mut generator))
    };
    let runs: Vec<KMeans> = (0..RESTARTS).into_par_iter().map(run).collect();
    let best = runs.into_iter().min_by(|a, b| a.inertia.total_cmp(&b.inertia));
    best.unwrap_or_else(|| unreachable!("RESTARTS is above 0"))
}

/// k-means++ (Arthur & Vassilvitskii 2007): each next centre is a point drawn with probability proportional to its
/// squared distance from the centres so far; of a few draws, the one that leaves the least behind.
fn start(points: &Points, clusters: usize, generator: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let centre = |i: usize| -> Vec<f64> { points.row(i).iter().copied().map(f64::from).collect() };
    let mut centres = vec![centre(generator.random_range(0..points.count()))];
    let mut nearest: Vec<f64> = points.rows().map(|row| square(row, &centres[0])).collect();
    let trials = 2 + (clusters as f64).ln() as usize;
    while centres.len() < clusters {
        let candidates = (0..trials).map(|_| {
            let centre = centre(draw(&nearest, generator.random()));
            let left: Vec<f64> = points.rows().zip(&nearest).map(|(row, &d)| d.min(square(row, &centre))).collect();
            (left.iter().sum::<f64>(), left, centre)
        });
        let Some((_, left, centre)) = candidates.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
        (nearest, centres) = (left, [centres, vec![centre]].concat());
    }
    centres
}

/// The place at which the running sum of `weights` passes `share` of their total.
fn draw(weights: &[f64], share: f64) -> usize {
    let mut left = share * weights.iter().sum::<f64>();
    let passed = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // All weights are 0 where there are fewer different points than clusters.
    passed.unwrap_or(weights.len() - 1)
}

fn lloyd(points: &Points, mut centres: Vec<Vec<f64>>) -> KMeans {
    let mut assigned = assign(points, &centres);
    for _ in 0..MAX_ROUNDS {
        centres = means(points, &mut assigned, centres.len());
        let next = assign(points, &centres);
        let still = next.iter().zip(&assigned).all(|(a, b)| a.0 == b.0);
        assigned = next;
        if still {
            break;
        }
    }
    KMeans {
        cluster: assigned.iter().map(|&(cluster, _)| cluster as i64).collect(),
        centres,
        inertia: assigned.iter().map(|&(_, square)| square).sum(),
    }
}

impl KMeans {
    /// Cluster of each of other points in the same space.
    pub fn assign(&self, points: &Points) -> Vec<i64> {
        assign(points, &self.centres).into_iter().map(|(cluster, _)| cluster as i64).collect()
    }
}

/// Nearest centre of each point (the first of equally near ones) and the squared distance to it.
fn assign(points: &Points, centres: &[Vec<f64>]) -> Vec<(usize, f64)> {
    let nearest = |row: &[f32]| {
        let squares = centres.iter().map(|centre| square(row, centre)).enumerate();
        squares.fold((0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best })
    };
    points.rows().map(nearest).collect()
}

/// Mean of each cluster; a cluster that lost all its points takes the one that lies farthest from its centre.
fn means(points: &Points, assigned: &mut [(usize, f64)], clusters: usize) -> Vec<Vec<f64>> {
    let mut sizes = vec![0usize; clusters];
    assigned.iter().for_each(|&(cluster, _)| sizes[cluster] += 1);
    for empty in 0..clusters {
        if sizes[empty] == 0 {
            let movable = (0..assigned.len()).filter(|&i| sizes[assigned[i].0] > 1);
            let Some(far) = movable.max_by(|&a, &b| assigned[a].1.total_cmp(&assigned[b].1)) else { continue };
            sizes[assigned[far].0] -= 1;
            sizes[empty] = 1;
            assigned[far] = (empty, 0.0);
        }
    }
    let mut centres = vec![vec![0.0; points.dims()]; clusters];
    for (row, &(cluster, _)) in points.rows().zip(assigned.iter()) {
        centres[cluster].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    for (centre, &size) in centres.iter_mut().zip(&sizes) {
        centre.iter_mut().for_each(|sum| *sum /= size as f64);
    }
    centres
}

fn square(row: &[f32], centre: &[f64]) -> f64 {
    row.iter().zip(centre).map(|(&x, c)| (f64::from(x) - c).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gaussian_points, planted_points};
    use crate::vectors::agreement::Agreement;
    use crate::vectors::labels::Labels;

    #[test]
    fn finds_well_separated_components() {
        let (points, truth) = planted_points(1, 9, 900, 8, 5.0);
        let found = kmeans(&points, 9, 1);
        assert!(Agreement::new(&truth, &Labels::new(&found.cluster)).ari > 0.99);
    }

    #[test]
    fn each_point_belongs_to_the_nearest_centre_which_is_the_mean_of_its_points() {
        let points = gaussian_points(2, 200, 3);
        let found = kmeans(&points, 5, 1);
        for (row, &cluster) in points.rows().zip(&found.cluster) {
            let own = square(row, &found.centres[cluster as usize]);
            assert!(found.centres.iter().all(|centre| own <= square(row, centre)));
        }
        let members: Vec<_> = points.rows().zip(&found.cluster).filter(|&(_, &c)| c == 0).collect();
        let mean = members.iter().map(|(row, _)| f64::from(row[0])).sum::<f64>() / members.len() as f64;
        assert!((mean - found.centres[0][0]).abs() < 1e-12);
    }

    #[test]
    fn same_seed_same_result_on_any_number_of_threads() {
        let points = gaussian_points(3, 150, 2);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("threads");
        assert_eq!(kmeans(&points, 6, 7), pool.install(|| kmeans(&points, 6, 7)));
    }

    #[test]
    fn fewer_different_points_than_clusters_leave_no_nan() {
        let points = Points::new(vec![1.0, 1.0, 1.0, 2.0], 1).expect("points");
        let found = kmeans(&points, 3, 1);
        assert!(found.inertia == 0.0 && found.centres.iter().flatten().all(|c| c.is_finite()), "{found:?}");
    }
}
