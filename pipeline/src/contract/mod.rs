//! The model contract: what a model file says about itself, so that trainer and daemon agree without a second file.
//!
//! A model is one ONNX file. Its graph fixes the tensors ([`INPUT`] and the three outputs), its metadata the meaning:
//! which stains in which order, at which resolution, what the clusters are called, and a few golden patches with the
//! trainer's own outputs. `models/CONTRACT.md` is the same for readers.
//!
//! [`preflight`] decides whether a file is a harmless ONNX model at all, [`ModelContract::read`] whether it is ours;
//! [`crate::infer::Model`] does both and then runs it.

pub mod example;
mod golden;
pub mod graph;
mod limits;
mod metadata;
mod palette;
mod precision;
mod preflight;
#[cfg(test)]
mod tests;
mod typicality;

pub(crate) use golden::PROBS_SUM_TOLERANCE;
pub use golden::{GOLDEN_TOLERANCE, Golden, MAX_GOLDEN};
pub use limits::{MAX_ALIASES, MAX_ALIASES_IN_ALL, MAX_NAME_CHARS, MAX_REVISION, is_ahead_of_time};
pub use metadata::{ContractError, is_name};
pub use palette::clusters_default;
pub use precision::Precision;
pub use preflight::{
    IR_VERSION, MAX_FIELDS, MAX_INITIALIZERS, MAX_MODEL_BYTES, MAX_NODES, MAX_TENSOR_BYTES, MAX_TEXT_BYTES, OPERATORS,
    OPSET, PreflightError, Refusal, Signature, preflight, signature,
};
use serde::{Deserialize, Serialize};
pub use typicality::{TYPICAL_SHARE, Typicality};

use crate::units::Mpp;

/// The ONNX schema as Rust types, generated from `onnx.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod onnx {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// The contract version this program writes and reads.
pub const CONTRACT_VERSION: u32 = 1;

/// The graph's input: uint8 `[N, 3S, P, P]`, stains in contract order, planes R, G, B each.
pub const INPUT: &str = "patches";
/// Output: float32 `[N, K]`, rows sum to 1.
pub const CLUSTER_PROBS: &str = "cluster_probs";
/// Output: float32 `[N, D]`, the point that clusters, UMAP and validation indices are computed from.
pub const LATENT: &str = "latent";
/// Output: float32 `[N]`, mean squared error in the graph's own normalised units.
pub const RECONSTRUCTION_ERROR: &str = "reconstruction_error";

/// Sections of one block that are cut and stained differently; published multiplexed serial studies stop at about ten.
pub const MAX_STAINS: u32 = 16;
/// Patch edges: below 8 pixels there is no texture, above 1,024 one patch is no longer local.
pub const PATCH_PX: std::ops::RangeInclusive<u32> = 8..=1024;
/// The label map has one byte per cell; 0 is background and 255 stays free.
pub const MAX_CLUSTERS: u32 = 254;
/// Far above the 10 to 512 dimensions that autoencoders of patches use.
pub const MAX_LATENT: u32 = 4096;
/// A wider context would show no structure any more.
pub const MOST_CONTEXT_CELLS: f64 = 8.0;

/// One stain of a section set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StainSpec {
    /// The canonical name, such as `HE`.
    pub name: String,
    /// Other names under which slides of this stain come.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// One cluster of the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// 1 to K; the value in the label map. Column `id - 1` of `cluster_probs`.
    pub id: u8,
    /// What legends call it.
    pub name: String,
    /// sRGB.
    pub color: [u8; 3],
}

/// Which map cells are background and never reach the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackgroundRule {
    /// A cell with a smaller fraction of tissue is background. 0 to 1.
    pub min_tissue_fraction: f32,
}

/// Everything a model file says about itself beside its graph.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelContract {
    /// [`CONTRACT_VERSION`].
    pub version: u32,
    /// S stains in the order of the input planes.
    pub stains: Vec<StainSpec>,
    /// The name of the stain whose section the others are registered to and in whose frame patches are cut.
    pub reference: String,
    /// P: patch edge in pixels at [`ModelContract::mpp`].
    pub patch_px: u32,
    /// Distance between patches, and the edge of a map cell, in the same pixels. At most P, so that no tissue is skipped.
    pub stride_px: u32,
    /// The resolution that patches are sampled at.
    pub mpp: Mpp,
    /// D: length of a latent vector.
    pub latent_dim: u32,
    /// K clusters, ids 1 to K in order.
    pub clusters: Vec<Cluster>,
    /// Which cells are background.
    pub background: BackgroundRule,
    /// The colour (sRGB) that fills the planes of a stain whose slide is missing.
    pub missing_stain_fill: [u8; 3],
    /// Patches with a greater reconstruction error are unlike the training data; a quantile over held-out patches.
    pub novelty_threshold: Option<f32>,
    /// Which patches are untypical of their cluster; none in models that cannot tell.
    pub typicality: Option<Typicality>,
    /// How far a cell's surroundings have a say in its cluster: standard deviation, in cells, of the Gaussian by which
    /// probabilities are averaged ([`crate::context`]). None: each cell by itself.
    pub context_cells: Option<f64>,
    /// Where the model comes from: data, parameters, versions, figures. Shown, never interpreted.
    pub training: serde_json::Value,
    /// Inputs with the trainer's outputs, to prove a machine computes the same.
    pub golden: Golden,
}

impl ModelContract {
    /// The tensor shapes that the graph must declare.
    pub fn signature(&self) -> Signature {
        Signature {
            stains: self.stains.len() as u32,
            patch_px: self.patch_px,
            clusters: self.clusters.len() as u32,
            latent_dim: self.latent_dim,
        }
    }

    /// What the model's maker calls this state of it, if anything: of two models for the same stains, the later one has the
    /// greater number. At most [`MAX_REVISION`].
    pub fn revision(&self) -> Option<u64> {
        self.training.get("revision").and_then(serde_json::Value::as_u64)
    }

    /// Whether a patch is unlike the training data, by its reconstruction error; `None` where the model cannot tell.
    pub fn is_unfamiliar(&self, reconstruction_error: f32) -> Option<bool> {
        self.novelty_threshold.map(|threshold| reconstruction_error > threshold)
    }

    /// Whether a patch of cluster `cluster` (from 0) is untypical of it, by its latent; `None` where the model cannot tell.
    pub fn is_untypical(&self, cluster: usize, latent: &[f32]) -> Option<bool> {
        self.typicality.as_ref()?.is_untypical(cluster, latent)
    }
}

impl Signature {
    /// Bytes of one patch, 3·S·P·P.
    pub fn tensor_len(&self) -> usize {
        3 * self.stains as usize * self.patch_px as usize * self.patch_px as usize
    }
}
