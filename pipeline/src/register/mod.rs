//! Registration of differently stained sections of one block: where does each pixel of the fixed section lie in the
//! moving one?
//!
//! 1. **Density** (`density`): optical density, the mean of the channels. What a stain colours differs, that it
//!    colours tissue does not.
//! 2. **Search** (`coarse`): all rotations in 5° steps, mirrored and not, at all translations.
//! 3. **Refinement** (`affine`): the best candidates, first rigid, then affine, from coarse to fine levels of a pyramid,
//!    by minimising the distance of the normalised gradient fields (`ngf`) with L-BFGS (`lbfgs`).
//! 4. **Displacement** (`nonrigid`, `consensus`): what is left is not affine. Four estimates of a displacement field, NGF
//!    plus bending energy, are averaged; their spread says where the map is a guess.
//! 5. **Quality** (`quality`, `verdict`): figures, and whether the map is good, to be reviewed, or refused.
//!
//! [`register`] does this for two images, [`register_set`] for all stains of a set with the cycle check among them.
//!
//! The method follows the registration of differently stained histology by Lotz, Weiss, Heldmann and others (NGF +
//! L-BFGS on a pyramid), whose variants led the ANHIR challenge (Borovec et al., IEEE TMI 2020). The result depends on
//! the images and parameters only, not on the number of threads.

mod affine;
mod coarse;
mod consensus;
mod density;
mod fft;
mod lbfgs;
mod ngf;
mod nonrigid;
mod plane;
mod quality;
mod residual;
mod set;
mod similarity;
mod verdict;

use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use affine::PixelAffine;
pub(crate) use quality::ERROR_PER_SPREAD;
pub use quality::RegistrationQuality;
pub(crate) use residual::{Residual, residual};
pub use set::{Advance, Cancelled, register_set};
pub use verdict::Verdict;

use affine::{AffineWarp, Freedom, refine};
use coarse::Peak;
use ngf::{Images, Level};
use plane::Plane;
use similarity::Similarity;

use crate::deformation::PixelMap;
use crate::units::Mpp;

/// Reductions of the pyramid, coarse to fine.
const FACTORS: [usize; 5] = [16, 8, 4, 2, 1];
/// A level with a shorter side says nothing about edges.
const MIN_LEVEL_SIDE_PX: usize = 40;
/// Blur of each level in its own pixels: block means alone leave aliasing that NGF takes for edges.
const LEVEL_SIGMA_PX: f32 = 0.7;
/// Candidates closer than this share of the diagonal (root mean square over the corners) end in the same minimum.
const SAME_CANDIDATE_SHARE: f64 = 0.06;
/// Area factors serial sections of one block can have at the same resolution. Tissue stretches by a tenth or so on the
/// glass; a map beyond this has collapsed onto a detail.
const PLAUSIBLE_AREA_FACTOR: std::ops::RangeInclusive<f64> = 0.7..=1.4;
/// The map is judged on the finest level whose long side is at most this: how far edges run in parallel depends on how
/// fine they are, and the thresholds of the verdict were drawn at this size.
const JUDGED_SIDE_PX: usize = 500;
/// Candidates that go on to the middle level after all were refined on the coarse ones.
const FINALISTS: usize = 2;

/// Settings of [`register`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegisterParams {
    /// The exhaustive search runs on images reduced until their long side is at most this many pixels (64 to 512).
    pub search_long_side_px: u32,
    /// Degrees between the rotations tried (1 to 15).
    pub search_angle_step_deg: f64,
    /// Candidates of the search that are refined (1 to 50).
    pub search_candidates: usize,
    /// Smallest overlap the search accepts, as a share of the smaller image's area (0.1 to 1).
    pub min_overlap_fraction: f64,
    /// Edge parameter of NGF: gradients well below this multiple of an image's mean gradient count as noise (0.01 to 100).
    pub ngf_eta: f64,
    /// The finest pyramid level used is this many times smaller than the images: 1, 2, 4, 8 or 16.
    pub finest_factor: usize,
    /// L-BFGS iterations of the affine part per candidate and level (1 to 1000).
    pub iterations_per_level: usize,
    /// L-BFGS iterations of the non-rigid part per level (1 to 1000).
    pub nonrigid_iterations: usize,
    /// How stiff the section is: weight α of the displacement's bending energy, lengths in units of the image's diagonal
    /// (0.0001 to 10). Between 0.001 and 0.03 results differ little.
    pub bending_weight: f64,
    /// Also register neighbouring stains to each other and compare both ways; doubles the time.
    pub cycle_check: bool,
}

impl Default for RegisterParams {
    fn default() -> Self {
        Self {
            search_long_side_px: 160,
            search_angle_step_deg: 5.0,
            search_candidates: 5,
            min_overlap_fraction: 0.4,
            ngf_eta: 1.0,
            finest_factor: 2,
            iterations_per_level: 40,
            nonrigid_iterations: 30,
            bending_weight: 0.002,
            cycle_check: true,
        }
    }
}

impl RegisterParams {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// [`RegisterError::Parameter`] for the first that does not.
    pub fn check(&self) -> Result<(), RegisterError> {
        let checks = [
            ("search_long_side_px", (64..=512).contains(&self.search_long_side_px), "64 to 512"),
            ("search_angle_step_deg", (1.0..=15.0).contains(&self.search_angle_step_deg), "1 to 15"),
            ("search_candidates", (1..=50).contains(&self.search_candidates), "1 to 50"),
            ("min_overlap_fraction", (0.1..=1.0).contains(&self.min_overlap_fraction), "0.1 to 1"),
            ("ngf_eta", (0.01..=100.0).contains(&self.ngf_eta), "0.01 to 100"),
            ("finest_factor", FACTORS.contains(&self.finest_factor), "1, 2, 4, 8 or 16"),
            ("iterations_per_level", (1..=1000).contains(&self.iterations_per_level), "1 to 1000"),
            ("nonrigid_iterations", (1..=1000).contains(&self.nonrigid_iterations), "1 to 1000"),
            ("bending_weight", (1e-4..=10.0).contains(&self.bending_weight), "0.0001 to 10"),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((name, _, allowed)) => Err(RegisterError::Parameter { name, allowed }),
            None => Ok(()),
        }
    }
}

/// Which of the two images an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Fixed,
    Moving,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Fixed => "fixed",
            Side::Moving => "moving",
        })
    }
}

/// Why two sections could not be registered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RegisterError {
    #[error("registration parameter {name} is out of range; allowed is {allowed}")]
    Parameter { name: &'static str, allowed: &'static str },
    #[error("the {side} image is {width} x {height} px, too small to register; both sides need at least {min} px")]
    TooSmall { side: Side, width: u32, height: u32, min: usize },
    #[error(
        "the {side} image is blank, nothing on it is darker than its background; check that the slide holds tissue"
    )]
    Blank { side: Side },
    #[error(
        "no rotation and shift lays one image plausibly over the other; check that both show sections of one block"
    )]
    NoCandidate,
}

/// A map between two sections and how far to trust it.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Fixed pixels to moving pixels, pixel centres at integers.
    pub map: PixelMap,
    /// How far the map may be off, one value in micrometres a node of its displacement field.
    pub uncertainty_um: Vec<f32>,
    pub quality: RegistrationQuality,
}

/// Finds where each pixel of `fixed` lies in `moving`. Both are thumbnails of whole sections with `mpp` micrometres per
/// pixel and a long side of about 900 to 2000 px; sizes may differ, sections may be rotated by any angle, shifted,
/// mirrored or partly missing.
///
/// # Errors
/// [`RegisterError`] for images without room or structure and for parameters out of range. A map that is found is
/// returned even where it is poor; its [`RegistrationQuality`] says so.
pub fn register(
    fixed: &RgbImage,
    moving: &RgbImage,
    mpp: Mpp,
    params: &RegisterParams,
) -> Result<Registration, RegisterError> {
    params.check()?;
    let (fixed, moving) =
        rayon::join(|| density_of(Side::Fixed, fixed, params), || density_of(Side::Moving, moving, params));
    let (fixed, moving) = (fixed?, moving?);
    let size = (fixed.width, fixed.height);
    let (pyramid, peaks) = rayon::join(|| pyramid(&fixed, &moving, params), || search(&fixed, &moving, params));
    let levels: Vec<Level> = pyramid.iter().map(|images| Level::new(images, params.ngf_eta)).collect();
    let candidates = distinct_candidates(&peaks, size, params.search_candidates);
    let affine =
        refine_candidates(&levels, &candidates, params.iterations_per_level).ok_or(RegisterError::NoCandidate)?;
    let inverse = affine.inverse().ok_or(RegisterError::NoCandidate)?;
    let back: Vec<Images> = pyramid.iter().map(Images::swapped).collect();
    let consensus = consensus::find(&pyramid, &back, affine, inverse, consensus::Settings::of(params));
    let judged = levels.iter().rev().find(|level| level.fixed.long_side() <= JUDGED_SIDE_PX).unwrap_or(&levels[0]);
    let quality = quality::measure(&consensus, affine, judged, &peaks, mpp);
    let uncertainty_um =
        consensus.spread.iter().map(|px| (quality::ERROR_PER_SPREAD * px * mpp.get()) as f32).collect();
    Ok(Registration { map: PixelMap(consensus.map), uncertainty_um, quality })
}

/// Optical density of an image that is large enough for the finest level.
fn density_of(side: Side, image: &RgbImage, params: &RegisterParams) -> Result<Plane, RegisterError> {
    let (width, height) = image.dimensions();
    let min = MIN_LEVEL_SIDE_PX * params.finest_factor;
    if (width.min(height) as usize) < min {
        return Err(RegisterError::TooSmall { side, width, height, min });
    }
    density::optical_density(image).ok_or(RegisterError::Blank { side })
}

/// `image` reduced by `factor` and freed of aliasing.
fn reduced(image: &Plane, factor: usize) -> Plane {
    image.box_mean(factor).gaussian(LEVEL_SIGMA_PX)
}

/// The usable levels, coarse to fine; the last has `finest_factor`.
fn pyramid(fixed: &Plane, moving: &Plane, params: &RegisterParams) -> Vec<Images> {
    let short_side = fixed.short_side().min(moving.short_side());
    FACTORS
        .into_par_iter()
        .filter(|factor| *factor >= params.finest_factor && short_side / factor >= MIN_LEVEL_SIDE_PX)
        .map(|factor| Images {
            factor,
            fixed: Arc::new(reduced(fixed, factor)),
            moving: Arc::new(reduced(moving, factor)),
        })
        .collect()
}

/// All peaks of the exhaustive search, best first.
fn search(fixed: &Plane, moving: &Plane, params: &RegisterParams) -> Vec<Peak> {
    let factor = fixed.long_side().max(moving.long_side()).div_ceil(params.search_long_side_px as usize);
    coarse::search(reduced(fixed, factor), reduced(moving, factor), factor, params)
}

/// The best `limit` peaks that will not all run into the same minimum.
fn distinct_candidates(peaks: &[Peak], (width, height): (usize, usize), limit: usize) -> Vec<PixelAffine> {
    let same = SAME_CANDIDATE_SHARE * (width as f64).hypot(height as f64);
    let mut candidates: Vec<PixelAffine> = Vec::with_capacity(limit);
    for peak in peaks {
        if candidates.len() == limit {
            break;
        }
        if candidates.iter().all(|kept| kept.corner_distance(&peak.map, width, height) >= same) {
            candidates.push(peak.map);
        }
    }
    candidates
}

/// Refines all candidates on the two coarsest levels, the best [`FINALISTS`] on the next and the winner on the rest.
/// `None` without candidates.
fn refine_candidates(levels: &[Level], candidates: &[PixelAffine], iterations: usize) -> Option<PixelAffine> {
    let (coarsest, finer) = levels.split_first()?;
    let mut maps: Vec<PixelAffine> =
        candidates.par_iter().map(|map| refine(coarsest, *map, Freedom::Rigid, iterations)).collect();
    // Images too small for a second level get both passes on the only one.
    let affine_levels = if finer.is_empty() { levels } else { finer };
    for (pass, level) in affine_levels.iter().enumerate() {
        let mut refined: Vec<(PixelAffine, f64)> = maps
            .par_iter()
            .map(|start| {
                let map = refine(level, *start, Freedom::Affine, iterations);
                // A collapsed map says nothing against where it started; a finer level may hold it better.
                let map = if PLAUSIBLE_AREA_FACTOR.contains(&map.determinant().abs()) { map } else { *start };
                (map, Similarity::measure(level, &AffineWarp::on_level(map, level)).score())
            })
            .collect();
        refined.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        refined.truncate(if pass == 0 { FINALISTS } else { 1 });
        maps = refined.into_iter().map(|(map, _)| map).collect();
    }
    maps.first().copied()
}

#[cfg(test)]
mod tests;
