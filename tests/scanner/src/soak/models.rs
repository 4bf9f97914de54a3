//! Models that are dropped while sets are processed: good ones that must serve, and bad ones that must not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use prost::Message;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tissuemap::contract::onnx::ModelProto;
use tissuemap::contract::{ModelContract, example};
use tissuemap::units::Mpp;

use super::book::Book;
use super::site::Site;
use super::tissue::{MPP, STAINS};
use crate::template::sha256;

/// How long a model may take until it serves or is refused, kills of its worker included.
const PATIENCE: Duration = Duration::from_mins(2);

/// The models that were dropped.
#[derive(Default)]
pub(super) struct Models {
    good: Mutex<BTreeSet<String>>,
}

/// An example model that no other is equal to.
fn model(number: u64) -> anyhow::Result<ModelProto> {
    let stains = STAINS.map(|(name, _)| name);
    let mut model = example::model(&stains, 8, Mpp::new(MPP)?, 2 + (number % 5) as u8);
    let mut contract = ModelContract::read(&model)?;
    contract.training = json!({ "example": number });
    contract.write(&mut model);
    Ok(model)
}

impl Models {
    /// Drops a good model.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn drop_good(&self, site: &Site, number: u64) -> anyhow::Result<String> {
        let bytes = model(number)?.encode_to_vec();
        let hash = sha256(&bytes);
        self.good.lock().unwrap_or_else(PoisonError::into_inner).insert(hash.clone());
        put(&site.models().join(format!("good{number}.onnx")), &bytes)?;
        Ok(hash)
    }

    /// Whether this is the hash of a model that may serve.
    pub(super) fn is_good(&self, sha256: &str) -> bool {
        self.good.lock().unwrap_or_else(PoisonError::into_inner).contains(sha256)
    }

    /// Drops a good model and waits until it serves.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn exchange(&self, site: &Site, book: &Book, number: u64) -> anyhow::Result<String> {
        let hash = self.drop_good(site, number)?;
        let serves = || {
            let memory = fs::read(site.state().join("models.json")).unwrap_or_default();
            let memory: Value = serde_json::from_slice(&memory).unwrap_or_default();
            let mut rows = memory["rows"].as_array().into_iter().flatten();
            rows.any(|row| row["sha256"] == hash.as_str() && row["state"] == "active")
        };
        if !wait_for(serves) {
            book.wrong(format!("the good model good{number}.onnx does not serve after {} s", PATIENCE.as_secs()));
        }
        fs::remove_file(site.models().join(format!("good{number}.onnx")))?;
        Ok(format!("good model {number}"))
    }

    /// Drops a bad model and waits until it lies among the refused ones.
    ///
    /// # Errors
    /// It cannot be written.
    #[allow(clippy::unused_self, reason = "called like the others that drop models")]
    pub(super) fn offer_bad(
        &self,
        site: &Site,
        book: &Book,
        number: u64,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<String> {
        let mut model = model(number)?;
        let (kind, content) = match rng.random_range(0..3) {
            0 => {
                let mut noise = vec![0; 5000];
                rng.fill(&mut noise[..]);
                ("noise", noise)
            }
            1 => {
                let mut half = model.encode_to_vec();
                half.truncate(half.len() / 2);
                ("half", half)
            }
            _ => {
                let mut tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
                let weights =
                    tensors.find(|tensor| tensor.name() == "weights").and_then(|tensor| tensor.raw_data.as_mut());
                // The first weight's sign.
                weights.context("the example has weights")?[3] ^= 0x80;
                ("changed", model.encode_to_vec())
            }
        };
        let name = format!("bad{number}.onnx");
        put(&site.models().join(&name), &content)?;
        let rejected = site.models().join("rejected");
        if !wait_for(|| rejected.join(&name).exists()) {
            book.wrong(format!("the bad model {name} ({kind}) is not refused after {} s", PATIENCE.as_secs()));
        }
        // A person looks at what was refused and throws it away.
        let _ = fs::remove_file(site.models().join(&name));
        for entry in fs::read_dir(&rejected).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        Ok(format!("bad model {number} ({kind})"))
    }
}

/// Appears whole, by a rename.
fn put(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let unfinished: PathBuf = path.with_extension("part");
    fs::write(&unfinished, content)
        .and_then(|()| fs::rename(&unfinished, path))
        .with_context(|| path.display().to_string())
}

fn wait_for(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}
