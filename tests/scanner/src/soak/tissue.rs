//! Small slides that have something to register: a piece of made-up tissue, the same in every stain.

use std::path::Path;

use anyhow::Context;
use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tissuemap::pyramid::write_rgb;
use tissuemap::units::Mpp;

/// Pixels.
const WIDTH: u32 = 300;
/// Pixels.
const HEIGHT: u32 = 240;
/// Micrometres per pixel, of the slides and of the models.
pub(super) const MPP: f64 = 2.0;

/// The stains of a set, each with how strongly it takes up red, green and blue.
pub(super) const STAINS: [(&str, [f64; 3]); 2] = [("HE", [0.6, 1.0, 0.4]), ("CD31", [0.7, 0.8, 1.0])];

/// The file of one section of this block of tissue, in a stain of [`STAINS`].
///
/// # Errors
/// There is no room for a temporary file.
pub(crate) fn section(block: u64, stain: usize) -> anyhow::Result<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(block);
    let (fine, coarse) = (field(&mut rng, 6), field(&mut rng, 40));
    let mut noise = ChaCha8Rng::seed_from_u64(block ^ (stain as u64 + 1) << 60);
    let image = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let (across, down) = (f64::from(x) / f64::from(WIDTH) - 0.5, f64::from(y) / f64::from(HEIGHT) - 0.5);
        let at = (x + y * WIDTH) as usize;
        let inside = (across / 0.4).powi(2) + (down / 0.38).powi(2) + 0.6 * (coarse[at] - 0.5) < 1.0;
        let density = if inside { 0.1 + 0.5 * fine[at] + 0.4 * coarse[at] } else { 0.0 };
        let channel = |uptake: f64| 243.0 * (-uptake * density).exp() + noise.random_range(-2.0..2.0);
        let [red, green, blue] = STAINS[stain].1.map(channel).map(|value| value.clamp(0.0, 255.0) as u8);
        Rgb([red, green, blue])
    });
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let path = folder.path().join("slide.tif");
    write(&path, &image)?;
    std::fs::read(&path).with_context(|| path.display().to_string())
}

fn write(path: &Path, image: &RgbImage) -> anyhow::Result<()> {
    write_rgb(path, image, Mpp::new(MPP)?, "made up")?;
    Ok(())
}

/// Smooth values of 0 to 1, one a pixel: random numbers on nodes so many pixels apart, and straight lines between.
fn field(rng: &mut impl rand::Rng, spacing: u32) -> Vec<f64> {
    let columns = WIDTH / spacing + 2;
    let nodes: Vec<f64> = (0..columns * (HEIGHT / spacing + 2)).map(|_| rng.random::<f64>()).collect();
    let node = |column: u32, row: u32| nodes[(row * columns + column) as usize];
    let value = |x: u32, y: u32| {
        let (column, row) = (x / spacing, y / spacing);
        let (right, down) = (f64::from(x % spacing) / f64::from(spacing), f64::from(y % spacing) / f64::from(spacing));
        let above = node(column, row) * (1.0 - right) + node(column + 1, row) * right;
        let below = node(column, row + 1) * (1.0 - right) + node(column + 1, row + 1) * right;
        above * (1.0 - down) + below * down
    };
    (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y))).map(|(x, y)| value(x, y)).collect()
}
