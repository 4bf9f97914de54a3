//! Synthetic HE sections in which the number of tissue kinds is known: what a choice of the number of clusters is
//! measured by.
//!
//! Each slide holds contiguous regions of every kind ([`kinds`]), some of a kind larger than all of another, on a piece of
//! tissue with glass around. No kind has less than half of its equal share of a slide's tissue ([`regions`]). Stains add in
//! optical density. Slides differ in the strength of both stains, in thickness and glass, sites of a kind in direction and
//! density of nuclei; the camera adds blur and noise. Everything comes from one seed.

mod kinds;
mod noise;
mod regions;
mod texture;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tissuemap::pyramid::{self, PyramidError};
use tissuemap::units::Mpp;

use kinds::KINDS;
use noise::{random_at, smooth_at};
use regions::Regions;

/// Most kinds that can be planted.
pub const MOST_KINDS: usize = KINDS.len();

/// Natural-logarithm optical density of a unit concentration in red, green and blue: haematoxylin and eosin as measured by
/// Ruifrok and Johnston (Anal Quant Cytol Histol 23:291, 2001), then the red of blood and the grey blue of mucin.
const PIGMENTS: [[f32; 3]; 4] = [[0.65, 0.704, 0.286], [0.092, 0.954, 0.283], [0.12, 0.62, 0.72], [0.55, 0.38, 0.2]];
/// Sites of a kind on a slide, at least and at most, before the smallest get more.
const SITES: [usize; 2] = [2, 5];

/// What is planted.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many kinds, 1 to [`MOST_KINDS`]; which ones, the seed decides.
    pub kinds: usize,
    /// How many slides, each with all kinds.
    pub slides: u32,
    /// Their size in pixels, which are micrometres.
    pub size: (u32, u32),
    /// The same seed gives the same bytes.
    pub seed: u64,
}

/// Why nothing was planted.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    /// More kinds than there are, or none.
    #[error("{0} kinds: there must be 1 to {MOST_KINDS}")]
    Kinds(usize),
    /// No room for regions of every kind.
    #[error("{} x {} pixels are too small for {kinds} kinds", size.0, size.1)]
    Crowded { size: (u32, u32), kinds: usize },
    #[error(transparent)]
    Slide(#[from] PyramidError),
    #[error("{}: {source}", path.display())]
    Truth { path: PathBuf, source: image::ImageError },
    #[error("{}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
}

/// Writes slides `planted1_HE.tif`, … into `folder`, and beside each, in `truth/`, a PNG that has at each pixel the number
/// of its kind from 1, and 0 on glass. Returns the names of the kinds in the order of their numbers.
///
/// # Errors
/// [`PlantError`].
pub fn plant(plan: &Plan, folder: &Path) -> Result<Vec<&'static str>, PlantError> {
    if !(1..=MOST_KINDS).contains(&plan.kinds) {
        return Err(PlantError::Kinds(plan.kinds));
    }
    let truth = folder.join("truth");
    fs::create_dir_all(&truth).map_err(|source| PlantError::Folder { path: truth.clone(), source })?;
    let mut generator = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut chosen: Vec<usize> = (0..MOST_KINDS).collect();
    chosen.shuffle(&mut generator);
    chosen.truncate(plan.kinds);
    let sites: Vec<usize> = chosen.iter().map(|_| generator.random_range(SITES[0]..=SITES[1])).collect();
    for number in 1..=plan.slides {
        let regions = Regions::new(plan.size, &sites, &mut generator)
            .ok_or(PlantError::Crowded { size: plan.size, kinds: plan.kinds })?;
        let (image, labels) = section(plan.size, &regions, &chosen, &mut generator);
        let name = format!("planted{number}_HE");
        let description = format!("tissuemap planted tissue: {} kinds, seed {}", plan.kinds, plan.seed);
        let mpp = Mpp::new(1.0).unwrap_or_else(|_| unreachable!("1 is a plausible resolution"));
        pyramid::write_rgb(&folder.join(format!("{name}.tif")), &image, mpp, &description)?;
        let path = truth.join(format!("{name}.png"));
        labels.save(&path).map_err(|source| PlantError::Truth { path, source })?;
    }
    Ok(chosen.into_iter().map(|kind| KINDS[kind].name).collect())
}

/// How one slide was stained, cut and photographed.
struct Look {
    seed: u64,
    /// Strength of each pigment.
    strength: [f32; 4],
    glass: [f32; 3],
    /// Standard deviations of the blur, in pixels, and of the noise, in grey levels.
    blur: f32,
    noise: f32,
}

fn section(
    (width, height): (u32, u32),
    regions: &Regions,
    kinds: &[usize],
    generator: &mut ChaCha8Rng,
) -> (RgbImage, GrayImage) {
    let mut about = |middle: f32, spread: f32| middle + spread * (2.0 * generator.random::<f32>() - 1.0);
    let strength = [about(1.0, 0.12), about(1.0, 0.15), about(1.0, 0.1), about(1.0, 0.1)];
    let glass = [about(243.0, 3.0), about(242.0, 3.0), about(244.0, 3.0)];
    let look = Look { strength, glass, blur: about(0.7, 0.2), noise: about(3.0, 1.0), seed: generator.random() };
    let mut labels = GrayImage::new(width, height);
    let mut density = vec![[0f32; 3]; width as usize * height as usize];
    let rows = density.par_chunks_mut(width as usize).zip(labels.par_chunks_mut(width as usize)).enumerate();
    rows.for_each(|(y, (densities, labels))| {
        for (x, (density, label)) in densities.iter_mut().zip(labels).enumerate() {
            let (x, y) = (x as f32, y as f32);
            let Some((kind, site)) = regions.at(x, y) else { continue };
            *label = kind as u8 + 1;
            let thickness = 1.0 + 0.12 * smooth_at(look.seed, x, y, 500.0);
            let stains = texture::stains(&KINDS[kinds[kind]], site, x, y);
            for (pigment, (stain, strength)) in PIGMENTS.iter().zip(stains.iter().zip(look.strength)) {
                let amount = stain * strength * thickness;
                density.iter_mut().zip(pigment).for_each(|(density, unit)| *density += amount * unit);
            }
        }
    });
    (photograph(&density, width, height, &look), labels)
}

/// Light through `density`, a little out of focus, on a noisy sensor.
fn photograph(density: &[[f32; 3]], width: u32, height: u32, look: &Look) -> RgbImage {
    // Beyond two pixels nothing is left of so small a blur.
    let weight = |d: i64| (-(d * d) as f32 / (2.0 * look.blur * look.blur)).exp();
    let kernel: Vec<f32> = (-2..=2).map(weight).collect();
    let total: f32 = kernel.iter().sum();
    let (columns, rows) = (i64::from(width), i64::from(height));
    let at = |x: i64, y: i64| (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)) as usize;
    let light: Vec<[f32; 3]> =
        density.par_iter().map(|density| std::array::from_fn(|c| look.glass[c] * (-density[c]).exp())).collect();
    let across: Vec<[f32; 3]> = (0..light.len())
        .into_par_iter()
        .map(|i| {
            let (x, y) = (i as i64 % columns, i as i64 / columns);
            std::array::from_fn(|c| (-2..=2).zip(&kernel).map(|(d, w)| light[at(x + d, y)][c] * w).sum::<f32>() / total)
        })
        .collect();
    let mut image = RgbImage::new(width, height);
    image.par_chunks_mut(3).enumerate().for_each(|(i, pixel)| {
        let (x, y) = (i as i64 % columns, i as i64 / columns);
        for (c, value) in pixel.iter_mut().enumerate() {
            let light = (-2..=2).zip(&kernel).map(|(d, w)| across[at(x, y + d)][c] * w).sum::<f32>() / total;
            // Three uniform numbers: near enough to a bell.
            let salt = |n: u64| random_at(look.seed, x, y, 3 * c as u64 + n * 16);
            let noise = look.noise * 2.0 * (salt(1) + salt(2) + salt(3) - 1.5);
            *value = (light + noise).round().clamp(0.0, 255.0) as u8;
        }
    });
    image
}

#[cfg(test)]
mod tests;
