//! One-channel float images and the few filters the derivation needs.

use rayon::prelude::*;

/// A row-major image of `width` × `height` values, one per source pixel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plane {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) values: Vec<f32>,
}

impl Plane {
    /// The plane whose value at pixel (x, y) is `f(x, y)`.
    pub(crate) fn from_fn(width: usize, height: usize, f: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let mut values = vec![0.0; width * height];
        values.par_chunks_mut(width).enumerate().for_each(|(y, row)| {
            for (x, value) in row.iter_mut().enumerate() {
                *value = f(x, y);
            }
        });
        Self { width, height, values }
    }

    /// The value at pixel (x, y).
    pub(crate) fn at(&self, x: usize, y: usize) -> f32 {
        self.values[y * self.width + x]
    }

    /// Gaussian blur of standard deviation `sigma` pixels, as three box blurs: by the central limit theorem within 3 %
    /// of a Gaussian (Wells, IEEE PAMI 8:234, 1986), in a time that does not depend on sigma. Borders repeat.
    pub(crate) fn blurred(&self, sigma: f64) -> Self {
        // Three boxes of width w have the variance (w² − 1) / 4.
        let radius = (((4.0 * sigma * sigma + 1.0).sqrt() - 1.0) / 2.0).round() as usize;
        let mut plane = self.clone();
        for _ in 0..2 {
            for _ in 0..3 {
                plane.values.par_chunks_mut(plane.width).for_each(|row| box_blur(row, radius));
            }
            plane = plane.transposed();
        }
        plane
    }

    /// Length of the gradient by central differences, per pixel.
    pub(crate) fn gradient(&self) -> Self {
        Self::from_fn(self.width, self.height, |x, y| {
            let (left, right) = (x.saturating_sub(1), (x + 1).min(self.width - 1));
            let (up, down) = (y.saturating_sub(1), (y + 1).min(self.height - 1));
            ((self.at(right, y) - self.at(left, y)) / 2.0).hypot((self.at(x, down) - self.at(x, up)) / 2.0)
        })
    }

    /// The value below which the fraction `q` of all values `keep` accepts lies; 0 when it accepts none.
    pub(crate) fn quantile(&self, q: f64, keep: impl Fn(f32) -> bool) -> f32 {
        let mut kept: Vec<f32> = self.values.iter().copied().filter(|&v| keep(v)).collect();
        if kept.is_empty() {
            return 0.0;
        }
        let rank = ((kept.len() - 1) as f64 * q).round() as usize;
        *kept.select_nth_unstable_by(rank, f32::total_cmp).1
    }

    fn transposed(&self) -> Self {
        Self::from_fn(self.height, self.width, |x, y| self.at(y, x))
    }
}

/// Running mean over `2 radius + 1` values, the border values repeated.
fn box_blur(row: &mut [f32], radius: usize) {
    let source = row.to_vec();
    let at = |i: isize| f64::from(source[i.clamp(0, source.len() as isize - 1) as usize]);
    let reach = radius as isize;
    let mut sum: f64 = (-reach..=reach).map(at).sum();
    for (i, value) in row.iter_mut().enumerate() {
        *value = (sum / (2 * radius + 1) as f64) as f32;
        sum += at(i as isize + reach + 1) - at(i as isize - reach);
    }
}

/// Hermite step: 0 below `low`, 1 above `high`, smooth between.
pub(crate) fn smoothstep(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_the_mean_and_has_the_asked_width() {
        let point = Plane::from_fn(201, 151, |x, y| f32::from(u8::from(x == 100 && y == 75)));
        let blurred = point.blurred(6.0);
        let moment = |f: &dyn Fn(f64) -> f64| -> f64 {
            (0..201 * 151).map(|i| f64::from(blurred.values[i]) * f((i % 201) as f64 - 100.0)).sum()
        };
        assert!((moment(&|_| 1.0) - 1.0).abs() < 1e-4);
        let sigma = moment(&|d| d * d).sqrt();
        assert!((sigma - 6.0).abs() < 0.5, "sigma {sigma}");
    }

    #[test]
    fn gradient_of_a_ramp_is_its_slope() {
        let ramp = Plane::from_fn(9, 7, |x, y| 3.0 * x as f32 + 4.0 * y as f32);
        assert!((ramp.gradient().at(4, 3) - 5.0).abs() < 1e-5);
    }

    #[test]
    fn quantile_counts_only_what_is_kept() {
        let plane = Plane::from_fn(101, 1, |x, _| x as f32);
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(close(plane.quantile(0.5, |_| true), 50.0));
        assert!(close(plane.quantile(0.0, |v| v > 70.0), 71.0));
        assert!(close(plane.quantile(0.5, |_| false), 0.0));
    }
}
