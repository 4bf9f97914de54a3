//! Maps between two sections: an affine part plus a displacement on a grid of nodes.
//!
//! [`Deformation`] is the arithmetic, the same in every frame; [`SectionMap`] is such a map between two canvases in
//! micrometres, the form in which the rest of the program meets it.

use serde::{Deserialize, Serialize};

use crate::units::{Affine, Mpp, UmPoint};

/// Steps of an inversion. From a start some nodes away five are usual; more than this means that the map folds.
const INVERSION_STEPS: usize = 40;
/// Halvings of one step of an inversion before it is given up.
const INVERSION_HALVINGS: usize = 12;

/// Displacements on a regular grid of nodes, bilinear between them, continued unchanged beyond the outermost.
#[derive(Debug, Clone, PartialEq)]
pub struct DisplacementField {
    /// Where node (0, 0) lies, in the frame the map starts from.
    pub origin: [f64; 2],
    /// Distance of neighbouring nodes, the same along both axes.
    pub spacing: f64,
    /// Columns of nodes, at least 2.
    pub cols: usize,
    /// Rows of nodes, at least 2.
    pub rows: usize,
    /// Row-major displacements `[x, y]`, `cols * rows` of them.
    pub nodes: Vec<[f32; 2]>,
}

/// The cell of a field that holds a point.
struct Place {
    /// Displacements of its corners: top left, top right, bottom left, bottom right.
    corners: [[f64; 2]; 4],
    /// Position in the cell, 0 to 1 along each axis.
    at: [f64; 2],
    /// The point lies within the grid along this axis; outside, the field is constant.
    within: [bool; 2],
}

impl DisplacementField {
    /// The position of a node, by its row-major index.
    pub fn position(&self, index: usize) -> [f64; 2] {
        let (col, row) = (index % self.cols, index / self.cols);
        [self.origin[0] + self.spacing * col as f64, self.origin[1] + self.spacing * row as f64]
    }

    /// Index of the node nearest to `p`.
    pub fn nearest(&self, p: [f64; 2]) -> usize {
        let axis = |axis: usize, count: usize| {
            let v = (p[axis] - self.origin[axis]) / self.spacing;
            v.round().clamp(0.0, (count - 1) as f64) as usize
        };
        axis(1, self.rows) * self.cols + axis(0, self.cols)
    }

    /// The displacement at `p`.
    pub fn at(&self, p: [f64; 2]) -> [f64; 2] {
        let Place { corners: [p00, p01, p10, p11], at: [a, b], .. } = self.place(p);
        std::array::from_fn(|c| {
            let (top, bottom) = (p00[c] + a * (p01[c] - p00[c]), p10[c] + a * (p11[c] - p10[c]));
            top + b * (bottom - top)
        })
    }

    fn place(&self, p: [f64; 2]) -> Place {
        let axis = |axis: usize, count: usize| {
            let v = (p[axis] - self.origin[axis]) / self.spacing;
            let last = (count - 1) as f64;
            let clamped = v.clamp(0.0, last);
            let i = (clamped as usize).min(count - 2);
            (i, clamped - i as f64, v >= 0.0 && v <= last)
        };
        let (col, a, within_x) = axis(0, self.cols);
        let (row, b, within_y) = axis(1, self.rows);
        let i = row * self.cols + col;
        let corners = [i, i + 1, i + self.cols, i + self.cols + 1].map(|i| self.nodes[i].map(f64::from));
        Place { corners, at: [a, b], within: [within_x, within_y] }
    }

    /// Derivative of the displacement at `p`: `[component][axis]`.
    fn derivative(&self, p: [f64; 2]) -> [[f64; 2]; 2] {
        let Place { corners, at, within } = self.place(p);
        let scale = within.map(|within| if within { 1.0 / self.spacing } else { 0.0 });
        let [x, y] = slopes(&corners, at);
        [[x[0] * scale[0], x[1] * scale[1]], [y[0] * scale[0], y[1] * scale[1]]]
    }
}

/// Slopes of a bilinear cell of side 1 at a position in it: `[component][axis]`.
fn slopes([p00, p01, p10, p11]: &[[f64; 2]; 4], [a, b]: [f64; 2]) -> [[f64; 2]; 2] {
    std::array::from_fn(|c| {
        let along_x = (1.0 - b) * (p01[c] - p00[c]) + b * (p11[c] - p10[c]);
        let along_y = (1.0 - a) * (p10[c] - p00[c]) + a * (p11[c] - p01[c]);
        [along_x, along_y]
    })
}

/// An affine map plus a displacement: `p ↦ affine(p) + field(p)`. Unit and frame are the owner's, the unit the same on
/// both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Deformation {
    /// `(a·x + b·y + c, d·x + e·y + f)`, stored `[[a, b, c], [d, e, f]]`.
    pub affine: [[f64; 3]; 2],
    /// `None` for an affine map.
    pub field: Option<DisplacementField>,
}

impl Deformation {
    /// Where `p` goes.
    pub fn apply(&self, p: [f64; 2]) -> [f64; 2] {
        let displacement = self.field.as_ref().map_or([0.0; 2], |field| field.at(p));
        let [x, y] = self.affine_part(p);
        [x + displacement[0], y + displacement[1]]
    }

    /// Where the affine part alone sends `p`.
    pub fn affine_part(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.affine.map(|[a, b, c]| a * x + b * y + c)
    }

    fn derivative(&self, p: [f64; 2]) -> [[f64; 2]; 2] {
        let [[a, b, _], [d, e, _]] = self.affine;
        let [[ux, uy], [vx, vy]] = self.field.as_ref().map_or([[0.0; 2]; 2], |field| field.derivative(p));
        [[a + ux, b + uy], [d + vx, e + vy]]
    }

    /// The point near `start` that goes to `target` to within `tolerance`, by Newton's method with halved steps where a
    /// whole one leads away. `None` where the map folds.
    pub fn invert(&self, target: [f64; 2], start: [f64; 2], tolerance: f64) -> Option<[f64; 2]> {
        let miss_at = |p: [f64; 2]| {
            let q = self.apply(p);
            [target[0] - q[0], target[1] - q[1]]
        };
        let length = |v: [f64; 2]| v[0].hypot(v[1]);
        let mut p = start;
        let mut miss = miss_at(p);
        for _ in 0..INVERSION_STEPS {
            if length(miss) <= tolerance {
                return Some(p);
            }
            let [[a, b], [d, e]] = self.derivative(p);
            let det = a * e - b * d;
            if det == 0.0 || !det.is_finite() {
                return None;
            }
            let step = [(e * miss[0] - b * miss[1]) / det, (a * miss[1] - d * miss[0]) / det];
            let mut share = 1.0;
            (p, miss) = (0..INVERSION_HALVINGS).find_map(|_| {
                let next = [p[0] + share * step[0], p[1] + share * step[1]];
                share *= 0.5;
                let next_miss = miss_at(next);
                (length(next_miss) < length(miss)).then_some((next, next_miss))
            })?;
        }
        None
    }

    /// Smallest and largest area factor relative to the affine part's sense: below 0 the map folds. `among` says which
    /// nodes count, by index; a cell counts where one of its corners does. `(d, d)` with the affine determinant's size
    /// where there is no field.
    ///
    /// Exact: the determinant of a bilinear cell is linear along both axes, so its extremes lie in the corners.
    pub fn jacobian_range(&self, among: impl Fn(usize) -> bool) -> (f64, f64) {
        let [[a, b, _], [d, e, _]] = self.affine;
        let affine = a * e - b * d;
        let Some(field) = &self.field else { return (affine.abs(), affine.abs()) };
        let mut range = (f64::INFINITY, f64::NEG_INFINITY);
        for row in 0..field.rows - 1 {
            for col in 0..field.cols - 1 {
                let i = row * field.cols + col;
                let corners = [i, i + 1, i + field.cols, i + field.cols + 1];
                if !corners.iter().any(|&corner| among(corner)) {
                    continue;
                }
                let corners = corners.map(|i| field.nodes[i].map(|u| f64::from(u) / field.spacing));
                for at in [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]] {
                    let [[ux, uy], [vx, vy]] = slopes(&corners, at);
                    let factor = ((a + ux) * (e + vy) - (b + uy) * (d + vx)) * affine.signum();
                    range = (range.0.min(factor), range.1.max(factor));
                }
            }
        }
        if range.0 > range.1 { (affine.abs(), affine.abs()) } else { range }
    }
}

/// Where each point of one section lies on another: micrometres on both canvases.
#[derive(Debug, Clone, PartialEq)]
pub struct SectionMap(Deformation);

impl SectionMap {
    /// Distance in µm to which [`SectionMap::invert`] is exact: far below a pixel of any scanner.
    pub const INVERSION_TOLERANCE_UM: f64 = 1e-3;

    /// A map from micrometres to micrometres.
    pub fn new(deformation: Deformation) -> Self {
        Self(deformation)
    }

    /// The affine part and the displacement, in micrometres.
    pub fn deformation(&self) -> &Deformation {
        &self.0
    }

    /// What fits a record: everything but the displacements themselves.
    pub fn summary(&self) -> MapSummary {
        MapSummary {
            affine: self.affine(),
            displacement: self.0.field.as_ref().map(|field| DisplacementSummary {
                origin_um: field.origin,
                spacing_um: field.spacing,
                cols: field.cols,
                rows: field.rows,
                largest_um: field.nodes.iter().map(|[x, y]| f64::from(x.hypot(*y))).fold(0.0, f64::max),
            }),
        }
    }

    /// The affine part.
    pub fn affine(&self) -> Affine {
        Affine(self.0.affine)
    }

    /// Where `p` goes.
    pub fn apply(&self, p: UmPoint) -> UmPoint {
        let [x, y] = self.0.apply([p.x, p.y]);
        UmPoint { x, y }
    }

    /// The point that goes to `target`, to within [`SectionMap::INVERSION_TOLERANCE_UM`]. `None` where the map folds.
    pub fn invert(&self, target: UmPoint) -> Option<UmPoint> {
        let start = self.affine().inverse()?.apply(target);
        self.invert_from(target, start)
    }

    /// [`SectionMap::invert`] with a start nearby, as a neighbour's result is.
    pub fn invert_from(&self, target: UmPoint, start: UmPoint) -> Option<UmPoint> {
        let [x, y] = self.0.invert([target.x, target.y], [start.x, start.y], Self::INVERSION_TOLERANCE_UM)?;
        Some(UmPoint { x, y })
    }

    /// The same map between frames whose origins lie elsewhere: `p ↦ map(p − from) + to`.
    pub fn between(self, from: UmPoint, to: UmPoint) -> Self {
        let Deformation { affine: [[a, b, _], [d, e, _]], field } = &self.0;
        let moved = self.affine().apply(UmPoint { x: -from.x, y: -from.y });
        Self(Deformation {
            affine: [[*a, *b, moved.x + to.x], [*d, *e, moved.y + to.y]],
            field: field.clone().map(|mut field| {
                field.origin = [field.origin[0] + from.x, field.origin[1] + from.y];
                field
            }),
        })
    }
}

/// A [`SectionMap`] without its displacements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapSummary {
    /// Micrometres to micrometres.
    pub affine: Affine,
    /// The grid of the displacement added to it; `None` for an affine map.
    pub displacement: Option<DisplacementSummary>,
}

/// The grid of a displacement field, in micrometres on the canvas the map starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DisplacementSummary {
    /// Where node (0, 0) lies.
    pub origin_um: [f64; 2],
    /// Distance of neighbouring nodes.
    pub spacing_um: f64,
    pub cols: usize,
    pub rows: usize,
    /// Length of the largest displacement.
    pub largest_um: f64,
}

impl From<Affine> for SectionMap {
    fn from(affine: Affine) -> Self {
        Self(Deformation { affine: affine.0, field: None })
    }
}

/// Where each pixel of the fixed image lies in the moving one; pixel centres at integers, both images at the same
/// resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelMap(pub Deformation);

impl PixelMap {
    /// Where the fixed pixel (`x`, `y`) lies in the moving image.
    pub fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        let [x, y] = self.0.apply([x, y]);
        (x, y)
    }

    /// The fixed pixel that lies at (`x`, `y`) of the moving image, to a thousandth of a pixel; `None` where the map folds.
    pub fn invert(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        let start = Affine(self.0.affine).inverse()?.apply(UmPoint { x, y });
        let [x, y] = self.0.invert([x, y], [start.x, start.y], 1e-3)?;
        Some((x, y))
    }

    /// The same map between micrometres from the images' corners, where both have `mpp` micrometres per pixel.
    pub fn to_um(&self, mpp: Mpp) -> SectionMap {
        let mpp = mpp.get();
        let Deformation { affine, field } = &self.0;
        // The centre of pixel i is i + 0.5 in edge-based pixels, on both sides of the map.
        let affine = affine.map(|[a, b, c]| [a, b, (c - 0.5 * (a + b) + 0.5) * mpp]);
        let field = field.as_ref().map(|field| DisplacementField {
            origin: field.origin.map(|v| (v + 0.5) * mpp),
            spacing: field.spacing * mpp,
            nodes: field.nodes.iter().map(|node| node.map(|v| (f64::from(v) * mpp) as f32)).collect(),
            ..*field
        });
        SectionMap(Deformation { affine, field })
    }
}

#[cfg(test)]
mod tests;
