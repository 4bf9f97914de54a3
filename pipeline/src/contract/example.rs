//! The smallest model that satisfies the contract: it assigns a patch to the cluster whose legend colour is nearest to the
//! patch's mean colour.
//!
//! For tests, demonstrations and as an example of how a model is written. Deterministic. The golden outputs are computed
//! here in float64, not by ONNX Runtime, so that verifying them compares two independent implementations.

use prost::Message;

use super::graph::{FLOAT, GraphBuilder, int};
use super::onnx::ModelProto;
use super::{
    BackgroundRule, CLUSTER_PROBS, CONTRACT_VERSION, Cluster, Golden, INPUT, LATENT, ModelContract,
    RECONSTRUCTION_ERROR, Signature, StainSpec, clusters_default,
};
use crate::units::Mpp;

/// Softmax sharpness: a legend colour 0.2 (of 0 to 1) farther off than the nearest is e⁴ = 55 times less probable.
const SHARPNESS: f64 = 100.0;

/// A model for these stains (the first is the reference), `clusters` from 2 to 254.
///
/// The latent is the mean colour per plane, 0 to 1; the reconstruction is that mean, so the error is the variance.
pub fn model(stains: &[&str], patch_px: u32, mpp: Mpp, clusters: u8) -> ModelProto {
    let contract = contract(stains, patch_px, mpp, clusters);
    let Signature { stains, clusters, latent_dim, .. } = contract.signature();
    let (prototypes, offsets) = classifier(&contract.clusters, stains as usize);
    let to_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();

    let mut graph = GraphBuilder::new("nearest legend colour", contract.signature());
    graph.floats("scale", &[], &[1.0 / 255.0]);
    graph.ints("pixels", &[2], &[2, 3]);
    graph.ints("all_values", &[3], &[1, 2, 3]);
    graph.floats("weights", &[latent_dim as usize, clusters as usize], &to_f32(prototypes));
    graph.floats("offsets", &[clusters as usize], &to_f32(offsets));
    graph.node("Cast", &[INPUT], "raw", &[int("to", FLOAT)]);
    graph.node("Mul", &["raw", "scale"], "normalised", &[]);
    graph.node("ReduceMean", &["normalised", "pixels"], LATENT, &[int("keepdims", 0)]);
    graph.node("MatMul", &[LATENT, "weights"], "products", &[]);
    graph.node("Add", &["products", "offsets"], "logits", &[]);
    graph.node("Softmax", &["logits"], CLUSTER_PROBS, &[int("axis", 1)]);
    graph.node("ReduceMean", &["normalised", "pixels"], "reconstruction", &[int("keepdims", 1)]);
    graph.node("Sub", &["normalised", "reconstruction"], "difference", &[]);
    graph.node("Mul", &["difference", "difference"], "squared", &[]);
    graph.node("ReduceMean", &["squared", "all_values"], RECONSTRUCTION_ERROR, &[int("keepdims", 0)]);

    let mut model = graph.finish();
    contract.write(&mut model);
    model
}

/// The same as a file's content.
pub fn bytes(stains: &[&str], patch_px: u32, mpp: Mpp, clusters: u8) -> Vec<u8> {
    model(stains, patch_px, mpp, clusters).encode_to_vec()
}

/// What [`model`] says about itself. Patches lie side by side.
pub fn contract(stains: &[&str], patch_px: u32, mpp: Mpp, clusters: u8) -> ModelContract {
    let clusters = clusters_default(clusters);
    ModelContract {
        version: CONTRACT_VERSION,
        stains: stains.iter().map(|&name| StainSpec { name: name.to_owned(), aliases: Vec::new() }).collect(),
        reference: stains.first().copied().unwrap_or_default().to_owned(),
        patch_px,
        stride_px: patch_px,
        mpp,
        latent_dim: 3 * stains.len() as u32,
        background: BackgroundRule { min_tissue_fraction: 0.5 },
        missing_stain_fill: [255; 3],
        novelty_threshold: Some(0.1),
        context_cells: None,
        typicality: None,
        training: serde_json::json!({ "example": "nearest legend colour; not trained" }),
        golden: golden(&clusters, stains.len(), patch_px),
        clusters,
    }
}

/// Squared distance to a prototype is linear in the mean colour up to a term that softmax cancels:
/// −‖m − c‖² = 2 m·c − ‖c‖² − ‖m‖². Returns the products' matrix `[3S, K]` and the offsets `[K]`.
fn classifier(clusters: &[Cluster], stains: usize) -> (Vec<f64>, Vec<f64>) {
    let sharpness = SHARPNESS / stains as f64;
    let prototype = |cluster: &Cluster| cluster.color.map(|channel| f64::from(channel) / 255.0);
    let weights = (0..3 * stains)
        .flat_map(|plane| clusters.iter().map(move |c| 2.0 * sharpness * prototype(c)[plane % 3]))
        .collect();
    let offsets =
        clusters.iter().map(|c| -sharpness * stains as f64 * prototype(c).iter().map(|v| v * v).sum::<f64>()).collect();
    (weights, offsets)
}

/// Up to eight patches: a chequerboard around the colour of one cluster each.
fn golden(clusters: &[Cluster], stains: usize, patch_px: u32) -> Golden {
    let (weights, offsets) = classifier(clusters, stains);
    let pixels = (patch_px * patch_px) as usize;
    let mut golden = Golden::default();
    for cluster in clusters.iter().take(8) {
        let plane = |plane: usize| {
            let channel = cluster.color[plane % 3];
            (0..pixels).map(move |i| {
                if (i + i / patch_px as usize).is_multiple_of(2) {
                    channel.saturating_add(9)
                } else {
                    channel.saturating_sub(9)
                }
            })
        };
        let planes: Vec<Vec<u8>> = (0..3 * stains).map(|p| plane(p).collect()).collect();
        let mean = |values: &[u8]| values.iter().map(|&v| f64::from(v) / 255.0).sum::<f64>() / pixels as f64;
        let latent: Vec<f64> = planes.iter().map(|values| mean(values)).collect();
        let variance = planes
            .iter()
            .zip(&latent)
            .map(|(values, m)| values.iter().map(|&v| (f64::from(v) / 255.0 - m).powi(2)).sum::<f64>());
        let logits: Vec<f64> = (0..clusters.len())
            .map(|k| {
                offsets[k] + latent.iter().enumerate().map(|(p, m)| m * weights[p * clusters.len() + k]).sum::<f64>()
            })
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
        let sum: f64 = exps.iter().sum();
        golden.reconstruction_error.push((variance.sum::<f64>() / (pixels * 3 * stains) as f64) as f32);
        golden.latent.extend(latent.iter().map(|&m| m as f32));
        golden.probs.extend(exps.iter().map(|e| (e / sum) as f32));
        golden.patches.extend(planes.into_iter().flatten());
    }
    golden
}
