//! What tissue may look like without being other tissue: turned, mirrored, shifted, stained a little differently, or cut
//! right beside. Two views of one place are made to agree, in the latent and in the clusters.
//!
//! Views are made from uint8 to uint8, before normalisation, on the CPU and from a generator of one's own, so that they are
//! the same on every device and leave libtorch's random numbers alone.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::config::AugmentConfig;
use crate::error::TrainError;
use crate::random::normals;

/// Grey values count from 1, so that black has a finite optical density; one above the brightest transmits everything.
const WHITE: f64 = 256.0;
/// Planes of one stain: red, green, blue.
const PLANES_PER_STAIN: usize = 3;

/// One way to look at a patch.
#[derive(Debug, Clone)]
struct View {
    /// Quarter turns, 0…3.
    turns: u8,
    mirrored: bool,
    /// By how many pixels the patch is shifted; what comes in at an edge is the patch's own reflection.
    shift: (i64, i64),
    /// What each grey value becomes, per plane.
    stain: Vec<[u8; 256]>,
}

/// A view of each patch (uint8 `[N, 3·S, P, P]` on the CPU), of the same shape.
///
/// # Errors
/// What libtorch says.
pub fn views(patches: &Tensor, config: &AugmentConfig, generator: &mut ChaCha8Rng) -> Result<Tensor, TrainError> {
    let size = patches.size();
    let (planes, side) = (size[1] as usize, size[2] as usize);
    let views: Vec<View> = (0..size[0]).map(|_| View::draw(config, planes, generator)).collect();
    let source = Vec::<u8>::try_from(patches.reshape([-1]))?;
    let length = planes * side * side;
    let mut target = vec![0; source.len()];
    target
        .par_chunks_mut(length)
        .zip(source.par_chunks(length))
        .zip(&views)
        .for_each(|((target, source), view)| view.apply(source, side, target));
    Ok(Tensor::f_from_data_size(&target, &size, Kind::Uint8)?)
}

impl View {
    fn draw(config: &AugmentConfig, planes: usize, generator: &mut ChaCha8Rng) -> Self {
        let most = i64::from(config.shift_px);
        // Every number is drawn whatever is switched on, so that one switch does not reshuffle the others.
        let (turns, mirrored) = (generator.random_range(0..4u8), generator.random::<bool>());
        let shift = (generator.random_range(-most..=most), generator.random_range(-most..=most));
        let stain =
            (0..planes.div_ceil(PLANES_PER_STAIN)).flat_map(|_| stain_curves(config, generator)).take(planes).collect();
        Self { turns: if config.rotations { turns } else { 0 }, mirrored: config.flips && mirrored, shift, stain }
    }

    /// `source` and `target`: planes of `side`² values, one after the other.
    fn apply(&self, source: &[u8], side: usize, target: &mut [u8]) {
        let area = side * side;
        let from: Vec<u32> = (0..area).map(|i| self.source_of(i / side, i % side, side)).collect();
        for ((target, source), curve) in target.chunks_mut(area).zip(source.chunks(area)).zip(&self.stain) {
            for (value, &index) in target.iter_mut().zip(&from) {
                *value = curve[usize::from(source[index as usize])];
            }
        }
    }

    /// Which pixel of the patch is seen at this row and column of the view.
    fn source_of(&self, row: usize, col: usize, side: usize) -> u32 {
        let last = side - 1;
        let col = if self.mirrored { last - col } else { col };
        let (row, col) = match self.turns {
            0 => (row, col),
            1 => (col, last - row),
            2 => (last - row, last - col),
            _ => (last - col, row),
        };
        let place = |at: usize, shift: i64| reflected(at as i64 + shift, side as i64);
        (place(row, self.shift.1) * side as i64 + place(col, self.shift.0)) as u32
    }
}

/// `at` folded back into `0..side` at both edges, which are not repeated; for shifts below `side`.
fn reflected(at: i64, side: i64) -> i64 {
    let last = side - 1;
    last - (last - at.abs()).abs()
}

/// Three curves over grey values: the optical density of one stain's planes is scaled by a common factor (it is stained stronger
/// or weaker) and by one of their own (hue, white balance), both normally distributed around 1. The factors of the planes have
/// mean 1, so that hue does not change strength.
fn stain_curves(config: &AugmentConfig, generator: &mut ChaCha8Rng) -> [[u8; 256]; PLANES_PER_STAIN] {
    let drawn: Vec<f64> = normals(generator).take(1 + PLANES_PER_STAIN).map(f64::from).collect();
    let strength = 1.0 + config.stain_jitter * drawn[0];
    let mean = drawn[1..].iter().sum::<f64>() / PLANES_PER_STAIN as f64;
    std::array::from_fn(|plane| {
        let hue = 1.0 + config.hue_jitter * (drawn[1 + plane] - mean);
        let scale = (strength * hue).max(0.0);
        std::array::from_fn(|grey| {
            let density = -((grey as f64 + 1.0) / WHITE).ln();
            (WHITE * (-density * scale).exp() - 1.0).round().clamp(0.0, 255.0) as u8
        })
    })
}

#[cfg(test)]
mod tests;
