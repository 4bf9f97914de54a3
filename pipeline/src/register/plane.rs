//! Single-channel `f32` images and the few operations registration needs. Pixel centres are at integers.

/// A row-major image of `f32` samples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plane {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<f32>,
}

/// A bilinear sample with its exact derivatives with respect to the position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) value: f32,
    pub(crate) dx: f32,
    pub(crate) dy: f32,
    /// The position lies inside the image.
    pub(crate) inside: bool,
}

impl Plane {
    pub(crate) fn zeros(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0.0; width * height] }
    }

    /// An image whose pixel at column `x`, row `y` is `value(x, y)`.
    pub(crate) fn from_fn(width: usize, height: usize, mut value: impl FnMut(usize, usize) -> f32) -> Self {
        let mut plane = Self::zeros(width, height);
        for (y, row) in plane.data.chunks_exact_mut(width.max(1)).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                *pixel = value(x, y);
            }
        }
        plane
    }

    pub(crate) fn row(&self, y: usize) -> &[f32] {
        &self.data[y * self.width..(y + 1) * self.width]
    }

    pub(crate) fn short_side(&self) -> usize {
        self.width.min(self.height)
    }

    pub(crate) fn long_side(&self) -> usize {
        self.width.max(self.height)
    }

    /// Means over `factor` × `factor` blocks. A remainder at the right and bottom is dropped, so that pixel `i` of the
    /// result is exactly centred on `(i + 0.5) * factor - 0.5` and no level is stretched by rounding its size.
    pub(crate) fn box_mean(&self, factor: usize) -> Self {
        let (width, height) = (self.width / factor, self.height / factor);
        let mut out = Self::zeros(width, height);
        for y in 0..height {
            let target = &mut out.data[y * width..(y + 1) * width];
            for source_y in y * factor..(y + 1) * factor {
                for (pixel, block) in target.iter_mut().zip(self.row(source_y).chunks_exact(factor)) {
                    *pixel += block.iter().sum::<f32>();
                }
            }
        }
        let scale = 1.0 / (factor * factor) as f32;
        out.data.iter_mut().for_each(|pixel| *pixel *= scale);
        out
    }

    /// Gaussian blur, separable, the border pixel repeated outwards.
    pub(crate) fn gaussian(&self, sigma_px: f32) -> Self {
        let kernel = gaussian_kernel(sigma_px);
        let (width, height, radius) = (self.width, self.height, kernel.len() / 2);
        let mut blurred_rows = Self::zeros(width, height);
        let mut padded = vec![0.0f32; width + 2 * radius];
        for y in 0..height {
            let row = self.row(y);
            padded[..radius].fill(row[0]);
            padded[radius..radius + width].copy_from_slice(row);
            padded[radius + width..].fill(row[width - 1]);
            let target = &mut blurred_rows.data[y * width..(y + 1) * width];
            for (k, weight) in kernel.iter().enumerate() {
                for (pixel, source) in target.iter_mut().zip(&padded[k..]) {
                    *pixel += weight * source;
                }
            }
        }
        let mut out = Self::zeros(width, height);
        for y in 0..height {
            let target = &mut out.data[y * width..(y + 1) * width];
            for (k, weight) in kernel.iter().enumerate() {
                let source_y = (y + k).saturating_sub(radius).min(height - 1);
                for (pixel, source) in target.iter_mut().zip(blurred_rows.row(source_y)) {
                    *pixel += weight * source;
                }
            }
        }
        out
    }

    /// Central differences, zero along the border.
    pub(crate) fn gradient(&self) -> (Self, Self) {
        let (mut gx, mut gy) = (Self::zeros(self.width, self.height), Self::zeros(self.width, self.height));
        if self.short_side() < 3 {
            return (gx, gy);
        }
        for y in 1..self.height - 1 {
            let range = y * self.width..(y + 1) * self.width;
            let (gx, gy) = (&mut gx.data[range.clone()], &mut gy.data[range]);
            gradient_row(self.row(y - 1), self.row(y), self.row(y + 1), gx, gy);
        }
        (gx, gy)
    }

    /// Bilinear sample at (`x`, `y`). Outside, the border continues unchanged. Both sides must be at least 2 px.
    #[expect(clippy::inline_always, reason = "the innermost loop of registration: a call costs a third of it")]
    #[inline(always)]
    pub(crate) fn sample(&self, x: f32, y: f32) -> Sample {
        let (right, bottom) = ((self.width - 1) as f32, (self.height - 1) as f32);
        let (within_x, within_y) = (x >= 0.0 && x <= right, y >= 0.0 && y <= bottom);
        let (x, y) = (x.clamp(0.0, right), y.clamp(0.0, bottom));
        // By way of i32, which processors convert to in one step.
        let (column, row) = ((x as i32).min(self.width as i32 - 2), (y as i32).min(self.height as i32 - 2));
        let (a, b) = (x - column as f32, y - row as f32);
        let corner = row as usize * self.width + column as usize;
        let block = &self.data[corner..corner + self.width + 2];
        let (p00, p01, p10, p11) = (block[0], block[1], block[self.width], block[self.width + 1]);
        let (top, bottom) = (p00 + a * (p01 - p00), p10 + a * (p11 - p10));
        let dx = (p01 - p00) + b * ((p11 - p10) - (p01 - p00));
        Sample {
            value: top + b * (bottom - top),
            dx: if within_x { dx } else { 0.0 },
            dy: if within_y { bottom - top } else { 0.0 },
            inside: within_x && within_y,
        }
    }
}

/// Real and imaginary part of `z = (gx + i·gy)² / (|g|² + e²)`, `e` the mean length of the gradients: direction of the edge
/// modulo 180°, length near 1 on edges and near 0 where there are none.
pub(crate) fn double_angle(image: &Plane) -> [Plane; 2] {
    let (mut gx, mut gy) = image.gradient();
    let e = (mean_magnitude(&gx, &gy) as f32).max(f32::MIN_POSITIVE.sqrt());
    for (gx, gy) in gx.data.iter_mut().zip(&mut gy.data) {
        let norm = *gx * *gx + *gy * *gy + e * e;
        (*gx, *gy) = ((*gx * *gx - *gy * *gy) / norm, 2.0 * *gx * *gy / norm);
    }
    [gx, gy]
}

/// Mean length of gradient vectors.
pub(crate) fn mean_magnitude(gx: &Plane, gy: &Plane) -> f64 {
    let sum: f64 = gx.data.iter().zip(&gy.data).map(|(gx, gy)| f64::from((gx * gx + gy * gy).sqrt())).sum();
    sum / gx.data.len() as f64
}

/// Weights of a Gaussian out to three sigma, summing to 1.
fn gaussian_kernel(sigma_px: f32) -> Vec<f32> {
    let radius = (3.0 * sigma_px).ceil() as i32;
    let weights: Vec<f32> = (-radius..=radius).map(|k| (-0.5 * (k as f32 / sigma_px).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Central differences of the middle one of three rows; the first and last column get zero.
#[inline]
pub(crate) fn gradient_row(above: &[f32], middle: &[f32], below: &[f32], gx: &mut [f32], gy: &mut [f32]) {
    let last = middle.len() - 1;
    for ((g, left), right) in gx[1..last].iter_mut().zip(middle).zip(&middle[2..]) {
        *g = 0.5 * (right - left);
    }
    for ((g, up), down) in gy[1..last].iter_mut().zip(&above[1..]).zip(&below[1..]) {
        *g = 0.5 * (down - up);
    }
    (gx[0], gx[last], gy[0], gy[last]) = (0.0, 0.0, 0.0, 0.0);
}

/// One row of the adjoint of [`Plane::gradient`]: `ax` is the weight field of the x differences in this row, `ay_above`
/// and `ay_below` those of the y differences in its neighbours. All three must be zero along the image border, where the
/// gradient does not look at the image.
#[inline]
pub(crate) fn gradient_adjoint_row(ax: &[f32], ay_above: &[f32], ay_below: &[f32], out: &mut [f32]) {
    let last = out.len() - 1;
    for ((o, above), below) in out.iter_mut().zip(ay_above).zip(ay_below) {
        *o = 0.5 * (above - below);
    }
    for ((o, left), right) in out[1..last].iter_mut().zip(ax).zip(&ax[2..]) {
        *o += 0.5 * (left - right);
    }
    out[0] -= 0.5 * ax[1];
    out[last] += 0.5 * ax[last - 1];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(width: usize, height: usize) -> impl Strategy<Value = Plane> {
        prop::collection::vec(-1.0f32..1.0, width * height).prop_map(move |data| Plane { width, height, data })
    }

    fn dot(a: &Plane, b: &Plane) -> f64 {
        a.data.iter().zip(&b.data).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn clear_border(plane: &mut Plane) {
        let (width, height) = (plane.width, plane.height);
        for (i, value) in plane.data.iter_mut().enumerate() {
            let (x, y) = (i % width, i / width);
            if x == 0 || y == 0 || x == width - 1 || y == height - 1 {
                *value = 0.0;
            }
        }
    }

    proptest! {
        #[test]
        fn gradient_and_its_adjoint_obey_the_adjoint_law(
            (image, mut ax, mut ay) in (3usize..12, 3usize..12).prop_flat_map(|(w, h)| (field(w, h), field(w, h), field(w, h)))
        ) {
            clear_border(&mut ax);
            clear_border(&mut ay);
            let (gx, gy) = image.gradient();
            let zeros = vec![0.0; image.width];
            let mut adjoint = Plane::zeros(image.width, image.height);
            for y in 0..image.height {
                let above = if y == 0 { &zeros[..] } else { ay.row(y - 1) };
                let below = if y + 1 == image.height { &zeros[..] } else { ay.row(y + 1) };
                gradient_adjoint_row(ax.row(y), above, below, &mut adjoint.data[y * ax.width..(y + 1) * ax.width]);
            }
            prop_assert!((dot(&gx, &ax) + dot(&gy, &ay) - dot(&image, &adjoint)).abs() < 1e-4);
        }

        #[test]
        fn bilinear_samples_of_a_ramp_are_exact(a in -1.0f32..1.0, b in -1.0f32..1.0, x in 1.0f32..8.0, y in 1.0f32..5.0) {
            let ramp = Plane::from_fn(10, 7, |x, y| a * x as f32 + b * y as f32);
            let sample = ramp.sample(x, y);
            prop_assert!(sample.inside);
            prop_assert!((sample.value - (a * x + b * y)).abs() < 1e-4);
            prop_assert!((sample.dx - a).abs() < 1e-4 && (sample.dy - b).abs() < 1e-4);
        }
    }

    #[test]
    fn box_mean_keeps_a_ramp_on_its_pixel_centres() {
        let ramp = Plane::from_fn(13, 9, |x, y| x as f32 + 10.0 * y as f32);
        let level = ramp.box_mean(4);
        assert_eq!((level.width, level.height), (3, 2));
        for y in 0..2 {
            for x in 0..3 {
                let centre = |i: usize| (i as f32 + 0.5) * 4.0 - 0.5;
                assert!((level.row(y)[x] - (centre(x) + 10.0 * centre(y))).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn gaussian_keeps_the_mean_of_a_constant_and_spreads_a_point_by_its_sigma() {
        let constant = Plane::from_fn(9, 5, |_, _| 0.25).gaussian(2.0);
        assert!(constant.data.iter().all(|v| (v - 0.25).abs() < 1e-6));
        let point = Plane::from_fn(41, 41, |x, y| if (x, y) == (20, 20) { 1.0 } else { 0.0 }).gaussian(2.0);
        let variance: f32 = (0..41)
            .flat_map(|y| (0..41).map(move |x| (x, y)))
            .map(|(x, y)| point.row(y)[x] * (x as f32 - 20.0).powi(2))
            .sum();
        assert!((variance.sqrt() - 2.0).abs() < 0.05, "{variance}");
    }
}
