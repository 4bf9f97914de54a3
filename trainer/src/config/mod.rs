//! The training configuration: one TOML file, every key with a default, unknown keys and nonsense refused.

mod cluster_range;
mod network;
mod sections;
#[cfg(test)]
mod tests;
mod validate;

use std::fs;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use tissuemap::contract::StainSpec;
use tissuemap::patches::PatchSpec;
use tissuemap::road::Layout;
use tissuemap::section_set::NamingRules;

pub use self::cluster_range::{ClusterRange, cluster_range};
pub use self::network::{Shape, Weights};
pub use self::sections::{AugmentConfig, AutoencoderConfig, ImsatConfig, JointConfig, Patches, SetFolder, SweepConfig};
use crate::system::error::TrainError;

/// The commented default configuration, as `tissuemap-train config` prints it. A test holds it equal to
/// [`Config::default`].
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// [`Config::clusters`] that are not given: the sweep chooses them. "auto" in the file.
pub const AUTO: u32 = 0;

/// White, as glass. Training leaves incomplete sets out, so this only has to be harmless.
const MISSING_STAIN_FILL: [u8; 3] = [255; 3];

/// Everything that decides what a fit produces. Field meanings and units: `default.toml`.
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
    pub patches: Patches,
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
            patches: Patches::default(),
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
    /// [`TrainError::Config`] when the file cannot be read, is no TOML, has unknown keys, or asks for nonsense.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let refuse = |reason: String| TrainError::Config { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
        let config: Self = toml::from_str(&text).map_err(|e| refuse(in_one_line(&text, &e)))?;
        config.validate().map_err(refuse)?;
        Ok(config)
    }

    /// What the pipeline must know to cut this model's patches.
    pub fn layout(&self) -> Layout {
        let Patches { mpp, patch_px, stride_px, min_tissue_fraction, .. } = self.patches;
        Layout {
            stains: self.stains.clone(),
            reference: self.reference.clone(),
            spec: PatchSpec { mpp, patch_px, stride_px },
            min_tissue_fraction,
            missing_stain_fill: MISSING_STAIN_FILL,
        }
    }

    /// Whether clusters, and not only latents, are made to agree between views.
    pub(crate) fn views_decide(&self) -> bool {
        self.augment.changes() && self.imsat.view_weight > 0.0
    }

    /// How far apart patches are neighbours, in model pixels: those side by side are, and those across a corner.
    pub fn neighbour_radius(&self) -> i64 {
        i64::from(self.patches.patch_px) * 3 / 2
    }

    /// The autoencoder's shape.
    pub fn shape(&self) -> Shape {
        Shape {
            channels: 3 * self.stains.len() as i64,
            patch_px: i64::from(self.patches.patch_px),
            widths: self.autoencoder.widths.iter().copied().map(i64::from).collect(),
            latent_dim: i64::from(self.autoencoder.latent_dim),
        }
    }
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
pub(crate) fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', "; ");
    match error.span() {
        Some(span) => format!("line {}: {message}", text[..span.start].matches('\n').count() + 1),
        None => message,
    }
}
