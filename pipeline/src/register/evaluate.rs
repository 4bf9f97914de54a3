//! Judging a registration by landmarks, as the ANHIR challenge does (Borovec et al., IEEE TMI 2020): rTRE is the distance
//! between a mapped landmark and its counterpart, divided by the diagonal of the fixed image. Landmarks are pixels, pixel
//! centres at integers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage, imageops};
use serde::Deserialize;

use super::PixelAffine;

/// Landmarks by id.
pub type Landmarks = BTreeMap<u32, (f64, f64)>;

/// A pair of images with landmarks, as one row of `pairs.csv` names it.
#[derive(Debug, Clone, Deserialize)]
pub struct Pair {
    /// Name of the pair.
    pub pair: String,
    /// Paths below the folder of `pairs.csv`.
    pub fixed_image: PathBuf,
    pub moving_image: PathBuf,
    pub fixed_landmarks: PathBuf,
    pub moving_landmarks: PathBuf,
}

/// Files of an evaluation that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error("cannot read {path}: {source}")]
    Csv { path: PathBuf, source: csv::Error },
    #[error("cannot read image {path}: {source}")]
    Image { path: PathBuf, source: image::ImageError },
}

/// What the files of a [`Pair`] hold.
#[derive(Debug, Clone)]
pub struct Case {
    pub fixed: RgbImage,
    pub moving: RgbImage,
    pub fixed_landmarks: Landmarks,
    pub moving_landmarks: Landmarks,
}

/// The pairs listed in the file `pairs.csv` of the folder `data`.
///
/// # Errors
/// [`EvaluationError::Csv`] where the file is missing or has other columns.
pub fn read_pairs(data: &Path) -> Result<Vec<Pair>, EvaluationError> {
    read_csv(data.join("pairs.csv"))
}

impl Pair {
    /// Reads images and landmarks; `data` is the folder of `pairs.csv`.
    ///
    /// # Errors
    /// [`EvaluationError`] naming the file that cannot be read.
    pub fn read(&self, data: &Path) -> Result<Case, EvaluationError> {
        let image = |path: &Path| {
            let path = data.join(path);
            image::open(&path).map(|image| image.to_rgb8()).map_err(|source| EvaluationError::Image { path, source })
        };
        Ok(Case {
            fixed: image(&self.fixed_image)?,
            moving: image(&self.moving_image)?,
            fixed_landmarks: read_csv(data.join(&self.fixed_landmarks))?.into_iter().map(Row::entry).collect(),
            moving_landmarks: read_csv(data.join(&self.moving_landmarks))?.into_iter().map(Row::entry).collect(),
        })
    }
}

#[derive(Deserialize)]
struct Row(u32, f64, f64);

impl Row {
    fn entry(self) -> (u32, (f64, f64)) {
        (self.0, (self.1, self.2))
    }
}

fn read_csv<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<Vec<T>, EvaluationError> {
    csv::Reader::from_path(&path)
        .and_then(|mut reader| reader.deserialize().collect())
        .map_err(|source| EvaluationError::Csv { path, source })
}

/// rTRE over the landmarks both images have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rtre {
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
}

impl Case {
    /// rTRE of `map`, which takes fixed to moving pixels.
    pub fn rtre(&self, map: impl Fn(f64, f64) -> (f64, f64)) -> Rtre {
        let diagonal = f64::from(self.fixed.width()).hypot(f64::from(self.fixed.height()));
        let mut errors: Vec<f64> = self
            .fixed_landmarks
            .iter()
            .filter_map(|(id, (x, y))| {
                let (to_x, to_y) = map(*x, *y);
                self.moving_landmarks.get(id).map(|(x, y)| (to_x - x).hypot(to_y - y) / diagonal)
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        Rtre { median: quantile(&errors, 0.5), p90: quantile(&errors, 0.9) }
    }

    /// The same case with its moving image changed by `variant` and the moving landmarks carried along.
    pub fn with(&self, variant: Variant) -> Self {
        let (moving, map) = variant.apply(&self.moving);
        let moving_landmarks = self.moving_landmarks.iter().map(|(id, (x, y))| (*id, map.apply(*x, *y))).collect();
        Self { moving, moving_landmarks, ..self.clone() }
    }
}

/// Linear interpolation between the two nearest of the ascending `sorted`; NaN where it is empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = last as f64 * share;
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    low + (high - low) * position.fract()
}

/// How a section may come to lie on the glass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Turned clockwise by a quarter.
    Rotated90,
    /// Turned upside down.
    Rotated180,
    /// Turned by 37°; the canvas grows to hold the whole image, corners are white.
    Rotated37,
    /// Moved right by 10 % of the width; the canvas stays, the strip that becomes free is white and what leaves is lost.
    Shifted,
    /// Left and right exchanged, as for a section laid on the glass face down.
    Mirrored,
}

impl Variant {
    pub const ALL: [Self; 5] = [Self::Rotated90, Self::Rotated180, Self::Rotated37, Self::Shifted, Self::Mirrored];

    /// Short name for tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotated90 => "rot90",
            Self::Rotated180 => "rot180",
            Self::Rotated37 => "rot37",
            Self::Shifted => "shift10",
            Self::Mirrored => "mirror",
        }
    }

    /// The changed image, and where each pixel of the original went.
    pub fn apply(self, image: &RgbImage) -> (RgbImage, PixelAffine) {
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        match self {
            Self::Rotated90 => (imageops::rotate90(image), PixelAffine([[0.0, -1.0, height - 1.0], [1.0, 0.0, 0.0]])),
            Self::Rotated180 => {
                (imageops::rotate180(image), PixelAffine([[-1.0, 0.0, width - 1.0], [0.0, -1.0, height - 1.0]]))
            }
            Self::Mirrored => {
                (imageops::flip_horizontal(image), PixelAffine([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]]))
            }
            Self::Shifted => {
                let shift = (width / 10.0).round();
                let map = PixelAffine([[1.0, 0.0, shift], [0.0, 1.0, 0.0]]);
                (resampled(image, &map, image.width(), image.height()), map)
            }
            Self::Rotated37 => {
                let (sin, cos) = 37f64.to_radians().sin_cos();
                let (new_width, new_height) =
                    ((width * cos + height * sin).ceil(), (width * sin + height * cos).ceil());
                let from = [(width - 1.0) / 2.0, (height - 1.0) / 2.0];
                let map = PixelAffine::through(
                    [[cos, -sin], [sin, cos]],
                    from,
                    [(new_width - 1.0) / 2.0, (new_height - 1.0) / 2.0],
                );
                (resampled(image, &map, new_width as u32, new_height as u32), map)
            }
        }
    }
}

/// `image` carried along by `map` onto a white canvas, bilinear.
fn resampled(image: &RgbImage, map: &PixelAffine, width: u32, height: u32) -> RgbImage {
    let Some(back) = map.inverse() else { return RgbImage::from_pixel(width, height, Rgb([255; 3])) };
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = back.apply(f64::from(x), f64::from(y));
        imageops::interpolate_bilinear(image, u as f32, v as f32).unwrap_or(Rgb([255; 3]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_carry_landmarks_along_with_the_pixels() {
        // A dark pixel at (70, 40) on light ground must be found where the map says.
        let image = RgbImage::from_fn(120, 90, |x, y| if (x, y) == (70, 40) { Rgb([0; 3]) } else { Rgb([230; 3]) });
        for variant in Variant::ALL {
            let (changed, map) = variant.apply(&image);
            let (x, y) = map.apply(70.0, 40.0);
            let darkest = changed.enumerate_pixels().min_by_key(|(_, _, pixel)| pixel[0]).unwrap();
            let distance = (f64::from(darkest.0) - x).hypot(f64::from(darkest.1) - y);
            assert!(distance < 0.75, "{}: darkest pixel {distance} px away", variant.name());
        }
    }

    #[test]
    fn rtre_interpolates_quantiles_and_divides_by_the_fixed_diagonal() {
        let landmarks = |offset: f64| (0..5).map(|i| (i, (f64::from(i) * offset, 7.0))).collect();
        let image = RgbImage::new(30, 40);
        let case = Case {
            fixed: image.clone(),
            moving: image,
            fixed_landmarks: landmarks(0.0),
            moving_landmarks: landmarks(1.0),
        };
        let rtre = case.rtre(&PixelAffine::IDENTITY);
        assert!((rtre.median - 2.0 / 50.0).abs() < 1e-12 && (rtre.p90 - 3.6 / 50.0).abs() < 1e-12);
    }
}
