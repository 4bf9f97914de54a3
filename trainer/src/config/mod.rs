//! The configuration: a TOML file. Every key has a default; unknown keys and impossible values are refused.

mod cluster_range;
mod network;
mod sections;
#[cfg(test)]
mod tests;
mod validate;

use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use tissuemap::contract::StainSpec;
use tissuemap::patches::PatchSpec;
use tissuemap::road::Layout;
use tissuemap::section_set::NamingRules;

pub use self::cluster_range::{ClusterRange, cluster_range};
pub use self::network::{AutoencoderShape, LossWeights};
pub use self::sections::{
    AugmentConfig, AutoencoderConfig, ImsatConfig, JointConfig, PatchConfig, SetFolder, SweepConfig,
};
use tissuemap::untrusted::{self, Bounded};

use crate::system::error::TrainError;

/// The commented default configuration, as `tissuemap-train config` prints it. A test holds it equal to
/// [`Config::default`].
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// The value of [`Config::clusters`] if the sweep chooses the number; "auto" in the file.
pub const AUTO: u32 = 0;

/// White, like glass. Training uses complete sets only, so the value does not matter there.
const MISSING_STAIN_FILL: [u8; 3] = [255; 3];

/// Everything that determines the result of a fit. `default.toml` explains the fields and their units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Config {
    pub seed: u64,
    #[serde(deserialize_with = "clusters_or_auto")]
    pub clusters: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    pub cpu_threads: u32,
    pub checkpoint_every_epochs: u32,
    pub context_cells: f64,
    pub reference: String,
    pub sets: Vec<SetFolder>,
    pub stains: Vec<StainSpec>,
    pub naming: NamingRules,
    pub patches: PatchConfig,
    pub augment: AugmentConfig,
    pub autoencoder: AutoencoderConfig,
    pub imsat: ImsatConfig,
    pub joint: JointConfig,
    pub sweep: SweepConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            clusters: AUTO,
            revision: None,
            cpu_threads: 2,
            checkpoint_every_epochs: 5,
            context_cells: 1.0,
            reference: "HE".to_owned(),
            sets: vec![SetFolder { folder: "slides".into(), manifest: None, mpp: None, held_out: false }],
            stains: vec![StainSpec { name: "HE".to_owned(), aliases: vec!["H&E".to_owned()] }],
            naming: NamingRules::default(),
            patches: PatchConfig::default(),
            augment: AugmentConfig::default(),
            autoencoder: AutoencoderConfig::default(),
            imsat: ImsatConfig::default(),
            joint: JointConfig::default(),
            sweep: SweepConfig::default(),
        }
    }
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`TrainError::Config`] if the file cannot be read, is not TOML, has unknown keys or impossible values.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let refuse = |reason: String| TrainError::Config { path: path.to_owned(), reason };
        let text = untrusted::open_named(path, untrusted::SMALL).and_then(Bounded::text);
        let text = text.map_err(|e| refuse(e.to_string()))?;
        for note in old_names(&text) {
            tracing::warn!("configuration {}: {note}", path.display());
        }
        let config: Self = toml::from_str(&text).map_err(|e| refuse(toml_error_line(&text, &e)))?;
        config.validate().map_err(refuse)?;
        Ok(config)
    }

    /// What the pipeline needs to cut the patches of this model.
    pub fn layout(&self) -> Layout {
        let PatchConfig { mpp, patch_px, stride_px, min_tissue_fraction, .. } = self.patches;
        Layout {
            stains: self.stains.clone(),
            reference: self.reference.clone(),
            spec: PatchSpec { mpp, patch_px, stride_px },
            min_tissue_fraction,
            missing_stain_fill: MISSING_STAIN_FILL,
        }
    }

    /// Whether the clusters of two views are compared, and not only their latent vectors.
    pub(crate) fn uses_view_term(&self) -> bool {
        self.augment.changes() && self.imsat.view_weight > 0.0
    }

    /// Largest distance of neighbouring patches in model pixels. Patches that share an edge or a corner are neighbours.
    pub fn neighbour_radius(&self) -> i64 {
        i64::from(self.patches.patch_px) * 3 / 2
    }

    /// The autoencoder's shape.
    pub fn shape(&self) -> AutoencoderShape {
        AutoencoderShape {
            channels: 3 * self.stains.len() as i64,
            patch_px: i64::from(self.patches.patch_px),
            widths: self.autoencoder.widths.iter().copied().map(i64::from).collect(),
            latent_dim: i64::from(self.autoencoder.latent_dim),
        }
    }
}

/// Keys by their old names, with the table that holds them. Serde reads them by an alias.
const RENAMED_KEYS: [(&str, &str, &str); 1] = [("imsat", "starts", "restarts")];

/// One warning for each key that `text` gives under its old name.
fn old_names(text: &str) -> Vec<String> {
    // A file that is not TOML is refused with its own error.
    let Ok(file) = text.parse::<toml::Table>() else { return Vec::new() };
    let is_given = |table: &str, key: &str| file.get(table).is_some_and(|table| table.get(key).is_some());
    let renamed = RENAMED_KEYS.into_iter().filter(|(table, old, _)| is_given(table, old));
    renamed.map(|(table, old, new)| format!("{table}.{old} is an old name; use {table}.{new}")).collect()
}

/// A number, or "auto".
fn clusters_or_auto<'de, D: serde::Deserializer<'de>>(deserialiser: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Word(String),
    }
    match Written::deserialize(deserialiser)? {
        Written::Number(number) => Ok(number),
        Written::Word(word) if word == "auto" => Ok(AUTO),
        Written::Word(word) => Err(D::Error::custom(format!("clusters = {word:?} must be a number or \"auto\""))),
    }
}

/// `line 3: unknown field …` instead of an excerpt over several lines.
pub(crate) fn toml_error_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', "; ");
    match error.span() {
        Some(span) => format!("line {}: {message}", text[..span.start].matches('\n').count() + 1),
        None => message,
    }
}
