//! The affine map between two images and its refinement on one pyramid level.

use serde::{Deserialize, Serialize};

use super::lbfgs::{self, minimize};
use super::ngf::{Level, Warp};
use crate::units::{Affine, Mpp};

/// An affine map from pixels of the fixed to pixels of the moving image, pixel centres at integers:
/// `(a·x + b·y + c, d·x + e·y + f)`, stored `[[a, b, c], [d, e, f]]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PixelAffine(pub [[f64; 3]; 2]);

impl PixelAffine {
    pub const IDENTITY: Self = Self([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);

    /// The map with this linear part that takes `from` to `to`.
    pub(crate) fn through(linear: [[f64; 2]; 2], from: [f64; 2], to: [f64; 2]) -> Self {
        let [[a, b], [d, e]] = linear;
        Self([[a, b, to[0] - a * from[0] - b * from[1]], [d, e, to[1] - d * from[0] - e * from[1]]])
    }

    pub(crate) fn linear(&self) -> [[f64; 2]; 2] {
        let [[a, b, _], [d, e, _]] = self.0;
        [[a, b], [d, e]]
    }

    /// Where the fixed pixel (`x`, `y`) lies in the moving image, in pixels.
    pub fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        let [[a, b, c], [d, e, f]] = self.0;
        (a * x + b * y + c, d * x + e * y + f)
    }

    /// Determinant of the linear part: the area factor, negative for a mirrored section.
    pub fn determinant(&self) -> f64 {
        let [[a, b], [d, e]] = self.linear();
        a * e - b * d
    }

    /// The map from moving to fixed pixels, or `None` where the linear part is singular.
    pub fn inverse(&self) -> Option<Self> {
        Affine(self.0).inverse().map(|inverse| Self(inverse.0))
    }

    /// The same map between micrometres on both images' canvases (edge-based, see [`crate::units`]), where both images
    /// have `mpp` micrometres per pixel.
    pub fn to_um(self, mpp: Mpp) -> Affine {
        // The centre of pixel i is i + 0.5 in edge-based pixels, on both sides of the map.
        let centre = self.apply(-0.5, -0.5);
        let [[a, b, _], [d, e, _]] = self.0;
        Affine([[a, b, (centre.0 + 0.5) * mpp.get()], [d, e, (centre.1 + 0.5) * mpp.get()]])
    }

    /// The same map in pixels of a level `factor` times coarser.
    pub(crate) fn to_level(self, factor: f64) -> Self {
        let centre = self.apply(0.5 * factor - 0.5, 0.5 * factor - 0.5);
        let shift = |c: f64| (c + 0.5) / factor - 0.5;
        let [[a, b, _], [d, e, _]] = self.0;
        Self([[a, b, shift(centre.0)], [d, e, shift(centre.1)]])
    }

    /// The same map in full-resolution pixels, given in pixels of a level `factor` times coarser.
    pub(crate) fn to_full(self, factor: f64) -> Self {
        self.to_level(1.0 / factor)
    }

    /// Root mean square distance in pixels between what two maps make of the corners of a `width` × `height` image:
    /// rotation, shift, scale and mirroring in one number.
    pub(crate) fn corner_distance(&self, other: &Self, width: usize, height: usize) -> f64 {
        let (right, bottom) = ((width - 1) as f64, (height - 1) as f64);
        let squares = [(0.0, 0.0), (right, 0.0), (0.0, bottom), (right, bottom)].map(|(x, y)| {
            let (p, q) = (self.apply(x, y), other.apply(x, y));
            (p.0 - q.0).powi(2) + (p.1 - q.1).powi(2)
        });
        (squares.iter().sum::<f64>() / 4.0).sqrt()
    }
}

/// What refinement may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freedom {
    /// Rotation and shift.
    Rigid,
    /// All six entries.
    Affine,
}

/// An affine warp about the centre of the fixed image, in level pixels. Its unknowns are the six entries.
pub(crate) struct AffineWarp {
    map: PixelAffine,
    centre: [f64; 2],
}

impl AffineWarp {
    /// A map between full-resolution pixels, seen on `level`.
    pub(crate) fn on_level(map: PixelAffine, level: &Level) -> Self {
        Self::new(map.to_level(level.factor as f64), level)
    }

    /// A map between pixels of `level`.
    pub(crate) fn new(map: PixelAffine, level: &Level) -> Self {
        Self { map, centre: [(level.fixed.width - 1) as f64 / 2.0, (level.fixed.height - 1) as f64 / 2.0] }
    }
}

impl Warp for AffineWarp {
    fn unknowns(&self) -> usize {
        6
    }

    fn positions(&self, y: usize, xs: &mut [f32], ys: &mut [f32]) {
        let start = self.map.apply(0.0, y as f64);
        let [[a, _], [d, _]] = self.map.linear();
        for (x, (px, py)) in xs.iter_mut().zip(ys).enumerate() {
            (*px, *py) = ((start.0 + a * x as f64) as f32, (start.1 + d * x as f64) as f32);
        }
    }

    /// Derivative with respect to `[a, b, c, d, e, f]` of the map written about the centre of the fixed image.
    fn pull_back(&self, y: usize, dx: &[f32], dy: &[f32], gradient: &mut [f64]) {
        let v = y as f64 - self.centre[1];
        for (derivative, out) in [dx, dy].into_iter().zip(gradient.chunks_exact_mut(3)) {
            let (mut moment, mut sum) = (0.0, 0.0);
            for (x, d) in derivative.iter().enumerate() {
                moment += f64::from(*d) * x as f64;
                sum += f64::from(*d);
            }
            out[0] += moment - self.centre[0] * sum;
            out[1] += v * sum;
            out[2] += sum;
        }
    }
}

/// Steps and gradient changes L-BFGS remembers: as many as an affine map has unknowns.
const MEMORY: usize = 6;
/// An iteration that lowers the distance by less than this share moves the map by hundredths of a level pixel.
const RELATIVE_DECREASE: f64 = 1e-6;

/// Lowers the NGF distance on one level, starting from `start`. Both maps are in full-resolution pixels.
pub(crate) fn refine(level: &Level, start: PixelAffine, freedom: Freedom, max_iterations: usize) -> PixelAffine {
    let factor = level.factor as f64;
    let start = start.to_level(factor);
    let centre = AffineWarp::new(start, level).centre;
    let target = start.apply(centre[0], centre[1]);
    // Unknowns are displacements in level pixels: of the centre, and relative to it of a point half the long side away.
    // Then one unit means about as much in each of them, and the first step is one pixel.
    let arm = level.fixed.long_side() as f64 / 2.0;
    let unknowns = if freedom == Freedom::Rigid { 3 } else { 6 };
    let [[a, b], [d, e]] = start.linear();
    let map_of = |p: &[f64]| {
        let to = |dx: f64, dy: f64| [target.0 + dx, target.1 + dy];
        if freedom == Freedom::Rigid {
            let (sin, cos) = (p[2] / arm).sin_cos();
            let linear = [[cos * a - sin * d, cos * b - sin * e], [sin * a + cos * d, sin * b + cos * e]];
            PixelAffine::through(linear, centre, to(p[0], p[1]))
        } else {
            let linear = [[a + p[0] / arm, b + p[1] / arm], [d + p[3] / arm, e + p[4] / arm]];
            PixelAffine::through(linear, centre, to(p[2], p[5]))
        }
    };
    let objective = |p: &[f64], gradient: &mut [f64]| {
        let map = map_of(p);
        let mut entries = [0.0; 6];
        let distance = level.distance_and_gradient(&AffineWarp::new(map, level), &mut entries);
        let [ga, gb, gc, gd, ge, gf] = entries;
        if freedom == Freedom::Rigid {
            // Turning by dθ changes the linear part by dθ · [[−d, −e], [a, b]].
            let [[a, b], [d, e]] = map.linear();
            gradient.copy_from_slice(&[gc, gf, (gd * a + ge * b - ga * d - gb * e) / arm]);
        } else {
            gradient.copy_from_slice(&[ga / arm, gb / arm, gc, gd / arm, ge / arm, gf]);
        }
        distance.value
    };
    let options =
        lbfgs::Options { memory: MEMORY, max_iterations, first_step: 1.0, relative_decrease: RELATIVE_DECREASE };
    let end = minimize(&vec![0.0; unknowns], &options, objective);
    map_of(&end.x).to_full(factor)
}
