//! Known smooth deformations, for measuring a registration against the exact truth.

use image::{Rgb, RgbImage, imageops};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Smooth bumps whose sum is the displacement.
const BUMPS: usize = 10;
/// Width of a bump (its σ) as a share of the image's diagonal: stretch over millimetres, not wobbles of single glands.
const BUMP_SHARE: f64 = 0.11;
/// Rounds of the fixed-point iteration that inverts the deformation; each gains more than one binary digit.
const ROUNDS: usize = 60;

/// A rotation about the image's middle after a smooth displacement. Frames are pixels of the two images, pixel centres at
/// integers. It is defined from the deformed image back to the original, so that drawing it needs no inverse.
#[derive(Debug, Clone)]
pub struct SmoothWarp {
    /// Middle of the original and of the deformed image.
    centres: [[f64; 2]; 2],
    /// Sine and cosine of the rotation.
    turn: (f64, f64),
    /// Size of the deformed image.
    size: (u32, u32),
    /// Centre, σ and displacement of each bump, in the original's frame.
    bumps: Vec<([f64; 2], f64, [f64; 2])>,
}

impl SmoothWarp {
    /// Any rotation, and a displacement whose largest length is between a third of and the whole `largest_share` of the
    /// image's diagonal.
    pub fn random(seed: u64, width: u32, height: u32, largest_share: f64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (w, h) = (f64::from(width), f64::from(height));
        let diagonal = w.hypot(h);
        let mut bumps: Vec<([f64; 2], f64, [f64; 2])> = (0..BUMPS)
            .map(|_| {
                let centre = [rng.random_range(0.0..w), rng.random_range(0.0..h)];
                let sigma = BUMP_SHARE * diagonal * rng.random_range(0.8..1.6);
                (centre, sigma, [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)])
            })
            .collect();
        let angle: f64 = rng.random_range(0.0..std::f64::consts::TAU);
        let (sin, cos) = angle.sin_cos();
        let size = ((w * cos.abs() + h * sin.abs()).ceil(), (w * sin.abs() + h * cos.abs()).ceil());
        let largest = (0..1024)
            .map(|i| displacement(&bumps, [w * f64::from(i % 32) / 31.0, h * f64::from(i / 32) / 31.0]))
            .map(|[x, y]| x.hypot(y))
            .fold(f64::MIN_POSITIVE, f64::max);
        let scale = largest_share * diagonal * rng.random_range(1.0 / 3.0..=1.0) / largest;
        bumps.iter_mut().for_each(|(_, _, shift)| *shift = shift.map(|v| v * scale));
        let middle = |(w, h): (f64, f64)| [(w - 1.0) / 2.0, (h - 1.0) / 2.0];
        Self { centres: [middle((w, h)), middle(size)], turn: (sin, cos), size: (size.0 as u32, size.1 as u32), bumps }
    }

    /// Where the pixel `q` of the deformed image comes from.
    pub fn origin_of(&self, q: [f64; 2]) -> [f64; 2] {
        let (sin, cos) = self.turn;
        let [x, y] = [q[0] - self.centres[1][0], q[1] - self.centres[1][1]];
        let straight = [cos * x + sin * y + self.centres[0][0], cos * y - sin * x + self.centres[0][1]];
        let [dx, dy] = displacement(&self.bumps, straight);
        [straight[0] + dx, straight[1] + dy]
    }

    /// Where the pixel `p` of the original goes: the inverse of [`SmoothWarp::origin_of`].
    pub fn apply(&self, p: [f64; 2]) -> [f64; 2] {
        let mut straight = p;
        for _ in 0..ROUNDS {
            let [dx, dy] = displacement(&self.bumps, straight);
            straight = [p[0] - dx, p[1] - dy];
        }
        let (sin, cos) = self.turn;
        let [x, y] = [straight[0] - self.centres[0][0], straight[1] - self.centres[0][1]];
        [cos * x - sin * y + self.centres[1][0], sin * x + cos * y + self.centres[1][1]]
    }

    /// The deformed image, bilinear, on a canvas that holds all of it; white beyond the original.
    pub fn image(&self, original: &RgbImage) -> RgbImage {
        RgbImage::from_fn(self.size.0, self.size.1, |x, y| {
            let [u, v] = self.origin_of([f64::from(x), f64::from(y)]);
            imageops::interpolate_bilinear(original, u as f32, v as f32).unwrap_or(Rgb([255; 3]))
        })
    }
}

fn displacement(bumps: &[([f64; 2], f64, [f64; 2])], p: [f64; 2]) -> [f64; 2] {
    bumps.iter().fold([0.0; 2], |[x, y], (centre, sigma, shift)| {
        let square = ((p[0] - centre[0]).powi(2) + (p[1] - centre[1]).powi(2)) / (sigma * sigma);
        let weight = (-0.5 * square).exp();
        [x + weight * shift[0], y + weight * shift[1]]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_where_it_began() {
        for seed in 0..20 {
            let warp = SmoothWarp::random(seed, 1050, 1400, 0.03);
            for i in 0..400 {
                let p = [f64::from(i % 20) * 55.0, f64::from(i / 20) * 73.0];
                let back = warp.origin_of(warp.apply(p));
                assert!((back[0] - p[0]).hypot(back[1] - p[1]) < 1e-6, "seed {seed}: {p:?} came back as {back:?}");
            }
        }
    }
}
