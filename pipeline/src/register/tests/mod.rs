//! Registration of synthetic sections, whose truth is known, and the laws of what it minimises.

use image::Rgb;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::units::UmPoint;

/// Sections as they come from the bench: torn, folded, pale, with other tissue beside them.
mod field;
/// Analytic gradients against finite differences, and maps on the levels of a pyramid.
mod objective;
/// Two sections: known maps, refusals, determinism.
mod pair;
/// A whole set and its cycle check.
mod set;

/// Tissue as a sum of soft blobs, defined everywhere so that it can be drawn under any map without resampling. What is
/// strongly stained differs between stains, where tissue lies does not. Blobs are small enough to stay apart: where they
/// merge, an outline truly differs between stains.
struct Tissue {
    /// Centre, reciprocal width and density of each blob in both stains.
    blobs: Vec<([f64; 2], f64, [f64; 2])>,
}

const WIDTH: u32 = 420;
const HEIGHT: u32 = 330;

/// Resolution of all synthetic sections.
fn mpp() -> Mpp {
    Mpp::new(10.0).expect("plausible")
}

impl Tissue {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let blobs = (0..160)
            .map(|_| {
                let centre = [rng.random_range(90.0..340.0), rng.random_range(70.0..260.0)];
                let width: f64 = rng.random_range(2.0..8.0);
                (centre, 1.0 / width, [rng.random_range(0.2..0.8), rng.random_range(0.2..0.8)])
            })
            .collect();
        Self { blobs }
    }

    fn density(&self, stain: usize, [x, y]: [f64; 2]) -> f64 {
        let blob = |(centre, inverse_width, densities): &([f64; 2], f64, [f64; 2])| {
            let square = ((x - centre[0]).powi(2) + (y - centre[1]).powi(2)) * inverse_width * inverse_width;
            if square < 30.0 { densities[stain] * (-0.5 * square).exp() } else { 0.0 }
        };
        self.blobs.iter().map(blob).sum()
    }

    /// The section as it lies, in the first stain.
    fn fixed(&self) -> RgbImage {
        draw(0, (WIDTH, HEIGHT), |p| self.density(0, p))
    }

    /// The section in the second stain on a canvas of this size; `origin_of` says where a pixel of the canvas comes from.
    fn moving(&self, size: (u32, u32), origin_of: impl Fn([f64; 2]) -> [f64; 2]) -> RgbImage {
        self.stained(1, size, origin_of)
    }

    /// The same in any of the two stains.
    fn stained(&self, stain: usize, size: (u32, u32), origin_of: impl Fn([f64; 2]) -> [f64; 2]) -> RgbImage {
        draw(stain, size, |q| self.density(stain, origin_of(q)))
    }

    /// From each blob to where the map found takes it and the truth back, in pixels of the fixed section.
    fn errors(&self, found: &PixelMap, origin_of: impl Fn([f64; 2]) -> [f64; 2]) -> Vec<[f64; 2]> {
        let error = |([x, y], ..): &([f64; 2], f64, [f64; 2])| {
            let [back_x, back_y] = origin_of(found.apply(*x, *y).into());
            [back_x - x, back_y - y]
        };
        self.blobs.iter().map(error).collect()
    }

    /// The median length of the errors.
    fn error(&self, found: &PixelMap, origin_of: impl Fn([f64; 2]) -> [f64; 2]) -> f64 {
        let mut lengths: Vec<f64> = self.errors(found, origin_of).iter().map(|[x, y]| x.hypot(*y)).collect();
        lengths.sort_by(f64::total_cmp);
        lengths[lengths.len() / 2]
    }

    /// Length of the mean error: what a wrong convention of pixel centres would cause.
    fn bias(&self, found: &PixelMap, origin_of: impl Fn([f64; 2]) -> [f64; 2]) -> f64 {
        let errors = self.errors(found, origin_of);
        let [x, y] = errors.iter().fold([0.0; 2], |sum, error| [sum[0] + error[0], sum[1] + error[1]]);
        x.hypot(y) / errors.len() as f64
    }
}

/// A section of the given density in one of two stains.
fn draw(stain: usize, (width, height): (u32, u32), density: impl Fn([f64; 2]) -> f64) -> RgbImage {
    let colour = [[0.5, 1.0, 0.6], [0.4, 0.7, 1.0]][stain];
    RgbImage::from_fn(width, height, |x, y| {
        let density = density([f64::from(x), f64::from(y)]);
        Rgb(colour.map(|c| (242.0 * 10f64.powf(-c * density)).round() as u8))
    })
}

/// Turns by `degrees` about the middle of the fixed canvas, scales, mirrors, and moves the middle to `to`.
fn placed(degrees: f64, scale: f64, mirrored: bool, to: [f64; 2]) -> PixelAffine {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let flip = if mirrored { -scale } else { scale };
    let middle = [f64::from(WIDTH - 1) / 2.0, f64::from(HEIGHT - 1) / 2.0];
    PixelAffine::through([[flip * cos, -scale * sin], [flip * sin, scale * cos]], middle, to)
}

/// The way back from where `map` leads.
fn back(map: PixelAffine) -> impl Fn([f64; 2]) -> [f64; 2] {
    let inverse = map.inverse().expect("regular");
    move |[x, y]| inverse.apply(x, y).into()
}

/// The way back from where `map` leads after a smooth displacement of at most `largest` pixels.
fn bent(map: PixelAffine, largest: f64) -> impl Fn([f64; 2]) -> [f64; 2] {
    let straight = back(map);
    move |q| {
        let [x, y] = straight(q);
        let (a, b) = ((x + 0.5 * y) / 60.0, (y - 0.3 * x) / 70.0);
        let half = largest / std::f64::consts::SQRT_2;
        [x + half * a.sin() * b.cos(), y + half * (b + 1.0).sin() * a.cos()]
    }
}
