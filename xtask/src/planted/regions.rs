//! Where which kind lies: contiguous regions of unequal size on a piece of tissue, glass around it.
//!
//! Sites are drawn at random, and a kind whose few sites lie at the rim or close to others would have hardly any ground.
//! What is hardly there nobody can count. So every kind has at least half of its equal share of each slide's tissue
//! ([`LEAST_SHARE`]): as long as one has less, the smallest gets another site, drawn as the others were.

use std::f32::consts::TAU;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::noise::smooth_at;
use super::texture::Site;

/// Draws from which each site takes the one farthest from the sites before (Mitchell 1991): no two lie close together.
const CANDIDATES: usize = 12;
/// Borders between regions and of the tissue swing this far, in pixels, over about [`WARP_SIZE`].
const WARP: f32 = 70.0;
const WARP_SIZE: f32 = 260.0;
/// The tissue's half axes, as shares of the slide's halves.
const TISSUE: f32 = 0.93;
/// What each kind fills at least, in equal shares: pixels of tissue over kinds.
const LEAST_SHARE: f64 = 0.5;
/// Sites that a slide can have. One too small for its kinds would never have enough.
const MOST_SITES: usize = 500;

/// The regions of one slide.
pub(super) struct Regions {
    width: u32,
    height: u32,
    seed: u64,
    /// Middle, kind and texture of each site; a pixel belongs to the nearest.
    sites: Vec<([f32; 2], usize, Site)>,
}

impl Regions {
    /// As many sites of each kind as `sites` says, and more of the kinds that would have too little. None where the slide is too
    /// small for that.
    pub(super) fn new((width, height): (u32, u32), sites: &[usize], generator: &mut impl Rng) -> Option<Self> {
        let mut kinds: Vec<usize> = sites.iter().enumerate().flat_map(|(k, &n)| vec![k; n]).collect();
        kinds.shuffle(generator);
        let mut regions = Self { width, height, seed: 0, sites: Vec::new() };
        kinds.into_iter().for_each(|kind| regions.add(kind, generator));
        regions.seed = generator.random();
        while regions.sites.len() <= MOST_SITES {
            let areas = regions.areas(sites.len());
            let least = LEAST_SHARE * areas.iter().sum::<usize>() as f64 / sites.len() as f64;
            match areas.iter().enumerate().min_by_key(|(_, area)| **area) {
                Some((smallest, &area)) if (area as f64) < least.max(1.0) => regions.add(smallest, generator),
                _ => return Some(regions),
            }
        }
        None
    }

    /// One more site of a kind.
    fn add(&mut self, kind: usize, generator: &mut impl Rng) {
        let mut draw = || {
            let (radius, angle) = (generator.random::<f32>().sqrt(), TAU * generator.random::<f32>());
            let along = |side: u32, share: f32| side as f32 / 2.0 * (1.0 + TISSUE * radius * share);
            [along(self.width, angle.cos()), along(self.height, angle.sin())]
        };
        let drawn: Vec<[f32; 2]> = (0..CANDIDATES).map(|_| draw()).collect();
        let clearance = |at: &[f32; 2]| {
            self.sites.iter().map(|(other, ..)| (at[0] - other[0]).hypot(at[1] - other[1])).fold(f32::MAX, f32::min)
        };
        let best = drawn.into_iter().max_by(|a, b| clearance(a).total_cmp(&clearance(b))).unwrap_or_default();
        let site = Site {
            seed: generator.random(),
            angle: TAU * generator.random::<f32>(),
            sparseness: 0.92 + 0.16 * generator.random::<f32>(),
        };
        self.sites.push((best, kind, site));
    }

    /// Pixels of each kind.
    fn areas(&self, kinds: usize) -> Vec<usize> {
        let of_row = |y: u32| {
            let mut areas = vec![0; kinds];
            let found = (0..self.width).filter_map(|x| self.at(x as f32, y as f32));
            found.for_each(|(kind, _)| areas[kind] += 1);
            areas
        };
        let together = |a: Vec<usize>, b: Vec<usize>| a.iter().zip(b).map(|(a, b)| a + b).collect();
        (0..self.height).into_par_iter().map(of_row).reduce(|| vec![0; kinds], together)
    }

    /// Kind and texture at a pixel; none on glass.
    pub(super) fn at(&self, x: f32, y: f32) -> Option<(usize, &Site)> {
        let moved = |salt: u64, at: f32| at + WARP * smooth_at(self.seed ^ salt, x, y, WARP_SIZE);
        let (x, y) = (moved(1, x), moved(2, y));
        let from_middle = |at: f32, side: u32| (2.0 * at / side as f32 - 1.0) / TISSUE;
        if from_middle(x, self.width).hypot(from_middle(y, self.height)) > 1.0 {
            return None;
        }
        let square = |at: &[f32; 2]| (x - at[0]).powi(2) + (y - at[1]).powi(2);
        let nearest = self.sites.iter().map(|site| (square(&site.0), site)).min_by(|a, b| a.0.total_cmp(&b.0));
        nearest.map(|(_, (_, kind, site))| (*kind, site))
    }
}
