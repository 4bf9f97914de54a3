//! Samples training patches from folders of slides. Grouping, registration, tissue detection and pixels come from the pipeline, so a patch
//! has the same bits as in the daemon.

mod configured_sets;
mod positions;
mod progress;

use std::path::Path;

use rayon::prelude::*;
use tissuemap::placement::Placement;
use tissuemap::road::{self, Prepared, Progress, RoadError};
use tissuemap::slide::SlideError;
use tissuemap::units::Cell;

pub use self::configured_sets::{ConfiguredSet, ConfiguredSets};
pub use self::positions::PatchPositions;
pub use self::progress::SamplingProgress;
use crate::config::Config;
use crate::data::patches::PatchSet;
use crate::data::store::{Attributes, LeftOut, Store, StoreState};
use crate::system::error::TrainError;

/// Patches that are cut before they are written. This limits the memory, and the time until an interruption takes effect.
const CHUNK_PATCHES: usize = 256;

/// The patches of a configuration: sampled from its section sets into the store in folder `store`, or found there from an earlier run.
/// Relative folders start at `base`.
///
/// Sets that lack a stain, or have a section that could not be registered, are left out with a warning: a model must not learn from fill
/// colour.
///
/// # Errors
/// [`TrainError::NoData`] if no set is complete, [`TrainError::Interrupted`], or whatever a folder or slide gives.
pub fn patches(
    config: &Config,
    base: &Path,
    store: &Path,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<PatchSet, TrainError> {
    let configured_sets = ConfiguredSets::find(config, base)?;
    for reason in &configured_sets.ungrouped {
        tracing::warn!("{reason}");
    }
    let (mut drawn, found) = Store::open(store, new_attributes(config, configured_sets.fingerprint(config)?))?;
    log_state(&drawn, found, store);
    let Attributes { sets, left_out, .. } = drawn.attributes();
    let done = sets.len() + left_out.len();
    let progress = SamplingProgress::over("patches", configured_sets.sets.len(), done, interrupted);
    for (index, configured_set) in configured_sets.sets.iter().enumerate().skip(done) {
        let name = configured_set.set.key.to_string();
        progress.begin(index, &name);
        if let Err(reason) = sample_set(config, configured_set, &mut drawn, &progress)? {
            progress.say(|| tracing::warn!("section set {name} is left out: {reason}"));
            drawn.leave_out(&name, &reason)?;
        }
    }
    drop(progress);
    if found != StoreState::Complete {
        drawn.complete()?;
    }
    let patches = PatchSet::stored(drawn)?;
    if patches.sets.is_empty() {
        return Err(TrainError::NoData("no section set can be used".to_owned()));
    }
    if patches.train.count() == 0 {
        return Err(TrainError::NoData("every section set that can be used is held out".to_owned()));
    }
    Ok(patches)
}

/// Attributes of a store without patches.
fn new_attributes(config: &Config, fingerprint: String) -> Attributes {
    Attributes {
        fingerprint,
        complete: false,
        stains: config.stains.iter().map(|stain| stain.name.clone()).collect(),
        mpp: config.patches.mpp.get(),
        patch_px: config.patches.patch_px,
        sets: Vec::new(),
        left_out: Vec::new(),
    }
}

fn log_state(store: &Store, found: StoreState, folder: &Path) {
    let (folder, rows, sets) = (folder.display(), store.rows(), store.attributes().sets.len());
    match found {
        StoreState::Empty => {}
        StoreState::Outdated => tracing::info!("{folder}: slides or settings have changed; patches are sampled again"),
        StoreState::Partial => tracing::info!("{folder}: continuing after {sets} section sets"),
        StoreState::Complete => tracing::info!("{folder}: {rows} patches of {sets} section sets from an earlier run"),
    }
    for LeftOut { name, reason } in &store.attributes().left_out {
        tracing::warn!("section set {name} was left out when patches were sampled: {reason}");
    }
}

/// Adds the patches of one set to the store. The inner error is the reason why the set cannot be used.
fn sample_set(
    config: &Config,
    configured_set: &ConfiguredSet,
    store: &mut Store,
    progress: &SamplingProgress<'_>,
) -> Result<Result<(), String>, TrainError> {
    let prepared = match prepare(config, configured_set, progress)? {
        Ok(prepared) => prepared,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(reason) = missing_section(&prepared) {
        return Ok(Err(reason));
    }
    let name = configured_set.set.key.to_string();
    let whole = cells_on_all_slides(&prepared);
    let positions = match PatchPositions::draw(&name, &prepared.grid, &whole, configured_set.from.held_out, config) {
        Ok(positions) => positions,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(warning) = &positions.warning {
        progress.say(|| tracing::warn!("{name}: {warning}"));
    }
    let total = positions.train.len() + positions.held_out.len();
    let mut done = 0;
    let mut set = store.begin_set();
    for (corners, held_out) in [(&positions.train, false), (&positions.held_out, true)] {
        for corners in corners.chunks(CHUNK_PATCHES) {
            if progress.cancelled() {
                return Err(TrainError::Interrupted { checkpoint: None });
            }
            match cut(&prepared, corners) {
                Ok(pixels) => set.add(&pixels, corners, held_out)?,
                Err(error) => return Ok(Err(error.to_string())),
            }
            done += corners.len();
            progress.drawn(done, total);
        }
    }
    set.finish(&name)?;
    let (train, held_out, cells) = (positions.train.len(), positions.held_out.len(), whole.len());
    let at_edges = prepared.cells.len() - cells;
    progress.say(|| {
        let left_out = if at_edges > 0 { format!("; {at_edges} more at the edge of a slide") } else { String::new() };
        tracing::info!("{name}: {train} patches, {held_out} held out, from {cells} tissue cells{left_out}");
    });
    Ok(Ok(()))
}

/// Opens and registers a set and detects its tissue. The inner error is the reason why the set cannot be used.
///
/// # Errors
/// [`TrainError::Interrupted`], or what every other set would fail with too.
pub fn prepare(
    config: &Config,
    configured_set: &ConfiguredSet,
    progress: &dyn Progress,
) -> Result<Result<Prepared, String>, TrainError> {
    if progress.cancelled() {
        return Err(TrainError::Interrupted { checkpoint: None });
    }
    let set = match configured_set.with_configured_stains(config) {
        Ok(set) => set,
        Err(reason) => return Ok(Err(reason)),
    };
    match road::prepare(&set, &config.layout(), &configured_set.params(), progress) {
        Ok(prepared) => Ok(Ok(prepared)),
        Err(RoadError::Cancelled) => Err(TrainError::Interrupted { checkpoint: None }),
        Err(RoadError::Slide(SlideError::Library(error))) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// The first section without a slide or without a registration, if any.
pub fn missing_section(prepared: &Prepared) -> Option<String> {
    prepared.sections.iter().find_map(|section| match &section.placement {
        Placement::Reference | Placement::Registered(_) => None,
        Placement::LeftOut { reason, .. } => Some(format!("{}: {reason}", section.stain)),
        Placement::Missing => Some(format!("it has no slide of stain {}", section.stain)),
    })
}

/// The tissue cells whose patches lie completely on the slides of all stains. The edge of a slide is no tissue structure, and such patches
/// would become a cluster of their own.
pub fn cells_on_all_slides(prepared: &Prepared) -> Vec<Cell> {
    let whole = |&cell: &Cell| {
        let (x, y) = prepared.grid.patch_origin(cell);
        prepared.source.is_whole(x, y)
    };
    prepared.cells.iter().copied().filter(whole).collect()
}

/// Cuts patches with their top-left corners at these model pixels of the reference canvas: `[n, 3·S, P, P]`.
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

#[cfg(test)]
mod tests;
