//! From folders of slides to training patches: grouping, registration, tissue and pixels all come from the pipeline, so
//! that a patch here has the same bits as the daemon's.

mod candidates;
mod places;
mod watch;

use std::path::Path;

use rayon::prelude::*;
use tissuemap::placement::Placement;
use tissuemap::road::{self, Prepared, Progress, RoadError};
use tissuemap::slide::SlideError;
use tissuemap::units::Cell;

pub use self::candidates::{Candidate, Candidates};
pub use self::places::Places;
pub use self::watch::Watch;
use crate::config::Config;
use crate::data::patches::PatchSet;
use crate::data::store::{Attributes, Found, LeftOut, Store};
use crate::system::error::TrainError;

/// Patches that are cut before they are written: bounds the memory, and how long an interruption waits.
const PIECE: usize = 256;

/// The configuration's patches, drawn from its section sets into the store in folder `store`, or found there from an
/// earlier run. `base` is where relative folders start.
///
/// Sets that lack a stain, or a section of which could not be registered, are left out with a warning: a model must not
/// learn tissue from fill colour.
///
/// # Errors
/// [`TrainError::NoData`] when no set is complete, [`TrainError::Interrupted`], or whatever a folder or slide gives.
pub fn patches(
    config: &Config,
    base: &Path,
    store: &Path,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<PatchSet, TrainError> {
    let candidates = Candidates::find(config, base)?;
    for reason in &candidates.unplaced {
        tracing::warn!("{reason}");
    }
    let (mut drawn, found) = Store::open(store, nothing_drawn(config, candidates.fingerprint(config)?))?;
    announce(&drawn, found, store);
    let Attributes { sets, left_out, .. } = drawn.attributes();
    let done = sets.len() + left_out.len();
    let watch = Watch::over("patches", candidates.sets.len(), done, interrupted);
    for (index, candidate) in candidates.sets.iter().enumerate().skip(done) {
        let name = candidate.set.key.to_string();
        watch.begin(index, &name);
        if let Err(reason) = draw(config, candidate, &mut drawn, &watch)? {
            watch.say(|| tracing::warn!("section set {name} is left out: {reason}"));
            drawn.leave_out(&name, &reason)?;
        }
    }
    drop(watch);
    if found != Found::All {
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

/// What a store says of itself before it has patches.
fn nothing_drawn(config: &Config, fingerprint: String) -> Attributes {
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

fn announce(store: &Store, found: Found, folder: &Path) {
    let (folder, rows, sets) = (folder.display(), store.rows(), store.attributes().sets.len());
    match found {
        Found::Nothing => {}
        Found::Other => tracing::info!("{folder}: slides or settings have changed, patches are drawn anew"),
        Found::Part => tracing::info!("{folder}: going on after {sets} section sets"),
        Found::All => tracing::info!("{folder}: {rows} patches of {sets} section sets, drawn before"),
    }
    for LeftOut { name, reason } in &store.attributes().left_out {
        tracing::warn!("section set {name} was left out when patches were drawn: {reason}");
    }
}

/// Adds the patches of one set to the store; the inner error says why the set cannot be used.
fn draw(
    config: &Config,
    candidate: &Candidate,
    store: &mut Store,
    watch: &Watch<'_>,
) -> Result<Result<(), String>, TrainError> {
    let prepared = match prepare(config, candidate, watch)? {
        Ok(prepared) => prepared,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(reason) = incomplete(&prepared) {
        return Ok(Err(reason));
    }
    let name = candidate.set.key.to_string();
    let whole = whole(&prepared);
    let places = match Places::draw(&name, &prepared.grid, &whole, candidate.from.held_out, config) {
        Ok(places) => places,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(warning) = &places.warning {
        watch.say(|| tracing::warn!("{name}: {warning}"));
    }
    let total = places.train.len() + places.held_out.len();
    let mut done = 0;
    let mut set = store.begin();
    for (corners, held_out) in [(&places.train, false), (&places.held_out, true)] {
        for corners in corners.chunks(PIECE) {
            if watch.cancelled() {
                return Err(TrainError::Interrupted { checkpoint: None });
            }
            match cut(&prepared, corners) {
                Ok(pixels) => set.add(&pixels, corners, held_out)?,
                Err(error) => return Ok(Err(error.to_string())),
            }
            done += corners.len();
            watch.drawn(done, total);
        }
    }
    set.finish(&name)?;
    let (train, held_out, cells) = (places.train.len(), places.held_out.len(), whole.len());
    let at_edges = prepared.cells.len() - cells;
    watch.say(|| {
        let left_out = if at_edges > 0 { format!("; {at_edges} more at the edge of a slide") } else { String::new() };
        tracing::info!("{name}: {train} patches, {held_out} held out, from {cells} tissue cells{left_out}");
    });
    Ok(Ok(()))
}

/// Opens and registers a set and finds its tissue; the inner error says why it cannot be used.
///
/// # Errors
/// [`TrainError::Interrupted`], or what every other set would fail with too.
pub fn prepare(
    config: &Config,
    candidate: &Candidate,
    progress: &dyn Progress,
) -> Result<Result<Prepared, String>, TrainError> {
    if progress.cancelled() {
        return Err(TrainError::Interrupted { checkpoint: None });
    }
    let set = match candidate.wanted(config) {
        Ok(set) => set,
        Err(reason) => return Ok(Err(reason)),
    };
    match road::prepare(&set, &config.layout(), &candidate.params(), progress) {
        Ok(prepared) => Ok(Ok(prepared)),
        Err(RoadError::Cancelled) => Err(TrainError::Interrupted { checkpoint: None }),
        Err(RoadError::Slide(SlideError::Library(error))) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Which section could not be placed, if any.
pub fn incomplete(prepared: &Prepared) -> Option<String> {
    prepared.sections.iter().find_map(|section| match &section.placement {
        Placement::Reference | Placement::Registered(_) => None,
        Placement::LeftOut { reason, .. } => Some(format!("{}: {reason}", section.stain)),
        Placement::Missing => Some(format!("it has no slide of stain {}", section.stain)),
    })
}

/// The tissue cells whose patches lie on the slides of all stains. Where a slide ends, its background begins: an edge that no
/// tissue has, which would become a cluster of its own.
pub fn whole(prepared: &Prepared) -> Vec<Cell> {
    let whole = |&cell: &Cell| {
        let (x, y) = prepared.grid.patch_origin(cell);
        prepared.source.is_whole(x, y)
    };
    prepared.cells.iter().copied().filter(whole).collect()
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

#[cfg(test)]
mod tests;
