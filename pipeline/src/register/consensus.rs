//! The displacement as the mean of several estimates, and their spread as a measure of what is known.
//!
//! One minimisation of NGF ends in one of many local minima, and nothing in its value says how good that one is. Four
//! minimisations that see the same sections differently (from fixed to moving and from moving to fixed; with a finer
//! grid and a broad edge parameter and with a coarser grid and a narrow one) err independently where edges are few or
//! ambiguous and agree where they are clear. Their mean is closer to the truth than any of them, and their spread tells
//! where the map is only a guess.

use rayon::prelude::*;

use super::affine::PixelAffine;
use super::ngf::{Images, Level};
use super::nonrigid::{self, Options};
use crate::deformation::Deformation;

/// How one estimate looks at the images: distance of its nodes in level pixels, and its edge parameter as a multiple of
/// the configured one.
const VIEWS: [(usize, f64); 2] = [(6, 2.0), (8, 1.0)];
/// Coarsest level on which single structures move; coarser ones give an overview.
const COARSEST_FACTOR: usize = 8;
/// How much stiffer the section is taken for in the overview, where 16 pixels make one and noise passes for structure.
const STIFFNESS: f64 = 10.0;
/// A hundredth of a pixel is below what averaging could show.
const INVERSION_TOLERANCE_PX: f64 = 0.01;

/// Settings of the non-rigid part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) ngf_eta: f64,
    pub(crate) bending_weight: f64,
    pub(crate) max_iterations: usize,
}

/// The mean of all estimates.
pub(crate) struct Consensus {
    /// In full-resolution pixels.
    pub(crate) map: Deformation,
    /// Root mean square distance in pixels of the estimates from their mean, one value a node of the map's field.
    pub(crate) spread: Vec<f64>,
}

/// Finds the displacement beyond `affine` (fixed to moving, regular). `there` and `back` are the pyramids, coarse to
/// fine, from fixed to moving and from moving to fixed.
pub(crate) fn find(
    there: &[Images],
    back: &[Images],
    affine: PixelAffine,
    inverse: PixelAffine,
    settings: Settings,
) -> Consensus {
    let tasks: Vec<(&[Images], PixelAffine, (usize, f64))> =
        VIEWS.into_iter().flat_map(|view| [(there, affine, view), (back, inverse, view)]).collect();
    let estimates: Vec<Deformation> =
        tasks.into_par_iter().map(|(pyramid, affine, view)| estimate(pyramid, affine, view, settings)).collect();
    mean(&estimates)
}

/// One estimate, through all levels. The finer ones start from nothing or from a stiff overview, whichever leads lower:
/// a flap of tissue that lies far off is only seen from the overview, which on other sections leads astray.
fn estimate(
    pyramid: &[Images],
    affine: PixelAffine,
    (node_spacing_px, eta): (usize, f64),
    settings: Settings,
) -> Deformation {
    let options =
        Options { node_spacing_px, bending_weight: settings.bending_weight, max_iterations: settings.max_iterations };
    let level = |images| Level::new(images, settings.ngf_eta * eta);
    let coarse = pyramid.partition_point(|images| images.factor > COARSEST_FACTOR);
    let (overview, finer) = pyramid.split_at(coarse.min(pyramid.len() - 1));
    let stiff = Options { bending_weight: STIFFNESS * options.bending_weight, ..options };
    let overview = overview
        .iter()
        .fold(None, |start, images| Some(nonrigid::refine(&level(images), affine, start.as_ref(), stiff).field));
    let first = level(&finer[0]);
    let starts = [None].into_iter().chain(overview.as_ref().map(Some));
    let best = starts
        .map(|start| nonrigid::refine(&first, affine, start, options))
        .reduce(|best, other| if other.objective < best.objective { other } else { best });
    let field = finer[1..].iter().fold(best.map(|best| best.field), |field, images| {
        Some(nonrigid::refine(&level(images), affine, field.as_ref(), options).field)
    });
    Deformation { affine: affine.0, field }
}

/// The mean on the nodes of the first estimate. Estimates alternate in direction: even ones go from fixed to moving,
/// odd ones back.
fn mean(estimates: &[Deformation]) -> Consensus {
    let mut map = estimates[0].clone();
    let Some(field) = &mut map.field else { return Consensus { map, spread: Vec::new() } };
    let mut spread = vec![0.0; field.nodes.len()];
    for (i, spread) in spread.iter_mut().enumerate() {
        let node = field.position(i);
        let first = estimates[0].apply(node);
        let positions: Vec<[f64; 2]> = estimates
            .iter()
            .enumerate()
            .filter_map(|(k, estimate)| match k % 2 {
                0 => Some(estimate.apply(node)),
                // Where an estimate folds it has nothing to say.
                _ => estimate.invert(node, first, INVERSION_TOLERANCE_PX),
            })
            .collect();
        let count = positions.len() as f64;
        let mean: [f64; 2] = std::array::from_fn(|c| positions.iter().map(|p| p[c]).sum::<f64>() / count);
        let variance =
            positions.iter().map(|p| (p[0] - mean[0]).powi(2) + (p[1] - mean[1]).powi(2)).sum::<f64>() / count;
        *spread = variance.sqrt();
        for (c, component) in field.nodes[i].iter_mut().enumerate() {
            *component += (mean[c] - first[c]) as f32;
        }
    }
    Consensus { map, spread }
}
