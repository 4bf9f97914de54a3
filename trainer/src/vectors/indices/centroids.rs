//! The indices that need each point's distance to its centroid only.

use crate::vectors::labels::Labels;
use crate::vectors::points::Points;

/// Where the clusters of a clustering lie and how far they spread.
pub(super) struct Centroids {
    points: usize,
    /// Mean distance to the centroid, per cluster.
    spread: Vec<f64>,
    /// Sum over all points of the squared distance to their centroid.
    within: f64,
    /// Sum over clusters of size times the squared distance of the centroid to the mean of all points.
    between: f64,
    /// Distances of each pair of different clusters' centroids: `[a][b]`.
    distance: Vec<Vec<f64>>,
}

impl Centroids {
    pub(super) fn new(points: &Points, labels: &Labels) -> Self {
        let centres = centres(points, labels);
        let sizes = || labels.sizes().iter().map(|&size| size as f64);
        let (mut spread, mut within) = (vec![0.0; labels.kinds()], 0.0);
        for (row, &label) in points.rows().zip(labels.of()) {
            let square: f64 = row.iter().zip(&centres[label as usize]).map(|(&x, c)| (f64::from(x) - c).powi(2)).sum();
            spread[label as usize] += square.sqrt();
            within += square;
        }
        spread.iter_mut().zip(sizes()).for_each(|(sum, size)| *sum /= size);
        let mean: Vec<f64> = (0..points.dims())
            .map(|k| centres.iter().zip(sizes()).map(|(centre, size)| centre[k] * size).sum::<f64>())
            .map(|sum| sum / points.count() as f64)
            .collect();
        let between = centres.iter().zip(sizes()).map(|(centre, size)| size * square(centre, &mean)).sum();
        let distance = centres.iter().map(|a| centres.iter().map(|b| square(a, b).sqrt()).collect()).collect();
        Self { points: points.count(), spread, within, between, distance }
    }

    pub(super) fn davies_bouldin(&self) -> f64 {
        let worst = |a: usize| {
            self.others(a).map(|(b, distance)| ratio(self.spread[a] + self.spread[b], distance)).fold(0.0, f64::max)
        };
        (0..self.spread.len()).map(worst).sum::<f64>() / self.spread.len() as f64
    }

    pub(super) fn calinski_harabasz(&self) -> f64 {
        let clusters = self.spread.len();
        // Clusters without any extent: 1, as in scikit-learn.
        if self.within == 0.0 {
            return 1.0;
        }
        self.between / self.within * (self.points - clusters) as f64 / (clusters - 1) as f64
    }

    pub(super) fn generalised_dunn(&self) -> f64 {
        let largest_diameter = 2.0 * self.spread.iter().copied().fold(0.0, f64::max);
        // Never 0 / 0: centroids that coincide are the worst case.
        let nearest = self.nearest();
        if nearest > 0.0 { nearest / largest_diameter } else { 0.0 }
    }

    pub(super) fn xie_beni(&self) -> f64 {
        let nearest = self.nearest();
        if nearest > 0.0 { self.within / (self.points as f64 * nearest.powi(2)) } else { f64::INFINITY }
    }

    /// Smallest distance between two centroids.
    fn nearest(&self) -> f64 {
        let pairs = (0..self.spread.len()).flat_map(|a| self.others(a));
        pairs.map(|(_, distance)| distance).fold(f64::INFINITY, f64::min)
    }

    /// The other clusters and the distances of their centroids to that of `a`.
    fn others(&self, a: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.distance[a].iter().copied().enumerate().filter(move |&(b, _)| b != a)
    }
}

/// Centroids that coincide separate nothing; scikit-learn counts such a pair as 0.
fn ratio(spread: f64, distance: f64) -> f64 {
    if distance > 0.0 { spread / distance } else { 0.0 }
}

fn square(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum()
}

/// Mean of each cluster's points.
fn centres(points: &Points, labels: &Labels) -> Vec<Vec<f64>> {
    let mut centres = vec![vec![0.0; points.dims()]; labels.kinds()];
    for (row, &label) in points.rows().zip(labels.of()) {
        centres[label as usize].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    for (centre, &size) in centres.iter_mut().zip(labels.sizes()) {
        centre.iter_mut().for_each(|sum| *sum /= size as f64);
    }
    centres
}
