//! The training configuration: one TOML file, every key with a default, unknown keys and nonsense refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use tissuemap::contract::{MAX_CLUSTERS, MAX_LATENT, MOST_CONTEXT_CELLS, PATCH_PX, StainSpec};
use tissuemap::patches::PatchSpec;
use tissuemap::road::Layout;
use tissuemap::section_set::NamingRules;
use tissuemap::units::Mpp;

use crate::autoencoder::Shape;
use crate::error::TrainError;
use crate::imsat::Weights;
use crate::sweep::ClusterRange;

/// The commented default configuration, as `tissuemap-train config` prints it. A test holds it equal to
/// [`Config::default`].
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// [`Config::clusters`] that are not given: the sweep chooses them. "auto" in the file.
pub const AUTO: u32 = 0;

/// White, as glass. Training leaves incomplete sets out, so this only has to be harmless.
const MISSING_STAIN_FILL: [u8; 3] = [255; 3];
/// Patches per cluster below which the batch mean is no estimate of the marginal distribution.
const BATCH_PER_CLUSTER: u32 = 8;

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

/// A folder of slides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SetFolder {
    pub folder: PathBuf,
    pub manifest: Option<PathBuf>,
    pub mpp: Option<Mpp>,
    #[serde(default)]
    pub held_out: bool,
}

/// Where patches lie, how large they are, how many are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Patches {
    pub patch_px: u32,
    pub stride_px: u32,
    pub mpp: Mpp,
    pub per_set: u32,
    pub held_out_fraction: f64,
    pub min_tissue_fraction: f32,
}

/// What may change about a patch without its being other tissue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AugmentConfig {
    pub rotations: bool,
    pub flips: bool,
    pub shift_px: u32,
    pub stain_jitter: f64,
    pub hue_jitter: f64,
    pub neighbours: f64,
}

impl AugmentConfig {
    /// Whether another view of a patch can differ from it.
    pub fn changes(&self) -> bool {
        let amounts = [self.stain_jitter, self.hue_jitter, self.neighbours];
        self.rotations || self.flips || self.shift_px > 0 || amounts.iter().any(|&amount| amount > 0.0)
    }
}

/// Shape and training of the autoencoder alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AutoencoderConfig {
    pub widths: Vec<u32>,
    pub latent_dim: u32,
    pub epochs: u32,
    pub batch: u32,
    pub learning_rate: f64,
    pub invariance_weight: f64,
    pub redundancy_weight: f64,
}

/// Shape and training of the clusterer on the frozen latent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ImsatConfig {
    pub hidden: Vec<u32>,
    pub starts: u32,
    pub epochs: u32,
    pub batch: u32,
    pub learning_rate: f64,
    pub lambda: f64,
    pub mu: f64,
    pub xi: f64,
    pub radius_factor: f64,
    pub neighbour: u32,
    pub views: u32,
    pub view_weight: f64,
}

/// Fine-tuning of both together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct JointConfig {
    pub epochs: u32,
    pub batch: u32,
    pub learning_rate: f64,
    pub reconstruction_weight: f64,
    pub imsat_weight: f64,
}

/// The fits from which the number of clusters is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct SweepConfig {
    pub clusters: ClusterRange,
    pub seeds: u32,
    pub hidden: Vec<u32>,
    pub epochs: u32,
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

impl Default for Patches {
    fn default() -> Self {
        Self {
            patch_px: 64,
            stride_px: 64,
            mpp: default_mpp(),
            per_set: 2000,
            held_out_fraction: 0.1,
            min_tissue_fraction: 0.5,
        }
    }
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { rotations: true, flips: true, shift_px: 8, stain_jitter: 0.06, hue_jitter: 0.1, neighbours: 0.0 }
    }
}

impl Default for AutoencoderConfig {
    fn default() -> Self {
        Self {
            widths: vec![32, 64, 128, 128],
            latent_dim: 32,
            epochs: 50,
            batch: 128,
            learning_rate: 0.001,
            invariance_weight: 1.0,
            redundancy_weight: 0.01,
        }
    }
}

impl Default for ImsatConfig {
    fn default() -> Self {
        Self {
            hidden: Vec::new(),
            starts: 20,
            epochs: 50,
            batch: 250,
            learning_rate: 0.002,
            lambda: 0.1,
            mu: 4.0,
            xi: 10.0,
            radius_factor: 0.25,
            neighbour: 10,
            views: 8,
            view_weight: 0.0,
        }
    }
}

impl Default for JointConfig {
    fn default() -> Self {
        Self { epochs: 20, batch: 250, learning_rate: 0.0005, reconstruction_weight: 1.0, imsat_weight: 1.0 }
    }
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self { clusters: ClusterRange { first: 2, last: 20 }, seeds: 3, hidden: Vec::new(), epochs: 40 }
    }
}

impl ImsatConfig {
    /// As in Hu et al. 2017: two hidden layers, and one start.
    pub fn published() -> Self {
        Self { hidden: vec![1200, 1200], starts: 1, ..Self::default() }
    }

    /// Of the loss's terms.
    pub fn weights(&self) -> Weights {
        Weights { lambda: self.lambda, mu: self.mu, xi: self.xi, view: self.view_weight }
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

    /// Refuses what cannot be trained, with the key and the reason.
    ///
    /// # Errors
    /// The reason.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_inputs()?;
        let AutoencoderConfig { widths, latent_dim, .. } = &self.autoencoder;
        positive("checkpoint_every_epochs", self.checkpoint_every_epochs)?;
        within("cpu_threads", self.cpu_threads, 1, 1024)?;
        require((0.0..=MOST_CONTEXT_CELLS).contains(&self.context_cells), || {
            format!("context_cells = {} must lie between 0 and {MOST_CONTEXT_CELLS}", self.context_cells)
        })?;
        if self.clusters != AUTO {
            within("clusters", self.clusters, 2, MAX_CLUSTERS)?;
        }
        self.validate_sweep()?;
        within("autoencoder.latent_dim", *latent_dim, 2, MAX_LATENT)?;
        positive("autoencoder.epochs", self.autoencoder.epochs)?;
        within("autoencoder.batch", self.autoencoder.batch, 2, 1 << 16)?;
        positive("imsat.epochs", self.imsat.epochs)?;
        within("imsat.starts", self.imsat.starts, 1, 1000)?;
        positive("imsat.neighbour", self.imsat.neighbour)?;
        require(!widths.is_empty(), || "autoencoder.widths is empty".to_owned())?;
        for &width in widths.iter().chain(&self.imsat.hidden) {
            within("a value of autoencoder.widths or imsat.hidden", width, 1, 1 << 14)?;
        }
        let step = 1u64 << widths.len().min(63);
        let side = self.patches.patch_px;
        require(u64::from(side).is_multiple_of(step), || {
            let count = widths.len();
            format!("patches.patch_px = {side} cannot be halved {count} times, once per autoencoder width")
        })?;
        let AugmentConfig { shift_px, stain_jitter, hue_jitter, neighbours, .. } = self.augment;
        require(shift_px < side, || {
            format!("augment.shift_px = {shift_px} must be less than patches.patch_px = {side}")
        })?;
        for (key, value, most) in [
            ("augment.stain_jitter", stain_jitter, 0.5),
            ("augment.hue_jitter", hue_jitter, 0.5),
            ("augment.neighbours", neighbours, 1.0),
        ] {
            require((0.0..=most).contains(&value), || format!("{key} = {value} must lie between 0 and {most}"))?;
        }
        positive("imsat.views", self.imsat.views)?;
        let fewest = BATCH_PER_CLUSTER * self.most_clusters();
        for (key, batch) in [("imsat.batch", self.imsat.batch), ("joint.batch", self.joint.batch)] {
            require(batch >= fewest, || {
                format!("{key} = {batch} is less than {BATCH_PER_CLUSTER} patches per cluster ({fewest})")
            })?;
        }
        for (key, value) in [
            ("autoencoder.invariance_weight", self.autoencoder.invariance_weight),
            ("autoencoder.redundancy_weight", self.autoencoder.redundancy_weight),
            ("imsat.view_weight", self.imsat.view_weight),
        ] {
            require(value.is_finite() && value >= 0.0, || format!("{key} = {value} must be 0 or above"))?;
        }
        for (key, value) in [
            ("autoencoder.learning_rate", self.autoencoder.learning_rate),
            ("imsat.learning_rate", self.imsat.learning_rate),
            ("joint.learning_rate", self.joint.learning_rate),
            ("imsat.lambda", self.imsat.lambda),
            ("imsat.mu", self.imsat.mu),
            ("imsat.xi", self.imsat.xi),
            ("imsat.radius_factor", self.imsat.radius_factor),
            ("joint.reconstruction_weight", self.joint.reconstruction_weight),
            ("joint.imsat_weight", self.joint.imsat_weight),
        ] {
            require(value.is_finite() && value > 0.0, || format!("{key} = {value} must be a number above 0"))?;
        }
        Ok(())
    }

    /// The largest number of clusters that is fitted.
    fn most_clusters(&self) -> u32 {
        if self.clusters == AUTO { self.sweep.clusters.last } else { self.clusters }
    }

    fn validate_sweep(&self) -> Result<(), String> {
        let SweepConfig { clusters, seeds, hidden, epochs } = &self.sweep;
        within("the last number of sweep.clusters", clusters.last, 3, MAX_CLUSTERS)?;
        within("sweep.seeds", *seeds, 2, 1000)?;
        positive("sweep.epochs", *epochs)?;
        hidden.iter().try_for_each(|&width| within("a value of sweep.hidden", width, 1, 1 << 14))
    }

    fn validate_inputs(&self) -> Result<(), String> {
        require(!self.sets.is_empty(), || {
            "sets is empty: add at least one [[sets]] with a folder of slides".to_owned()
        })?;
        require(self.sets.iter().any(|from| !from.held_out), || {
            "every one of the sets is held_out: none is left to train on".to_owned()
        })?;
        require(!self.stains.is_empty(), || "stains is empty".to_owned())?;
        for (i, stain) in self.stains.iter().enumerate() {
            let name = &stain.name;
            require(!name.trim().is_empty(), || format!("stain number {} has no name", i + 1))?;
            let twice = self.stains[..i].iter().any(|other| other.name.eq_ignore_ascii_case(name));
            require(!twice, || format!("stain {name:?} is listed twice"))?;
        }
        require(self.stains.iter().any(|stain| stain.name == self.reference), || {
            format!("reference = {:?} is not one of the stains", self.reference)
        })?;
        let patches = &self.patches;
        within("patches.patch_px", patches.patch_px, *PATCH_PX.start(), *PATCH_PX.end())?;
        // A larger stride would leave tissue that no patch sees.
        within("patches.stride_px", patches.stride_px, 1, patches.patch_px)?;
        positive("patches.per_set", patches.per_set)?;
        let held_out = patches.held_out_fraction;
        require(held_out > 0.0 && held_out <= 0.5, || {
            format!("patches.held_out_fraction = {held_out} must be above 0 and at most 0.5")
        })?;
        let tissue = patches.min_tissue_fraction;
        require(tissue > 0.0 && tissue <= 1.0, || {
            format!("patches.min_tissue_fraction = {tissue} must be above 0 and at most 1")
        })
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

/// A tenfold objective: shows glands and nuclei at a fraction of a full scan's data.
fn default_mpp() -> Mpp {
    Mpp::new(1.0).unwrap_or_else(|_| unreachable!("1 lies within Mpp::PLAUSIBLE"))
}

/// `line 3: unknown field …` instead of an excerpt over several lines.
pub(crate) fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', "; ");
    match error.span() {
        Some(span) => format!("line {}: {message}", text[..span.start].matches('\n').count() + 1),
        None => message,
    }
}

fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

fn within(key: &str, value: u32, least: u32, most: u32) -> Result<(), String> {
    require((least..=most).contains(&value), || format!("{key} = {value} must lie between {least} and {most}"))
}

fn positive(key: &str, value: u32) -> Result<(), String> {
    require(value > 0, || format!("{key} must be at least 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_configuration_is_the_default() {
        let parsed: Config = toml::from_str(DEFAULT_TOML).expect("parses");
        assert_eq!(parsed, Config::default());
        // Every key is there to be seen, not only defaulted.
        let keys = |value: &toml::Value| value.as_table().map(|t| t.keys().cloned().collect::<Vec<_>>());
        let printed: toml::Value = toml::from_str(DEFAULT_TOML).expect("parses");
        let complete = toml::Value::try_from(Config::default()).expect("serialises");
        assert_eq!(keys(&printed), keys(&complete));
        for (name, section) in complete.as_table().expect("table") {
            assert_eq!(keys(&printed[name.as_str()]), keys(section), "[{name}]");
        }
    }

    #[test]
    fn commented_keys_parse() {
        let uncommented = DEFAULT_TOML.replace("# manifest =", "manifest =").replace("# mpp =", "mpp =");
        let uncommented = uncommented.replace("# held_out =", "held_out =").replace("# revision =", "revision =");
        let config: Config = toml::from_str(&uncommented).expect("parses");
        assert_eq!(config.revision, Some(1));
        let SetFolder { manifest, mpp, held_out, .. } = &config.sets[0];
        assert!(manifest.is_some() && mpp.is_some() && *held_out);
    }

    #[test]
    fn defaults_are_accepted_and_make_a_shape() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert_eq!(Config::default().shape().inner_px(), 4);
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in ["clutsers = 3", "[imsat]\nbeta = 1.0", "[[sets]]\nfolder = \"a\"\nmmp = 1.0"] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_reported_in_one_line_with_its_number() {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), "seed = 1\n\n[imsat]\nlamda = 2\n").expect("written");
        let text = Config::read(file.path()).expect_err("misspelt").to_string();
        assert!(text.contains("line 4: unknown field `lamda`") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn nonsense_is_refused_with_key_and_reason() {
        type Spoil = fn(&mut Config);
        let cases: [(Spoil, &str); 17] = [
            (|c| c.sets.clear(), "sets is empty"),
            (|c| c.sets[0].held_out = true, "none is left to train on"),
            (|c| c.stains.clear(), "stains is empty"),
            (|c| c.stains.push(c.stains[0].clone()), "listed twice"),
            (|c| c.reference = "CD31".into(), "not one of the stains"),
            (|c| c.clusters = 1, "clusters = 1"),
            (|c| c.imsat.starts = 0, "imsat.starts = 0"),
            (|c| c.patches.patch_px = 72, "cannot be halved 4 times"),
            (|c| c.patches.stride_px = 65, "patches.stride_px = 65"),
            (|c| c.patches.held_out_fraction = 0.0, "held_out_fraction"),
            (|c| c.patches.held_out_fraction = f64::NAN, "held_out_fraction"),
            (|c| (c.clusters, c.imsat.batch) = (8, 60), "less than 8 patches per cluster (64)"),
            (|c| c.imsat.batch = 159, "less than 8 patches per cluster (160)"),
            (|c| c.sweep.seeds = 1, "sweep.seeds = 1"),
            (|c| c.imsat.mu = -1.0, "imsat.mu"),
            (|c| c.joint.learning_rate = f64::INFINITY, "joint.learning_rate"),
            (|c| c.autoencoder.widths.clear(), "widths is empty"),
        ];
        for (spoil, expected) in cases {
            let mut config = Config::default();
            spoil(&mut config);
            let reason = config.validate().expect_err(expected);
            assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
        }
        assert!(toml::from_str::<Config>("[patches]\nmpp = 0.0").is_err());
        assert!(toml::from_str::<Config>("[sweep]\nclusters = \"9-4\"").is_err());
    }

    #[test]
    fn the_number_of_clusters_is_a_number_or_auto() {
        let clusters = |text: &str| toml::from_str::<Config>(text).map(|config| config.clusters).ok();
        assert_eq!(clusters("clusters = 13"), Some(13));
        assert_eq!(
            (clusters("clusters = \"auto\""), clusters("clusters = 0"), clusters("")),
            (Some(0), Some(0), Some(0))
        );
        assert_eq!(clusters("clusters = \"many\""), None);
    }
}
