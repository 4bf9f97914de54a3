//! Runs models: one file becomes a checked contract and an ONNX Runtime session that does what the contract says.

use std::ffi::CStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::value::TensorRef;
use sha2::{Digest, Sha256};

use crate::contract::{
    CLUSTER_PROBS, ContractError, INPUT, LATENT, MAX_MODEL_BYTES, ModelContract, PROBS_SUM_TOLERANCE, Precision,
    PreflightError, RECONSTRUCTION_ERROR, preflight,
};
use crate::hex::hex;
use crate::libs::{LibraryError, SharedLibrary};
use crate::untrusted::open_large;

pub use self::golden::GoldenReport;
pub use self::proof::{ProofStep, Proving, batch_key};
pub use self::providers::{Provider, machine};

mod batch;
mod golden;
mod proof;
mod providers;
#[cfg(test)]
mod tests;

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
    /// What a patch gets depends on the other patches of its batch.
    #[error("{}: in a batch of {batch} patches, patches get other outputs than alone: {report}", path.display())]
    BatchDependent { path: PathBuf, batch: usize, report: GoldenReport },
    /// This machine computes something else than the trainer did.
    #[error("{}: golden patches differ from the trainer's outputs: {report}", path.display())]
    GoldenMismatch { path: PathBuf, report: GoldenReport },
}

impl ModelError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "let the program read the file",
            Self::Preflight { source, .. } => source.hint(),
            Self::Contract { source, .. } => source.hint(),
            Self::Library(error) => error.hint(),
            _ => "models/CONTRACT.md explains what is refused; `tissuemap-train export` writes models",
        }
    }

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
            Self::BatchDependent { .. } => "model.batch-dependent",
            Self::GoldenMismatch { .. } => "model.golden-mismatch",
        }
    }
}

/// How to run a model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferOptions {
    /// CPU threads of one session; 0 is one per physical core.
    pub threads: usize,
    /// What to compute on: the first that works.
    pub providers: Vec<Provider>,
    /// Where TensorRT keeps what it compiled, if it may.
    pub engines: Option<PathBuf>,
}

impl Default for InferOptions {
    fn default() -> Self {
        Self { threads: 0, providers: vec![Provider::Cpu], engines: None }
    }
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

/// A model that is ready to run.
pub struct Model {
    path: PathBuf,
    sha256: String,
    contract: ModelContract,
    precision: Precision,
    provider: Provider,
    /// Patches per call that are best here.
    batch: usize,
    /// How its golden patches came out, where it had to repeat them.
    proof: Option<GoldenReport>,
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
        Self::from_bytes(&read(path)?, path, options)
    }

    /// Checks and prepares a model whose file content is in memory. `path` is only what errors call it.
    ///
    /// ONNX Runtime sees the bytes last, after [`preflight`] and [`ModelContract::read`].
    ///
    /// # Errors
    /// [`ModelError`]; the golden patches are not run, see [`Model::verify_golden`].
    pub fn from_bytes(bytes: &[u8], path: &Path, options: &InferOptions) -> Result<Self, ModelError> {
        Self::open(bytes, path, options, &|_| {}, |_| Ok(()))
    }

    /// The model on the first provider that opens it and where `accept` does not object.
    fn open(
        bytes: &[u8],
        path: &Path,
        options: &InferOptions,
        tell: &dyn Fn(ProofStep),
        accept: impl Fn(&mut Self) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        tell(ProofStep::Preflight);
        let model = preflight(bytes).map_err(|source| ModelError::Preflight { path: path.to_owned(), source })?;
        let contract =
            ModelContract::read(&model).map_err(|source| ModelError::Contract { path: path.to_owned(), source })?;
        let precision = Precision::of(&model);
        drop(model);
        let environment = environment()?;
        let sha256 = hex(Sha256::digest(bytes));
        let attempt = |provider| -> Result<Self, ModelError> {
            tell(ProofStep::Load);
            let session = providers::open_session(environment, bytes, &sha256, contract.signature(), provider, options)
                .map_err(|reason| ModelError::Session { path: path.to_owned(), reason })?;
            let (contract, sha256) = (contract.clone(), sha256.clone());
            let batch = batch::UNMEASURED;
            let path = path.to_owned();
            let mut model = Self { path, sha256, contract, precision, provider, batch, proof: None, session };
            accept(&mut model).map(|()| model)
        };
        let none = || ModelError::Session { path: path.to_owned(), reason: "no execution provider is named".into() };
        let mut failure = None;
        for &provider in &options.providers {
            match attempt(provider) {
                Ok(model) => return Ok(model),
                Err(error) => {
                    if options.providers.last() != Some(&provider) {
                        tracing::warn!(%provider, reason = %error, "Execution provider passed over");
                    }
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(none))
    }

    /// What the model computes on.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// How the golden patches came out when the model was loaded; `None` where it did not have to repeat them.
    pub fn proof(&self) -> Option<&GoldenReport> {
        self.proof.as_ref()
    }

    /// What the model says about itself.
    pub fn contract(&self) -> &ModelContract {
        &self.contract
    }

    /// What the model computes in.
    pub fn precision(&self) -> Precision {
        self.precision
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
            // Indexing cannot fail: ONNX Runtime returns every output of the graph, and the preflight saw these three there.
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
}

/// Which ONNX Runtime is used: its version, and where the library lies.
///
/// # Errors
/// It is not there, or too old.
pub fn runtime_version() -> Result<String, LibraryError> {
    environment()?;
    let (library, path) = ONNX_RUNTIME.open()?;
    let version = version_of(&library).map_err(|error| ONNX_RUNTIME.wrong(&path, &error.to_string()))?;
    Ok(format!("{version} ({})", path.display()))
}

/// What the library says of itself; `ort` does not hand it on.
#[allow(unsafe_code)]
fn version_of(library: &libloading::Library) -> Result<String, libloading::Error> {
    // SAFETY: the symbol's type and the structure that it gives are those of onnxruntime_c_api.h; the text is the library's,
    // constant, and ends with a zero.
    unsafe {
        let base = library.get::<unsafe extern "system" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase")?;
        let text = CStr::from_ptr(((*base()).GetVersionString)());
        Ok(text.to_string_lossy().into_owned())
    }
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
                // Below warnings, ONNX Runtime tells of every arena it extends.
                .inspect(|environment| environment.set_log_level(LogLevel::Warning))
                .map_err(|e| wrong(e.message().to_owned()))
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// A model file's content, and no more of it than the preflight would accept.
fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let unreadable = |source| ModelError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One byte beyond the cap is enough for the preflight to refuse a file that is larger, or growing.
    let open = || open_large(path).map_err(std::io::Error::from);
    open().and_then(|file| file.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    Ok(bytes)
}

/// ONNX Runtime's messages span lines; ours do not.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
