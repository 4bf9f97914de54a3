//! What the scanner adds to a section: the lamp's tint, uneven light, sensor noise.

use image::RgbImage;
use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::spline::Spline;

/// How one scan differs from another.
pub(crate) struct Camera {
    /// Gain per channel: white balance.
    tint: [f32; 3],
    /// Relative brightness over the canvas, in µm.
    light: Spline,
    /// Standard deviation of the noise in 8-bit units.
    noise: f32,
}

impl Camera {
    /// Gains within 2 %, light uneven by up to 1.5 %, noise of 1 to 2 grey values: what flat-field corrected scanners
    /// leave. Slides of one batch differ by about that much.
    pub(crate) fn random(rng: &mut impl Rng, canvas_um: [f64; 2]) -> Self {
        let tint = [(); 3].map(|()| rng.random_range(0.98..=1.0));
        let spacing = canvas_um[0].max(canvas_um[1]) / 2.0;
        Self { tint, light: Spline::random(rng, canvas_um, spacing), noise: rng.random_range(1.0..=2.0) }
    }

    /// No tint and even light; only the noise.
    pub(crate) fn noise_only(&self) -> Self {
        let flat = Spline { values: vec![0.0; self.light.values.len()], ..self.light.clone() };
        Self { tint: [1.0; 3], light: flat, noise: self.noise }
    }

    /// Photographs a canvas of `width` × `height` pixels of `mpp` µm whose true colours are `scene(x, y)` in 8-bit units.
    /// `row_rng` gives the noise of one row, which makes the result independent of the number of threads.
    pub(crate) fn photograph<R: Rng>(
        &self,
        [width, height]: [u32; 2],
        mpp: f64,
        row_rng: impl Fn(u32) -> R + Sync,
        scene: impl Fn(u32, u32) -> [f32; 3] + Sync,
    ) -> RgbImage {
        let mut image = RgbImage::new(width, height);
        image.par_chunks_exact_mut(width as usize * 3).enumerate().for_each(|(y, row)| {
            let y = y as u32;
            let mut rng = row_rng(y);
            for (x, pixel) in (0..).zip(row.chunks_exact_mut(3)) {
                let colour = scene(x, y);
                let light = 1.0 + 0.015 * self.light.at((f64::from(x) + 0.5) * mpp, (f64::from(y) + 0.5) * mpp) as f32;
                for channel in 0..3 {
                    let value = colour[channel] * self.tint[channel] * light + self.noise * gaussian(&mut rng);
                    pixel[channel] = value.round().clamp(0.0, 255.0) as u8;
                }
            }
        });
        image
    }
}

/// Standard normal, near enough for noise: the sum of the four bytes of one random word.
fn gaussian(rng: &mut impl Rng) -> f32 {
    // Four bytes uniform in 0..=255: mean 510, variance 4 (256² − 1) / 12.
    const DEVIATION: f32 = 147.8;
    let sum: u16 = rng.random::<[u8; 4]>().iter().map(|&b| u16::from(b)).sum();
    (f32::from(sum) - 510.0) / DEVIATION
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn noise_is_centred_and_of_unit_deviation() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let draws: Vec<f32> = (0..20_000).map(|_| gaussian(&mut rng)).collect();
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f32>() / draws.len() as f32;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }
}
