//! Normalised gradient fields (Haber & Modersitzki, "Intensity gradient based registration and fusion of multi-modal
//! images", MICCAI 2006): the distance asks whether edges of the two images are parallel and ignores how strong they
//! are, which is what differently stained sections have in common.
//!
//! With gradients `∇T` of the warped moving image and `∇R` of the fixed image,
//!
//! ```text
//! D = 1 − Σ w·q / Σ w,   q = r² / (nT · nR),   r = ∇T·∇R + εT·εR,   n = |∇|² + ε²,   ε = η · mean |∇|
//! ```
//!
//! The weight w of a pixel is 1 inside the moving image, 0 outside, and falls linearly over the last pixels in between:
//! with a sharp border the distance would jump whenever a pixel leaves, and the jumps would stop the line search.
//!
//! The derivative is that of this discrete sum: the adjoint of the central differences carries it back to the warped
//! intensities, the derivative of the bilinear sample from there to the positions; that of the weights is included.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::plane::{Plane, gradient_adjoint_row, gradient_row, mean_magnitude};

/// Rows one task computes. Fixed, so that the sums are added in the same order for any number of threads; 32 rows keep
/// the buffers of a 1000 px wide image inside a level-2 cache while the four halo rows cost about a tenth.
const BAND_ROWS: usize = 32;

/// Width of the border over which the weight rises from 0 to 1, in level pixels: two are the reach of the gradients.
const BORDER_PX: f32 = 2.0;

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

/// Both images, reduced by the same factor.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// Full-resolution pixels per pixel of this level.
    pub(crate) factor: usize,
    pub(crate) fixed: Arc<Plane>,
    pub(crate) moving: Arc<Plane>,
}

impl Images {
    /// The same images with their roles exchanged.
    pub(crate) fn swapped(&self) -> Self {
        Self { factor: self.factor, fixed: Arc::clone(&self.moving), moving: Arc::clone(&self.fixed) }
    }
}

/// One level of the pyramid: both images, and what of the distance does not depend on the warp.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    /// Full-resolution pixels per pixel of this level.
    pub(crate) factor: usize,
    pub(crate) fixed: Arc<Plane>,
    pub(crate) moving: Arc<Plane>,
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
    /// Share of the fixed image's pixels that see the moving image, by weight.
    pub(crate) valid_share: f64,
}

/// Sums over one band of rows.
struct BandSum {
    /// `Σ w·q` and `Σ w`.
    similarity: f64,
    weight: f64,
    /// Their derivatives with respect to the unknowns of the warp; that of the weight is empty where it is zero, as for
    /// most bands.
    similarity_gradient: Vec<f64>,
    weight_gradient: Vec<f64>,
}

impl BandSum {
    fn zero(unknowns: usize) -> Self {
        Self { similarity: 0.0, weight: 0.0, similarity_gradient: vec![0.0; unknowns], weight_gradient: Vec::new() }
    }

    fn add(mut self, other: Self) -> Self {
        let add = |mut total: Vec<f64>, part: Vec<f64>| {
            total.iter_mut().zip(&part).for_each(|(t, p)| *t += p);
            if total.is_empty() { part } else { total }
        };
        self.similarity += other.similarity;
        self.weight += other.weight;
        self.similarity_gradient = add(self.similarity_gradient, other.similarity_gradient);
        self.weight_gradient = add(self.weight_gradient, other.weight_gradient);
        self
    }
}

impl Level {
    /// `eta` scales the edge parameter ε: gradients well below `eta` times the image's mean count as noise.
    pub(crate) fn new(Images { factor, fixed, moving }: &Images, eta: f64) -> Self {
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
            factor: *factor,
            fixed: Arc::clone(fixed),
            moving: Arc::clone(moving),
            fixed_gx,
            fixed_gy,
            fixed_inverse_norm,
            moving_edge_squared: moving_edge * moving_edge,
            edge_product: moving_edge * fixed_edge,
        }
    }

    /// The distance at `warp`.
    pub(crate) fn distance(&self, warp: &impl Warp) -> Distance {
        self.distance_of(&self.sums::<false, _>(warp))
    }

    /// The distance at `warp`; its derivative with respect to the warp's unknowns is written to `gradient`.
    pub(crate) fn distance_and_gradient(&self, warp: &impl Warp, gradient: &mut [f64]) -> Distance {
        let sums = self.sums::<true, _>(warp);
        let distance = self.distance_of(&sums);
        if distance.valid_share < MIN_VALID_SHARE {
            gradient.fill(0.0);
            return distance;
        }
        let mean = sums.similarity / sums.weight;
        gradient.copy_from_slice(&sums.similarity_gradient);
        gradient.iter_mut().zip(&sums.weight_gradient).for_each(|(out, weight)| *out -= mean * weight);
        gradient.iter_mut().for_each(|out| *out /= -sums.weight);
        distance
    }

    fn distance_of(&self, sums: &BandSum) -> Distance {
        let valid_share = sums.weight / (self.fixed.width * self.fixed.height) as f64;
        let value = if valid_share < MIN_VALID_SHARE { 1.0 } else { 1.0 - sums.similarity / sums.weight };
        Distance { value, valid_share }
    }

    fn sums<const DERIVATIVE: bool, W: Warp>(&self, warp: &W) -> BandSum {
        let width = self.fixed.width;
        let bands: Vec<BandSum> = (0..self.fixed.height.div_ceil(BAND_ROWS))
            .into_par_iter()
            .map_init(|| Band::new(width), |band, index| band.sum::<DERIVATIVE, W>(self, warp, index * BAND_ROWS))
            .collect();
        bands.into_iter().reduce(BandSum::add).unwrap_or_else(|| BandSum::zero(0))
    }

    /// Weight of the position (`x`, `y`) in the moving image, and its derivatives.
    #[inline]
    fn weight(&self, x: f32, y: f32) -> [f32; 3] {
        let ramp = |position: f32, last: usize| {
            let (low, high) = (position, last as f32 - position);
            let depth = low.min(high) / BORDER_PX;
            let slope = if depth <= 0.0 || depth >= 1.0 { 0.0 } else { 1.0 / BORDER_PX };
            (depth.clamp(0.0, 1.0), if low < high { slope } else { -slope })
        };
        let ((wx, dx), (wy, dy)) = (ramp(x, self.moving.width - 1), ramp(y, self.moving.height - 1));
        [wx * wy, dx * wy, wx * dy]
    }
}

/// Buffers for one band of rows and two halo rows on each side.
struct Band {
    width: usize,
    warped: Vec<f32>,
    warped_dx: Vec<f32>,
    warped_dy: Vec<f32>,
    /// Weight of each pixel and its derivative with respect to the position.
    weight: Vec<f32>,
    weight_dx: Vec<f32>,
    weight_dy: Vec<f32>,
    /// q of each pixel, and the derivative of `Σ w·q` with respect to the x and y differences of the warped image.
    similarity: Vec<f32>,
    back_x: Vec<f32>,
    back_y: Vec<f32>,
    /// Single rows: positions (later what is pulled back to them), gradient, derivative by intensity, zeros.
    xs: Vec<f32>,
    ys: Vec<f32>,
    gx: Vec<f32>,
    gy: Vec<f32>,
    back: Vec<f32>,
    zeros: Vec<f32>,
}

impl Band {
    const HALO: usize = 2;

    fn new(width: usize) -> Self {
        let row = || vec![0.0; width];
        let rows = || vec![0.0; width * (BAND_ROWS + 2 * Self::HALO)];
        Self {
            width,
            warped: rows(),
            warped_dx: rows(),
            warped_dy: rows(),
            weight: rows(),
            weight_dx: rows(),
            weight_dy: rows(),
            similarity: rows(),
            back_x: rows(),
            back_y: rows(),
            xs: row(),
            ys: row(),
            gx: row(),
            gy: row(),
            back: row(),
            zeros: row(),
        }
    }

    /// Sums over the rows `top..top + BAND_ROWS` of `level`.
    fn sum<const DERIVATIVE: bool, W: Warp>(&mut self, level: &Level, warp: &W, top: usize) -> BandSum {
        let (width, height) = (self.width, level.fixed.height);
        let bottom = (top + BAND_ROWS).min(height);
        let first = top.saturating_sub(Self::HALO);
        let slot = move |y: usize| (y - first) * width..(y - first + 1) * width;
        // The value needs the neighbours of each row, its derivative the neighbours' weights and thus their neighbours.
        let compared = if DERIVATIVE { top.saturating_sub(1)..(bottom + 1).min(height) } else { top..bottom };

        for y in compared.start.saturating_sub(1)..(compared.end + 1).min(height) {
            self.sample_row(level, warp, y, slot(y));
        }
        for y in compared {
            if y == 0 || y + 1 == height {
                self.skip(slot(y));
                continue;
            }
            let (above, middle, below) = (&self.warped[slot(y - 1)], &self.warped[slot(y)], &self.warped[slot(y + 1)]);
            gradient_row(above, middle, below, &mut self.gx, &mut self.gy);
            self.compare_row::<DERIVATIVE>(level, y, slot(y));
        }
        let mut sum = BandSum::zero(if DERIVATIVE { warp.unknowns() } else { 0 });
        for y in top..bottom {
            let (weight, similarity) = (&self.weight[slot(y)], &self.similarity[slot(y)]);
            sum.weight += weight.iter().map(|w| f64::from(*w)).sum::<f64>();
            sum.similarity += weight.iter().zip(similarity).map(|(w, q)| f64::from(w * q)).sum::<f64>();
            if DERIVATIVE {
                let above = if y == 0 { &self.zeros } else { &self.back_y[slot(y - 1)] };
                let below = if y + 1 == height { &self.zeros } else { &self.back_y[slot(y + 1)] };
                gradient_adjoint_row(&self.back_x[slot(y)], above, below, &mut self.back);
                self.pull_back(warp, y, slot(y), &mut sum);
            }
        }
        sum
    }

    fn sample_row(&mut self, level: &Level, warp: &impl Warp, y: usize, slot: Range<usize>) {
        warp.positions(y, &mut self.xs, &mut self.ys);
        let [warped, warped_dx, warped_dy, weight, weight_dx, weight_dy] = [
            &mut self.warped,
            &mut self.warped_dx,
            &mut self.warped_dy,
            &mut self.weight,
            &mut self.weight_dx,
            &mut self.weight_dy,
        ]
        .map(|rows| &mut rows[slot.clone()][..self.width]);
        let (xs, ys) = (&self.xs[..self.width], &self.ys[..self.width]);
        for x in 0..self.width {
            let sample = level.moving.sample(xs[x], ys[x]);
            (warped[x], warped_dx[x], warped_dy[x]) = (sample.value, sample.dx, sample.dy);
        }
        // On its own, so that several pixels are computed at once.
        for x in 0..self.width {
            [weight[x], weight_dx[x], weight_dy[x]] = level.weight(xs[x], ys[x]);
        }
    }

    /// Lets the pixels of `slot` weigh nothing: along the border of the fixed image there are no central differences.
    fn skip(&mut self, slot: Range<usize>) {
        let weights = [&mut self.weight, &mut self.weight_dx, &mut self.weight_dy];
        let results = [&mut self.similarity, &mut self.back_x, &mut self.back_y];
        for rows in weights.into_iter().chain(results) {
            rows[slot.clone()].fill(0.0);
        }
    }

    /// Compares the edges in row `y`: fills `similarity` and, with the derivative, what goes back to the gradients.
    fn compare_row<const DERIVATIVE: bool>(&mut self, level: &Level, y: usize, slot: Range<usize>) {
        let last = self.width - 1;
        let (fx, fy, inverse_norm) = (level.fixed_gx.row(y), level.fixed_gy.row(y), level.fixed_inverse_norm.row(y));
        let (weight, similarity) = (&self.weight[slot.clone()], &mut self.similarity[slot.clone()]);
        let (back_x, back_y) = (&mut self.back_x[slot.clone()], &mut self.back_y[slot.clone()]);
        let (gx, gy) = (&self.gx[..=last], &self.gy[..=last]);
        for x in 1..last {
            let r = gx[x] * fx[x] + gy[x] * fy[x] + level.edge_product;
            let inverse_moving_norm = 1.0 / (gx[x] * gx[x] + gy[x] * gy[x] + level.moving_edge_squared);
            let share = r * inverse_norm[x] * inverse_moving_norm;
            similarity[x] = share * r;
            if DERIVATIVE {
                let along_fixed = 2.0 * weight[x] * share;
                let along_moving = along_fixed * r * inverse_moving_norm;
                back_x[x] = along_fixed * fx[x] - along_moving * gx[x];
                back_y[x] = along_fixed * fy[x] - along_moving * gy[x];
            }
        }
        self.skip(slot.start..slot.start + 1);
        self.skip(slot.end - 1..slot.end);
    }

    /// Adds the derivatives of row `y`, whose derivatives by intensity are in `back`.
    fn pull_back(&mut self, warp: &impl Warp, y: usize, slot: Range<usize>, sum: &mut BandSum) {
        let (dx, dy) = (&self.warped_dx[slot.clone()], &self.warped_dy[slot.clone()]);
        let (weight_dx, weight_dy) = (&self.weight_dx[slot.clone()], &self.weight_dy[slot.clone()]);
        let similarity = &self.similarity[slot];
        for x in 0..self.width {
            self.xs[x] = self.back[x] * dx[x] + similarity[x] * weight_dx[x];
            self.ys[x] = self.back[x] * dy[x] + similarity[x] * weight_dy[x];
        }
        warp.pull_back(y, &self.xs, &self.ys, &mut sum.similarity_gradient);
        // Only along the border of the moving image do weights change.
        if weight_dx.iter().chain(weight_dy).any(|d| *d != 0.0) {
            sum.weight_gradient.resize(warp.unknowns(), 0.0);
            warp.pull_back(y, weight_dx, weight_dy, &mut sum.weight_gradient);
        }
    }
}
