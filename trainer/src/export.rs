//! The fitted model as one ONNX file with its contract, proved on ONNX Runtime before it appears under its name.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use prost::Message;
use tch::{IndexOp, Kind, Tensor};
use tissuemap::contract::graph::{FLOAT, GraphBuilder, int, ints};
use tissuemap::contract::{
    BackgroundRule, CLUSTER_PROBS, CONTRACT_VERSION, Golden, INPUT, LATENT, ModelContract, RECONSTRUCTION_ERROR,
    Signature, clusters_default,
};
use tissuemap::infer::{GoldenReport, InferOptions, Model};

use crate::config::Config;
use crate::dataset::PatchSet;
use crate::error::TrainError;
use crate::fit::{Evaluation, Fitted, evaluate};
use crate::layers::{KERNEL, Layer, Operator, PADDING, STRIDE, to_vec};

/// Enough to prove layout, weights and normalisation; each costs a patch's size in the file.
const GOLDEN_PATCHES: usize = 4;

/// One patch in a hundred of the training tissue itself is called unfamiliar; more is a sign of other tissue.
const NOVELTY_QUANTILE: f64 = 0.99;

/// What was exported.
#[derive(Debug)]
pub struct Exported {
    /// How far ONNX Runtime is from libtorch on the golden patches.
    pub golden: GoldenReport,
    /// Size of the file.
    pub bytes: usize,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// Writes `fitted` to `path`. Nothing appears there unless preflight, contract and golden patches hold for these bytes.
///
/// # Errors
/// [`TrainError::Model`] when the pipeline refuses the model, [`TrainError::File`] when it cannot be written.
pub fn export(fitted: &Fitted, patches: &PatchSet, config: &Config, path: &Path) -> Result<Exported, TrainError> {
    let evaluation = evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.held_out)?;
    let contract = contract(fitted, patches, config, &evaluation)?;
    let mut model = graph(fitted, contract.signature())?.finish();
    contract.write(&mut model);
    let bytes = model.encode_to_vec();
    let mut proof = Model::from_bytes(&bytes, path, &InferOptions::default())?;
    let golden = proof.verify_golden()?;
    write_whole(path, &bytes).map_err(|source| TrainError::File { path: path.to_owned(), source })?;
    Ok(Exported { golden, bytes: bytes.len(), sha256: proof.sha256().to_owned() })
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension("onnx.partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

pub(crate) fn contract(
    fitted: &Fitted,
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
        training: provenance(fitted, patches, config, evaluation),
        golden: golden(patches, evaluation)?,
    })
}

/// How the model came about. Folders, file and case names stay out: a model travels farther than its slides may.
fn provenance(fitted: &Fitted, patches: &PatchSet, config: &Config, evaluation: &Evaluation) -> serde_json::Value {
    let settings = Config { sets: Vec::new(), ..config.clone() };
    serde_json::json!({
        "program": concat!("tissuemap-train ", env!("CARGO_PKG_VERSION")),
        "configuration": settings,
        "section_sets": patches.sets.len(),
        "training_patches": patches.train.count(),
        "held_out_patches": patches.held_out.count(),
        "cluster_sizes": fitted.assignment.sizes,
        "conditional_entropy": fitted.assignment.conditional_entropy,
        "marginal_entropy": fitted.assignment.marginal_entropy,
        "held_out_reconstruction_error": evaluation.reconstruction_error.mean(Kind::Double).double_value(&[]),
    })
}

/// Held-out patches with libtorch's outputs: of each cluster the surest one, surest clusters first.
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

/// The smallest value that at least `q` of `x` (`[N]`, N ≥ 1) do not exceed.
fn quantile(x: &Tensor, q: f64) -> Result<f32, tch::TchError> {
    let count = x.size()[0];
    let rank = ((q * count as f64).ceil() as i64).clamp(1, count);
    Ok(to_vec(&x.sort(0, false).0.i(rank - 1..rank))?[0])
}

/// Cast, normalise, encode, cluster, decode, compare. BatchNorm is folded into the operators.
fn graph(fitted: &Fitted, signature: Signature) -> Result<GraphBuilder, TrainError> {
    let autoencoder = &fitted.autoencoder;
    let mut net = Net { graph: GraphBuilder::new("autoencoder with IMSAT clusterer", signature) };
    let (mean, deviation) = autoencoder.normalisation();
    net.constant("mean", mean)?;
    net.constant("deviation", deviation)?;
    net.graph.node("Cast", &[INPUT], "values", &[int("to", FLOAT)]);
    net.graph.node("Sub", &["values", "mean"], "centred", &[]);
    net.graph.node("Div", &["centred", "deviation"], "normalised", &[]);

    let mut value = "normalised".to_owned();
    let encoder: Vec<&Layer> = autoencoder.encoder_layers().collect();
    for (i, layer) in encoder.iter().enumerate() {
        if layer.operator() == Operator::Linear {
            net.graph.node("Flatten", &[&value], "features", &[int("axis", 1)]);
            value = net.layer(layer, "features", LATENT)?;
        } else {
            value = net.layer(layer, &value, &format!("encoder_{i}"))?;
        }
    }
    for (i, layer) in fitted.clusterer.layers().iter().enumerate() {
        value = net.layer(layer, &value, &format!("clusterer_{i}"))?;
    }
    net.graph.node("Softmax", &[&value], CLUSTER_PROBS, &[int("axis", 1)]);

    let shape = autoencoder.shape();
    net.graph.ints("inner_shape", &[4], &[-1, shape.inner_channels(), shape.inner_px(), shape.inner_px()]);
    LATENT.clone_into(&mut value);
    for (i, layer) in autoencoder.decoder_layers().enumerate() {
        value = net.layer(layer, &value, &format!("decoder_{i}"))?;
        if layer.operator() == Operator::Linear {
            net.graph.node("Reshape", &[&value, "inner_shape"], "inner", &[]);
            "inner".clone_into(&mut value);
        }
    }
    net.graph.ints("all_values", &[3], &[1, 2, 3]);
    net.graph.node("Sub", &[&value, "normalised"], "difference", &[]);
    net.graph.node("Mul", &["difference", "difference"], "squared", &[]);
    net.graph.node("ReduceMean", &["squared", "all_values"], RECONSTRUCTION_ERROR, &[int("keepdims", 0)]);
    Ok(net.graph)
}

struct Net {
    graph: GraphBuilder,
}

impl Net {
    fn constant(&mut self, name: &str, tensor: &Tensor) -> Result<(), TrainError> {
        let dims: Vec<usize> = tensor.size().into_iter().map(|dim| dim as usize).collect();
        self.graph.floats(name, &dims, &to_vec(tensor)?);
        Ok(())
    }

    /// Adds a layer that reads `input`; returns the name of what it computes, which is `name` without a ReLU.
    fn layer(&mut self, layer: &Layer, input: &str, name: &str) -> Result<String, TrainError> {
        let (weight, bias) = layer.folded();
        let (weight_name, bias_name) = (format!("{name}_weight"), format!("{name}_bias"));
        self.constant(&weight_name, &weight)?;
        self.constant(&bias_name, &bias)?;
        let (operator, attributes) = match layer.operator() {
            Operator::Linear => ("Gemm", vec![int("transB", 1)]),
            Operator::Conv => ("Conv", convolution()),
            Operator::ConvTranspose => ("ConvTranspose", convolution()),
        };
        self.graph.node(operator, &[input, &weight_name, &bias_name], name, &attributes);
        if !layer.has_relu() {
            return Ok(name.to_owned());
        }
        let output = format!("{name}_relu");
        self.graph.node("Relu", &[name], &output, &[]);
        Ok(output)
    }
}

fn convolution() -> Vec<tissuemap::contract::onnx::AttributeProto> {
    vec![ints("kernel_shape", &[KERNEL; 2]), ints("strides", &[STRIDE; 2]), ints("pads", &[PADDING; 4])]
}

#[cfg(test)]
mod tests;
