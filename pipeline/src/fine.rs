//! A finer look at a registration: block by block over the tissue, at the resolution of the model.
//!
//! Whole sections are registered on images of a thousand-odd pixels; on a slide of 25 mm one of these pixels is wider than a
//! cell. Here the moving section, carried by the map so far, is compared with the reference again in blocks of finer
//! pixels. What a block finds is a displacement on the reference; blocks overlap, and where they do their findings are
//! blended, so that the map stays continuous. Towards glass the correction fades to nothing.
//!
//! What it gains was measured (`xtask measure-refinement`): where the sections truly share detail, an error of a tenth of
//! a thumbnail's pixel falls to a hundredth of it; on neighbouring sections, whose tissue itself differs by tens of
//! micrometres, next to nothing. It is therefore an option.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::deformation::{Deformation, DisplacementField, SectionMap};
use crate::placement::{PlacementError, Registered};
use crate::register::{self, Advance, ERROR_PER_SPREAD, RegisterParams, Residual};
use crate::slide::{Resampled, SlideSource};
use crate::units::{Mpp, PixelRect, UmPoint};
use crate::warp::{Frame, warp_rect};

/// Side of a block's own area in fine pixels: enough structure to hold on to, little enough memory.
const BLOCK_PX: u32 = 512;
/// What a block sees beyond its own area on each side; the findings of neighbours are blended over it.
const MARGIN_PX: u32 = 128;
/// Distance of the nodes of the correction in fine pixels, at most; the map's own nodes may lie closer.
const NODE_SPACING_PX: f64 = 16.0;

/// A correction counts as far as it is longer than so many times the spread of the estimates it is the mean of (the
/// positive-part shrinkage of James and Stein): sections that do not share such detail stay where they are.
const DOUBT: f64 = 2.0;

/// What the finer look changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// Blocks that held tissue, and those of them that could be compared.
    pub blocks: usize,
    pub compared: usize,
    /// Median length of the correction over the compared blocks' nodes, in micrometres.
    pub median_correction_um: f64,
}

/// Where the blocks lie on the reference.
struct Blocks {
    mpp: Mpp,
    /// Fine pixel of the canvas where block (0, 0) begins.
    first: (i64, i64),
}

/// Findings by column and row of the block: displacement and spread in fine pixels, in the frame of what it saw, pixel
/// centres at integers.
type Findings = BTreeMap<(i64, i64), Residual>;

impl Blocks {
    /// What a block sees, in fine pixels of the reference's canvas.
    fn seen(&self, (col, row): (i64, i64)) -> PixelRect {
        let corner = |first: i64, index: i64| first + index * i64::from(BLOCK_PX) - i64::from(MARGIN_PX);
        let side = BLOCK_PX + 2 * MARGIN_PX;
        PixelRect { x: corner(self.first.0, col), y: corner(self.first.1, row), width: side, height: side }
    }

    /// Top-left corner of a block's own area on the reference.
    fn corner(&self, (col, row): (i64, i64)) -> UmPoint {
        let pixel = |first: i64, index: i64| (first + index * i64::from(BLOCK_PX)) as f64;
        UmPoint::from_pixels(pixel(self.first.0, col), pixel(self.first.1, row), self.mpp)
    }

    /// Blended displacement and spread at a point of the reference, in fine pixels, and the weight of all blocks there.
    fn blend(&self, findings: &Findings, p: [f64; 2]) -> ([f64; 2], f64, f64) {
        let pixel = p.map(|um| um / self.mpp.get() - 0.5);
        let nearest = |v: f64, first: i64| ((v - first as f64) / f64::from(BLOCK_PX)).floor() as i64;
        let (col, row) = (nearest(pixel[0], self.first.0), nearest(pixel[1], self.first.1));
        let (mut shift, mut spread, mut total) = ([0.0; 2], 0.0, 0.0);
        for key in (row - 1..=row + 1).flat_map(|row| (col - 1..=col + 1).map(move |col| (col, row))) {
            let Some(finding) = findings.get(&key) else { continue };
            let seen = self.seen(key);
            let at = [pixel[0] - seen.x as f64, pixel[1] - seen.y as f64];
            let weight = tent(at[0]) * tent(at[1]);
            let ([dx, dy], doubt) = (finding.field.at(at), finding.spread_at(at));
            let square = dx * dx + dy * dy;
            let trust = if square > 0.0 { (1.0 - (DOUBT * doubt).powi(2) / square).max(0.0) } else { 0.0 };
            shift = [shift[0] + weight * trust * dx, shift[1] + weight * trust * dy];
            spread += weight * doubt;
            total += weight;
        }
        (shift, spread, total)
    }
}

/// Refines `placed` at `mpp`, which must not be finer than the slides. `on_tissue` says whether a rectangle of the
/// reference (corner and size in micrometres) holds tissue worth a look.
///
/// # Errors
/// A slide cannot be read, or `advance` ended the work.
pub fn refine(
    reference: &Arc<dyn SlideSource>,
    section: &Arc<dyn SlideSource>,
    placed: &Registered,
    mpp: Mpp,
    params: &RegisterParams,
    on_tissue: &(dyn Fn(UmPoint, f64) -> bool + Sync),
    advance: &Advance,
) -> Result<(Registered, Gain), PlacementError> {
    let (fixed, moving) = (Resampled::new(Arc::clone(reference), mpp)?, Resampled::new(Arc::clone(section), mpp)?);
    let (origin, (width, height)) = (reference.info().bounds_origin(), reference.info().bounds_um());
    let pixel = |um: f64| (um / mpp.get()).floor() as i64;
    let blocks = Blocks { mpp, first: (pixel(origin.x), pixel(origin.y)) };
    let size_um = f64::from(BLOCK_PX) * mpp.get();
    let count = |um: f64| (um / size_um).ceil() as i64;
    let wanted: Vec<(i64, i64)> = (0..count(height))
        .flat_map(|row| (0..count(width)).map(move |col| (col, row)))
        .filter(|&block| on_tissue(blocks.corner(block), size_um))
        .collect();

    let done = AtomicU64::new(0);
    let look = |block: (i64, i64)| {
        if advance(done.fetch_add(1, Ordering::Relaxed), wanted.len() as u64).is_break() {
            return Err(PlacementError::Cancelled);
        }
        let seen = blocks.seen(block);
        let (here, there) = (fixed.read(seen)?, warp_rect(&moving, &placed.map, Frame::of_canvas(mpp), seen)?);
        Ok(register::residual(&here, &there, params).map(|residual| (block, residual)))
    };
    let findings: Vec<Option<((i64, i64), Residual)>> =
        wanted.par_iter().map(|&block| look(block)).collect::<Result<_, PlacementError>>()?;
    let findings: Findings = findings.into_iter().flatten().collect();

    let nodes = findings.values().flat_map(|residual| &residual.field.nodes);
    let mut lengths: Vec<f64> = nodes.map(|[x, y]| f64::from(x.hypot(*y)) * mpp.get()).collect();
    lengths.sort_by(f64::total_cmp);
    let gain = Gain {
        blocks: wanted.len(),
        compared: findings.len(),
        median_correction_um: lengths.get(lengths.len() / 2).copied().unwrap_or(0.0),
    };
    Ok((corrected(placed, &blocks, &findings, (origin, width, height)), gain))
}

/// The map with the findings applied, `p ↦ map(p + correction(p))`, on nodes over the whole reference.
fn corrected(placed: &Registered, blocks: &Blocks, findings: &Findings, bounds: (UmPoint, f64, f64)) -> Registered {
    let (origin, width, height) = bounds;
    let mpp = blocks.mpp.get();
    let old = placed.map.deformation();
    let spacing = (NODE_SPACING_PX * mpp).min(old.field.as_ref().map_or(f64::INFINITY, |field| field.spacing));
    let count = |um: f64| (um / spacing).ceil() as usize + 1;
    let mut field = DisplacementField {
        origin: [origin.x, origin.y],
        spacing,
        cols: count(width).max(2),
        rows: count(height).max(2),
        nodes: Vec::new(),
    };
    let at_node = |i: usize| {
        let p = field.position(i);
        let (shift, spread, weight) = blocks.blend(findings, p);
        let to = old.apply([p[0] + shift[0] * mpp, p[1] + shift[1] * mpp]);
        let straight = old.affine_part(p);
        let error = (1.0 - weight).max(0.0) * placed.uncertainty_at(p) + ERROR_PER_SPREAD * spread * mpp;
        ([(to[0] - straight[0]) as f32, (to[1] - straight[1]) as f32], error as f32)
    };
    let (nodes, uncertainty_um) = (0..field.cols * field.rows).into_par_iter().map(at_node).unzip();
    field.nodes = nodes;
    let map = SectionMap::new(Deformation { affine: old.affine, field: Some(field) });
    Registered { map, uncertainty_um, quality: placed.quality.clone() }
}

/// Weight of a block at a position along one axis of what it sees: 1 in the middle, falling over the margins so that the
/// weights of neighbours add up to 1.
fn tent(position: f64) -> f64 {
    let (margin, side) = (f64::from(2 * MARGIN_PX), f64::from(BLOCK_PX + 2 * MARGIN_PX));
    (position.min(side - 1.0 - position) / margin).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use image::{Rgb, RgbImage};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::placement::{Placement, place, unheard};
    use crate::slide::SyntheticSlide;
    use crate::units::Affine;

    /// Blots of many sizes on glass.
    fn section(seed: u64, offset: [f64; 2]) -> Arc<dyn SlideSource> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let blots: Vec<[f64; 4]> = (0..260)
            .map(|_| {
                let centre = [rng.random_range(150.0..1050.0), rng.random_range(150.0..850.0)];
                [centre[0], centre[1], rng.random_range(3.0..17.0), rng.random_range(0.2..0.8)]
            })
            .collect();
        let image = RgbImage::from_fn(1200, 1000, |x, y| {
            let (x, y) = (f64::from(x) + offset[0], f64::from(y) + offset[1]);
            let density: f64 = blots
                .iter()
                .map(|[cx, cy, width, density]| {
                    let square = ((x - cx).powi(2) + (y - cy).powi(2)) / (width * width);
                    if square < 20.0 { density * (-0.5 * square).exp() } else { 0.0 }
                })
                .sum();
            Rgb([0.5, 1.0, 0.6].map(|c| (242.0 * 10f64.powf(-c * density)).round() as u8))
        });
        Arc::new(SyntheticSlide::new(image, Mpp::new(1.0).expect("plausible")))
    }

    /// Distances in µm between what the map makes of tissue and where that is.
    fn errors(found: &Registered, offset: [f64; 2]) -> f64 {
        let mut errors: Vec<f64> = (0..100)
            .map(|i| {
                let p = UmPoint { x: 250.0 + f64::from(i % 10) * 70.0, y: 250.0 + f64::from(i / 10) * 55.0 };
                let to = found.map.apply(p);
                (to.x - p.x + offset[0]).hypot(to.y - p.y + offset[1])
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        errors[50]
    }

    #[test]
    fn a_map_that_is_off_by_a_few_pixels_is_mended_where_there_is_tissue() {
        let offset = [3.3, -2.1];
        let (reference, moving) = (section(1, [0.0; 2]), section(1, offset));
        let (coarse, fine_mpp) = (Mpp::new(4.0).expect("plausible"), Mpp::new(1.0).expect("plausible"));
        let params = RegisterParams::default();
        let placed = place(&reference, &[&moving], coarse, &params, &unheard).expect("readable").remove(0);
        let Placement::Registered(mut placed) = placed else { panic!("{placed:?}") };
        // What a thumbnail of a large slide leaves: some micrometres.
        placed.map = Affine([[1.0, 0.0, 1.2 - offset[0]], [0.0, 1.0, -1.5 - offset[1]]]).into();
        placed.uncertainty_um.clear();
        let before = errors(&placed, offset);
        let refine = |on_tissue: &(dyn Fn(UmPoint, f64) -> bool + Sync)| {
            refine(&reference, &moving, &placed, fine_mpp, &params, on_tissue, &unheard).expect("readable")
        };
        let (refined, gain) = refine(&|_, _| true);
        let after = errors(&refined, offset);
        assert!(before > 1.5 && after < 0.3, "{before} µm before, {after} µm after, {gain:?}");
        assert_eq!(refined.uncertainty_um.len(), refined.map.deformation().field.as_ref().expect("one").nodes.len());

        let (untouched, gain) = refine(&|_, _| false);
        assert_eq!((gain.blocks, gain.compared), (0, 0));
        assert!((errors(&untouched, offset) - before).abs() < 1e-3);
    }

    #[test]
    fn sections_without_common_detail_stay_nearly_where_they_are() {
        let (reference, moving) = (section(1, [0.0; 2]), section(2, [0.0; 2]));
        let mpp = Mpp::new(1.0).expect("plausible");
        let params = RegisterParams::default();
        let placed = place(&reference, &[&reference], mpp, &params, &unheard).expect("readable").remove(0);
        let Placement::Registered(placed) = placed else { panic!("{placed:?}") };
        let (refined, _) =
            refine(&reference, &moving, &placed, mpp, &params, &|_, _| true, &unheard).expect("readable");
        let moved = errors(&refined, [0.0; 2]);
        assert!(moved < 4.0, "moved by {moved} µm towards what is not there");
    }

    #[test]
    fn a_refinement_that_is_broken_off_is_cancelled() {
        let slide = section(1, [0.0; 2]);
        let mpp = Mpp::new(1.0).expect("plausible");
        let params = RegisterParams::default();
        let placed = place(&slide, &[&slide], Mpp::new(4.0).expect("plausible"), &params, &unheard).expect("readable");
        let Placement::Registered(placed) = &placed[0] else { panic!("{placed:?}") };
        let broken = refine(&slide, &slide, placed, mpp, &params, &|_, _| true, &|_, _| ControlFlow::Break(()));
        assert!(matches!(broken, Err(PlacementError::Cancelled)));
    }
}
