//! Normalised gradient fields (Haber & Modersitzki, "Intensity gradient based registration and fusion of multi-modal
//! images", MICCAI 2006): the distance asks whether edges of the two images are parallel and ignores how strong they
//! are, which is what differently stained sections have in common.
//!
//! With gradients `∇T` of the warped moving image and `∇R` of the fixed image,
//!
//! ```text
//! D = 1 − mean over valid pixels of r² / (nT · nR),   r = ∇T·∇R + εT·εR,   n = |∇|² + ε²,   ε = η · mean |∇|
//! ```
//!
//! The derivative is that of this discrete sum: the adjoint of the central differences carries it back to the warped
//! intensities, the derivative of the bilinear sample from there to the positions.

use rayon::prelude::*;

use super::plane::{Plane, gradient_adjoint_row, gradient_row, mean_magnitude};

/// Rows one task computes. Fixed, so that the sums are added in the same order for any number of threads; 32 rows keep
/// the buffers of a 1000 px wide image inside a level-2 cache while the four halo rows cost about a tenth.
const BAND_ROWS: usize = 32;

/// Below this share of valid pixels the distance is 1, its worst value: pushing the images apart until a few pixels
/// agree must never pay.
const MIN_VALID_SHARE: f64 = 0.15;

/// Where each pixel of the fixed image looks in the moving image, and how the unknowns of that map collect the
/// derivative. All positions are in pixels of one level, pixel centres at integers.
pub(crate) trait Warp: Sync {
    /// Number of unknowns.
    fn unknowns(&self) -> usize;
    /// Positions in the moving image of the pixels of row `y`.
    fn positions(&self, y: usize, xs: &mut [f32], ys: &mut [f32]);
    /// Adds what row `y` contributes to the derivative with respect to the unknowns, given the derivative `dx`, `dy`
    /// with respect to the positions of its pixels.
    fn pull_back(&self, y: usize, dx: &[f32], dy: &[f32], gradient: &mut [f64]);
}

/// One level of the pyramid: both images, and what of the distance does not depend on the warp.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    /// Full-resolution pixels per pixel of this level.
    pub(crate) factor: usize,
    pub(crate) fixed: Plane,
    pub(crate) moving: Plane,
    fixed_gx: Plane,
    fixed_gy: Plane,
    /// `1 / nR`.
    fixed_inverse_norm: Plane,
    /// `εT²` and `εT·εR`.
    moving_edge_squared: f32,
    edge_product: f32,
}

/// The distance at one warp.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Distance {
    /// 0 where all edges are parallel, 1 where none is.
    pub(crate) value: f64,
    /// Share of the fixed image's pixels that see the moving image.
    pub(crate) valid_share: f64,
}

/// Sums over one band of rows.
struct BandSum {
    similarity: f64,
    valid: usize,
    gradient: Vec<f64>,
}

impl Level {
    /// `eta` scales the edge parameter ε: gradients well below `eta` times the image's mean count as noise.
    pub(crate) fn new(factor: usize, fixed: Plane, moving: Plane, eta: f64) -> Self {
        let (fixed_gx, fixed_gy) = fixed.gradient();
        let (moving_gx, moving_gy) = moving.gradient();
        // A constant level has no edges at all; the smallest normal number keeps the quotient defined (and equal to 1).
        let edge = |gx, gy| (eta * mean_magnitude(gx, gy)).max(f64::from(f32::MIN_POSITIVE).sqrt()) as f32;
        let (fixed_edge, moving_edge) = (edge(&fixed_gx, &fixed_gy), edge(&moving_gx, &moving_gy));
        let mut fixed_inverse_norm = Plane::zeros(fixed.width, fixed.height);
        for ((inverse, gx), gy) in fixed_inverse_norm.data.iter_mut().zip(&fixed_gx.data).zip(&fixed_gy.data) {
            *inverse = 1.0 / (gx * gx + gy * gy + fixed_edge * fixed_edge);
        }
        Self {
            factor,
            fixed,
            moving,
            fixed_gx,
            fixed_gy,
            fixed_inverse_norm,
            moving_edge_squared: moving_edge * moving_edge,
            edge_product: moving_edge * fixed_edge,
        }
    }

    /// The distance at `warp`.
    pub(crate) fn distance(&self, warp: &impl Warp) -> Distance {
        self.sum_bands::<false, _>(warp).0
    }

    /// The distance at `warp`; its derivative with respect to the warp's unknowns is written to `gradient`.
    pub(crate) fn distance_and_gradient(&self, warp: &impl Warp, gradient: &mut [f64]) -> Distance {
        let (distance, sum) = self.sum_bands::<true, _>(warp);
        gradient.copy_from_slice(&sum);
        distance
    }

    fn sum_bands<const DERIVATIVE: bool, W: Warp>(&self, warp: &W) -> (Distance, Vec<f64>) {
        let bands: Vec<BandSum> = (0..self.fixed.height.div_ceil(BAND_ROWS))
            .into_par_iter()
            .map_init(
                || Band::new(self.fixed.width),
                |band, index| band.sum::<DERIVATIVE, W>(self, warp, index * BAND_ROWS),
            )
            .collect();
        let mut gradient = vec![0.0; if DERIVATIVE { warp.unknowns() } else { 0 }];
        let (mut similarity, mut valid) = (0.0, 0);
        for band in bands {
            similarity += band.similarity;
            valid += band.valid;
            gradient.iter_mut().zip(&band.gradient).for_each(|(total, part)| *total += part);
        }
        let valid_share = valid as f64 / (self.fixed.width * self.fixed.height) as f64;
        if valid_share < MIN_VALID_SHARE {
            gradient.fill(0.0);
            return (Distance { value: 1.0, valid_share }, gradient);
        }
        gradient.iter_mut().for_each(|g| *g /= valid as f64);
        (Distance { value: 1.0 - similarity / valid as f64, valid_share }, gradient)
    }
}

/// Buffers for one band of rows and two halo rows on each side.
struct Band {
    width: usize,
    xs: Vec<f32>,
    ys: Vec<f32>,
    warped: Vec<f32>,
    warped_dx: Vec<f32>,
    warped_dy: Vec<f32>,
    /// 1 where the position lies inside the moving image, else 0.
    inside: Vec<f32>,
    /// Derivative of the sum with respect to the x and y differences of the warped image.
    weight_x: Vec<f32>,
    weight_y: Vec<f32>,
    gx: Vec<f32>,
    gy: Vec<f32>,
    similarity: Vec<f32>,
    out: Vec<f32>,
}

impl Band {
    const HALO: usize = 2;

    fn new(width: usize) -> Self {
        let row = || vec![0.0; width];
        let rows = || vec![0.0; width * (BAND_ROWS + 2 * Self::HALO)];
        Self {
            width,
            xs: row(),
            ys: row(),
            warped: rows(),
            warped_dx: rows(),
            warped_dy: rows(),
            inside: rows(),
            weight_x: rows(),
            weight_y: rows(),
            gx: row(),
            gy: row(),
            similarity: row(),
            out: row(),
        }
    }

    /// Sums over the rows `top..top + BAND_ROWS` of `level`.
    fn sum<const DERIVATIVE: bool, W: Warp>(&mut self, level: &Level, warp: &W, top: usize) -> BandSum {
        let (width, height) = (self.width, level.fixed.height);
        let bottom = (top + BAND_ROWS).min(height);
        let (reach, first) = (if DERIVATIVE { 2 } else { 1 }, top.saturating_sub(Self::HALO));
        let slot = move |y: usize| (y - first) * width..(y - first + 1) * width;

        for y in top.saturating_sub(reach)..(bottom + reach).min(height) {
            self.sample_row(level, warp, y, slot(y));
        }

        let mut sum =
            BandSum { similarity: 0.0, valid: 0, gradient: vec![0.0; if DERIVATIVE { warp.unknowns() } else { 0 }] };
        for y in top.saturating_sub(reach - 1)..(bottom + reach - 1).min(height) {
            if y == 0 || y + 1 == height {
                self.weight_x[slot(y)].fill(0.0);
                self.weight_y[slot(y)].fill(0.0);
                continue;
            }
            gradient_row(
                &self.warped[slot(y - 1)],
                &self.warped[slot(y)],
                &self.warped[slot(y + 1)],
                &mut self.gx,
                &mut self.gy,
            );
            self.compare_row::<DERIVATIVE>(level, y, slot(y));
            if (top..bottom).contains(&y) {
                sum.similarity += self.similarity.iter().map(|s| f64::from(*s)).sum::<f64>();
                sum.valid += self.inside[slot(y)][1..width - 1].iter().filter(|inside| **inside > 0.0).count();
            }
        }

        if DERIVATIVE {
            let zeros = vec![0.0; width];
            for y in top..bottom {
                let above = if y == 0 { &zeros[..] } else { &self.weight_y[slot(y - 1)] };
                let below = if y + 1 == height { &zeros[..] } else { &self.weight_y[slot(y + 1)] };
                gradient_adjoint_row(&self.weight_x[slot(y)], above, below, &mut self.out);
                for (i, out) in self.out.iter().enumerate() {
                    let inside = out * self.inside[slot(y)][i];
                    self.xs[i] = inside * self.warped_dx[slot(y)][i];
                    self.ys[i] = inside * self.warped_dy[slot(y)][i];
                }
                warp.pull_back(y, &self.xs, &self.ys, &mut sum.gradient);
            }
        }
        sum
    }

    fn sample_row(&mut self, level: &Level, warp: &impl Warp, y: usize, slot: std::ops::Range<usize>) {
        warp.positions(y, &mut self.xs, &mut self.ys);
        let warped = self.warped[slot.clone()].iter_mut().zip(&mut self.inside[slot.clone()]);
        let derivatives = self.warped_dx[slot.clone()].iter_mut().zip(&mut self.warped_dy[slot]);
        for (((value, inside), (dx, dy)), (x, y)) in warped.zip(derivatives).zip(self.xs.iter().zip(&self.ys)) {
            let sample = level.moving.sample(*x, *y);
            (*value, *dx, *dy) = (sample.value, sample.dx, sample.dy);
            *inside = if sample.inside { 1.0 } else { 0.0 };
        }
    }

    /// Compares the edges in row `y`: fills `similarity` and, with the derivative, the row's weights. The border
    /// columns, where central differences do not exist, weigh nothing.
    fn compare_row<const DERIVATIVE: bool>(&mut self, level: &Level, y: usize, slot: std::ops::Range<usize>) {
        let last = self.width - 1;
        let (fx, fy, inverse_norm) = (level.fixed_gx.row(y), level.fixed_gy.row(y), level.fixed_inverse_norm.row(y));
        let inside = &self.inside[slot.clone()];
        let (weight_x, weight_y) = (&mut self.weight_x[slot.clone()], &mut self.weight_y[slot]);
        for x in 1..last {
            let (gx, gy) = (self.gx[x], self.gy[x]);
            let r = gx * fx[x] + gy * fy[x] + level.edge_product;
            let inverse_moving_norm = 1.0 / (gx * gx + gy * gy + level.moving_edge_squared);
            let share = inside[x] * r * inverse_norm[x] * inverse_moving_norm;
            let similarity = share * r;
            self.similarity[x] = similarity;
            if DERIVATIVE {
                let back = 2.0 * similarity * inverse_moving_norm;
                weight_x[x] = back * gx - 2.0 * share * fx[x];
                weight_y[x] = back * gy - 2.0 * share * fy[x];
            }
        }
        (self.similarity[0], self.similarity[last]) = (0.0, 0.0);
        if DERIVATIVE {
            (weight_x[0], weight_x[last], weight_y[0], weight_y[last]) = (0.0, 0.0, 0.0, 0.0);
        }
    }
}
