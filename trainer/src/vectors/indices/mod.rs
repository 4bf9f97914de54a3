//! Quality of a clustering without known classes: six indices, exact over all points.
//!
//! Silhouette, Davies–Bouldin and Calinski–Harabasz equal scikit-learn's. Those that need all pairs of points share one
//! walk over the distances ([`crate::vectors::points`]), for any number of clusterings of the same points.

mod centroids;
mod pairs;

use serde::{Deserialize, Deserializer, Serialize};

use crate::vectors::labels::Labels;
use crate::vectors::points::Points;
use centroids::Centroids;

/// The figures of one clustering. In JSON, infinity is null.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Indices {
    /// Mean silhouette, −1…1: how much nearer a point is to its own cluster than to the next (Rousseeuw 1987). Higher
    /// is better.
    pub silhouette: f64,
    /// Mean over clusters of the worst ratio of spread to separation (Davies & Bouldin 1979). Lower is better.
    pub davies_bouldin: f64,
    /// Variance between clusters over variance within, per degree of freedom (Caliński & Harabasz 1974). Higher is
    /// better.
    pub calinski_harabasz: f64,
    /// Smallest distance between points of different clusters over the largest within one (Dunn 1974). Higher is
    /// better. One outlier decides it.
    #[serde(deserialize_with = "number_or_infinity")]
    pub dunn: f64,
    /// Generalised Dunn index ν₄₃ of Bezdek & Pal (1998): smallest distance between centroids over the largest cluster
    /// diameter, taken as twice the mean distance to the centroid. Higher is better. An outlier moves it by its share
    /// of its cluster only.
    #[serde(deserialize_with = "number_or_infinity")]
    pub generalised_dunn: f64,
    /// Mean squared distance to the own centroid over the smallest squared distance between centroids (Xie & Beni 1991,
    /// with crisp membership). Lower is better.
    #[serde(deserialize_with = "number_or_infinity")]
    pub xie_beni: f64,
}

impl Indices {
    /// Mean of each figure; none of nothing.
    pub fn mean(all: &[Self]) -> Option<Self> {
        let over = |figure: fn(&Self) -> f64| all.iter().map(figure).sum::<f64>() / all.len() as f64;
        (!all.is_empty()).then(|| Self {
            silhouette: over(|i| i.silhouette),
            davies_bouldin: over(|i| i.davies_bouldin),
            calinski_harabasz: over(|i| i.calinski_harabasz),
            dunn: over(|i| i.dunn),
            generalised_dunn: over(|i| i.generalised_dunn),
            xie_beni: over(|i| i.xie_beni),
        })
    }
}

fn number_or_infinity<'de, D: Deserializer<'de>>(deserialiser: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserialiser)?.unwrap_or(f64::INFINITY))
}

/// Reason why a clustering has no indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Labels of other samples.
    #[error("{labels} labels for {points} points")]
    Count {
        /// Labels given.
        labels: usize,
        /// Points given.
        points: usize,
    },
    /// Nothing is near or far.
    #[error("{clusters} clusters of {points} points: there must be at least 2, and fewer than points")]
    Clusters {
        /// Clusters in use.
        clusters: usize,
        /// Points given.
        points: usize,
    },
}

/// The indices of each clustering in `labelings` of the same `points`.
///
/// # Errors
/// [`IndexError`] of the first clustering that has none.
pub fn indices(points: &Points, labelings: &[Labels]) -> Result<Vec<Indices>, IndexError> {
    labelings.iter().try_for_each(|labels| check(points, labels))?;
    let pairs = pairs::walk(points, labelings);
    let combine = |(labels, pairs): (&Labels, pairs::PairFigures)| {
        let centroids = Centroids::new(points, labels);
        Indices {
            silhouette: pairs.silhouette,
            davies_bouldin: centroids.davies_bouldin(),
            calinski_harabasz: centroids.calinski_harabasz(),
            dunn: pairs.dunn,
            generalised_dunn: centroids.generalised_dunn(),
            xie_beni: centroids.xie_beni(),
        }
    };
    Ok(labelings.iter().zip(pairs).map(combine).collect())
}

fn check(points: &Points, labels: &Labels) -> Result<(), IndexError> {
    let (points, clusters) = (points.count(), labels.kinds());
    if labels.count() != points {
        return Err(IndexError::Count { labels: labels.count(), points });
    }
    if clusters < 2 || clusters >= points {
        return Err(IndexError::Clusters { clusters, points });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
