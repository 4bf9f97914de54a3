//! Exports a fitted model as one ONNX file with its contract. The file is checked on ONNX Runtime before it appears under its name.
//!
//! float32 always, float16 and 8-bit integers on request: [`network`] rounds, [`graph`] writes, and a rounded model that
//! puts too many patches into other clusters is refused.

pub mod card;
mod graph;
pub mod names;
mod network;
mod precision;
mod quantisation;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use prost::Message;
use tch::{Device, IndexOp, Kind, Tensor};
use tissuemap::contract::{
    BackgroundRule, CONTRACT_VERSION, Golden, ModelContract, Precision, Typicality, clusters_default,
};
use tissuemap::infer::{GoldenReport, InferOptions, Model};

use crate::config::Config;
use crate::data::patches::PatchSet;
use crate::export::network::Network;
use crate::fit::{Evaluation, FittedModel, evaluate};
use crate::system::error::TrainError;
use crate::system::files::write_whole;
use crate::system::precision::PrecisionAgreement;
use crate::system::tensors::to_vec;

/// Enough to check layout, weights and normalisation. Each takes the size of a patch in the file.
const GOLDEN_PATCHES: usize = 4;

/// One of a hundred held-out patches counts as novel. A larger share on a slide is a sign of other tissue.
const NOVELTY_QUANTILE: f64 = 0.99;

/// An exported file.
#[derive(Debug)]
pub struct Exported {
    /// Precision of the file.
    pub precision: Precision,
    /// Difference between ONNX Runtime and libtorch on the golden patches.
    pub golden: GoldenReport,
    /// Agreement of a rounded model with float32 on held-out patches.
    pub agreement: Option<PrecisionAgreement>,
    /// Size of the file.
    pub bytes: usize,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

impl Exported {
    /// Writes a description of the file at `path` to `say`, line by line.
    ///
    /// # Errors
    /// Whatever writing to `say` gives.
    pub fn describe(&self, say: &mut dyn io::Write, path: &Path) -> io::Result<()> {
        writeln!(say, "{}: {}, {} bytes, sha256 {}", path.display(), self.precision, self.bytes, self.sha256)?;
        writeln!(say, "ONNX Runtime against libtorch: {}", self.golden)?;
        self.agreement.map_or(Ok(()), |agreement| writeln!(say, "{} against fp32: {agreement}", self.precision))
    }
}

/// Writes `fitted` to `path` in `precision`, and its card beside it. Nothing appears there unless preflight, contract and
/// golden patches hold for these bytes, and unless a rounded model agrees with float32.
///
/// # Errors
/// [`TrainError::Model`] if the pipeline refuses the model, [`TrainError::Rounded`] when quantisation changes too many
/// clusters, [`TrainError::File`] if it cannot be written.
pub fn export(
    fitted: &FittedModel,
    patches: &PatchSet,
    config: &Config,
    precision: Precision,
    path: &Path,
) -> Result<Exported, TrainError> {
    let network = Network::new(fitted, precision, &patches.train)?;
    let full = fitted.evaluate_on_cpu(config, &patches.held_out)?;
    // float32 is compared with the layers as they were trained. This also checks the folding of BatchNorm.
    let rounded = (precision != Precision::Fp32).then(|| network.evaluate(&patches.held_out)).transpose()?;
    let mut contract = contract(fitted, patches, config, rounded.as_ref().unwrap_or(&full))?;
    let mut model = network.graph(contract.signature())?.finish();
    contract.training["precision"] = precision.name().into();
    contract.write(&mut model);
    let mut agreement = None;
    if rounded.is_some() {
        let mut trial = Model::from_bytes(&model.encode_to_vec(), path, &InferOptions::default())?;
        let found = PrecisionAgreement::measure(&mut trial, &patches.held_out, &full.log_probs)?;
        found.check(precision)?;
        contract.training["agreement_with_fp32"] = found.as_json();
        contract.write(&mut model);
        agreement = Some(found);
    }
    let bytes = model.encode_to_vec();
    let (sha256, golden) = publish(&bytes, path)?;
    Ok(Exported { precision, golden, agreement, bytes: bytes.len(), sha256 })
}

/// Checks the bytes of a model file, then writes it to `path` with its card beside it. Returns its SHA-256 and the result of the golden
/// patches.
///
/// # Errors
/// As [`export`].
pub(crate) fn publish(bytes: &[u8], path: &Path) -> Result<(String, GoldenReport), TrainError> {
    let mut proof = Model::from_bytes(bytes, path, &InferOptions::default())?;
    let golden = proof.verify_golden()?;
    let card = card::markdown(&proof, bytes.len());
    for (path, content) in [(card::path_beside(path), card.as_bytes()), (path.to_owned(), bytes)] {
        write_whole(&path, content)?;
    }
    Ok((proof.sha256().to_owned(), golden))
}

pub(crate) fn contract(
    fitted: &FittedModel,
    patches: &PatchSet,
    config: &Config,
    evaluation: &Evaluation,
) -> Result<ModelContract, TrainError> {
    // K is checked to be at most 254.
    let clusters = clusters_default(u8::try_from(config.clusters).unwrap_or(u8::MAX));
    let threshold = quantile(&evaluation.reconstruction_error, NOVELTY_QUANTILE)?;
    let layout = config.layout();
    Ok(ModelContract {
        version: CONTRACT_VERSION,
        stains: layout.stains,
        reference: layout.reference,
        patch_px: layout.spec.patch_px,
        stride_px: layout.spec.stride_px,
        mpp: layout.spec.mpp,
        latent_dim: config.autoencoder.latent_dim,
        clusters,
        background: BackgroundRule { min_tissue_fraction: layout.min_tissue_fraction },
        missing_stain_fill: layout.missing_stain_fill,
        novelty_threshold: Some(threshold),
        context_cells: Some(config.context_cells),
        typicality: Some(typicality(fitted, patches, evaluation)?),
        training: provenance(fitted, patches, config, evaluation),
        golden: golden(patches, evaluation)?,
    })
}

/// How the model was made. It contains no folder, file or case names: a model may be passed on where its slides may not.
fn provenance(fitted: &FittedModel, patches: &PatchSet, config: &Config, evaluation: &Evaluation) -> serde_json::Value {
    let settings = Config { sets: Vec::new(), revision: None, ..config.clone() };
    let mut provenance = serde_json::json!({
        "program": concat!("tissuemap-train ", env!("CARGO_PKG_VERSION")),
        "configuration": settings,
        "section_sets": patches.sets.len(),
        "training_patches": patches.train.count(),
        "held_out_patches": patches.held_out.count(),
        "cluster_sizes": fitted.assignment.sizes,
        "conditional_entropy": fitted.assignment.conditional_entropy,
        "marginal_entropy": fitted.assignment.marginal_entropy,
        "held_out_reconstruction_error": evaluation.reconstruction_error.mean(Kind::Double).double_value(&[]),
    });
    if let Some(revision) = config.revision {
        provenance["revision"] = revision.into();
    }
    provenance
}

/// Held-out patches with the outputs of libtorch: for each cluster the patch with the most certain prediction, most certain clusters first.
fn golden(patches: &PatchSet, evaluation: &Evaluation) -> Result<Golden, TrainError> {
    let (certainty, cluster) = evaluation.log_probs.max_dim(1, false);
    let certainty = to_vec(&certainty)?;
    let cluster = Vec::<i64>::try_from(cluster)?;
    let mut order: Vec<usize> = (0..certainty.len()).collect();
    order.sort_by(|&a, &b| certainty[b].total_cmp(&certainty[a]));
    let mut seen = std::collections::BTreeSet::new();
    let (first, rest): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| seen.insert(cluster[i]));
    let chosen: Vec<i64> = first.into_iter().chain(rest).take(GOLDEN_PATCHES).map(|i| i as i64).collect();
    let pick = |x: &Tensor| x.index_select(0, &Tensor::from_slice(&chosen));
    Ok(Golden {
        patches: Vec::<u8>::try_from(patches.held_out.gather(&chosen)?.reshape([-1]))?,
        probs: to_vec(&pick(&evaluation.log_probs).exp())?,
        latent: to_vec(&pick(&evaluation.latent))?,
        reconstruction_error: to_vec(&pick(&evaluation.reconstruction_error))?,
    })
}

/// Centroids of the training patches, and bounds on the distance of held-out patches from them.
fn typicality(fitted: &FittedModel, patches: &PatchSet, evaluation: &Evaluation) -> Result<Typicality, TrainError> {
    let train = evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.train)?.latent;
    let (clusters, latent_dim) = (fitted.assignment.sizes.len(), train.size()[1]);
    let sums = Tensor::zeros([clusters as i64, latent_dim], (Kind::Double, Device::Cpu));
    let sums = sums.index_add(0, &Tensor::from_slice(&fitted.assignment.cluster), &train.to_kind(Kind::Double));
    let sizes: Vec<i64> = fitted.assignment.sizes.iter().map(|&size| size as i64).collect();
    let centroids = to_vec(&(sums / Tensor::from_slice(&sizes).clamp_min(1).unsqueeze(1)))?;
    let typicality = Typicality { centroids, bounds: Vec::new() };

    let mut distances = vec![Vec::new(); clusters];
    let held_out = Vec::<i64>::try_from(evaluation.log_probs.argmax(1, false))?;
    for (latent, &cluster) in to_vec(&evaluation.latent)?.chunks(latent_dim as usize).zip(&held_out) {
        distances[cluster as usize].push(typicality.distance(cluster as usize, latent));
    }
    // A cluster without training patches has no centroid.
    let bounds = distances.into_iter().zip(sizes).map(|(d, size)| Typicality::bound(d).filter(|_| size > 0)).collect();
    Ok(Typicality { bounds, ..typicality })
}

/// The smallest value that at least `q` of `x` (`[N]`, N ≥ 1) do not exceed.
fn quantile(x: &Tensor, q: f64) -> Result<f32, tch::TchError> {
    let count = x.size()[0];
    let rank = ((q * count as f64).ceil() as i64).clamp(1, count);
    Ok(to_vec(&x.sort(0, false).0.i(rank - 1..rank))?[0])
}
