//! The tables of the configuration file and their defaults.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tissuemap::units::Mpp;

use super::cluster_range::ClusterRange;
use super::network::LossWeights;

/// A folder of slides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SetFolder {
    pub folder: PathBuf,
    pub manifest: Option<PathBuf>,
    pub mpp: Option<Mpp>,
    #[serde(default)]
    pub held_out: bool,
}

/// Size, resolution and number of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct PatchConfig {
    pub patch_px: u32,
    pub stride_px: u32,
    pub mpp: Mpp,
    pub per_set: u32,
    pub held_out_fraction: f64,
    pub min_tissue_fraction: f32,
}

/// Augmentation: changes of a patch after which it is still the same tissue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AugmentConfig {
    pub rotations: bool,
    pub flips: bool,
    pub shift_px: u32,
    pub stain_jitter: f64,
    pub hue_jitter: f64,
    pub neighbours: f64,
}

impl AugmentConfig {
    /// Whether views of a patch can differ.
    pub fn changes(&self) -> bool {
        let amounts = [self.stain_jitter, self.hue_jitter, self.neighbours];
        self.rotations || self.flips || self.shift_px > 0 || amounts.iter().any(|&amount| amount > 0.0)
    }
}

/// Shape and training of the autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AutoencoderConfig {
    pub widths: Vec<u32>,
    pub latent_dim: u32,
    pub epochs: u32,
    pub batch: u32,
    pub learning_rate: f64,
    pub invariance_weight: f64,
    pub redundancy_weight: f64,
}

/// Shape and training of the clusterer on the frozen latent vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ImsatConfig {
    pub hidden: Vec<u32>,
    #[serde(alias = "starts")]
    pub restarts: u32,
    pub epochs: u32,
    pub batch: u32,
    pub learning_rate: f64,
    pub lambda: f64,
    pub mu: f64,
    pub xi: f64,
    pub radius_factor: f64,
    pub neighbour: u32,
    pub views: u32,
    pub view_weight: f64,
}

/// Fine-tuning of both together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct JointConfig {
    pub epochs: u32,
    pub batch: u32,
    pub learning_rate: f64,
    pub reconstruction_weight: f64,
    pub imsat_weight: f64,
}

/// The fits that choose the number of clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct SweepConfig {
    pub clusters: ClusterRange,
    pub seeds: u32,
    pub hidden: Vec<u32>,
    pub epochs: u32,
}

impl Default for PatchConfig {
    fn default() -> Self {
        Self {
            patch_px: 64,
            stride_px: 64,
            mpp: default_mpp(),
            per_set: 2000,
            held_out_fraction: 0.1,
            min_tissue_fraction: 0.5,
        }
    }
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { rotations: true, flips: true, shift_px: 8, stain_jitter: 0.06, hue_jitter: 0.1, neighbours: 0.0 }
    }
}

impl Default for AutoencoderConfig {
    fn default() -> Self {
        Self {
            widths: vec![32, 64, 128, 128],
            latent_dim: 32,
            epochs: 50,
            batch: 128,
            learning_rate: 0.001,
            invariance_weight: 1.0,
            redundancy_weight: 0.01,
        }
    }
}

impl Default for ImsatConfig {
    fn default() -> Self {
        Self {
            hidden: Vec::new(),
            restarts: 20,
            epochs: 50,
            batch: 250,
            learning_rate: 0.002,
            lambda: 0.1,
            mu: 4.0,
            xi: 10.0,
            radius_factor: 0.25,
            neighbour: 10,
            views: 8,
            view_weight: 0.0,
        }
    }
}

impl Default for JointConfig {
    fn default() -> Self {
        Self { epochs: 20, batch: 250, learning_rate: 0.0005, reconstruction_weight: 1.0, imsat_weight: 1.0 }
    }
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self { clusters: ClusterRange { first: 2, last: 20 }, seeds: 3, hidden: Vec::new(), epochs: 40 }
    }
}

impl ImsatConfig {
    /// The settings of Hu et al. 2017: two hidden layers, one initialisation.
    pub fn published() -> Self {
        Self { hidden: vec![1200, 1200], restarts: 1, ..Self::default() }
    }

    /// Weights of the terms of the loss.
    pub fn weights(&self) -> LossWeights {
        LossWeights { lambda: self.lambda, mu: self.mu, xi: self.xi, view: self.view_weight }
    }
}

/// The resolution of a 10x objective: glands and nuclei are visible, and it needs a fraction of the data of a full scan.
fn default_mpp() -> Mpp {
    Mpp::new(1.0).unwrap_or_else(|_| unreachable!("1 lies within Mpp::PLAUSIBLE"))
}
