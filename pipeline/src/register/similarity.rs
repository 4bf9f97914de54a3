//! How well two images agree at a given map, judged as the search judges it.
//!
//! The NGF distance is made for refinement, not for choosing between candidates: two flat regions on top of each other
//! count as perfect agreement, so a map that lays much glass on glass can beat the right one. Correlations, normalised
//! by what there is to agree on, do not have this flaw.

use super::ngf::{Level, Warp};
use super::plane::{Plane, double_angle};

/// Agreement of two images over their overlap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Similarity {
    /// Normalised cross-correlation of the optical densities, −1 to 1.
    pub(crate) ncc: f64,
    /// Normalised correlation of the double-angle fields, −1 to 1.
    pub(crate) edges: f64,
    /// Overlap as a share of the smaller image's area.
    pub(crate) overlap: f64,
}

impl Similarity {
    /// One number to compare candidates by, at most 2. Full credit is given from 5/6 of the smaller image on: small
    /// overlaps fit by chance.
    pub(crate) fn score(&self) -> f64 {
        (self.ncc + self.edges) * (0.5 + 0.6 * self.overlap).min(1.0)
    }

    /// Measures both correlations on `level`.
    pub(crate) fn measure(level: &Level, warp: &impl Warp) -> Self {
        let (fixed, moving): (&Plane, &Plane) = (&level.fixed, &level.moving);
        let (mut warped, mut inside) = (Plane::zeros(fixed.width, fixed.height), vec![false; fixed.data.len()]);
        let (mut xs, mut ys) = (vec![0.0; fixed.width], vec![0.0; fixed.width]);
        for y in 0..fixed.height {
            warp.positions(y, &mut xs, &mut ys);
            for (x, (px, py)) in xs.iter().zip(&ys).enumerate() {
                let sample = moving.sample(*px, *py);
                (warped.data[y * fixed.width + x], inside[y * fixed.width + x]) = (sample.value, sample.inside);
            }
        }
        let [fixed_z, warped_z] = [fixed, &warped].map(double_angle);
        let (mut density, mut edges) = (Moments::default(), [0.0f64; 3]);
        for (i, _) in inside.iter().enumerate().filter(|(_, inside)| **inside) {
            density.add(f64::from(fixed.data[i]), f64::from(warped.data[i]));
            let [f, m] = [&fixed_z, &warped_z].map(|z| z.each_ref().map(|part| f64::from(part.data[i])));
            edges[0] += f[0] * m[0] + f[1] * m[1];
            edges[1] += f[0] * f[0] + f[1] * f[1];
            edges[2] += m[0] * m[0] + m[1] * m[1];
        }
        let smaller = fixed.data.len().min(moving.data.len());
        let energy = (edges[1] * edges[2]).sqrt();
        Self {
            ncc: density.correlation(),
            edges: if energy > 0.0 { edges[0] / energy } else { 0.0 },
            overlap: density.count / smaller as f64,
        }
    }
}

/// Sums for a correlation coefficient.
#[derive(Debug, Default)]
struct Moments {
    count: f64,
    a: f64,
    b: f64,
    aa: f64,
    bb: f64,
    ab: f64,
}

impl Moments {
    fn add(&mut self, a: f64, b: f64) {
        self.count += 1.0;
        self.a += a;
        self.b += b;
        self.aa += a * a;
        self.bb += b * b;
        self.ab += a * b;
    }

    /// 0 where one of the images is constant.
    fn correlation(&self) -> f64 {
        let spread = (self.aa - self.a * self.a / self.count) * (self.bb - self.b * self.b / self.count);
        if spread > 0.0 { (self.ab - self.a * self.b / self.count) / spread.sqrt() } else { 0.0 }
    }
}
