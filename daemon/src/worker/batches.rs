//! Batch sizes that were measured, kept so that a model is measured once on a machine. The file is a hint: a batch of that
//! size is compared with patches alone all the same.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use tissuemap::durable::write_file;
use tissuemap::infer::batch_key;
use tissuemap::untrusted;

use crate::job::ModelInfo;

/// The file, JSON: patches per call by [`tissuemap::infer::batch_key`].
pub(super) struct Batches(pub(super) PathBuf);

/// Sizes that are kept: some hundred bytes each.
const MOST: usize = 256;
const MOST_BYTES: u64 = 1 << 20;

impl Batches {
    /// What is known; nothing where the file is missing or damaged: then it is measured again.
    pub(super) fn read(&self) -> BTreeMap<String, usize> {
        let text = match untrusted::read(&self.0, MOST_BYTES) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return BTreeMap::new(),
            Err(error) => {
                tracing::warn!(reason = %error, "Batch sizes not read; they are measured again");
                return BTreeMap::new();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(file = %self.0.display(), reason = %error, "Batch sizes damaged; they are measured again");
            BTreeMap::new()
        })
    }

    /// Adds a size. Failing to is only worth a warning: the next start measures again.
    pub(super) fn store(&self, model: &ModelInfo, machine: &str, batch: usize) {
        let mut known = self.read();
        let key = batch_key(&model.sha256, model.provider, machine);
        if known.insert(key.clone(), batch) == Some(batch) {
            return;
        }
        // Of models and machines that are gone; nobody knows which.
        if known.len() > MOST {
            known = BTreeMap::from([(key, batch)]);
        }
        let written =
            serde_json::to_vec_pretty(&known).map_err(io::Error::from).and_then(|text| write_file(&self.0, &text));
        if let Err(error) = written {
            tracing::warn!(file = %self.0.display(), reason = %error, "Batch size not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tissuemap::infer::Provider;

    use super::*;

    #[test]
    fn sizes_are_kept_by_model_provider_and_machine_and_a_damaged_file_is_started_anew() {
        let folder = tempfile::tempdir().expect("tempdir");
        let batches = Batches(folder.path().join("batches.json"));
        let model = |provider| ModelInfo {
            path: "m.onnx".into(),
            sha256: "ab".into(),
            stains: vec![],
            provider,
            revision: None,
            golden: String::new(),
        };
        batches.store(&model(Provider::Cpu), "epyc", 16);
        batches.store(&model(Provider::Cuda), "h100", 128);
        batches.store(&model(Provider::Cuda), "h200", 64);
        let known = [("ab-cpu-epyc", 16), ("ab-cuda-h100", 128), ("ab-cuda-h200", 64)];
        assert_eq!(batches.read(), known.into_iter().map(|(key, size)| (key.to_owned(), size)).collect());
        fs::write(&batches.0, "{\"ab-c").expect("write");
        assert!(batches.read().is_empty());
        batches.store(&model(Provider::Cpu), "epyc", 32);
        assert_eq!(batches.read(), BTreeMap::from([("ab-cpu-epyc".to_owned(), 32)]));
        (0..300).for_each(|i| batches.store(&model(Provider::Cpu), &format!("machine {i}"), 8));
        assert!(batches.read().len() <= MOST, "the file does not grow without bound");
    }
}
