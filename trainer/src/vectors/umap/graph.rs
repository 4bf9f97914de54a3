//! The fuzzy graph of neighbours: how strongly each pair of points belongs together.

use std::collections::BTreeMap;

use crate::vectors::points::NearestNeighbours;

/// Rounds of bisection; f64 has no more digits than that.
const ROUNDS: usize = 64;
/// Smallest scale of a point, as a share of its mean distance to its neighbours: points amid duplicates keep some reach.
const SMALLEST_SCALE: f64 = 1e-3;

/// A pair of points and its membership in the graph, above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Edge {
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) weight: f64,
}

/// The symmetric fuzzy graph (Algorithms 1 and 2, with the union of section 3.1: w + w′ − w·w′), each pair once, ordered.
pub(super) fn fuzzy_edges(neighbours: &NearestNeighbours) -> Vec<Edge> {
    let k = neighbours.k.max(1);
    let mut pairs: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    let rows = neighbours.index.chunks_exact(k).zip(neighbours.distance.chunks_exact(k));
    for (i, (others, distances)) in (0u32..).zip(rows) {
        for (&j, membership) in others.iter().zip(memberships(distances)) {
            let weight = pairs.entry((i.min(j), i.max(j))).or_insert(0.0);
            *weight += membership - *weight * membership;
        }
    }
    pairs.into_iter().map(|((a, b), weight)| Edge { a, b, weight }).collect()
}

/// exp(−max(0, d − ρ) / σ) of the distances to a point's neighbours in rising order (Algorithm 3): ρ is the distance to
/// the nearest that is no duplicate, σ makes the memberships add up to log₂ of the neighbourhood's size.
fn memberships(distances: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let nearest = distances.iter().copied().find(|&d| d > 0.0).unwrap_or(0.0);
    let target = ((distances.len() + 1) as f64).log2();
    let membership = move |distance: f64, scale: f64| (-(distance - nearest).max(0.0) / scale).exp();
    let total = |scale: f64| distances.iter().map(|&d| membership(d, scale)).sum::<f64>();
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut scale = 1.0;
    for _ in 0..ROUNDS {
        (low, high) = if total(scale) > target { (low, scale) } else { (scale, high) };
        scale = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * scale };
    }
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    let scale = scale.max(SMALLEST_SCALE * mean).max(f64::MIN_POSITIVE);
    distances.iter().map(move |&d| membership(d, scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gaussian_points;
    use crate::vectors::points::Points;

    #[test]
    fn memberships_add_up_to_the_logarithm_of_the_neighbourhood_and_the_nearest_belongs_fully() {
        let neighbours = gaussian_points(1, 100, 4).nearest(14);
        for distances in neighbours.distance.chunks_exact(14) {
            let found: Vec<f64> = memberships(distances).collect();
            assert!((found.iter().sum::<f64>() - 15f64.log2()).abs() < 1e-9);
            assert_eq!(found[0], 1.0);
            assert!(found.is_sorted_by(|a, b| a >= b));
        }
    }

    #[test]
    fn edges_are_the_fuzzy_union_of_both_directions() {
        // 0 and 1 are each other's nearest, so both say 1; 2 has 1 as its nearest, but not the other way round.
        let neighbours = Points::new(vec![0.0, 1.0, 2.5], 1).expect("points").nearest(1);
        let edges = fuzzy_edges(&neighbours);
        let found: Vec<_> = edges.iter().map(|e| (e.a, e.b, e.weight)).collect();
        assert_eq!(found, [(0, 1, 1.0), (1, 2, 1.0)]);
        let points = gaussian_points(2, 50, 3);
        let neighbours = points.nearest(5);
        let directed = |i: usize, j: u32| {
            let row = i * 5..(i + 1) * 5;
            let at = neighbours.index[row.clone()].iter().position(|&other| other == j);
            at.and_then(|at| memberships(&neighbours.distance[row]).nth(at)).unwrap_or(0.0)
        };
        for Edge { a, b, weight } in fuzzy_edges(&neighbours) {
            let (w, v) = (directed(a as usize, b), directed(b as usize, a));
            assert!(a < b && (weight - (w + v - w * v)).abs() < 1e-12);
        }
    }

    #[test]
    fn duplicates_have_finite_memberships() {
        assert!(memberships(&[0.0; 14]).all(|m| m == 1.0));
        assert!(memberships(&[0.0, 0.0, 3.0, 3.0]).all(f64::is_finite));
    }
}
