//! `[models]`: where models arrive, and which of them may serve.

use std::path::{Path, PathBuf};
use std::time::Duration;

use minisign_verify::PublicKey;
use serde::Deserialize;

/// The section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// Where models are dropped; see [`super::Config::model_folder`].
    pub folder: Option<PathBuf>,
    /// A model is taken for complete when it has not changed for so long.
    pub settle_seconds: u64,
    /// A model is on trial until a job succeeds; if so many sets fail before that, it is rolled back. 0: never.
    pub canary_jobs: u32,
    /// Public keys of minisign. With at least one, a model needs a signature by one of them.
    pub trusted_keys: Vec<String>,
    /// So many models that do not serve are kept, the newest; besides, those to which a rollback would go back.
    pub keep: usize,
    /// Sets scanned within so many days are processed again where another model made their results. 0: none.
    pub reprocess_days: u32,
}

impl Default for Models {
    /// A model is a few megabytes: ten seconds without a change are a long time for its copy. Three sets of which none can
    /// be processed are hardly all damaged.
    fn default() -> Self {
        Self { folder: None, settle_seconds: 10, canary_jobs: 3, trusted_keys: Vec::new(), keep: 8, reprocess_days: 0 }
    }
}

impl Models {
    /// [`Models::settle_seconds`] as a duration.
    pub fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_seconds)
    }

    /// How far back sets are processed again; `None` where none are.
    pub fn reprocess(&self) -> Option<Duration> {
        (self.reprocess_days > 0).then(|| Duration::from_hours(24 * u64::from(self.reprocess_days)))
    }

    /// The trusted keys; those that are none are left out, which the configuration was checked for.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.trusted_keys.iter().filter_map(|key| PublicKey::from_base64(key).ok()).collect()
    }

    pub(super) fn resolve(&mut self, folder: &Path) {
        self.folder = self.folder.as_ref().map(|models| folder.join(models));
    }

    /// The key that cannot be used, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.settle_seconds == 0 {
            return Some(("models.settle_seconds", "must be at least 1"));
        }
        let wrong = self.trusted_keys.iter().any(|key| PublicKey::from_base64(key).is_err());
        wrong.then_some(("models.trusted_keys", "must hold public keys of minisign: the second line of a .pub file"))
    }
}
