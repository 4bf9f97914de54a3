//! Whether neighbours in a map are neighbours in truth.

use crate::vectors::points::Points;

/// Trustworthiness (Venna & Kaski 2001), as scikit-learn defines it: 1 where the `k` nearest others of every point in
/// `map` are its nearest in `points`, lower by the ranks they have there instead.
///
/// # Panics
/// Where both are not of the same count, or `k` is not below half of it.
pub fn trustworthiness(points: &Points, map: &Points, k: usize) -> f64 {
    let count = points.count();
    assert_eq!(count, map.count(), "the map is of these points");
    assert!(k > 0 && 2 * k < count, "the measure is defined for k below half of the points");
    let neighbours = map.nearest(k);
    let penalties = points.map_rows(|i, distances| {
        let rank = |j: u32| {
            let own = distances[j as usize];
            let before = |(other, &d): (usize, &f64)| other != i && (d < own || (d == own && other < j as usize));
            1 + distances.iter().enumerate().filter(|&pair| before(pair)).count()
        };
        neighbours.index[i * k..(i + 1) * k].iter().map(|&j| rank(j).saturating_sub(k)).sum::<usize>()
    });
    let (n, k) = (count as f64, k as f64);
    1.0 - 2.0 / (n * k * (2.0 * n - 3.0 * k - 1.0)) * penalties.iter().sum::<usize>() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gaussian_points;

    #[test]
    fn a_map_that_keeps_all_neighbours_is_fully_trusted() {
        let points = gaussian_points(1, 60, 3);
        assert_eq!(trustworthiness(&points, &points, 10), 1.0);
    }

    #[test]
    fn the_value_equals_that_of_scikit_learn() {
        // sklearn.manifold.trustworthiness of these 12 points on the line and their images, n_neighbors = 2 and 4.
        let points =
            Points::new(vec![0.0, 1.0, 2.1, 3.3, 4.6, 6.0, 7.5, 9.1, 10.8, 12.6, 14.5, 16.5], 1).expect("points");
        let map = Points::new(vec![5.0, 1.0, 9.3, 2.2, 7.1, 3.4, 0.3, 8.2, 4.6, 6.05, 11.4, 10.2], 1).expect("points");
        for (k, expected) in [(2, 0.465_686_274_509_8), (4, 0.579_545_454_545_5)] {
            assert!((trustworthiness(&points, &map, k) - expected).abs() < 1e-12);
        }
    }
}
