//! The indices that need the distances of all pairs: silhouette and Dunn.

use crate::vectors::labels::Labels;
use crate::vectors::points::Points;

/// What one walk over all pairs tells of a clustering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PairFigures {
    pub(super) silhouette: f64,
    pub(super) dunn: f64,
}

/// What a point adds.
struct OfPoint {
    silhouette: f64,
    nearest_foreign: f64,
    farthest_own: f64,
}

/// The figures of each clustering, in one walk over all pairs.
pub(super) fn walk(points: &Points, labelings: &[Labels]) -> Vec<PairFigures> {
    let rows: Vec<Vec<OfPoint>> =
        points.map_rows(|i, distances| labelings.iter().map(|labels| of_point(labels, i, distances)).collect());
    let figures = |clustering: usize| {
        let points = || rows.iter().map(|row| &row[clustering]);
        let separation = points().map(|p| p.nearest_foreign).fold(f64::INFINITY, f64::min);
        let diameter = points().map(|p| p.farthest_own).fold(0.0, f64::max);
        PairFigures {
            silhouette: points().map(|p| p.silhouette).sum::<f64>() / rows.len() as f64,
            // Never 0 / 0: clusters that share a point are the worst case.
            dunn: if separation > 0.0 { separation / diameter } else { 0.0 },
        }
    };
    (0..labelings.len()).map(figures).collect()
}

fn of_point(labels: &Labels, i: usize, distances: &[f64]) -> OfPoint {
    let own = labels.of()[i] as usize;
    let mut sums = vec![0.0; labels.kinds()];
    let (mut nearest_foreign, mut farthest_own) = (f64::INFINITY, 0f64);
    for (&distance, &label) in distances.iter().zip(labels.of()) {
        sums[label as usize] += distance;
        if label as usize == own {
            farthest_own = farthest_own.max(distance);
        } else {
            nearest_foreign = nearest_foreign.min(distance);
        }
    }
    OfPoint { silhouette: silhouette(&sums, labels.sizes(), own), nearest_foreign, farthest_own }
}

/// (b − a) / max(a, b) of a point with these `sums` of distances to each cluster; 0 for the only point of its cluster,
/// and where all distances are 0, as in scikit-learn.
fn silhouette(sums: &[f64], sizes: &[usize], own: usize) -> f64 {
    if sizes[own] == 1 {
        return 0.0;
    }
    let within = sums[own] / (sizes[own] - 1) as f64;
    let means = sums.iter().zip(sizes).map(|(sum, &size)| sum / size as f64).enumerate();
    let next = means.filter(|&(cluster, _)| cluster != own).map(|(_, mean)| mean).fold(f64::INFINITY, f64::min);
    let larger = within.max(next);
    if larger > 0.0 { (next - within) / larger } else { 0.0 }
}
