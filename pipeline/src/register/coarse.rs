//! Exhaustive search over rotation, mirroring and **all** translations on small images.
//!
//! For every orientation, FFT correlations give two similarities at every shift: the normalised cross-correlation of the
//! optical densities over the overlap, and the correlation of `z = (gx + i·gy)² / (|g|² + e²)`, the double-angle form of
//! the normalised gradient, whose real part is `cos 2φ` for edges that differ by the angle φ. No centre of mass is used:
//! cropped or partial sections would mislead it.
//!
//! Four orientations share the correlations with the rotated image rectangle, since it looks the same mirrored and
//! turned by 180°; turning the image itself by 180° replaces a correlation by a convolution. Sums over the fixed image's
//! own rectangle, which is not rotated, come from summed-area tables.

use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use super::RegisterParams;
use super::affine::PixelAffine;
use super::fft::{Fft2, Spectrum};
use super::plane::{Plane, double_angle};
use super::similarity::Similarity;

/// Blur before the gradients of the search images, in their pixels: below it lies pixel noise, not tissue.
const GRADIENT_SIGMA_PX: f32 = 1.0;
/// Only so much of a peak's surroundings belongs to it, in search pixels; the second peak is looked for outside.
const PEAK_RADIUS_PX: i64 = 6;
/// Peaks taken per orientation: the true shift is nearly always the best or second best at the right angle.
const PEAKS_PER_ORIENTATION: usize = 2;
/// Densities (in `[0, 1]`) that vary less than this over the overlap carry no signal; keeps the quotients finite.
const VARIANCE_FLOOR: f64 = 1e-5;
/// The same for the mean of `|z|²`, which is in `[0, 1]` too.
const ENERGY_FLOOR: f64 = 1e-4;

/// A local maximum of the search score.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peak {
    /// [`Similarity::score`] there.
    pub(crate) score: f64,
    /// In full-resolution pixels.
    pub(crate) map: PixelAffine,
}

/// A search image and its double-angle field.
struct Features {
    density: Plane,
    /// Real and imaginary part of `z`, zero along the border.
    z: [Plane; 2],
}

impl Features {
    fn new(density: Plane) -> Self {
        let z = double_angle(&density.gaussian(GRADIENT_SIGMA_PX));
        Self { density, z }
    }

    fn energy(&self) -> Plane {
        let [re, im] = &self.z;
        Plane::from_fn(re.width, re.height, |x, y| re.row(y)[x].powi(2) + im.row(y)[x].powi(2))
    }
}

/// The fixed side, transformed once.
struct Fixed {
    width: i64,
    height: i64,
    density: Spectrum,
    density_squared: Spectrum,
    z: [Spectrum; 2],
    energy: Spectrum,
}

impl Fixed {
    fn new(features: &Features, fft: &Fft2) -> Self {
        let density = &features.density;
        let squared = Plane::from_fn(density.width, density.height, |x, y| density.row(y)[x].powi(2));
        let energy = features.energy();
        let [density_spectrum, density_squared] = fft.forward_pair(density, &squared);
        let [energy, _] = fft.forward_pair(&energy, &Plane::zeros(energy.width, energy.height));
        Self {
            width: density.width as i64,
            height: density.height as i64,
            density: density_spectrum,
            density_squared,
            z: fft.forward_pair(&features.z[0], &features.z[1]),
            energy,
        }
    }
}

/// One admissible shift of the canvas at one angle, with what the fixed image contributes there.
struct Place {
    shift: [i64; 2],
    /// The part of the canvas under the fixed image: `[left, top, right, bottom)`.
    window: [usize; 4],
    /// Pixels of the overlap.
    count: f64,
    /// Variance sum of the fixed density and sum of its `|z|²` over the overlap.
    variance: f64,
    energy: f64,
    /// Sum of the fixed density over the overlap.
    sum: f64,
}

/// What all orientations share.
struct Search<'a> {
    fft: Fft2,
    fixed: Fixed,
    moving: &'a Features,
    /// Side of the square canvas that holds the moving image at any angle.
    canvas: usize,
    /// Fewest pixels of overlap.
    min_count: f64,
    /// Area of the smaller image in pixels.
    smaller_area: f64,
    /// Admissible shifts `[first, last]` per axis; outside, the overlap cannot reach `min_count`.
    shifts: [[i64; 2]; 2],
}

/// All peaks of the search, best first, as maps between full-resolution pixels. `factor` is how much smaller than the
/// originals the search images are. Empty where nothing overlaps enough.
pub(crate) fn search(fixed: Plane, moving: Plane, factor: usize, params: &RegisterParams) -> Vec<Peak> {
    if fixed.short_side() < 3 || moving.short_side() < 3 {
        return Vec::new();
    }
    let (fixed, moving) = (Features::new(fixed), Features::new(moving));
    let search = Search::new(&fixed, &moving, params.min_overlap_fraction);
    let steps = (180.0 / params.search_angle_step_deg).round() as usize;
    let peaks: Vec<Vec<Peak>> =
        (0..steps).into_par_iter().map(|i| search.angle(std::f64::consts::PI * i as f64 / steps as f64)).collect();
    let mut peaks: Vec<Peak> = peaks.into_iter().flatten().collect();
    // Stable, so that equal scores keep the order of their angles.
    peaks.sort_by(|a, b| b.score.total_cmp(&a.score));
    peaks.iter_mut().for_each(|peak| peak.map = peak.map.to_full(factor as f64));
    peaks
}

impl<'a> Search<'a> {
    fn new(fixed: &Features, moving: &'a Features, min_overlap: f64) -> Self {
        let [fixed_size, moving_size] = [fixed, moving].map(|image| [image.density.width, image.density.height]);
        let area = |size: [usize; 2]| (size[0] * size[1]) as f64;
        let smaller_area = area(fixed_size).min(area(moving_size));
        let min_count = min_overlap * smaller_area;
        let canvas = (moving_size[0] as f64).hypot(moving_size[1] as f64).ceil() as usize + 2;
        // An overlap of e columns holds at most e · min(fixed height, canvas) pixels, so fewer columns than this never
        // suffice. The transform may wrap around by as much: only shifts that are never looked at alias.
        let least = |axis: usize| (min_count / fixed_size[1 - axis].min(canvas) as f64).floor() as i64;
        let extent = |axis: usize| (fixed_size[axis] + canvas) as i64 - least(axis);
        let shifts = [0, 1].map(|axis| [least(axis) - canvas as i64, fixed_size[axis] as i64 - least(axis)]);
        let fft = Fft2::new(extent(0).max(1) as usize, extent(1).max(1) as usize);
        let fixed = Fixed::new(fixed, &fft);
        Self { fft, fixed, moving, canvas, min_count, smaller_area, shifts }
    }

    /// The peaks of the four orientations that share `angle` (radians, in `[0, π)`).
    fn angle(&self, angle: f64) -> Vec<Peak> {
        let (sin, cos) = angle.sin_cos();
        let plain = Canvas::new(self, [[cos, -sin], [sin, cos]], false);
        let mirrored = Canvas::new(self, [[-cos, sin], [sin, cos]], true);
        let [mask, plain_density] = self.fft.forward_pair(&plain.mask, &plain.density);
        let [mirrored_density, _] = self.fft.forward_pair(&mirrored.density, &Plane::zeros(self.canvas, self.canvas));
        let places = self.places(&plain, &mask);
        let mut peaks = Vec::with_capacity(4 * PEAKS_PER_ORIENTATION);
        for (canvas, density) in [(plain, plain_density), (mirrored, mirrored_density)] {
            let z = self.fft.forward_pair(&canvas.z[0], &canvas.z[1]);
            for turned in [false, true] {
                peaks.extend(self.peaks(&canvas, &density, &z, &places, turned));
            }
        }
        peaks
    }

    /// The admissible shifts of this angle.
    fn places(&self, canvas: &Canvas, mask: &Spectrum) -> Vec<Place> {
        let correlate = |fixed: &Spectrum| Spectrum(fixed.0.iter().zip(&mask.0).map(|(f, m)| f * m.conj()).collect());
        let sums = self.fft.inverse_pair(&correlate(&self.fixed.density), &correlate(&self.fixed.density_squared));
        let energies = self.fft.inverse_pair(&correlate(&self.fixed.energy), &correlate(&self.fixed.energy));
        let mut places = Vec::new();
        let side = self.canvas as i64;
        for shift_y in self.shifts[1][0]..=self.shifts[1][1] {
            for shift_x in self.shifts[0][0]..=self.shifts[0][1] {
                let (left, right) = ((-shift_x).max(0), (self.fixed.width - shift_x).min(side));
                let (top, bottom) = ((-shift_y).max(0), (self.fixed.height - shift_y).min(side));
                if left >= right || top >= bottom {
                    continue;
                }
                let window = [left, top, right, bottom].map(|edge| edge as usize);
                let count = canvas.sums(window).count;
                if count < self.min_count.max(1.0) {
                    continue;
                }
                let index = self.wrapped(shift_x, shift_y);
                let (sum, squares) = (f64::from(sums[index].re), f64::from(sums[index].im));
                let variance = (squares - sum * sum / count).max(VARIANCE_FLOOR * count);
                let energy = f64::from(energies[index].re).max(ENERGY_FLOOR * count);
                places.push(Place { shift: [shift_x, shift_y], window, count, variance, energy, sum });
            }
        }
        places
    }

    /// The best shifts of one orientation: the canvas as it is, or `turned` by 180°.
    fn peaks(
        &self,
        canvas: &Canvas,
        density: &Spectrum,
        z: &[Spectrum; 2],
        places: &[Place],
        turned: bool,
    ) -> Vec<Peak> {
        let side = self.canvas as i64;
        // Correlation with the image turned by 180° is convolution with the image, read `side − 1` further on.
        let orient = |c: &Complex32| if turned { *c } else { c.conj() };
        let offset = if turned { side - 1 } else { 0 };
        let density_product =
            Spectrum(self.fixed.density.0.iter().zip(&density.0).map(|(f, m)| f * orient(m)).collect());
        let [fixed_re, fixed_im] = &self.fixed.z;
        let z_product = Spectrum(
            (0..fixed_re.0.len())
                .map(|i| fixed_re.0[i] * orient(&z[0].0[i]) + fixed_im.0[i] * orient(&z[1].0[i]))
                .collect(),
        );
        let products = self.fft.inverse_pair(&density_product, &z_product);
        let mut scores: Vec<f64> = places
            .iter()
            .map(|place| {
                let [left, top, right, bottom] = place.window;
                let flip = |edge: usize| self.canvas - edge;
                let window = if turned { [flip(right), flip(bottom), flip(left), flip(top)] } else { place.window };
                let moving = canvas.sums(window);
                let product = products[self.wrapped(place.shift[0] + offset, place.shift[1] + offset)];
                let covariance = f64::from(product.re) - place.sum * moving.density / place.count;
                let variance =
                    (moving.squared - moving.density * moving.density / place.count).max(VARIANCE_FLOOR * place.count);
                let energy = moving.energy.max(ENERGY_FLOOR * place.count);
                let similarity = Similarity {
                    ncc: covariance / (place.variance * variance).sqrt(),
                    edges: f64::from(product.im) / (place.energy * energy).sqrt(),
                    overlap: place.count / self.smaller_area,
                };
                similarity.score()
            })
            .collect();
        let mut peaks = Vec::with_capacity(PEAKS_PER_ORIENTATION);
        for _ in 0..PEAKS_PER_ORIENTATION {
            let mut best: Option<usize> = None;
            for (i, score) in scores.iter().enumerate() {
                if *score > best.map_or(f64::NEG_INFINITY, |b| scores[b]) {
                    best = Some(i);
                }
            }
            let Some(best) = best else { break };
            let shift = places[best].shift;
            peaks.push(Peak { score: scores[best], map: self.map(canvas.linear, shift, turned) });
            for (score, place) in scores.iter_mut().zip(places) {
                if (0..2).all(|axis| (place.shift[axis] - shift[axis]).abs() < PEAK_RADIUS_PX) {
                    *score = f64::NEG_INFINITY;
                }
            }
        }
        peaks
    }

    /// Fixed to moving, in search pixels: the canvas lies at `shift` in the fixed image.
    fn map(&self, linear: [[f64; 2]; 2], shift: [i64; 2], turned: bool) -> PixelAffine {
        let linear = if turned { linear.map(|row| row.map(|entry| -entry)) } else { linear };
        let middle = (self.canvas - 1) as f64 / 2.0;
        let from = shift.map(|s| s as f64 + middle);
        PixelAffine::through(linear, from, centre(&self.moving.density))
    }

    /// Index of a shift in a transformed image, where negative shifts wrap around.
    fn wrapped(&self, shift_x: i64, shift_y: i64) -> usize {
        let (width, height) = (self.fft.width as i64, self.fft.height as i64);
        (shift_y.rem_euclid(height) * width + shift_x.rem_euclid(width)) as usize
    }
}

/// The moving image at one orientation, in the middle of a square canvas.
struct Canvas {
    /// From canvas to moving directions.
    linear: [[f64; 2]; 2],
    mask: Plane,
    density: Plane,
    z: [Plane; 2],
    /// Summed-area table, `canvas + 1` entries to a row.
    table: Vec<WindowSums>,
}

/// Sums over a window of the canvas: pixels of the image, its density, its squared density and `|z|²`.
#[derive(Debug, Clone, Copy, Default)]
struct WindowSums {
    count: f64,
    density: f64,
    squared: f64,
    energy: f64,
}

impl WindowSums {
    fn combine(self, other: Self, sign: f64) -> Self {
        Self {
            count: self.count + sign * other.count,
            density: self.density + sign * other.density,
            squared: self.squared + sign * other.squared,
            energy: self.energy + sign * other.energy,
        }
    }
}

impl Canvas {
    fn new(search: &Search, linear: [[f64; 2]; 2], mirrored: bool) -> Self {
        let (side, moving) = (search.canvas, search.moving);
        let middle = (side - 1) as f64 / 2.0;
        let map = PixelAffine::through(linear, [middle, middle], centre(&moving.density));
        // Mirroring conjugates z (up to its sign, which squares away), turning back by the angle turns z by twice that.
        let [_, [sin, cos]] = linear;
        let (cos2, sin2) = ((cos * cos - sin * sin) as f32, (2.0 * sin * cos) as f32);
        let mut canvas = Self {
            linear,
            mask: Plane::zeros(side, side),
            density: Plane::zeros(side, side),
            z: [Plane::zeros(side, side), Plane::zeros(side, side)],
            table: vec![WindowSums::default(); (side + 1) * (side + 1)],
        };
        let (right, bottom) = (moving.density.width as f64 - 0.5, moving.density.height as f64 - 0.5);
        for y in 0..side {
            let mut row = WindowSums::default();
            for x in 0..side {
                let (u, v) = map.apply(x as f64, y as f64);
                if u >= -0.5 && v >= -0.5 && u <= right && v <= bottom {
                    let i = y * side + x;
                    let (u, v) = (u as f32, v as f32);
                    let density = moving.density.sample(u, v).value;
                    let (re, im) = (moving.z[0].sample(u, v).value, moving.z[1].sample(u, v).value);
                    let im = if mirrored { -im } else { im };
                    let z = [re * cos2 + im * sin2, im * cos2 - re * sin2];
                    (canvas.mask.data[i], canvas.density.data[i]) = (1.0, density);
                    (canvas.z[0].data[i], canvas.z[1].data[i]) = (z[0], z[1]);
                    let pixel = WindowSums {
                        count: 1.0,
                        density: f64::from(density),
                        squared: f64::from(density * density),
                        energy: f64::from(z[0] * z[0] + z[1] * z[1]),
                    };
                    row = row.combine(pixel, 1.0);
                }
                canvas.table[(y + 1) * (side + 1) + x + 1] = canvas.table[y * (side + 1) + x + 1].combine(row, 1.0);
            }
        }
        canvas
    }

    /// Sums over the window `[left, top, right, bottom)`.
    fn sums(&self, [left, top, right, bottom]: [usize; 4]) -> WindowSums {
        let stride = self.mask.width + 1;
        let at = |x: usize, y: usize| self.table[y * stride + x];
        at(right, bottom).combine(at(left, bottom), -1.0).combine(at(right, top), -1.0).combine(at(left, top), 1.0)
    }
}

fn centre(plane: &Plane) -> [f64; 2] {
    [(plane.width - 1) as f64 / 2.0, (plane.height - 1) as f64 / 2.0]
}
