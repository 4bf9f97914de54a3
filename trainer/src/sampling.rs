//! From folders of slides to training patches: grouping, registration, tissue and pixels all come from the pipeline, so
//! that a patch here has the same bits as the daemon's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};
use tissuemap::contract::StainSpec;
use tissuemap::placement::Placement;
use tissuemap::road::{self, Layout, Prepared, Progress, RoadError, RoadParams, Stage};
use tissuemap::section_set::{Manifest, Namer, SectionSet, group};
use tissuemap::slide::SlideError;
use tissuemap::units::Cell;

use crate::config::{Config, SetFolder};
use crate::dataset::{Origin, PatchSet, Patches};
use crate::error::TrainError;

/// Held-out blocks are this many patches wide, so that few held-out patches touch training ones.
const BLOCK_PATCHES: u32 = 4;

/// Draws the configuration's patches from its section sets. `base` is where relative folders start.
///
/// Sets that lack a stain, or a section of which could not be registered, are left out with a warning: a model must not
/// learn tissue from fill colour.
///
/// # Errors
/// [`TrainError::NoData`] when no set is complete, [`TrainError::Interrupted`], or whatever a folder or slide gives.
pub fn patches(config: &Config, base: &Path, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<PatchSet, TrainError> {
    let mut sampler = Sampler { config, train: Part::default(), held_out: Part::default(), sets: Vec::new() };
    for folder in &config.sets {
        let params = RoadParams { mpp: folder.mpp, ..RoadParams::default() };
        for set in section_sets(config, folder, base)? {
            if interrupted() {
                return Err(TrainError::Interrupted { checkpoint: None });
            }
            if let Err(reason) = sampler.add(&set, &params, interrupted)? {
                tracing::warn!("section set {} is left out: {reason}", set.key);
            }
        }
    }
    sampler.finish()
}

/// The section sets of one folder.
pub(crate) fn section_sets(config: &Config, from: &SetFolder, base: &Path) -> Result<Vec<SectionSet>, TrainError> {
    let folder = base.join(&from.folder);
    let fail = |source| TrainError::File { path: folder.clone(), source };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_file() {
            paths.push(entry.path());
        }
    }
    let mut namer = Namer::new(&config.naming)?;
    for stain in &config.stains {
        namer.add_stain(&stain.name, &stain.aliases)?;
    }
    let manifest = from.manifest.as_ref().map(|file| Manifest::read(&base.join(file))).transpose()?;
    let grouped = group(&paths, &namer, manifest.as_ref());
    for error in &grouped.errors {
        tracing::warn!("{error}");
    }
    Ok(grouped.sets)
}

struct Sampler<'a> {
    config: &'a Config,
    train: Part,
    held_out: Part,
    sets: Vec<String>,
}

/// Patches one after the other, and where they were cut.
#[derive(Default)]
struct Part {
    pixels: Vec<u8>,
    origins: Vec<Origin>,
}

impl Sampler<'_> {
    /// Adds the patches of one set; the inner error says why the set cannot be used.
    fn add(
        &mut self,
        set: &SectionSet,
        params: &RoadParams,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Result<(), String>, TrainError> {
        let Config { seed, patches, .. } = self.config;
        let layout = self.config.layout();
        let set = match wanted(set, &layout) {
            Ok(set) => set,
            Err(reason) => return Ok(Err(reason)),
        };
        let prepared = match road::prepare(&set, &layout, params, &Watch { interrupted }) {
            Ok(prepared) => prepared,
            Err(RoadError::Cancelled) => return Err(TrainError::Interrupted { checkpoint: None }),
            // Not this set's fault: the next one would fail just so.
            Err(RoadError::Slide(SlideError::Library(error))) => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        };
        if let Some(reason) = incomplete(&prepared) {
            return Ok(Err(reason));
        }
        let tissue = &prepared.cells;
        let mut generator = generator(*seed, &set.key.to_string());
        let block_cells = BLOCK_PATCHES * patches.patch_px / patches.stride_px;
        let (train, held_out) = part(tissue, block_cells, patches.held_out_fraction, &mut generator);
        if train.is_empty() || held_out.is_empty() {
            return Ok(Err(format!("it has {} tissue cells, too few to hold some out", tissue.len())));
        }
        let held_out_count = ((f64::from(patches.per_set) * patches.held_out_fraction).round() as u32).max(1);
        let train_count = patches.per_set.saturating_sub(held_out_count).max(1);
        for (cells, count, to) in
            [(&train, train_count, &mut self.train), (&held_out, held_out_count, &mut self.held_out)]
        {
            let places = places(&prepared, cells, count, &mut generator);
            match cut(&prepared, &places) {
                Ok(pixels) => to.pixels.extend(pixels),
                Err(error) => return Ok(Err(error.to_string())),
            }
            let set = self.sets.len() as u32;
            to.origins.extend(places.into_iter().map(|(x, y)| Origin { set, x, y }));
        }
        self.sets.push(set.key.to_string());
        tracing::info!(
            "{}: {train_count} patches, {held_out_count} held out, from {} tissue cells",
            set.key,
            tissue.len()
        );
        Ok(Ok(()))
    }

    fn finish(self) -> Result<PatchSet, TrainError> {
        if self.sets.is_empty() {
            return Err(TrainError::NoData("no section set can be used".to_owned()));
        }
        let shape = self.config.shape();
        let patches = |part: Part| {
            let size = [part.origins.len() as i64, shape.channels, shape.patch_px, shape.patch_px];
            let pixels = Tensor::f_from_data_size(&part.pixels, &size, Kind::Uint8)?;
            Ok::<_, TrainError>(Patches::new(pixels, part.origins))
        };
        Ok(PatchSet { train: patches(self.train)?, held_out: patches(self.held_out)?, sets: self.sets })
    }
}

/// The set without slides of other stains, which need not even open.
fn wanted(set: &SectionSet, layout: &Layout) -> Result<SectionSet, String> {
    let slide = |stain: &StainSpec| match set.slides.get(&stain.name) {
        Some(path) => Ok((stain.name.clone(), path.clone())),
        None => Err(format!("it has no slide of stain {}", stain.name)),
    };
    Ok(SectionSet { key: set.key.clone(), slides: layout.stains.iter().map(slide).collect::<Result<_, _>>()? })
}

/// Which section could not be placed, if any.
fn incomplete(prepared: &Prepared) -> Option<String> {
    prepared.sections.iter().find_map(|section| match &section.placement {
        Placement::Reference | Placement::Registered(_) => None,
        Placement::LeftOut { reason, .. } => Some(format!("{}: {reason}", section.stain)),
        Placement::Missing => Some(format!("it has no slide of stain {}", section.stain)),
    })
}

/// Passes an interruption on to the pipeline.
struct Watch<'a> {
    interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl Progress for Watch<'_> {
    fn stage(&self, _: Stage, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        (self.interrupted)()
    }
}

/// The set's own random numbers: they do not change when other sets come or go.
fn generator(seed: u64, set: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(set);
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// `count` random places for patches: top-left corners, each patch within half a stride of the middle of a random cell.
fn places(prepared: &Prepared, cells: &[Cell], count: u32, generator: &mut ChaCha8Rng) -> Vec<(i64, i64)> {
    let stride = i64::from(prepared.grid.spec.stride_px);
    let mut place = |_| {
        let (x, y) = prepared.grid.patch_origin(*cells.choose(generator)?);
        let mut shift = || generator.random_range(0..stride) - stride / 2;
        Some((x + shift(), y + shift()))
    };
    (0..count).filter_map(&mut place).collect()
}

/// Patches whose top-left corners are these model pixels of the reference canvas, one after the other: `[n, 3·S, P, P]`.
///
/// # Errors
/// Whatever reading a slide gives.
pub fn cut(prepared: &Prepared, positions: &[(i64, i64)]) -> Result<Vec<u8>, SlideError> {
    let length = prepared.source.tensor_len();
    let mut patches = vec![0; length * positions.len()];
    patches
        .par_chunks_mut(length)
        .zip(positions)
        .try_for_each(|(patch, &(x, y))| prepared.source.tensor_at(x, y, patch))?;
    Ok(patches)
}

/// Parts the tissue cells of one set into training and held-out ones, by square blocks: neighbouring and overlapping
/// patches look alike, so patches parted one by one would be no test. Both parts are non-empty where there are two cells.
fn part(cells: &[Cell], block_cells: u32, fraction: f64, generator: &mut ChaCha8Rng) -> (Vec<Cell>, Vec<Cell>) {
    let mut side = block_cells.max(1);
    let mut blocks = blocks(cells, side);
    // A small piece of tissue may lie in one block as a whole, or in so few that one is too much to hold out.
    while side > 1 && (blocks.len() as f64) < 1.0 / fraction {
        side /= 2;
        blocks = self::blocks(cells, side);
    }
    blocks.shuffle(generator);
    let wanted = fraction * cells.len() as f64;
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.into_iter().enumerate() {
        // The last block may be the largest: it must not follow all others out of training.
        let needed = index == last && train.is_empty() && !held_out.is_empty();
        let to = if (held_out.len() as f64) < wanted && !needed { &mut held_out } else { &mut train };
        to.extend(block);
    }
    (train, held_out)
}

fn blocks(cells: &[Cell], side: u32) -> Vec<Vec<Cell>> {
    let mut blocks: BTreeMap<(u32, u32), Vec<Cell>> = BTreeMap::new();
    for &cell in cells {
        blocks.entry((cell.row / side, cell.col / side)).or_default().push(cell);
    }
    blocks.into_values().collect()
}

#[cfg(test)]
mod tests;
