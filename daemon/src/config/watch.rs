//! `[[watch]]`: one folder in which slides arrive.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tissuemap::section_set::NamingRules;
use tissuemap::units::Mpp;

use crate::arrive::names::{Ignore, Marker};

/// One folder in which slides arrive, with its subfolders.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    pub folder: PathBuf,
    /// Resolution of slides that state none.
    pub mpp: Option<Mpp>,
    /// CSV that overrules file names.
    pub manifest: Option<PathBuf>,
    #[serde(default = "settle_seconds")]
    pub settle_seconds: u64,
    #[serde(default = "scan_seconds")]
    pub scan_seconds: u64,
    /// Ask for no file system events.
    #[serde(default)]
    pub poll: bool,
    /// A slide is taken only when its marker is there.
    pub marker: Option<Marker>,
    /// Names that are passed over.
    #[serde(default)]
    pub ignore: Ignore,
    /// What is named differently in this folder.
    #[serde(default)]
    pub naming: FolderNaming,
}

/// Scanners and SMB copies pause for a few seconds between tiles or retries; half a minute is ten times that.
fn settle_seconds() -> u64 {
    30
}

/// A scan is one `stat` a file; once a minute is no load even for a network share with ten thousand slides.
fn scan_seconds() -> u64 {
    60
}

impl Watch {
    /// [`Watch::settle_seconds`] as a duration.
    pub fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_seconds)
    }

    /// [`Watch::scan_seconds`] as a duration.
    pub fn scan_interval(&self) -> Duration {
        Duration::from_secs(self.scan_seconds)
    }
}

/// What one folder reads differently from `[naming]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FolderNaming {
    /// In place of all of `[naming]`'s patterns.
    pub patterns: Option<Vec<String>>,
    /// Each in place of the stain of the same name, besides the others.
    pub stains: BTreeMap<String, Vec<String>>,
}

impl FolderNaming {
    /// The rules for this folder, where these are for all.
    pub fn over(&self, rules: &NamingRules) -> NamingRules {
        let mut rules = rules.clone();
        if let Some(patterns) = &self.patterns {
            rules.patterns.clone_from(patterns);
        }
        rules.stains.extend(self.stains.clone());
        rules
    }
}
