//! How far the patches of a cluster usually lie from its centre, so that a patch can be in a cluster and yet be untypical
//! of it.
//!
//! The distance is Euclidean in latent space, from the centroid of the cluster's training patches. The bound is a
//! conformal quantile over held-out patches (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005;
//! for anomalies Laxhammar and Falkman, 2010): of n distances it is the ⌈(n + 1)·q⌉-th smallest. A fresh patch of the same
//! tissue then exceeds it with a probability of at most 1 − q, whatever the distribution of the distances. With fewer
//! patches than that rank there is no such bound, and the cluster has none.

use serde::{Deserialize, Serialize};

use super::Signature;
use super::golden::{deflate, from_bytes, inflate, to_bytes};

/// Share of a cluster's own patches that counts as typical of it. Nineteen held-out patches are the fewest that can tell.
pub const TYPICAL_SHARE: f64 = 0.95;

/// Centre and usual extent of every cluster in latent space.
#[derive(Debug, Clone, PartialEq)]
pub struct Typicality {
    /// K·D, row-major: the centroid of each cluster's training patches.
    pub centroids: Vec<f32>,
    /// K: patches farther from the centroid are untypical; `None` where too few patches could tell.
    pub bounds: Vec<Option<f32>>,
}

impl Typicality {
    /// Whether a point of cluster `cluster` (from 0) lies farther from its centroid than the cluster's patches usually do;
    /// `None` where that is not known.
    pub fn is_untypical(&self, cluster: usize, latent: &[f32]) -> Option<bool> {
        let bound = self.bounds.get(cluster).copied().flatten()?;
        Some(self.distance(cluster, latent) > bound)
    }

    /// Distance of a point from the centroid of `cluster` (from 0).
    pub fn distance(&self, cluster: usize, latent: &[f32]) -> f32 {
        let centroid = self.centroids.chunks(latent.len().max(1)).nth(cluster).unwrap_or_default();
        centroid.iter().zip(latent).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    }

    /// The bound that a cluster with these held-out distances gets.
    pub fn bound(mut distances: Vec<f32>) -> Option<f32> {
        distances.sort_by(f32::total_cmp);
        let rank = ((distances.len() + 1) as f64 * TYPICAL_SHARE).ceil() as usize;
        distances.get(rank - 1).copied()
    }

    /// Lengths that fit the model, finite values; the error is the reason in words.
    pub(super) fn validate(&self, signature: &Signature) -> Result<(), String> {
        let (k, d) = (signature.clusters as usize, signature.latent_dim as usize);
        if self.bounds.len() != k || self.centroids.len() != k * d {
            return Err(format!(
                "{} bounds and {} values of centroids; {k} clusters of {d} dimensions need {k} and {}",
                self.bounds.len(),
                self.centroids.len(),
                k * d
            ));
        }
        let sane = |bound: &f32| bound.is_finite() && *bound >= 0.0;
        if !self.centroids.iter().all(|value| value.is_finite()) || !self.bounds.iter().flatten().all(sane) {
            return Err("a centroid is not finite, or a bound is not a finite number of 0 or more".to_owned());
        }
        Ok(())
    }

    pub(super) fn pack(&self) -> PackedTypicality {
        PackedTypicality { centroids: deflate(&to_bytes(&self.centroids)), bounds: self.bounds.clone() }
    }
}

/// How it is written: centroids little-endian, zlib-compressed, in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackedTypicality {
    centroids: String,
    bounds: Vec<Option<f32>>,
}

impl PackedTypicality {
    /// Decompresses no more than `signature` promises.
    pub(super) fn unpack(&self, signature: &Signature) -> Result<Typicality, String> {
        let values = signature.clusters as usize * signature.latent_dim as usize;
        Ok(Typicality { centroids: from_bytes(&inflate(&self.centroids, 4 * values)?), bounds: self.bounds.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_needs_nineteen_patches_and_is_one_of_their_distances() {
        let distances = |n: usize| (1..=n).rev().map(|i| i as f32).collect();
        assert_eq!(Typicality::bound(distances(0)), None);
        assert_eq!(Typicality::bound(distances(18)), None);
        assert_eq!(Typicality::bound(distances(19)), Some(19.0));
        assert_eq!(Typicality::bound(distances(99)), Some(95.0));
    }

    #[test]
    fn a_fresh_patch_exceeds_the_bound_as_seldom_as_promised() {
        // Distances in a scrambled but fixed order: every 40 of them stand for one held-out sample, the next for a fresh patch.
        let values: Vec<f32> = (0..41_000u64).map(|i| (i * 7_368_787 % 41_017) as f32).collect();
        let exceeded =
            values.chunks(41).filter(|c| Typicality::bound(c[..40].to_vec()).is_some_and(|b| c[40] > b)).count();
        // ⌈41 · 0.95⌉ = 39 of 40: two of 41 places are above, 4.9 %.
        assert!((30..=70).contains(&exceeded), "{exceeded} of 1000");
    }

    #[test]
    fn distance_is_from_the_own_centroid() {
        let typicality = Typicality { centroids: vec![0.0, 0.0, 3.0, 4.0], bounds: vec![Some(4.9), None] };
        assert_eq!(typicality.distance(0, &[3.0, 4.0]), 5.0);
        assert_eq!(typicality.is_untypical(0, &[3.0, 4.0]), Some(true));
        assert_eq!(typicality.is_untypical(0, &[3.0, 3.8]), Some(false));
        assert_eq!(typicality.is_untypical(1, &[9.0, 9.0]), None);
    }
}
