//! What is left between two images that lie nearly right already.

use image::RgbImage;

use super::affine::PixelAffine;
use super::ngf::Images;
use super::{RegisterParams, consensus, density, pyramid};
use crate::deformation::DisplacementField;

/// What moves by more than this level shows was found before; looking again only adds wrong minima.
const COARSEST_FACTOR: usize = 4;

/// A displacement beyond the identity, in pixels, pixel centres at integers.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    pub(crate) field: DisplacementField,
    /// Root mean square distance of the estimates from their mean in pixels, one value a node.
    spread: Vec<f64>,
}

impl Residual {
    /// The spread at the node nearest to `p`.
    pub(crate) fn spread_at(&self, p: [f64; 2]) -> f64 {
        self.spread[self.field.nearest(p)]
    }
}

/// Finds where each pixel of `fixed` lies in `moving`, which are of the same size and nearly on top of each other: only
/// the non-rigid part of [`super::register`]. `None` where an image shows nothing or is too small.
pub(crate) fn residual(fixed: &RgbImage, moving: &RgbImage, params: &RegisterParams) -> Option<Residual> {
    let (fixed, moving) = (density::optical_density(fixed)?, density::optical_density(moving)?);
    let mut there = pyramid(&fixed, &moving, params);
    there.retain(|images| images.factor <= COARSEST_FACTOR);
    if there.is_empty() {
        return None;
    }
    let back: Vec<Images> = there.iter().map(Images::swapped).collect();
    let identity = PixelAffine::IDENTITY;
    let found = consensus::find(&there, &back, identity, identity, consensus::Settings::of(params));
    found.map.field.map(|field| Residual { field, spread: found.spread })
}
