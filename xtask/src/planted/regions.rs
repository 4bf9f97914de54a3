//! Where which kind lies: contiguous regions of unequal size on a piece of tissue, glass around it.

use std::f32::consts::TAU;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::noise::smooth_at;
use super::texture::Site;

/// Draws from which each site takes the one farthest from the sites before (Mitchell 1991): no two lie close together.
const CANDIDATES: usize = 12;
/// Borders between regions and of the tissue swing this far, in pixels, over about [`WARP_SIZE`].
const WARP: f32 = 70.0;
const WARP_SIZE: f32 = 260.0;
/// The tissue's half axes, as shares of the slide's halves.
const TISSUE: f32 = 0.93;

/// The regions of one slide.
pub(super) struct Regions {
    width: f32,
    height: f32,
    seed: u64,
    /// Middle, kind and texture of each site; a pixel belongs to the nearest.
    sites: Vec<([f32; 2], usize, Site)>,
}

impl Regions {
    /// As many sites of each kind as `shares` says.
    pub(super) fn new(width: u32, height: u32, shares: &[usize], generator: &mut impl Rng) -> Self {
        let (width, height) = (width as f32, height as f32);
        let mut kinds: Vec<usize> = shares.iter().enumerate().flat_map(|(k, &n)| vec![k; n]).collect();
        kinds.shuffle(generator);
        let mut sites: Vec<([f32; 2], usize, Site)> = Vec::new();
        for kind in kinds {
            let mut draw = || {
                let (radius, angle) = (generator.random::<f32>().sqrt(), TAU * generator.random::<f32>());
                let along = |side: f32, share: f32| side / 2.0 * (1.0 + TISSUE * radius * share);
                [along(width, angle.cos()), along(height, angle.sin())]
            };
            let clearance = |at: &[f32; 2]| {
                sites.iter().map(|(other, ..)| (at[0] - other[0]).hypot(at[1] - other[1])).fold(f32::MAX, f32::min)
            };
            let drawn: Vec<[f32; 2]> = (0..CANDIDATES).map(|_| draw()).collect();
            let best = drawn.into_iter().max_by(|a, b| clearance(a).total_cmp(&clearance(b))).unwrap_or_default();
            let site = Site {
                seed: generator.random(),
                angle: TAU * generator.random::<f32>(),
                sparseness: 0.92 + 0.16 * generator.random::<f32>(),
            };
            sites.push((best, kind, site));
        }
        Self { width, height, seed: generator.random(), sites }
    }

    /// Kind and texture at a pixel; none on glass.
    pub(super) fn at(&self, x: f32, y: f32) -> Option<(usize, &Site)> {
        let moved = |salt: u64, at: f32| at + WARP * smooth_at(self.seed ^ salt, x, y, WARP_SIZE);
        let (x, y) = (moved(1, x), moved(2, y));
        let from_middle = |at: f32, side: f32| (2.0 * at / side - 1.0) / TISSUE;
        if from_middle(x, self.width).hypot(from_middle(y, self.height)) > 1.0 {
            return None;
        }
        let square = |at: &[f32; 2]| (x - at[0]).powi(2) + (y - at[1]).powi(2);
        let nearest = self.sites.iter().map(|site| (square(&site.0), site)).min_by(|a, b| a.0.total_cmp(&b.0));
        nearest.map(|(_, (_, kind, site))| (*kind, site))
    }
}
