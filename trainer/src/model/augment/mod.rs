//! Augmentation: views of a patch that show the same tissue rotated, mirrored, shifted or stained a little differently. Training makes two
//! views of one place agree in their latent vectors and, optionally, in their clusters.
//!
//! Views are made from uint8 to uint8, before normalisation, on the device of the patches. They have their own random number generator,
//! so they are the same on every device and do not change the random numbers of libtorch.

use std::sync::LazyLock;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::config::AugmentConfig;
use crate::model::random::normals;
use crate::system::error::TrainError;
use crate::system::tensors::upload;

/// Grey values count from 1, so that black has a finite optical density; one above the brightest transmits everything.
const WHITE: f64 = 256.0;
/// Planes of one stain: red, green, blue.
const CHANNELS_PER_STAIN: usize = 3;

/// Optical density of each grey value, in nats.
static DENSITY: LazyLock<[f64; 256]> =
    LazyLock::new(|| std::array::from_fn(|grey| -((grey as f64 + 1.0) / WHITE).ln()));

/// The transformation that makes one view of a patch.
#[derive(Debug, Clone)]
struct ViewTransform {
    /// Row and column of the patch for a row and column of the view, before reflection at the edges: `[a, b, c]` is a·row + b·column + c.
    /// Patches are first rotated and mirrored, then shifted, and reflected at the edges.
    coordinates: [[i64; 3]; 2],
    /// Factor on the optical density of each channel.
    stain: Vec<f64>,
}

/// A view of each patch (uint8 `[N, 3·S, P, P]`), of the same shape and on the same device.
///
/// # Errors
/// An error of libtorch.
pub fn views(patches: &Tensor, config: &AugmentConfig, generator: &mut ChaCha8Rng) -> Result<Tensor, TrainError> {
    let size = patches.size();
    let (channels, side) = (size[1] as usize, size[2] as usize);
    let views: Vec<ViewTransform> =
        (0..size[0]).map(|_| ViewTransform::draw(config, channels, side, generator)).collect();
    if patches.device() == Device::Cpu { on_cpu(patches, &views) } else { on_device(patches, &views) }
}

/// On all cores of the CPU.
fn on_cpu(patches: &Tensor, views: &[ViewTransform]) -> Result<Tensor, TrainError> {
    let size = patches.size();
    let side = size[2] as usize;
    let source = Vec::<u8>::try_from(patches.reshape([-1]))?;
    let length = source.len() / views.len().max(1);
    let mut target = vec![0; source.len()];
    target
        .par_chunks_mut(length)
        .zip(source.par_chunks(length))
        .zip(views)
        .for_each(|((target, source), view)| view.apply(source, side, target));
    Ok(Tensor::f_from_data_size(&target, &size, Kind::Uint8)?)
}

/// The same for a GPU: a few operations on all patches at once.
fn on_device(patches: &Tensor, views: &[ViewTransform]) -> Result<Tensor, TrainError> {
    let (size, device) = (patches.size(), patches.device());
    let &[count, channels, side, _] = size.as_slice() else {
        return Err(tch::TchError::Shape("no patches".into()).into());
    };
    let coordinates: Vec<i64> = views.iter().flat_map(|view| view.coordinates.into_iter().flatten()).collect();
    let coordinates = upload(Tensor::f_from_slice(&coordinates)?, device).f_view([count, 6, 1, 1])?;
    let along = Tensor::f_arange(side, (Kind::Int64, device))?;
    let (row, col) = (along.view([1, side, 1]), along.view([1, 1, side]));
    let seen = |first: i64| {
        let part = |i: i64| coordinates.select(1, first + i);
        let at: Tensor = part(0) * &row + part(1) * &col + part(2);
        // As in `reflected`.
        let last = side - 1;
        last - (last - at.abs()).abs()
    };
    let area = side * side;
    let from = (seen(0) * side + seen(3)).view([count, 1, area]).expand([count, channels, area], false);

    let stain: Vec<f64> = views.iter().flat_map(|view| view.stain.iter().copied()).collect();
    let stain = upload(Tensor::f_from_slice(&stain)?, device).f_view([count, channels, 1])?;
    let density = upload(Tensor::f_from_slice(DENSITY.as_slice())?, device);
    let curve = ((stain * -density).exp() * WHITE - 1.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8);
    let grey = patches.f_view([count, channels, area])?.f_gather(2, &from, false)?;
    Ok(curve.f_gather(2, &grey.to_kind(Kind::Int64), false)?.f_view(size.as_slice())?)
}

impl ViewTransform {
    fn draw(config: &AugmentConfig, channels: usize, side: usize, generator: &mut ChaCha8Rng) -> Self {
        let most = i64::from(config.shift_px);
        // All numbers are always drawn, so that one switch does not change the random numbers of the others.
        let (turns, mirrored) = (generator.random_range(0..4u8), generator.random::<bool>());
        let shift = [generator.random_range(-most..=most), generator.random_range(-most..=most)];
        let stain = (0..channels.div_ceil(CHANNELS_PER_STAIN))
            .flat_map(|_| stain_factors(config, generator))
            .take(channels)
            .collect();
        let (turns, mirrored) = (if config.rotations { turns } else { 0 }, config.flips && mirrored);
        Self { coordinates: coordinates(turns, mirrored, shift, side), stain }
    }

    /// `source` and `target`: channels of `side`² values, one after the other.
    fn apply(&self, source: &[u8], side: usize, target: &mut [u8]) {
        let area = side * side;
        let from: Vec<u32> = (0..area).map(|i| self.source_of(i / side, i % side, side)).collect();
        for ((target, source), &factor) in target.chunks_mut(area).zip(source.chunks(area)).zip(&self.stain) {
            let curve = stain_curve(factor);
            for (value, &index) in target.iter_mut().zip(&from) {
                *value = curve[usize::from(source[index as usize])];
            }
        }
    }

    /// Index of the patch pixel for this row and column of the view.
    fn source_of(&self, row: usize, col: usize, side: usize) -> u32 {
        let [row, col] = self.coordinates.map(|[a, b, c]| reflected(a * row as i64 + b * col as i64 + c, side as i64));
        (row * side as i64 + col) as u32
    }
}

/// See [`ViewTransform::coordinates`]; `turns` are quarter turns, `shift` is along columns and rows.
fn coordinates(turns: u8, mirrored: bool, shift: [i64; 2], side: usize) -> [[i64; 3]; 2] {
    let last = side as i64 - 1;
    let row = [1, 0, 0];
    let col = if mirrored { [0, -1, last] } else { [0, 1, 0] };
    let back = |[a, b, c]: [i64; 3]| [-a, -b, last - c];
    let [mut row, mut col] = match turns {
        0 => [row, col],
        1 => [col, back(row)],
        2 => [back(row), back(col)],
        _ => [back(col), row],
    };
    col[2] += shift[0];
    row[2] += shift[1];
    [row, col]
}

/// `at` folded back into `0..side` at both edges, which are not repeated; for shifts below `side`.
fn reflected(at: i64, side: i64) -> i64 {
    let last = side - 1;
    last - (last - at.abs()).abs()
}

/// Factors on the optical density of the three channels of one stain: a common factor (staining strength) times one for each channel (hue,
/// white balance), both normally distributed around 1. The mean of the channel factors is 1, so that hue does not change the strength.
fn stain_factors(config: &AugmentConfig, generator: &mut ChaCha8Rng) -> [f64; CHANNELS_PER_STAIN] {
    let drawn: Vec<f64> = normals(generator).take(1 + CHANNELS_PER_STAIN).map(f64::from).collect();
    let strength = 1.0 + config.stain_jitter * drawn[0];
    let mean = drawn[1..].iter().sum::<f64>() / CHANNELS_PER_STAIN as f64;
    std::array::from_fn(|channel| (strength * (1.0 + config.hue_jitter * (drawn[1 + channel] - mean))).max(0.0))
}

/// The new grey value for each grey value if its optical density is multiplied by `factor`.
fn stain_curve(factor: f64) -> [u8; 256] {
    // Halves to even, as libtorch rounds.
    DENSITY.map(|density| (WHITE * (-density * factor).exp() - 1.0).round_ties_even().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests;
