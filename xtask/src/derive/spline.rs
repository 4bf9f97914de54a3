//! Smooth random functions of the plane: uniform cubic B-splines over a grid of control values.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// A cubic B-spline surface. The control value of column `i` and row `j` sits at `origin_um + (i, j) · spacing_um`;
/// outside the grid the border values repeat. Units: µm in, whatever the values are out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spline {
    pub(crate) origin_um: [f64; 2],
    pub(crate) spacing_um: f64,
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    /// Row-major control values.
    pub(crate) values: Vec<f64>,
}

impl Spline {
    /// Control values uniform in [−1, 1], enough of them to cover `extent_um` with a margin for the spline's support.
    pub(crate) fn random(rng: &mut impl Rng, extent_um: [f64; 2], spacing_um: f64) -> Self {
        let count = |extent: f64| (extent / spacing_um).ceil() as usize + 3;
        let (cols, rows) = (count(extent_um[0]), count(extent_um[1]));
        let values = (0..cols * rows).map(|_| rng.random_range(-1.0..=1.0)).collect();
        Self { origin_um: [-spacing_um; 2], spacing_um, cols, rows, values }
    }

    /// The surface at (x, y) µm.
    pub(crate) fn at(&self, x_um: f64, y_um: f64) -> f64 {
        let (col, weights_x) = basis((x_um - self.origin_um[0]) / self.spacing_um);
        let (row, weights_y) = basis((y_um - self.origin_um[1]) / self.spacing_um);
        let clamp = |i: i64, count: usize| i.clamp(0, count as i64 - 1) as usize;
        let mut sum = 0.0;
        for (j, wy) in (row..).zip(weights_y) {
            let line = clamp(j, self.rows) * self.cols;
            for (i, wx) in (col..).zip(weights_x) {
                sum += wy * wx * self.values[line + clamp(i, self.cols)];
            }
        }
        sum
    }
}

/// Index of the first of four control values and their weights (Rueckert et al., IEEE TMI 18:712, 1999, eq. 2).
fn basis(u: f64) -> (i64, [f64; 4]) {
    let first = u.floor();
    let t = u - first;
    let weights = [
        (1.0 - t).powi(3),
        3.0 * t.powi(3) - 6.0 * t * t + 4.0,
        -3.0 * t.powi(3) + 3.0 * t * t + 3.0 * t + 1.0,
        t.powi(3),
    ];
    (first as i64 - 1, weights.map(|w| w / 6.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_grid_gives_back_the_line() {
        let values = (0..8 * 8).map(|i| 2.0 * f64::from(i % 8) - 3.0 * f64::from(i / 8)).collect();
        let spline = Spline { origin_um: [-10.0, -10.0], spacing_um: 10.0, cols: 8, rows: 8, values };
        // Inside, cubic B-splines reproduce linear functions: control value at x is 2 (x + 10) / 10.
        for (x, y) in [(0.0, 0.0), (3.7, 21.3), (33.3, 40.0)] {
            let expected = 2.0 * (x + 10.0) / 10.0 - 3.0 * (y + 10.0) / 10.0;
            assert!((spline.at(x, y) - expected).abs() < 1e-9, "at {x}, {y}");
        }
    }
}
