//! Batch sizes that were measured, kept so that a model is measured once on a machine.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::protocol::batch_key;
use crate::job::ModelInfo;

/// The file, JSON: `{"<sha256 of the model>-<provider>": patches per call}`.
pub(super) struct Batches(pub(super) PathBuf);

impl Batches {
    /// What is known; nothing where the file is missing or damaged: then it is measured again.
    pub(super) fn read(&self) -> BTreeMap<String, usize> {
        fs::read(&self.0).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Adds a size. Failing to is only worth a warning: the next start measures again.
    pub(super) fn store(&self, model: &ModelInfo, batch: usize) {
        let mut known = self.read();
        if known.insert(batch_key(&model.sha256, model.provider), batch) == Some(batch) {
            return;
        }
        let write = || -> io::Result<()> {
            let unfinished = self.0.with_extension("new");
            fs::write(&unfinished, serde_json::to_vec_pretty(&known)?)?;
            fs::rename(unfinished, &self.0)
        };
        if let Err(error) = write() {
            tracing::warn!(file = %self.0.display(), reason = %error, "Batch size not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use tissuemap::infer::Provider;

    use super::*;

    #[test]
    fn sizes_are_kept_by_model_and_provider_and_a_damaged_file_is_started_anew() {
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
        batches.store(&model(Provider::Cpu), 16);
        batches.store(&model(Provider::Cuda), 128);
        assert_eq!(batches.read(), BTreeMap::from([("ab-cpu".to_owned(), 16), ("ab-cuda".to_owned(), 128)]));
        fs::write(&batches.0, "{\"ab-c").expect("write");
        assert!(batches.read().is_empty());
        batches.store(&model(Provider::Cpu), 32);
        assert_eq!(batches.read(), BTreeMap::from([("ab-cpu".to_owned(), 32)]));
    }
}
