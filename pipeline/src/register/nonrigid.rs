//! The non-rigid part: a displacement on the nodes of a grid, bilinear in between, added to the affine map.
//!
//! Minimised is `D + α/2 · mean (u_xx² + 2·u_xy² + u_yy²)`: the NGF distance plus the bending energy of the displacement
//! (Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999), lengths in units of the fixed
//! image's diagonal so that α means the same for any image and level. The squared Laplacian, the usual choice beside
//! NGF, lets saddles grow for nothing where there is no tissue to hold them; the mixed term does not.

use std::borrow::Cow;

use super::affine::PixelAffine;
use super::lbfgs::{self, minimize};
use super::ngf::{Level, Warp};
use crate::deformation::{Deformation, DisplacementField};

/// Steps and gradient changes L-BFGS remembers.
const MEMORY: usize = 8;
/// An iteration that lowers the objective by less than this share moves no node by a visible amount.
const RELATIVE_DECREASE: f64 = 1e-6;

/// What the minimisation on one level may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Distance of the nodes in level pixels.
    pub(crate) node_spacing_px: usize,
    /// α.
    pub(crate) bending_weight: f64,
    pub(crate) max_iterations: usize,
}

/// An affine map plus a displacement on a node grid, all in pixels of one level. Unknowns: the x displacements of all
/// nodes, row-major, then the y displacements.
pub(crate) struct GridWarp<'a> {
    pub(crate) affine: PixelAffine,
    pub(crate) spacing: usize,
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    /// Both components in level pixels.
    pub(crate) nodes: Cow<'a, [f64]>,
}

/// Nodes needed along a side so that its last pixel lies in a cell.
pub(crate) fn node_count(side: usize, spacing: usize) -> usize {
    (side - 1) / spacing + 2
}

impl GridWarp<'_> {
    /// A map between full-resolution pixels, seen on a level: exact on the level its field was found on, on others to the
    /// distance of the field from its own interpolation.
    pub(crate) fn on_level(map: &Deformation, level: &Level) -> Self {
        let factor = level.factor as f64;
        let field = map.field.as_ref();
        let spacing = field.map_or(level.fixed.long_side(), |field| (field.spacing / factor).round().max(2.0) as usize);
        let (cols, rows) = (node_count(level.fixed.width, spacing), node_count(level.fixed.height, spacing));
        let full = |node: usize| ((node * spacing) as f64 + 0.5) * factor - 0.5;
        let mut nodes = vec![0.0; 2 * cols * rows];
        if let Some(field) = field {
            let (xs, ys) = nodes.split_at_mut(cols * rows);
            for (i, (x, y)) in xs.iter_mut().zip(ys).enumerate() {
                [*x, *y] = field.at([full(i % cols), full(i / cols)]).map(|v| v / factor);
            }
        }
        Self { affine: PixelAffine(map.affine).to_level(factor), spacing, cols, rows, nodes: Cow::Owned(nodes) }
    }

    /// Node row above pixel row `y`, and the weight of the one below it.
    fn cell_row(&self, y: usize) -> (usize, f64) {
        (y / self.spacing, (y % self.spacing) as f64 / self.spacing as f64)
    }
}

impl Warp for GridWarp<'_> {
    fn unknowns(&self) -> usize {
        2 * self.cols * self.rows
    }

    fn positions(&self, y: usize, xs: &mut [f32], ys: &mut [f32]) {
        let (row, t) = self.cell_row(y);
        let start = self.affine.apply(0.0, y as f64);
        let [[a, _], [d, _]] = self.affine.linear();
        for (component, (out, start, slope)) in [(xs, start.0, a), (ys, start.1, d)].into_iter().enumerate() {
            let nodes = &self.nodes[(component * self.rows + row) * self.cols..];
            let node = |col: usize| nodes[col] + t * (nodes[self.cols + col] - nodes[col]);
            let mut left = node(0);
            for (cell, pixels) in out.chunks_mut(self.spacing).enumerate() {
                let right = node(cell + 1);
                let first = start + slope * (cell * self.spacing) as f64 + left;
                let step = slope + (right - left) / self.spacing as f64;
                for (i, pixel) in pixels.iter_mut().enumerate() {
                    *pixel = (first + step * i as f64) as f32;
                }
                left = right;
            }
        }
    }

    fn pull_back(&self, y: usize, dx: &[f32], dy: &[f32], gradient: &mut [f64]) {
        let (row, t) = self.cell_row(y);
        for (component, derivative) in [dx, dy].into_iter().enumerate() {
            let rows = &mut gradient[(component * self.rows + row) * self.cols..];
            let (above, below) = rows.split_at_mut(self.cols);
            for (cell, pixels) in derivative.chunks(self.spacing).enumerate() {
                let (mut sum, mut moment) = (0.0f32, 0.0f32);
                for (i, d) in pixels.iter().enumerate() {
                    sum += d;
                    moment += d * i as f32;
                }
                let right = f64::from(moment) / self.spacing as f64;
                let left = f64::from(sum) - right;
                above[cell] += (1.0 - t) * left;
                above[cell + 1] += (1.0 - t) * right;
                below[cell] += t * left;
                below[cell + 1] += t * right;
            }
        }
    }
}

/// Bending energy over nodes, `weight/2 · Σ (u_xx² + 2·u_xy² + u_yy²)`, derivatives as differences. Beyond the border
/// the displacement counts as continuing unchanged, as the field does.
pub(crate) struct Bending {
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    pub(crate) weight: f64,
}

impl Bending {
    /// The value for one component `u` of the displacement; its derivative is added to `gradient`.
    pub(crate) fn value_and_gradient(&self, u: &[f64], gradient: &mut [f64]) -> f64 {
        let mut value = 0.0;
        let mut term = |weight: f64, nodes: &[(usize, f64)]| {
            let difference: f64 = nodes.iter().map(|(i, factor)| factor * u[*i]).sum();
            value += 0.5 * weight * difference * difference;
            nodes.iter().for_each(|(i, factor)| gradient[*i] += weight * difference * factor);
        };
        for row in 0..self.rows {
            for col in 0..self.cols {
                let i = row * self.cols + col;
                for (at, count, stride) in [(col, self.cols, 1), (row, self.rows, self.cols)] {
                    match (at > 0, at + 1 < count) {
                        (true, true) => term(self.weight, &[(i - stride, 1.0), (i, -2.0), (i + stride, 1.0)]),
                        (true, false) => term(self.weight, &[(i - stride, 1.0), (i, -1.0)]),
                        _ => term(self.weight, &[(i, -1.0), (i + stride, 1.0)]),
                    }
                }
                if col + 1 < self.cols && row + 1 < self.rows {
                    let below = i + self.cols;
                    term(2.0 * self.weight, &[(i, 1.0), (i + 1, -1.0), (below, -1.0), (below + 1, 1.0)]);
                }
            }
        }
        value
    }
}

/// What is minimised on one level, as a function of the nodes of a [`GridWarp`].
pub(crate) struct Objective<'a> {
    level: &'a Level,
    /// In level pixels.
    affine: PixelAffine,
    spacing: usize,
    cols: usize,
    rows: usize,
    bending: Bending,
}

impl<'a> Objective<'a> {
    /// `affine` is in full-resolution pixels.
    pub(crate) fn new(level: &'a Level, affine: PixelAffine, spacing: usize, bending_weight: f64) -> Self {
        let (width, height) = (level.fixed.width, level.fixed.height);
        let (cols, rows) = (node_count(width, spacing), node_count(height, spacing));
        let diagonal = (width as f64).hypot(height as f64);
        // Displacements divided by the diagonal, second differences by the square of the spacing in diagonals.
        let scale = (diagonal * (spacing as f64 / diagonal).powi(2)).powi(2) * (cols * rows) as f64;
        let bending = Bending { cols, rows, weight: bending_weight / scale };
        Self { level, affine: affine.to_level(level.factor as f64), spacing, cols, rows, bending }
    }

    /// Nodes of the grid; there are twice as many unknowns.
    pub(crate) fn node_count(&self) -> usize {
        self.cols * self.rows
    }

    /// The value at `nodes`; its gradient is written to `gradient`.
    pub(crate) fn value_and_gradient(&self, nodes: &[f64], gradient: &mut [f64]) -> f64 {
        let Self { affine, spacing, cols, rows, .. } = *self;
        let warp = GridWarp { affine, spacing, cols, rows, nodes: Cow::Borrowed(nodes) };
        let distance = self.level.distance_and_gradient(&warp, gradient).value;
        let count = self.node_count();
        let components = nodes.chunks_exact(count).zip(gradient.chunks_exact_mut(count));
        distance + components.map(|(u, gradient)| self.bending.value_and_gradient(u, gradient)).sum::<f64>()
    }
}

/// Where a minimisation ended.
pub(crate) struct Refined {
    /// In full-resolution pixels.
    pub(crate) field: DisplacementField,
    /// Distance plus weighted bending energy there.
    pub(crate) objective: f64,
}

/// Lowers distance plus bending energy on one level, starting from `start` or from no displacement. Maps and fields are in
/// full-resolution pixels; the nodes of the result are `node_spacing_px` level pixels apart, the first on the centre of
/// the first level pixel.
pub(crate) fn refine(
    level: &Level,
    affine: PixelAffine,
    start: Option<&DisplacementField>,
    options: Options,
) -> Refined {
    let factor = level.factor as f64;
    let objective = Objective::new(level, affine, options.node_spacing_px, options.bending_weight);
    let count = objective.node_count();
    let mut field = DisplacementField {
        origin: [0.5 * factor - 0.5; 2],
        spacing: options.node_spacing_px as f64 * factor,
        cols: objective.cols,
        rows: objective.rows,
        nodes: vec![[0.0; 2]; count],
    };
    let mut nodes = vec![0.0; 2 * count];
    if let Some(start) = start {
        for i in 0..count {
            let [ux, uy] = start.at(field.position(i));
            (nodes[i], nodes[count + i]) = (ux / factor, uy / factor);
        }
    }
    let options = lbfgs::Options {
        memory: MEMORY,
        max_iterations: options.max_iterations,
        first_step: 1.0,
        relative_decrease: RELATIVE_DECREASE,
    };
    let end = minimize(&nodes, &options, |nodes, gradient| objective.value_and_gradient(nodes, gradient));
    for (i, node) in field.nodes.iter_mut().enumerate() {
        *node = [(end.x[i] * factor) as f32, (end.x[count + i] * factor) as f32];
    }
    Refined { field, objective: end.value }
}
