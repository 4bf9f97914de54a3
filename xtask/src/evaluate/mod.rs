//! Judging a registration by landmarks, as the ANHIR challenge does (Borovec et al., IEEE TMI 2020): rTRE is the distance
//! between a mapped landmark and its counterpart, divided by the diagonal of the fixed image. Landmarks are pixels, pixel
//! centres at integers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::Deserialize;

use tissuemap::slide::SlideError;

mod gate;
mod smooth;
mod variant;

pub use gate::{BadPair, bad_pairs};
pub use smooth::SmoothWarp;
pub use variant::Variant;

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
    #[error(transparent)]
    Slide(#[from] SlideError),
    #[error("cannot list {path}: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
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
            fixed_landmarks: read_landmarks(&data.join(&self.fixed_landmarks))?,
            moving_landmarks: read_landmarks(&data.join(&self.moving_landmarks))?,
        })
    }
}

/// The landmarks of one section: a CSV file with the columns id, x, y.
///
/// # Errors
/// [`EvaluationError::Csv`] where the file is missing or has other columns.
pub fn read_landmarks(path: &Path) -> Result<Landmarks, EvaluationError> {
    let rows: Vec<(u32, f64, f64)> = read_csv(path.to_owned())?;
    Ok(rows.into_iter().map(|(id, x, y)| (id, (x, y))).collect())
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

/// Spearman's rank correlation; equal values share the mean of their ranks.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |values: &[f64]| -> Vec<f64> {
        values
            .iter()
            .map(|v| {
                let below = values.iter().filter(|w| *w < v).count() as f64;
                let equal = values.iter().filter(|w| *w == v).count() as f64;
                below + (equal - 1.0) / 2.0
            })
            .collect()
    };
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum::<f64>();
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

/// Linear interpolation between the two nearest of the ascending `sorted`; NaN where it is empty.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = last as f64 * share;
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    low + (high - low) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let rtre = case.rtre(|x, y| (x, y));
        assert!((rtre.median - 2.0 / 50.0).abs() < 1e-12 && (rtre.p90 - 3.6 / 50.0).abs() < 1e-12);
    }
}
