//! What computes: a GPU through TensorRT or CUDA, or the processor.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{InferOptions, ONNX_RUNTIME, one_line};
use crate::contract::{INPUT, Signature};
use crate::hex::hex;

/// The largest batch that is tried, and that TensorRT's engines are built for.
pub(super) const LARGEST_BATCH: usize = 128;

/// One of ONNX Runtime's execution providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    TensorRt,
    Cuda,
    Cpu,
}

impl Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TensorRt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        })
    }
}

impl Provider {
    /// The library that ONNX Runtime loads for it, from beside itself.
    fn library(self) -> Option<&'static str> {
        match self {
            Self::TensorRt => Some("libonnxruntime_providers_tensorrt.so"),
            Self::Cuda => Some("libonnxruntime_providers_cuda.so"),
            Self::Cpu => None,
        }
    }

    /// What ONNX Runtime is to be told; none for the processor, which it has always.
    fn dispatch(self, sha256: &str, signature: Signature, options: &InferOptions) -> Option<ExecutionProviderDispatch> {
        match self {
            Self::Cpu => None,
            // A model's precision is what it states: TF32, the default, would round float32 to 10 bits of mantissa.
            Self::Cuda => Some(ep::CUDA::default().with_tf32(false).build().error_on_failure()),
            Self::TensorRt => {
                let shape = |n: usize| {
                    let Signature { stains, patch_px, .. } = signature;
                    format!("{INPUT}:{n}x{}x{patch_px}x{patch_px}", 3 * stains)
                };
                let mut provider = ep::TensorRT::default()
                    .with_profile_min_shapes(shape(1))
                    .with_profile_opt_shapes(shape(LARGEST_BATCH / 2))
                    .with_profile_max_shapes(shape(LARGEST_BATCH));
                if let Some(root) = &options.engines {
                    let folder = engine_folder(root, sha256, &shape(LARGEST_BATCH), &accelerators());
                    provider = provider
                        .with_engine_cache(true)
                        .with_engine_cache_path(folder.display())
                        .with_timing_cache(true)
                        .with_timing_cache_path(folder.display());
                }
                Some(provider.build().error_on_failure())
            }
        }
    }
}

/// A session on `provider` and no other, apart from the processor for what a GPU cannot do; or why there is none, with
/// the name of a library that is missing.
pub(super) fn open_session(
    environment: &Environment,
    bytes: &[u8],
    sha256: &str,
    signature: Signature,
    provider: Provider,
    options: &InferOptions,
) -> Result<Session, String> {
    if let Some(name) = provider.library() {
        let runtime = ONNX_RUNTIME.locate().map_err(|error| error.to_string())?;
        let beside = runtime.with_file_name(name);
        if !beside.is_file() {
            return Err(format!("{} not found: put the GPU build of ONNX Runtime there", beside.display()));
        }
    }
    let open = || -> ort::Result<Session> {
        let mut builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::Level3)?
            // Told a number, ONNX Runtime does not place its threads on processors, which a worker may not.
            .with_intra_threads(if options.threads == 0 { physical_cores() } else { options.threads })?
            // Waiting threads must not burn the scanner computer's cores between batches.
            .with_intra_op_spinning(false)?;
        if let Some(dispatch) = provider.dispatch(sha256, signature, options) {
            builder = builder.with_execution_providers([dispatch])?;
        }
        builder.commit_from_memory(bytes)
    };
    open().map_err(|error| one_line(error.message()))
}

/// Cores of this machine that this process may use: processors that share one count once. All of them, where Linux does not
/// tell.
fn physical_cores() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let siblings = |number: usize| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")).ok()
    };
    let cores: BTreeSet<String> = (0..).map_while(siblings).collect();
    if cores.is_empty() { processors } else { cores.len().min(processors) }
}

/// Where engines are kept that fit this model, this machine and this shape, and no other: TensorRT does not check all of it.
fn engine_folder(root: &Path, sha256: &str, shape: &str, machine: &str) -> PathBuf {
    root.join(&hex(Sha256::digest([sha256, shape, machine].join("\n")))[..32])
}

/// What an engine depends on beside the model: the cards, the driver and TensorRT's own version.
fn accelerators() -> String {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let cards = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let mut cards: Vec<String> = cards
        .filter_map(|card| fs::read_to_string(card.path().join("information")).ok())
        .filter_map(|text| text.lines().find(|line| line.starts_with("Model")).map(ToOwned::to_owned))
        .collect();
    cards.sort();
    // The link's target carries the full version: libnvinfer.so.10.13.3.
    let tensorrt = ["libnvinfer.so.10", "libonnxruntime.so"].map(|soname| {
        let places = crate::libs::search_path();
        let found = places.iter().find_map(|place| fs::canonicalize(place.join(soname)).ok());
        found.and_then(|file| Some(format!("{} {}", file.display(), file.metadata().ok()?.len()))).unwrap_or_default()
    });
    [driver, cards.join("\n"), tensorrt.join("\n")].join("\n")
}

/// This machine, as far as the speed of a model depends on it: cards, driver, libraries, processor and how many of its cores
/// may be used; sixteen hexadecimal digits.
pub fn machine() -> String {
    const PROCESSOR: [&str; 5] = ["model name", "CPU implementer", "CPU part", "CPU variant", "Hardware"];
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processors: BTreeSet<&str> =
        processors.lines().filter(|line| PROCESSOR.iter().any(|key| line.starts_with(key))).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    name_of(&[accelerators(), Vec::from_iter(processors).join("\n"), cores.to_string(), visible])
}

fn name_of(parts: &[String]) -> String {
    hex(Sha256::digest(parts.join("\n\n")))[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_kept_apart_by_model_shape_and_machine() {
        let folder = |sha: &str, shape: &str, machine: &str| engine_folder(Path::new("engines"), sha, shape, machine);
        let base = folder("ab", "patches:128x15x64x64", "H100 590.1 libnvinfer.so.10.13");
        assert_eq!(base, folder("ab", "patches:128x15x64x64", "H100 590.1 libnvinfer.so.10.13"));
        assert_eq!(base.parent(), Some(Path::new("engines")));
        for other in [
            folder("cd", "patches:128x15x64x64", "H100 590.1 libnvinfer.so.10.13"),
            folder("ab", "patches:128x3x64x64", "H100 590.1 libnvinfer.so.10.13"),
            folder("ab", "patches:128x15x64x64", "H100 590.1 libnvinfer.so.10.14"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_machine_has_one_name_and_another_card_or_processor_another() {
        assert_eq!(machine(), machine());
        assert!(machine().len() == 16 && machine().bytes().all(|digit| digit.is_ascii_hexdigit()));
        let of = |cards: &str, processor: &str, cores: &str| name_of(&[cards, processor, cores].map(str::to_owned));
        let base = of("H100", "EPYC", "8");
        assert!([of("H200", "EPYC", "8"), of("H100", "Xeon", "8"), of("H100", "EPYC", "4")].iter().all(|o| *o != base));
    }

    #[test]
    fn names_in_the_configuration_are_those_that_are_told() {
        for provider in [Provider::TensorRt, Provider::Cuda, Provider::Cpu] {
            assert_eq!(serde_json::to_value(provider).expect("text"), provider.to_string());
        }
    }
}
