//! The section sets of a configuration, before their slides are opened.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::json;
use sha2::{Digest, Sha256};
use tissuemap::hex::hex;
use tissuemap::road::RoadParams;
use tissuemap::section_set::{Manifest, Namer, SectionSet, group};

use crate::config::{Config, SetFolder};
use crate::system::error::TrainError;
use crate::system::files::file_error;

/// A section set of the configuration.
#[derive(Debug, Clone)]
pub struct ConfiguredSet {
    /// All its slides, including stains that the configuration does not use.
    pub set: SectionSet,
    /// The folder it comes from.
    pub from: SetFolder,
}

impl ConfiguredSet {
    /// Parameters of the pipeline besides the layout of the model.
    pub fn params(&self) -> RoadParams {
        RoadParams { mpp: self.from.mpp, ..RoadParams::default() }
    }

    /// The set with the slides of the configured stains only.
    ///
    /// # Errors
    /// The missing stain.
    pub fn with_configured_stains(&self, config: &Config) -> Result<SectionSet, String> {
        let slides = config.stains.iter().map(|stain| match self.set.slides.get(&stain.name) {
            Some(path) => Ok((stain.name.clone(), path.clone())),
            None => Err(format!("it has no slide of stain {}", stain.name)),
        });
        Ok(SectionSet { key: self.set.key.clone(), slides: slides.collect::<Result<_, _>>()? })
    }
}

/// All section sets of a configuration, in its order.
#[derive(Debug, Clone, Default)]
pub struct ConfiguredSets {
    /// In the order of the folders, within a folder by case and block.
    pub sets: Vec<ConfiguredSet>,
    /// Slides that are in no set, with the reason.
    pub ungrouped: Vec<String>,
}

impl ConfiguredSets {
    /// Reads the folders. Relative ones start at `base`.
    ///
    /// # Errors
    /// A folder or manifest cannot be read, or a slide is both in a held-out folder and in another one.
    pub fn find(config: &Config, base: &Path) -> Result<Self, TrainError> {
        let mut namer = Namer::new(&config.naming)?;
        for stain in &config.stains {
            namer.add_stain(&stain.name, &stain.aliases)?;
        }
        let mut found = Self::default();
        for from in &config.sets {
            let slides = files(&base.join(&from.folder))?;
            let manifest = from.manifest.as_ref().map(|file| Manifest::read(&base.join(file))).transpose()?;
            let grouped = group(&slides, &namer, manifest.as_ref());
            found.ungrouped.extend(grouped.errors.iter().map(ToString::to_string));
            found.sets.extend(grouped.sets.into_iter().map(|set| ConfiguredSet { set, from: from.clone() }));
        }
        found.refuse_shared_slides()?;
        Ok(found)
    }

    /// A slide must not be held out and used for training at once.
    fn refuse_shared_slides(&self) -> Result<(), TrainError> {
        let mut held_out: BTreeMap<&Path, bool> = BTreeMap::new();
        for configured_set in &self.sets {
            for slide in configured_set.set.slides.values() {
                if *held_out.entry(slide).or_insert(configured_set.from.held_out) != configured_set.from.held_out {
                    let slide = slide.display();
                    return Err(TrainError::NoData(format!("{slide} is in a held-out folder and in one to train on")));
                }
            }
        }
        Ok(())
    }

    /// A digest of everything that determines the patches, hexadecimal: the settings except those of training, and path, size and modification
    /// time of the slides.
    ///
    /// # Errors
    /// [`TrainError::File`] if a slide has gone.
    pub fn fingerprint(&self, config: &Config) -> Result<String, TrainError> {
        let Config { seed, reference, stains, patches, .. } = config;
        let mut slides = Vec::new();
        for ConfiguredSet { set, from } in &self.sets {
            for (stain, path) in &set.slides {
                let metadata = fs::metadata(path).map_err(|e| file_error(path, e))?;
                let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                slides.push(json!([set.key, stain, path, metadata.len(), changed, from.mpp, from.held_out]));
            }
        }
        let everything = json!({
            "program": env!("CARGO_PKG_VERSION"),
            "seed": seed,
            "reference": reference,
            "stains": stains,
            "patches": patches,
            "pipeline": RoadParams::default(),
            "slides": slides,
        });
        Ok(hex(Sha256::digest(everything.to_string())))
    }
}

/// The visible files of a folder, by absolute path.
fn files(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let fail = |e| file_error(folder, e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() {
            paths.push(fs::canonicalize(folder).map_err(fail)?.join(path.file_name().unwrap_or_default()));
        }
    }
    Ok(paths)
}
