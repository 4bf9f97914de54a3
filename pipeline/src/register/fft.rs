//! Two-dimensional FFTs of real images, two at a time.

use std::sync::Arc;

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use super::plane::Plane;

/// Reusable plans for one padded size.
pub(crate) struct Fft2 {
    pub(crate) width: usize,
    pub(crate) height: usize,
    forward: [Arc<dyn Fft<f32>>; 2],
    inverse: [Arc<dyn Fft<f32>>; 2],
}

/// Spectrum of a real image: column `kx` in `0..=width / 2` after column, each with all `height` frequencies `ky`. The
/// rest of the plane is its complex conjugate, mirrored.
#[derive(Clone)]
pub(crate) struct Spectrum(pub(crate) Vec<Complex32>);

impl Fft2 {
    /// Plans for images padded to at least `width` × `height`; the size grows to one the FFT is fast at.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let (width, height) = (smooth_size(width), smooth_size(height));
        let mut planner = FftPlanner::new();
        Self {
            width,
            height,
            forward: [planner.plan_fft_forward(width), planner.plan_fft_forward(height)],
            inverse: [planner.plan_fft_inverse(width), planner.plan_fft_inverse(height)],
        }
    }

    /// Spectra of two real images of the same size, padded with zeros: one complex transform of `first + i·second`.
    pub(crate) fn forward_pair(&self, first: &Plane, second: &Plane) -> [Spectrum; 2] {
        let mut rows = vec![Complex32::ZERO; self.width * self.height];
        for y in 0..first.height {
            let target = &mut rows[y * self.width..];
            for (out, (a, b)) in target.iter_mut().zip(first.row(y).iter().zip(second.row(y))) {
                *out = Complex32::new(*a, *b);
            }
        }
        // Rows below the image are zero and stay zero.
        self.forward[0].process(&mut rows[..first.height * self.width]);
        let mut columns = transpose(&rows, self.width, self.height);
        self.forward[1].process(&mut columns);

        let mut spectra = [(); 2].map(|()| Spectrum(Vec::with_capacity(self.spectrum_len())));
        for kx in 0..=self.width / 2 {
            let mirrored_column = (self.width - kx) % self.width * self.height;
            for ky in 0..self.height {
                let sum = columns[kx * self.height + ky];
                let mirrored = columns[mirrored_column + (self.height - ky) % self.height].conj();
                spectra[0].0.push((sum + mirrored) * 0.5);
                let difference = (sum - mirrored) * 0.5;
                spectra[1].0.push(Complex32::new(difference.im, -difference.re));
            }
        }
        spectra
    }

    /// The images of two spectra, as real and imaginary part of one row-major `width` × `height` image.
    pub(crate) fn inverse_pair(&self, first: &Spectrum, second: &Spectrum) -> Vec<Complex32> {
        let scale = 1.0 / (self.width * self.height) as f32;
        let mut columns = vec![Complex32::ZERO; self.width * self.height];
        for kx in 0..=self.width / 2 {
            let mirrored_column = (self.width - kx) % self.width * self.height;
            for ky in 0..self.height {
                let (a, b) = (first.0[kx * self.height + ky], second.0[kx * self.height + ky]);
                columns[kx * self.height + ky] = Complex32::new(a.re - b.im, a.im + b.re) * scale;
                if mirrored_column != kx * self.height {
                    let (a, b) = (a.conj(), b.conj());
                    columns[mirrored_column + (self.height - ky) % self.height] =
                        Complex32::new(a.re - b.im, a.im + b.re) * scale;
                }
            }
        }
        self.inverse[1].process(&mut columns);
        let mut rows = transpose(&columns, self.height, self.width);
        self.inverse[0].process(&mut rows);
        rows
    }

    fn spectrum_len(&self) -> usize {
        (self.width / 2 + 1) * self.height
    }
}

/// Transposes a row-major image in blocks that stay in the cache.
fn transpose(source: &[Complex32], width: usize, height: usize) -> Vec<Complex32> {
    const BLOCK: usize = 16;
    let mut out = vec![Complex32::ZERO; source.len()];
    for top in (0..height).step_by(BLOCK) {
        for left in (0..width).step_by(BLOCK) {
            for x in left..(left + BLOCK).min(width) {
                for y in top..(top + BLOCK).min(height) {
                    out[x * height + y] = source[y * width + x];
                }
            }
        }
    }
    out
}

/// The smallest number of at least `size` without prime factors above 5.
fn smooth_size(size: usize) -> usize {
    let smooth = |n: &usize| {
        let mut rest = *n;
        for prime in [2, 3, 5] {
            while rest.is_multiple_of(prime) {
                rest /= prime;
            }
        }
        rest == 1
    };
    // A power of two is such a number, so the search ends.
    (size..=size.next_power_of_two()).find(smooth).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fft_sizes_have_only_small_factors() {
        assert_eq!([1, 7, 11, 161, 271].map(smooth_size), [1, 8, 12, 162, 288]);
    }

    proptest! {
        #[test]
        fn product_with_a_conjugate_spectrum_is_the_correlation(
            a in prop::collection::vec(-1.0f32..1.0, 20), b in prop::collection::vec(-1.0f32..1.0, 20)
        ) {
            let (a, b) = (Plane { width: 5, height: 4, data: a }, Plane { width: 5, height: 4, data: b });
            let fft = Fft2::new(9, 7);
            let [fa, fb] = fft.forward_pair(&a, &b);
            let product = Spectrum(fa.0.iter().zip(&fb.0).map(|(a, b)| a * b.conj()).collect());
            let correlation = fft.inverse_pair(&product, &fa);
            for (sx, sy) in [(0i64, 0i64), (2, 1), (-3, 2), (4, -3)] {
                let mut expected = 0.0;
                for y in 0..4i64 {
                    for x in 0..5i64 {
                        if (0..5).contains(&(x + sx)) && (0..4).contains(&(y + sy)) {
                            expected += a.row((y + sy) as usize)[(x + sx) as usize] * b.row(y as usize)[x as usize];
                        }
                    }
                }
                let index = sy.rem_euclid(fft.height as i64) as usize * fft.width + sx.rem_euclid(fft.width as i64) as usize;
                prop_assert!((correlation[index].re - expected).abs() < 1e-4);
            }
            for y in 0..4 {
                for x in 0..5 {
                    prop_assert!((correlation[y * fft.width + x].im - a.row(y)[x]).abs() < 1e-5);
                }
            }
        }
    }
}
