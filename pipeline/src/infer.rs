//! Runs models: one file becomes a checked contract and an ONNX Runtime session that does what the contract says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use sha2::{Digest, Sha256};

use crate::contract::{
    CLUSTER_PROBS, ContractError, GOLDEN_TOLERANCE, INPUT, LATENT, MAX_MODEL_BYTES, ModelContract, PROBS_SUM_TOLERANCE,
    PreflightError, RECONSTRUCTION_ERROR, preflight,
};
use crate::libs::{LibraryError, SharedLibrary};

/// The oldest release whose C interface the `ort` crate's `api-31` speaks, and what setup.sh brings.
const ONNX_RUNTIME: SharedLibrary = SharedLibrary {
    name: "ONNX Runtime",
    soname: "libonnxruntime.so",
    required: ">= 1.31",
    remedy: "run scripts/setup.sh, or put libonnxruntime.so (ONNX Runtime 1.31 or later) into a folder named by TISSUEMAP_LIB_DIR",
};

/// Why a model cannot be used, or not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file is not there or cannot be read.
    #[error("{}: cannot read the model: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// Not a harmless ONNX file.
    #[error("{}: {source}", path.display())]
    Preflight { path: PathBuf, source: PreflightError },
    /// Not a model of ours.
    #[error("{}: {source}", path.display())]
    Contract { path: PathBuf, source: ContractError },
    /// ONNX Runtime is missing or too old.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// ONNX Runtime does not accept the model.
    #[error("{}: ONNX Runtime refuses the model: {reason}", path.display())]
    Session { path: PathBuf, reason: String },
    /// ONNX Runtime failed while computing.
    #[error("{}: inference failed: {reason}", path.display())]
    Run { path: PathBuf, reason: String },
    /// The caller's batch is not a whole number of patches.
    #[error("{}: {found} bytes are not a whole number of patches of {patch} bytes", path.display())]
    InputLength { path: PathBuf, found: usize, patch: usize },
    /// An output has another shape than the contract says.
    #[error("{}: output {output} has shape {found:?}, the contract says {expected:?}", path.display())]
    OutputShape { path: PathBuf, output: &'static str, found: Vec<i64>, expected: Vec<i64> },
    /// An output holds an infinite value or not a number.
    #[error("{}: output {output} is not finite for patch {patch} of the batch", path.display())]
    NotFinite { path: PathBuf, output: &'static str, patch: usize },
    /// A row of probabilities is negative somewhere or does not sum to 1.
    #[error("{}: the cluster probabilities of patch {patch} of the batch sum to {sum}", path.display())]
    NotProbabilities { path: PathBuf, patch: usize, sum: f32 },
    /// This machine computes something else than the trainer did.
    #[error("{}: golden patches differ from the trainer's outputs: {report}", path.display())]
    GoldenMismatch { path: PathBuf, report: GoldenReport },
}

impl ModelError {
    /// The stable id of what is wrong; `onnx.*` and `contract.*` come from the checks before ONNX Runtime.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "model.unreadable",
            Self::Preflight { source, .. } => source.id(),
            Self::Contract { source, .. } => source.id(),
            Self::Library(_) => "model.runtime-library",
            Self::Session { .. } => "model.session",
            Self::Run { .. } => "model.run",
            Self::InputLength { .. } => "model.input-length",
            Self::OutputShape { .. } => "model.output-shape",
            Self::NotFinite { .. } => "model.not-finite",
            Self::NotProbabilities { .. } => "model.not-probabilities",
            Self::GoldenMismatch { .. } => "model.golden-mismatch",
        }
    }
}

/// How to run a model on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InferOptions {
    /// CPU threads of one session; 0 lets ONNX Runtime take one per physical core.
    pub threads: usize,
}

/// What a model says about n patches, row-major in the order of the patches.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outputs {
    /// n·K; rows sum to 1.
    pub probs: Vec<f32>,
    /// n·D.
    pub latent: Vec<f32>,
    /// n.
    pub reconstruction_error: Vec<f32>,
}

/// How far the golden patches are from the trainer's outputs: largest differences as [`GOLDEN_TOLERANCE`] counts them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    /// Golden patches compared, each in the batch of all and alone.
    pub patches: usize,
    /// In `cluster_probs`.
    pub probs: f32,
    /// In `latent`.
    pub latent: f32,
    /// In `reconstruction_error`.
    pub reconstruction_error: f32,
    /// Patches whose most probable cluster is another one.
    pub labels_changed: usize,
}

impl GoldenReport {
    /// Whether the machine computes what the trainer did.
    pub fn passes(&self) -> bool {
        self.labels_changed == 0
            && [self.probs, self.latent, self.reconstruction_error].iter().all(|&d| d <= GOLDEN_TOLERANCE)
    }
}

impl std::fmt::Display for GoldenReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { patches, probs, latent, reconstruction_error, labels_changed } = self;
        write!(
            f,
            "largest difference {probs:.1e} in {CLUSTER_PROBS}, {latent:.1e} in {LATENT}, {reconstruction_error:.1e} in \
             {RECONSTRUCTION_ERROR} (allowed {GOLDEN_TOLERANCE:.0e}), {labels_changed} of {patches} labels changed"
        )
    }
}

/// A model that is ready to run.
pub struct Model {
    path: PathBuf,
    sha256: String,
    contract: ModelContract,
    session: Session,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("path", &self.path).field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

impl Model {
    /// Reads, checks and prepares a model file with the default options.
    ///
    /// # Errors
    /// As [`Model::from_bytes`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::load_with(path, &InferOptions::default())
    }

    /// Reads, checks and prepares a model file.
    ///
    /// # Errors
    /// As [`Model::from_bytes`], and when the file cannot be read.
    pub fn load_with(path: &Path, options: &InferOptions) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::Unreadable { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        // One byte beyond the cap is enough for the preflight to refuse a file that is larger, or growing.
        File::open(path).and_then(|file| file.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
        Self::from_bytes(&bytes, path, options)
    }

    /// Checks and prepares a model whose file content is in memory. `path` is only what errors call it.
    ///
    /// ONNX Runtime sees the bytes last, after [`preflight`] and [`ModelContract::read`].
    ///
    /// # Errors
    /// [`ModelError`]; the golden patches are not run, see [`Model::verify_golden`].
    pub fn from_bytes(bytes: &[u8], path: &Path, options: &InferOptions) -> Result<Self, ModelError> {
        let model = preflight(bytes).map_err(|source| ModelError::Preflight { path: path.to_owned(), source })?;
        let contract =
            ModelContract::read(&model).map_err(|source| ModelError::Contract { path: path.to_owned(), source })?;
        drop(model);
        let environment = environment()?;
        let session = open_session(environment, bytes, options)
            .map_err(|e| ModelError::Session { path: path.to_owned(), reason: one_line(e.message()) })?;
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), sha256, contract, session })
    }

    /// What the model says about itself.
    pub fn contract(&self) -> &ModelContract {
        &self.contract
    }

    /// SHA-256 of the file, 64 hexadecimal digits: the model's identity in results.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Runs n patches, laid out one after the other as the contract's input; n may be 0 and may differ between calls.
    ///
    /// # Errors
    /// The input is not whole patches, ONNX Runtime fails, or the outputs are not what the contract promises.
    pub fn run(&mut self, patches: &[u8]) -> Result<Outputs, ModelError> {
        let signature = self.contract.signature();
        let patch = signature.tensor_len();
        if !patches.len().is_multiple_of(patch) {
            return Err(ModelError::InputLength { path: self.path.clone(), found: patches.len(), patch });
        }
        let n = patches.len() / patch;
        if n == 0 {
            return Ok(Outputs::default());
        }
        let (path, k, d) = (&self.path, signature.clusters as usize, signature.latent_dim as usize);
        let failed = |e: ort::Error| ModelError::Run { path: path.clone(), reason: one_line(e.message()) };
        let shape = [n, 3 * signature.stains as usize, signature.patch_px as usize, signature.patch_px as usize];
        let input = TensorRef::from_array_view((shape, patches)).map_err(failed)?;
        let results = self.session.run(ort::inputs![INPUT => input]).map_err(failed)?;

        let output = |name: &'static str, expected: &[usize]| -> Result<Vec<f32>, ModelError> {
            let expected: Vec<i64> = expected.iter().map(|&dim| dim as i64).collect();
            let (found, values) = results[name].try_extract_tensor::<f32>().map_err(failed)?;
            if **found != *expected {
                return Err(ModelError::OutputShape {
                    path: path.clone(),
                    output: name,
                    found: found.to_vec(),
                    expected,
                });
            }
            match values.iter().position(|value| !value.is_finite()) {
                Some(bad) => {
                    Err(ModelError::NotFinite { path: path.clone(), output: name, patch: bad / (values.len() / n) })
                }
                None => Ok(values.to_vec()),
            }
        };
        let outputs = Outputs {
            probs: output(CLUSTER_PROBS, &[n, k])?,
            latent: output(LATENT, &[n, d])?,
            reconstruction_error: output(RECONSTRUCTION_ERROR, &[n])?,
        };
        for (patch, row) in outputs.probs.chunks(k).enumerate() {
            let sum: f32 = row.iter().sum();
            if (sum - 1.0).abs() > PROBS_SUM_TOLERANCE || row.iter().any(|&p| p < 0.0) {
                return Err(ModelError::NotProbabilities { path: path.clone(), patch, sum });
            }
        }
        Ok(outputs)
    }

    /// Runs the golden patches, all in one batch and each alone, and compares with what the trainer computed.
    ///
    /// The single runs catch models whose answer for a patch depends on its neighbours in the batch.
    ///
    /// # Errors
    /// [`ModelError::GoldenMismatch`] with the figures, or whatever [`Model::run`] finds.
    pub fn verify_golden(&mut self) -> Result<GoldenReport, ModelError> {
        let golden = self.contract.golden.clone();
        let batch = self.run(&golden.patches)?;
        let mut alone = Outputs::default();
        for patch in golden.patches.chunks(self.contract.signature().tensor_len()) {
            let one = self.run(patch)?;
            alone.probs.extend(one.probs);
            alone.latent.extend(one.latent);
            alone.reconstruction_error.extend(one.reconstruction_error);
        }
        let worst = |expected: &[f32], pick: fn(&Outputs) -> &[f32]| {
            difference(expected, pick(&batch)).max(difference(expected, pick(&alone)))
        };
        let labels = |probs: &[f32]| probs.chunks(self.contract.clusters.len()).map(most_probable).collect::<Vec<_>>();
        let (expected, in_batch, single) = (labels(&golden.probs), labels(&batch.probs), labels(&alone.probs));
        let report = GoldenReport {
            patches: golden.len(),
            probs: worst(&golden.probs, |outputs| &outputs.probs),
            latent: worst(&golden.latent, |outputs| &outputs.latent),
            reconstruction_error: worst(&golden.reconstruction_error, |outputs| &outputs.reconstruction_error),
            labels_changed: (0..golden.len())
                .filter(|&i| in_batch[i] != expected[i] || single[i] != expected[i])
                .count(),
        };
        if report.passes() { Ok(report) } else { Err(ModelError::GoldenMismatch { path: self.path.clone(), report }) }
    }
}

/// Largest absolute difference, in units of the largest expected value where that exceeds 1.
fn difference(expected: &[f32], found: &[f32]) -> f32 {
    let scale = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    expected.iter().zip(found).map(|(e, f)| (e - f).abs()).fold(0.0, f32::max) / scale
}

/// Index of the largest value; the first of equals.
fn most_probable(row: &[f32]) -> usize {
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best }).unwrap_or_default()
}

/// ONNX Runtime's process-wide state; it allows one per process and is never torn down.
fn environment() -> Result<&'static Environment, LibraryError> {
    static ENVIRONMENT: OnceLock<Result<Environment, LibraryError>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let path = ONNX_RUNTIME.locate()?;
            let wrong = |reason: String| ONNX_RUNTIME.wrong(&path, &one_line(&reason));
            ort::init_from(&path)
                .map_err(|e| wrong(e.to_string()))?
                .with_name("tissuemap")
                .with_telemetry(false)
                .build()
                .map_err(|e| wrong(e.message().to_owned()))
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// The one place where a session is configured, and so where execution providers are chosen.
fn open_session(environment: &Environment, bytes: &[u8], options: &InferOptions) -> ort::Result<Session> {
    let builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::Level3)?
        .with_intra_threads(options.threads)?
        // Waiting threads must not burn the scanner computer's cores between batches.
        .with_intra_op_spinning(false)?;
    let mut builder = builder;
    builder.commit_from_memory(bytes)
}

/// ONNX Runtime's messages span lines; ours do not.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::contract::{example, onnx};
    use crate::units::Mpp;

    const STAINS: [&str; 2] = ["HE", "Ki67"];

    fn example_model() -> onnx::ModelProto {
        example::model(&STAINS, 16, Mpp::new(0.5).expect("plausible"), 5)
    }

    /// The model, or `None` with a loud word where ONNX Runtime is not set up.
    fn open(model: &onnx::ModelProto) -> Option<Result<Model, ModelError>> {
        if let Err(reason) = environment() {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("SKIPPED: {reason}");
            }
            return None;
        }
        Some(Model::from_bytes(&model.encode_to_vec(), Path::new("example.onnx"), &InferOptions { threads: 1 }))
    }

    fn initializer<'a>(model: &'a mut onnx::ModelProto, name: &str) -> &'a mut onnx::TensorProto {
        let tensors = &mut model.graph.as_mut().expect("graph").initializer;
        tensors.iter_mut().find(|tensor| tensor.name() == name).expect("initializer")
    }

    fn node<'a>(model: &'a mut onnx::ModelProto, output: &str) -> &'a mut onnx::NodeProto {
        let nodes = &mut model.graph.as_mut().expect("graph").node;
        nodes.iter_mut().find(|node| node.output[0] == output).expect("node")
    }

    #[test]
    fn h15_golden_patches_of_the_example_pass() {
        let Some(model) = open(&example_model()) else { return };
        let report = model.expect("opens").verify_golden().expect("golden patches pass");
        assert_eq!((report.patches, report.labels_changed), (5, 0));
    }

    #[test]
    fn h09_a_changed_weight_fails_the_golden_patches() {
        let mut changed = example_model();
        let weights = initializer(&mut changed, "weights").raw_data.as_mut().expect("values");
        weights[..4].copy_from_slice(&0.0f32.to_le_bytes());
        let Some(model) = open(&changed) else { return };
        let error = model.expect("opens").verify_golden().expect_err("differs");
        assert_eq!(error.id(), "model.golden-mismatch");
        assert!(error.to_string().contains("cluster_probs"), "{error}");
    }

    #[test]
    fn h15_swapped_colour_planes_fail_the_golden_patches() {
        let mut swapped = example_model();
        let weights = initializer(&mut swapped, "weights").raw_data.as_mut().expect("values");
        let row = 4 * 5;
        weights[..3 * row].rotate_left(row);
        let Some(model) = open(&swapped) else { return };
        assert_eq!(model.expect("opens").verify_golden().expect_err("differs").id(), "model.golden-mismatch");
    }

    #[test]
    fn h09_a_model_whose_patches_influence_each_other_fails_the_golden_patches() {
        let mut leaky = example_model();
        // (latent + its mean over the batch) · weights / 2: right for one patch alone, wrong for several.
        node(&mut leaky, "products").input[0] = "leaky".to_owned();
        let halves = |four: &[u8; 4]| (f32::from_le_bytes(*four) / 2.0).to_le_bytes();
        let weights = initializer(&mut leaky, "weights");
        weights.raw_data = Some(weights.raw_data().as_chunks().0.iter().flat_map(halves).collect());
        let mut axis = initializer(&mut leaky, "pixels").clone();
        (axis.name, axis.dims, axis.raw_data) = (Some("batch".to_owned()), vec![1], Some(0i64.to_le_bytes().to_vec()));
        let mut mean = node(&mut leaky, "reconstruction").clone();
        (mean.input, mean.output) = (vec![LATENT.to_owned(), "batch".to_owned()], vec!["batch_mean".to_owned()]);
        mean.name = Some("mean".to_owned());
        let mut add = node(&mut leaky, "logits").clone();
        (add.input, add.output) = (vec![LATENT.to_owned(), "batch_mean".to_owned()], vec!["leaky".to_owned()]);
        add.name = Some("add".to_owned());
        let graph = leaky.graph.as_mut().expect("graph");
        graph.initializer.push(axis);
        graph.node.splice(3..3, [mean, add]);
        let Some(model) = open(&leaky) else { return };
        let mut model = model.expect("opens");
        let one = model.contract().golden.patches[..model.contract().signature().tensor_len()].to_vec();
        let alone = model.run(&one).expect("runs").probs;
        assert!(difference(&model.contract().golden.probs[..alone.len()], &alone) < GOLDEN_TOLERANCE);
        assert_eq!(model.verify_golden().expect_err("differs").id(), "model.golden-mismatch");
    }

    #[test]
    fn batches_of_any_size_give_the_same_outputs_per_patch() {
        let Some(model) = open(&example_model()) else { return };
        let mut model = model.expect("opens");
        let golden = model.contract().golden.clone();
        let all = model.run(&golden.patches).expect("runs");
        let tensor_len = model.contract().signature().tensor_len();
        for split in 0..=golden.len() {
            let (first, second) = golden.patches.split_at(split * tensor_len);
            let (a, b) = (model.run(first).expect("runs"), model.run(second).expect("runs"));
            assert_eq!(all.latent, [a.latent, b.latent].concat());
            assert_eq!(all.probs, [a.probs, b.probs].concat());
            assert_eq!(all.reconstruction_error, [a.reconstruction_error, b.reconstruction_error].concat());
        }
    }

    #[test]
    fn a_patch_of_a_legend_colour_belongs_to_that_cluster() {
        let Some(model) = open(&example_model()) else { return };
        let mut model = model.expect("opens");
        for cluster in model.contract().clusters.clone() {
            let plane = |channel: u8| [channel; 16 * 16];
            let patch = [cluster.color, cluster.color].concat().into_iter().flat_map(plane).collect::<Vec<u8>>();
            let outputs = model.run(&patch).expect("runs");
            assert_eq!(most_probable(&outputs.probs) + 1, usize::from(cluster.id));
            assert!(outputs.reconstruction_error[0] < 1e-6);
        }
    }

    #[test]
    fn a_part_of_a_patch_is_refused() {
        let Some(model) = open(&example_model()) else { return };
        assert_eq!(model.expect("opens").run(&[0; 100]).expect_err("not whole").id(), "model.input-length");
    }

    #[test]
    fn h09_outputs_that_are_no_probabilities_are_refused() {
        let mut raw_logits = example_model();
        node(&mut raw_logits, CLUSTER_PROBS).op_type = Some("Identity".to_owned());
        node(&mut raw_logits, CLUSTER_PROBS).attribute.clear();
        let mut not_a_number = example_model();
        // A black patch equals its mean, and 0 / 0 is not a number.
        node(&mut not_a_number, "squared").op_type = Some("Div".to_owned());
        for (model, id) in [(raw_logits, "model.not-probabilities"), (not_a_number, "model.not-finite")] {
            let Some(model) = open(&model) else { return };
            assert_eq!(model.expect("opens").run(&[0; 3 * 2 * 16 * 16]).expect_err("refused").id(), id);
        }
    }

    #[test]
    fn h09_a_model_that_onnx_runtime_cannot_build_is_refused_in_one_line() {
        let mut bad = example_model();
        node(&mut bad, "products").input.pop();
        let Some(model) = open(&bad) else { return };
        let error = model.expect_err("refused");
        assert_eq!(error.id(), "model.session");
        assert!(error.to_string().starts_with("example.onnx: ") && !error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn files_are_identified_by_their_sha256_and_missing_ones_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("m.onnx");
        let error = Model::load(&path).expect_err("absent");
        assert_eq!(error.id(), "model.unreadable");
        assert!(error.to_string().contains("m.onnx"), "{error}");
        let bytes = example_model().encode_to_vec();
        std::fs::write(&path, &bytes).expect("written");
        if open(&example_model()).is_none() {
            return;
        }
        let model = Model::load(&path).expect("opens");
        let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((model.sha256().len(), model.sha256()), (64, expected.as_str()));
    }
}
