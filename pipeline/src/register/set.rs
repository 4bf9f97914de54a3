//! All stains of a set to one reference, and the stains against each other.
//!
//! A map from the reference to stain B can be checked without any truth: go to stain A and from there, by a registration
//! of its own, to B. Where all three maps are right, both ways end at the same point; their distance is the cycle error.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use image::RgbImage;
use rayon::prelude::*;

use super::quality::{TISSUE_DENSITY, TISSUE_SIGMA_PX};
use super::{RegisterError, RegisterParams, Registration, Verdict, density, register};
use crate::units::Mpp;

/// Points along each side of the lattice on which a cycle is followed.
const LATTICE: u32 = 40;

/// Hears how many registrations of how many are done; called from several threads. `Break` ends the work.
pub type Advance<'a> = dyn Fn(u64, u64) -> ControlFlow<()> + Sync + 'a;

/// The work was ended by [`Advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Registers each of `moving` to `reference`; all images have `mpp` micrometres per pixel. With two moving sections and
/// more, and `cycle_check`, each is also registered to the next one, and the cycle error becomes part of its quality:
/// the smaller of the two cycles it is in, so that one bad section does not spoil its neighbours.
///
/// # Errors
/// [`Cancelled`]. A section that cannot be registered is a [`RegisterError`] in its place.
pub fn register_set(
    reference: &RgbImage,
    moving: &[RgbImage],
    mpp: Mpp,
    params: &RegisterParams,
    advance: &Advance,
) -> Result<Vec<Result<Registration, RegisterError>>, Cancelled> {
    let count = moving.len();
    let cycles = if params.cycle_check && count > 1 { ring(count) } else { Vec::new() };
    let total = (count + cycles.len()) as u64;
    let done = AtomicU64::new(0);
    let step = |fixed: &RgbImage, moving: &RgbImage| {
        let so_far = done.load(Ordering::Relaxed);
        if advance(so_far, total).is_break() {
            return Err(Cancelled);
        }
        let found = register(fixed, moving, mpp, params);
        advance(done.fetch_add(1, Ordering::Relaxed) + 1, total).is_continue().then_some(found).ok_or(Cancelled)
    };
    let mut found: Vec<Result<Registration, RegisterError>> =
        moving.par_iter().map(|image| step(reference, image)).collect::<Result<_, _>>()?;
    let between: Vec<Result<Registration, RegisterError>> =
        cycles.par_iter().map(|&(from, to)| step(&moving[from], &moving[to])).collect::<Result<_, _>>()?;

    let lattice = tissue_lattice(reference);
    let mut errors: Vec<Option<f64>> = vec![None; count];
    for (&(from, to), between) in cycles.iter().zip(&between) {
        let (Ok(to_from), Ok(to_to), Ok(between)) = (&found[from], &found[to], between) else { continue };
        // A refused section says nothing about the others.
        if [to_from, to_to].iter().any(|found| found.quality.verdict == Verdict::Refused) {
            continue;
        }
        let error = mpp.get()
            * median(lattice.iter().filter_map(|&(x, y)| {
                let (via, direct) = (to_from.map.apply(x, y), to_to.map.apply(x, y));
                let around = between.map.apply(via.0, via.1);
                // Beyond the images there is nothing that a map could know.
                (holds(&moving[from], via) && holds(&moving[to], direct))
                    .then(|| (around.0 - direct.0).hypot(around.1 - direct.1))
            }));
        for section in [from, to] {
            errors[section] = Some(errors[section].map_or(error, |smaller| smaller.min(error)));
        }
    }
    let diagonal_um = f64::from(reference.width()).hypot(f64::from(reference.height())) * mpp.get();
    for (registration, error) in found.iter_mut().zip(errors) {
        if let (Ok(registration), Some(error)) = (registration, error) {
            registration.quality.set_cycle_error(error, diagonal_um);
        }
    }
    Ok(found)
}

/// Each section with the next; the last with the first where that is another pair.
fn ring(count: usize) -> Vec<(usize, usize)> {
    (0..if count == 2 { 1 } else { count }).map(|i| (i, (i + 1) % count)).collect()
}

/// Points of a lattice over the section that lie on tissue.
fn tissue_lattice(section: &RgbImage) -> Vec<(f64, f64)> {
    let Some(density) = density::optical_density(section) else { return Vec::new() };
    let density = density.gaussian(TISSUE_SIGMA_PX);
    let at = |index: u32, side: u32| (f64::from(index) + 0.5) / f64::from(LATTICE) * f64::from(side) - 0.5;
    (0..LATTICE * LATTICE)
        .map(|i| (at(i % LATTICE, section.width()), at(i / LATTICE, section.height())))
        .filter(|&(x, y)| f64::from(density.sample(x as f32, y as f32).value) >= TISSUE_DENSITY)
        .collect()
}

fn holds(image: &RgbImage, (x, y): (f64, f64)) -> bool {
    let within = |v: f64, side: u32| v >= 0.0 && v <= f64::from(side) - 1.0;
    within(x, image.width()) && within(y, image.height())
}

/// Infinite where there are no values: sections without a common point do not close a cycle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
}
