//! The contract as ONNX metadata: one `metadata_props` entry a field, plain text or JSON, keys under `tissuemap.`.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::golden::{Golden, PackedGolden};
use super::onnx::{ModelProto, StringStringEntryProto};
use super::typicality::PackedTypicality;
use super::{CONTRACT_VERSION, ModelContract, PATCH_PX, PreflightError, limits, preflight};

/// What the key of every metadata entry begins with.
pub(super) const KEY_PREFIX: &str = "tissuemap.";

/// Metadata keys, without [`KEY_PREFIX`].
pub(super) mod key {
    pub(in crate::contract) const VERSION: &str = "contract_version";
    pub(in crate::contract) const STAINS: &str = "stains";
    pub(in crate::contract) const REFERENCE: &str = "reference";
    pub(in crate::contract) const PATCH_PX: &str = "patch_px";
    pub(in crate::contract) const STRIDE_PX: &str = "stride_px";
    pub(in crate::contract) const MPP: &str = "mpp";
    pub(in crate::contract) const LATENT_DIM: &str = "latent_dim";
    pub(in crate::contract) const CLUSTERS: &str = "clusters";
    pub(in crate::contract) const BACKGROUND: &str = "background";
    pub(in crate::contract) const MISSING_STAIN_FILL: &str = "missing_stain_fill";
    pub(in crate::contract) const CONTEXT_CELLS: &str = "context_cells";
    pub(in crate::contract) const NOVELTY_THRESHOLD: &str = "novelty_threshold";
    pub(in crate::contract) const TYPICALITY: &str = "typicality";
    pub(in crate::contract) const TRAINING: &str = "training";
    pub(in crate::contract) const GOLDEN: &str = "golden";
}

/// More of a reason that quotes the file is not told.
const MAX_REASON_CHARS: usize = 300;

/// Why the metadata of an otherwise harmless model are no contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// A required key is not there.
    #[error("metadata key {KEY_PREFIX}{key} is missing")]
    Missing { key: &'static str },
    /// A key that this version does not know.
    #[error("metadata key {key} is not part of contract version {CONTRACT_VERSION}")]
    Unknown { key: String },
    /// A contract of another version.
    #[error("contract version {found:?}, this program reads {CONTRACT_VERSION}")]
    Version { found: String },
    /// A value that cannot be read or makes no sense.
    #[error("metadata key {KEY_PREFIX}{key}: {reason}")]
    Value { key: &'static str, reason: String },
    /// A value of more bytes than anything sensible needs.
    #[error("metadata key {KEY_PREFIX}{key} has {found} bytes; at most {most} are allowed")]
    TooLarge { key: &'static str, found: usize, most: usize },
    /// A list of more entries than allowed.
    #[error("metadata key {KEY_PREFIX}{key}: {found} {what}; at most {most} are allowed")]
    TooMany { key: &'static str, what: &'static str, found: usize, most: usize },
    /// A name that fits into no legend.
    #[error(
        "metadata key {KEY_PREFIX}{key}: the name that begins with {begins:?} has {found} characters; at most {} are allowed",
        limits::MAX_NAME_CHARS
    )]
    NameTooLong { key: &'static str, begins: String, found: usize },
    /// A revision that is no number, or so great that no later model could exceed it.
    #[error("metadata key {KEY_PREFIX}training: revision {found} is no whole number of 0 to {}", limits::MAX_REVISION)]
    Revision { found: String },
    /// The metadata say one shape, the graph another.
    #[error("metadata key {KEY_PREFIX}{key} says {contract}, the graph {graph}")]
    GraphMismatch { key: &'static str, contract: u32, graph: u32 },
    /// The graph does not have the contract's input and outputs.
    #[error(transparent)]
    Graph(#[from] PreflightError),
}

impl ContractError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "the file was not written by tissuemap-train",
            Self::Unknown { .. } => "a newer tissuemap may know it",
            Self::Version { .. } => "use the tissuemap release the model was trained with",
            Self::Value { .. } | Self::GraphMismatch { .. } => "export the model again with tissuemap-train",
            Self::TooLarge { .. } | Self::NameTooLong { .. } => "shorten it, and export the model again",
            Self::TooMany { .. } => "leave some out, and export the model again",
            Self::Revision { .. } => "count from 1, or take the date as 20261201, and export the model again",
            Self::Graph(error) => error.hint(),
        }
    }

    /// The stable id of the broken rule.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "contract.missing-key",
            Self::Unknown { .. } => "contract.unknown-key",
            Self::Version { .. } => "contract.version",
            Self::Value { .. } => "contract.bad-value",
            Self::TooLarge { .. } => "contract.too-large",
            Self::TooMany { .. } => "contract.too-many",
            Self::NameTooLong { .. } => "contract.name-too-long",
            Self::Revision { .. } => "contract.revision",
            Self::GraphMismatch { .. } => "contract.graph-mismatch",
            Self::Graph(e) => e.id(),
        }
    }

    fn value(key: &'static str, reason: impl Into<String>) -> Self {
        Self::Value { key, reason: clipped(&reason.into()) }
    }

    pub(super) fn revision(found: &serde_json::Value) -> Self {
        Self::Revision { found: clipped(&found.to_string()) }
    }
}

/// Reasons quote what they do not understand, which may be long.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The entries under [`KEY_PREFIX`], taken out one by one.
struct Entries<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Entries<'a> {
    fn of(model: &'a ModelProto) -> Self {
        Self(
            model
                .metadata_props
                .iter()
                .filter_map(|entry| Some((entry.key().strip_prefix(KEY_PREFIX)?, entry.value())))
                .collect(),
        )
    }

    fn text(&mut self, key: &'static str) -> Result<&'a str, ContractError> {
        let text = self.0.remove(key).ok_or(ContractError::Missing { key })?;
        let (found, most) = (text.len(), limits::value_bytes(key));
        if found > most { Err(ContractError::TooLarge { key, found, most }) } else { Ok(text) }
    }

    fn number<T: FromStr<Err: ToString>>(&mut self, key: &'static str) -> Result<T, ContractError> {
        let text = self.text(key)?;
        text.parse().map_err(|e: T::Err| ContractError::value(key, format!("{text:?}: {}", e.to_string())))
    }

    fn json<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<T, ContractError> {
        serde_json::from_str(self.text(key)?).map_err(|e| ContractError::value(key, e.to_string()))
    }
}

impl ModelContract {
    /// Reads the contract of a model that passed [`preflight`](super::preflight), validates it and compares it with the graph.
    ///
    /// # Errors
    /// [`ContractError`] naming the metadata key.
    pub fn read(model: &ModelProto) -> Result<Self, ContractError> {
        let graph = preflight::signature(model)?;
        let mut entries = Entries::of(model);
        let version = entries.text(key::VERSION)?;
        if version != CONTRACT_VERSION.to_string() {
            return Err(ContractError::Version { found: version.to_owned() });
        }
        let packed_golden: PackedGolden = entries.json(key::GOLDEN)?;
        limits::check_golden(packed_golden.count)?;
        let packed_typicality: Option<PackedTypicality> = optional(entries.json(key::TYPICALITY))?;
        let mpp: f64 = entries.number(key::MPP)?;
        let mut contract = Self {
            version: CONTRACT_VERSION,
            stains: entries.json(key::STAINS)?,
            reference: entries.text(key::REFERENCE)?.to_owned(),
            patch_px: entries.number(key::PATCH_PX)?,
            stride_px: entries.number(key::STRIDE_PX)?,
            mpp: mpp
                .try_into()
                .map_err(|e: crate::units::ImplausibleMpp| ContractError::value(key::MPP, e.to_string()))?,
            latent_dim: entries.number(key::LATENT_DIM)?,
            clusters: entries.json(key::CLUSTERS)?,
            background: entries.json(key::BACKGROUND)?,
            missing_stain_fill: entries.json(key::MISSING_STAIN_FILL)?,
            novelty_threshold: optional(entries.number(key::NOVELTY_THRESHOLD))?,
            typicality: None,
            context_cells: optional(entries.number(key::CONTEXT_CELLS))?,
            training: entries.json(key::TRAINING)?,
            golden: Golden::default(),
        };
        if let Some(unknown) = entries.0.keys().next() {
            return Err(ContractError::Unknown { key: format!("{KEY_PREFIX}{unknown}") });
        }
        limits::check(&contract)?;
        contract.agrees_with(&graph)?;
        contract.golden = packed_golden.unpack(&graph).map_err(|reason| ContractError::value(key::GOLDEN, reason))?;
        contract.typicality = packed_typicality
            .map(|packed| packed.unpack(&graph))
            .transpose()
            .map_err(|reason| ContractError::value(key::TYPICALITY, reason))?;
        contract.validate()?;
        Ok(contract)
    }

    /// Writes the contract into the model's metadata, in place of one that is there.
    pub fn write(&self, model: &mut ModelProto) {
        model.metadata_props.retain(|entry| !entry.key().starts_with(KEY_PREFIX));
        let mut put = |key: &str, value: String| {
            model
                .metadata_props
                .push(StringStringEntryProto { key: Some(format!("{KEY_PREFIX}{key}")), value: Some(value) });
        };
        put(key::VERSION, self.version.to_string());
        put(key::STAINS, json!(self.stains).to_string());
        put(key::REFERENCE, self.reference.clone());
        put(key::PATCH_PX, self.patch_px.to_string());
        put(key::STRIDE_PX, self.stride_px.to_string());
        put(key::MPP, self.mpp.get().to_string());
        put(key::LATENT_DIM, self.latent_dim.to_string());
        put(key::CLUSTERS, json!(self.clusters).to_string());
        put(key::BACKGROUND, json!(self.background).to_string());
        put(key::MISSING_STAIN_FILL, json!(self.missing_stain_fill).to_string());
        if let Some(threshold) = self.novelty_threshold {
            put(key::NOVELTY_THRESHOLD, threshold.to_string());
        }
        if let Some(cells) = self.context_cells {
            put(key::CONTEXT_CELLS, cells.to_string());
        }
        if let Some(typicality) = &self.typicality {
            put(key::TYPICALITY, json!(typicality.pack()).to_string());
        }
        put(key::TRAINING, self.training.to_string());
        put(key::GOLDEN, json!(self.golden.pack()).to_string());
    }

    /// Checks that the values make sense by themselves and together.
    ///
    /// # Errors
    /// [`ContractError`] naming the metadata key.
    pub fn validate(&self) -> Result<(), ContractError> {
        limits::check(self)?;
        let rule = |holds: bool, key, reason: &str| if holds { Ok(()) } else { Err(ContractError::value(key, reason)) };
        let fraction = self.background.min_tissue_fraction;

        rule(!self.stains.is_empty(), key::STAINS, "there must be 1 to 16 stains")?;
        let stain_names = || self.stains.iter().flat_map(|stain| std::iter::once(&stain.name).chain(&stain.aliases));
        rule(
            stain_names().all(|name| is_name(name)),
            key::STAINS,
            "a name or alias is empty, too long or has control characters",
        )?;
        rule(all_different(stain_names().map(|name| name.to_lowercase())), key::STAINS, "a name or alias comes twice")?;
        rule(
            self.stains.iter().any(|stain| stain.name == self.reference),
            key::REFERENCE,
            "the reference is not one of the stains",
        )?;

        rule(PATCH_PX.contains(&self.patch_px), key::PATCH_PX, "the patch edge must be 8 to 1024 pixels")?;
        rule(
            (1..=self.patch_px).contains(&self.stride_px),
            key::STRIDE_PX,
            "the stride must be 1 to patch_px, or tissue is skipped",
        )?;
        rule(
            (1..=super::MAX_LATENT).contains(&self.latent_dim),
            key::LATENT_DIM,
            "the latent must have 1 to 4096 dimensions",
        )?;

        let clusters = self.clusters.len();
        rule(clusters >= 2, key::CLUSTERS, "there must be 2 to 254 clusters")?;
        rule(
            self.clusters.iter().map(|c| usize::from(c.id)).eq(1..=clusters),
            key::CLUSTERS,
            "ids must be 1 to K in order",
        )?;
        let cluster_names = || self.clusters.iter().map(|cluster| &cluster.name);
        rule(
            cluster_names().all(|name| is_name(name)),
            key::CLUSTERS,
            "a name is empty, too long or has control characters",
        )?;
        rule(all_different(cluster_names()), key::CLUSTERS, "a name comes twice")?;

        rule((0.0..=1.0).contains(&fraction), key::BACKGROUND, "min_tissue_fraction must be 0 to 1")?;
        let sane = self.novelty_threshold.is_none_or(|threshold| threshold.is_finite() && threshold >= 0.0);
        rule(sane, key::NOVELTY_THRESHOLD, "the threshold must be a finite number, 0 or more")?;
        let near = self.context_cells.is_none_or(|cells| (0.0..=super::MOST_CONTEXT_CELLS).contains(&cells));
        rule(near, key::CONTEXT_CELLS, "the context must be 0 to 8 cells")?;
        let typicality = self.typicality.as_ref().map_or(Ok(()), |typicality| typicality.validate(&self.signature()));
        typicality.map_err(|reason| ContractError::value(key::TYPICALITY, reason))?;
        self.golden.validate(&self.signature()).map_err(|reason| ContractError::value(key::GOLDEN, reason))
    }

    fn agrees_with(&self, graph: &preflight::Signature) -> Result<(), ContractError> {
        let ours = self.signature();
        let pairs = [
            (key::STAINS, ours.stains, graph.stains),
            (key::PATCH_PX, ours.patch_px, graph.patch_px),
            (key::CLUSTERS, ours.clusters, graph.clusters),
            (key::LATENT_DIM, ours.latent_dim, graph.latent_dim),
        ];
        match pairs.into_iter().find(|(_, contract, graph)| contract != graph) {
            Some((key, contract, graph)) => Err(ContractError::GraphMismatch { key, contract, graph }),
            None => Ok(()),
        }
    }
}

/// A key that need not be there.
fn optional<T>(value: Result<T, ContractError>) -> Result<Option<T>, ContractError> {
    match value {
        Err(ContractError::Missing { .. }) => Ok(None),
        value => value.map(Some),
    }
}

/// Whether this can be the name of a cluster or stain: these end up in file names, legends and terminals.
pub fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= limits::MAX_NAME_CHARS && !name.chars().any(char::is_control)
}

fn all_different<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}
