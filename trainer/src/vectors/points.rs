//! Exact Euclidean distances between all pairs of points, a few rows at a time.
//!
//! Cluster indices, nearest neighbours and UMAP need every pair, but n² distances do not fit into memory: 20,000 points would take 3 GB.
//! [`Points::map_rows`] therefore gives one row of the distance matrix after the other, on all cores; each thread needs n values of memory.
//! Distances are sums of squared differences in f64. The faster formula `‖a‖² + ‖b‖² − 2·a·b` is not used because it is inaccurate for
//! close points. Duplicates have exactly distance 0, and d(a, b) equals d(b, a) to the last bit. Results do not depend on the number of
//! threads.

use std::ops::Range;

use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Rows of the distance matrix that are computed together, so that the other points are read from the cache and not from memory.
const ROWS: usize = 8;
/// Points that are compared with these rows at once: 32 dimensions take 64 KB, which fit in the cache of a core.
const COLUMNS: usize = 256;
/// Coordinates that are added in one step; this saves memory accesses to the sums.
const TOGETHER: usize = 4;

/// Points of one space, all coordinates finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    /// Point by point.
    values: Vec<f32>,
    dims: usize,
}

/// Reason why values are not points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointsError {
    /// Not a whole number of points.
    #[error("{values} values are no whole number of points with {dims} dimensions")]
    Shape {
        /// How many values there are.
        values: usize,
        /// How many a point should have.
        dims: usize,
    },
    /// NaN or infinite.
    #[error("point {0} has a coordinate that is no finite number")]
    NotFinite(usize),
}

/// The nearest other points of every point.
#[derive(Debug, Clone, PartialEq)]
pub struct NearestNeighbours {
    /// How many per point.
    pub k: usize,
    /// `[n, k]`: which points, the nearest first; of equally near ones, the lower number first.
    pub index: Vec<u32>,
    /// `[n, k]`: how far.
    pub distance: Vec<f64>,
}

impl Points {
    /// `values` hold point after point, `dims` values each.
    ///
    /// # Errors
    /// [`PointsError`].
    pub fn new(values: Vec<f32>, dims: usize) -> Result<Self, PointsError> {
        if dims == 0 || !values.len().is_multiple_of(dims) {
            return Err(PointsError::Shape { values: values.len(), dims });
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(PointsError::NotFinite(at / dims)),
            None => Ok(Self { values, dims }),
        }
    }

    /// The rows of a float matrix `[n, d]` on any device.
    ///
    /// # Errors
    /// [`PointsError`].
    pub fn from_tensor(matrix: &Tensor) -> Result<Self, PointsError> {
        let dims = matrix.size().last().map_or(0, |&d| d as usize);
        let flat = matrix.detach().to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
        let mut values = vec![0f32; flat.numel()];
        let count = values.len();
        flat.copy_data(&mut values, count);
        Self::new(values, dims)
    }

    /// How many points.
    pub fn count(&self) -> usize {
        self.values.len() / self.dims
    }

    /// How many coordinates a point has.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The coordinates of point `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dims..(i + 1) * self.dims]
    }

    /// The points in their order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dims)
    }

    /// As a float matrix `[n, d]` on the CPU.
    pub fn to_tensor(&self) -> Tensor {
        Tensor::from_slice(&self.values).view([self.count() as i64, self.dims as i64])
    }

    /// What `per_row` makes of each point's number and its distances to all points (itself at its own place, 0), in the
    /// order of the points.
    pub fn map_rows<T: Send>(&self, per_row: impl Fn(usize, &[f64]) -> T + Sync) -> Vec<T> {
        let count = self.count();
        let columns = self.columns();
        let block_of_rows = |buffer: &mut Vec<f64>, first: usize| {
            let last = (first + ROWS).min(count);
            self.fill_distances(&columns, first..last, buffer);
            (first..last).zip(buffer.chunks_exact(count)).map(|(i, row)| per_row(i, row)).collect::<Vec<T>>()
        };
        let starts = (0..count).into_par_iter().step_by(ROWS);
        let blocks: Vec<Vec<T>> = starts.map_init(|| vec![0.0; ROWS * count], block_of_rows).collect();
        blocks.into_iter().flatten().collect()
    }

    /// The `k` nearest **other** points of every point (all others where there are fewer). Duplicates are neighbours at
    /// distance 0.
    pub fn nearest(&self, k: usize) -> NearestNeighbours {
        let k = k.min(self.count().saturating_sub(1));
        let of_row = |i: usize, distances: &[f64]| {
            let mut nearest: Vec<(u32, f64)> = Vec::with_capacity(k + 1);
            for (j, &distance) in distances.iter().enumerate().filter(|&(j, _)| j != i) {
                if nearest.len() < k || nearest.last().is_some_and(|&(_, farthest)| distance < farthest) {
                    let place = nearest.partition_point(|&(_, nearer)| nearer <= distance);
                    nearest.insert(place, (j as u32, distance));
                    nearest.truncate(k);
                }
            }
            nearest
        };
        let (index, distance) = self.map_rows(of_row).into_iter().flatten().unzip();
        NearestNeighbours { k, index, distance }
    }

    /// Coordinate by coordinate instead of point by point, so that one instruction serves neighbouring points; coordinates
    /// of 0 are added up to a multiple of [`TOGETHER`].
    fn columns(&self) -> Vec<f64> {
        let coordinate = |k: usize| self.rows().map(move |row| row.get(k).copied().map_or(0.0, f64::from));
        (0..self.dims.next_multiple_of(TOGETHER)).flat_map(coordinate).collect()
    }

    /// Writes the distances of the points `rows` to all points into `buffer`, row by row.
    fn fill_distances(&self, columns: &[f64], rows: Range<usize>, buffer: &mut [f64]) {
        let count = self.count();
        let mut padded = vec![0.0; self.dims.next_multiple_of(TOGETHER)];
        for from in (0..count).step_by(COLUMNS) {
            let to = (from + COLUMNS).min(count);
            for (i, line) in rows.clone().zip(buffer.chunks_exact_mut(count)) {
                padded.iter_mut().zip(self.row(i)).for_each(|(wide, &x)| *wide = f64::from(x));
                let squares = &mut line[from..to];
                squares.fill(0.0);
                for (x, four) in padded.as_chunks().0.iter().zip(columns.chunks_exact(TOGETHER * count)) {
                    let column = |k: usize| &four[k * count + from..k * count + to];
                    add_squares(squares, *x, [column(0), column(1), column(2), column(3)]);
                }
                squares.iter_mut().for_each(|square| *square = square.sqrt());
            }
        }
    }
}

/// Adds to each of `squares` the squared differences of the coordinates `x` to those of its point in `columns`.
fn add_squares(squares: &mut [f64], x: [f64; TOGETHER], columns: [&[f64]; TOGETHER]) {
    let [a, b, c, d] = columns.map(|column| &column[..squares.len()]);
    for j in 0..squares.len() {
        let (p, q, r, s) = (x[0] - a[j], x[1] - b[j], x[2] - c[j], x[3] - d[j]);
        squares[j] += (p * p + q * q) + (r * r + s * s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gaussian_points;

    #[test]
    fn rows_equal_pairwise_distances_across_block_borders() {
        // Neither a multiple of ROWS nor of COLUMNS.
        let points = gaussian_points(1, COLUMNS + 13, 5);
        let rows = points.map_rows(|i, distances| (i, distances.to_vec()));
        assert_eq!(rows.len(), points.count());
        for (place, (i, distances)) in rows.iter().enumerate() {
            assert_eq!(place, *i);
            for (j, &distance) in distances.iter().enumerate() {
                let square: f64 = points.row(*i).iter().zip(points.row(j)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                assert!((distance - square.sqrt()).abs() < 1e-6);
                assert_eq!(distance, rows[j].1[*i], "symmetric to the last bit");
            }
            assert_eq!(distances[*i], 0.0);
        }
    }

    #[test]
    fn close_points_far_from_the_origin_keep_their_distance() {
        let points = Points::new(vec![1e6, 1e6 + 0.0625], 1).expect("points");
        assert_eq!(points.map_rows(|_, d| d.to_vec()), [[0.0, 0.0625], [0.0625, 0.0]]);
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let points = gaussian_points(2, 300, 7);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| points.map_rows(|_, distances| distances.iter().sum::<f64>()))
        };
        assert_eq!(on(1), on(2));
    }

    #[test]
    fn nearest_skips_the_point_itself_and_nothing_else() {
        let points = Points::new(vec![0.0, 0.0, 3.0, 5000.0], 1).expect("points");
        let found = points.nearest(2);
        assert_eq!(found.index, [1, 2, 0, 2, 0, 1, 2, 0]);
        assert_eq!(found.distance, [0.0, 3.0, 0.0, 3.0, 3.0, 3.0, 4997.0, 5000.0]);
        assert_eq!(points.nearest(99).k, 3);
        assert_eq!(Points::new(vec![1.0], 1).expect("a point").nearest(5).index, [0; 0]);
    }

    #[test]
    fn values_that_are_no_points_are_refused() {
        assert_eq!(Points::new(vec![0.0; 5], 2), Err(PointsError::Shape { values: 5, dims: 2 }));
        assert_eq!(Points::new(vec![0.0, 1.0, 2.0, f32::NAN], 2), Err(PointsError::NotFinite(1)));
        let points = Points::new(vec![0.0, 1.0, 2.0, 3.0], 2).expect("points");
        assert_eq!(Points::from_tensor(&points.to_tensor()), Ok(points));
    }
}
