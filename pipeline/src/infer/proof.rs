//! The proof that a model may serve on this machine, step by step.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{InferOptions, Model, ModelError, Provider, read};

/// What a proof is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofStep {
    /// The bytes are checked, and the contract is read.
    Preflight,
    /// ONNX Runtime builds the graph; TensorRT compiles it for minutes, once.
    Load,
    /// The golden patches are repeated.
    Golden,
    /// Batches of several sizes are compared with patches alone, and timed.
    Batch,
}

impl ProofStep {
    /// The word that status, log and faults show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Load => "load",
            Self::Golden => "golden",
            Self::Batch => "batch",
        }
    }
}

/// How a model is proved.
pub struct Proving<'a> {
    /// Whether batch sizes are measured. Otherwise, and where one is known, only that size is tried.
    pub measure: bool,
    /// Patches per call that were measured before, by [`batch_key`].
    pub known: &'a BTreeMap<String, usize>,
    /// What this machine is called in these keys: [`super::machine`].
    pub machine: &'a str,
    /// Hears of each step as it begins.
    pub tell: &'a dyn Fn(ProofStep),
}

/// What the best batch size depends on: a model, by the hash of its file, what computes, and the machine.
pub fn batch_key(model_sha256: &str, provider: Provider, machine: &str) -> String {
    format!("{model_sha256}-{provider}-{machine}")
}

impl Model {
    /// Reads a model file and lets it prove itself, on the first of the providers where that succeeds: golden patches come
    /// out as they did on the trainer's machine, and in the batch size that will be used, patches get what they get alone.
    /// Providers that were passed over are told in the log, with the reason.
    ///
    /// # Errors
    /// As [`Model::from_bytes`] and [`Model::verify_golden`], or [`ModelError::BatchDependent`], on the last of the
    /// providers.
    pub fn load_proven(path: &Path, options: &InferOptions, proving: &Proving) -> Result<Self, ModelError> {
        Self::open(&read(path)?, path, options, proving.tell, |model| {
            (proving.tell)(ProofStep::Golden);
            let (report, alone) = model.repeat_golden()?;
            model.proof = Some(report);
            (proving.tell)(ProofStep::Batch);
            let alone = model.alone(alone)?;
            let key = batch_key(&model.sha256, model.provider, proving.machine);
            match proving.known.get(&key).filter(|&&size| super::batch::is_size(size)) {
                Some(&size) => model.set_batch(size, &alone),
                None if proving.measure => {
                    let measured = model.measure_batch(&alone)?;
                    let speeds: Vec<String> = measured.iter().map(|(n, speed)| format!("{n}: {speed:.0}/s")).collect();
                    tracing::info!(patches_per_second = speeds.join(", "), "Batch sizes measured");
                    Ok(())
                }
                None => model.set_batch(model.batch, &alone),
            }
        })
    }
}
