//! Pairs that must not be trusted: other tissue, ruined images, missing halves.

use std::fs;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::EvaluationError;
use tissuemap::slide::{self, OpenOptions};
use tissuemap::units::Mpp;

/// A pair whose registration must be refused or marked for review.
#[derive(Debug, Clone)]
pub struct BadPair {
    pub name: String,
    pub fixed: RgbImage,
    pub moving: RgbImage,
}

/// Stains of the set that the bad pairs borrow their sections from.
const STAINS: [&str; 5] = ["HE", "CC10", "CD31", "KI67", "PROSPC"];
/// Long side of thumbnails of foreign slides, about that of the sections.
const LONG_SIDE_PX: f64 = 1100.0;
/// Colour of empty glass.
const GLASS: Rgb<u8> = Rgb([243, 242, 244]);

/// Forty bad pairs made from the files below the folder `data`, which holds `section-sets`, `slides` and `patches`.
///
/// # Errors
/// [`EvaluationError`] naming a file that is missing or unreadable.
pub fn bad_pairs(data: &Path) -> Result<Vec<BadPair>, EvaluationError> {
    let sections = STAINS
        .iter()
        .map(|stain| read(&data.join(format!("section-sets/lung-lesion_3/{stain}.jpg"))))
        .collect::<Result<Vec<_>, _>>()?;
    let foreign = foreign(data)?;
    let mut pairs = Vec::new();
    let mut add = |name: String, fixed: &RgbImage, moving: &RgbImage| {
        pairs.push(BadPair { name, fixed: fixed.clone(), moving: moving.clone() });
    };
    for (stain, section) in STAINS.iter().zip(&sections) {
        for (name, other) in &foreign {
            add(format!("{stain} and {name}"), section, other);
        }
    }
    for (i, (name, image)) in foreign.iter().enumerate() {
        let (other_name, other) = &foreign[(i + 1) % foreign.len()];
        add(format!("{name} and {other_name}"), image, other);
    }
    for (i, fixed) in sections.iter().enumerate() {
        let next = &sections[(i + 1) % sections.len()];
        let names = format!("{} and {}", STAINS[i], STAINS[(i + 1) % STAINS.len()]);
        add(format!("{names}, half of it missing"), fixed, &half_missing(next, i));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (width, height) = sections[0].dimensions();
    let noise = RgbImage::from_fn(width, height, |_, _| Rgb(std::array::from_fn(|_| rng.random())));
    add("HE and noise".into(), &sections[0], &noise);
    add("CD31 and clouds".into(), &sections[2], &clouds(&mut rng, width, height));
    add("KI67 and clouds".into(), &sections[3], &clouds(&mut rng, width, height));
    add("PROSPC and blank glass".into(), &sections[4], &RgbImage::from_pixel(width, height, GLASS));
    add("CC10 and HE cut to pieces and shuffled".into(), &sections[1], &shuffled(&mut rng, &sections[0]));
    Ok(pairs)
}

/// Tissue of other organs: two whole slides, one mosaic of colon, two fields of oral mucosa.
fn foreign(data: &Path) -> Result<Vec<(&'static str, RgbImage)>, EvaluationError> {
    let slide = |name: &str| -> Result<RgbImage, EvaluationError> {
        // One of the slides states no resolution; nothing here depends on it.
        let options = OpenOptions { mpp: Mpp::new(0.5).ok(), ..OpenOptions::default() };
        let slide = slide::open(&data.join("slides").join(name), &options)?;
        let (width, height) = slide.info().bounds_um();
        let finest = slide.info().mpp;
        let mpp = Mpp::new(width.max(height) / LONG_SIDE_PX).ok().filter(|mpp| *mpp > finest).unwrap_or(finest);
        Ok(slide::thumbnail(&slide, mpp)?)
    };
    let field = |folder: &str| -> Result<RgbImage, EvaluationError> {
        let files = files(&data.join("patches").join(folder))?;
        Ok(imageops::resize(&read(&files[0])?, 896, 896, FilterType::CatmullRom))
    };
    Ok(vec![
        ("another slide", slide("cmu_small_region.svs")?),
        ("a head and neck tumour", slide("tcga-cr-7395-01a-01-ts1.svs")?),
        ("a mosaic of colon", mosaic(&data.join("patches/kather-2016/ishilpuri100"))?),
        ("oral mucosa", field("oral-oscc/Normal")?),
        ("oral carcinoma", field("oral-oscc/OSCC")?),
    ])
}

/// Twelve patches side by side.
fn mosaic(folder: &Path) -> Result<RgbImage, EvaluationError> {
    let mut mosaic = RgbImage::new(4 * 224, 3 * 224);
    for (i, path) in files(folder)?.iter().take(12).enumerate() {
        imageops::replace(&mut mosaic, &read(path)?, (i as i64 % 4) * 224, (i as i64 / 4) * 224);
    }
    Ok(mosaic)
}

/// The image files of a folder by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, EvaluationError> {
    let failed = |source| EvaluationError::Folder { path: folder.into(), source };
    let entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "png" || e == "jpg"));
    files.sort();
    if files.is_empty() { Err(failed(std::io::ErrorKind::NotFound.into())) } else { Ok(files) }
}

fn read(path: &Path) -> Result<RgbImage, EvaluationError> {
    image::open(path)
        .map(|image| image.to_rgb8())
        .map_err(|source| EvaluationError::Image { path: path.into(), source })
}

/// The section with its left, top, right or bottom half lost.
fn half_missing(section: &RgbImage, which: usize) -> RgbImage {
    let (width, height) = section.dimensions();
    let mut image = section.clone();
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let lost = [x < width / 2, y < height / 2, x >= width / 2, y >= height / 2][which % 4];
        if lost {
            *pixel = GLASS;
        }
    }
    image
}

/// Soft blobs in the colours of a stain: the texture of tissue at every scale, and nothing of its structure.
fn clouds(rng: &mut impl Rng, width: u32, height: u32) -> RgbImage {
    let mut total = vec![0.0f32; (width * height) as usize];
    for octave in 0..6 {
        let (cols, rows) = (4 << octave, 3 << octave);
        let grid = image::ImageBuffer::<image::Luma<f32>, Vec<f32>>::from_fn(cols, rows, |_, _| {
            image::Luma([rng.random_range(0.0..1.0)])
        });
        let layer = imageops::resize(&grid, width, height, FilterType::CatmullRom);
        total.iter_mut().zip(layer.as_raw()).for_each(|(sum, value)| *sum += value / (1 << octave) as f32);
    }
    RgbImage::from_fn(width, height, |x, y| {
        let density = ((total[(y * width + x) as usize] - 0.8) * 0.6).max(0.0);
        Rgb([0.5, 1.0, 0.4].map(|absorbed: f32| (243.0 * 10f32.powf(-absorbed * density)) as u8))
    })
}

/// The section in 48 pieces, in random order.
fn shuffled(rng: &mut impl Rng, section: &RgbImage) -> RgbImage {
    let (cols, rows) = (8u32, 6u32);
    let (width, height) = (section.width() / cols, section.height() / rows);
    let mut order: Vec<u32> = (0..cols * rows).collect();
    order.shuffle(rng);
    let mut image = RgbImage::from_pixel(section.width(), section.height(), GLASS);
    for (to, from) in order.into_iter().enumerate() {
        let piece = imageops::crop_imm(section, from % cols * width, from / cols * height, width, height).to_image();
        let to = to as u32;
        imageops::replace(&mut image, &piece, i64::from(to % cols * width), i64::from(to / cols * height));
    }
    image
}
