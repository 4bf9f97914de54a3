//! The layout: edges pull their ends together, random pairs push each other apart.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::vectors::umap::graph::Edge;

/// The curve 1 / (1 + a·d^(2b)) that is nearest to the membership wanted at distance d in the layout: 1 below 0.1
/// (`min_dist`), falling as exp(−(d − 0.1)) above (section 3.2; the fit as umap-learn makes it).
const A: f64 = 1.576_943;
/// See [`A`].
const B: f64 = 0.895_061;
/// Random points that push away, for each pull (Algorithm 5; umap-learn's default).
const PUSHES: usize = 5;
/// Largest step per coordinate and force, before the learning rate.
const CLIP: f64 = 4.0;
/// Keeps the push finite where points coincide.
const SOFTENING: f64 = 0.001;
/// Points up to which the longer schedule is affordable; both schedules are umap-learn's.
const FEW_POINTS: usize = 10_000;

/// Stochastic gradient descent (Algorithm 5) from `layout`. An edge pulls in as many of the epochs as its share of the
/// largest weight, evenly spaced; the learning rate falls from 1 to 0.
pub(super) fn optimise(edges: &[Edge], mut layout: Vec<[f64; 2]>, seed: u64) -> Vec<[f64; 2]> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let epochs = if layout.len() <= FEW_POINTS { 500 } else { 200 };
    let largest = edges.iter().map(|edge| edge.weight).fold(0.0, f64::max);
    let mut due: Vec<f64> = edges.iter().map(|edge| largest / edge.weight).collect();
    for epoch in 0..epochs {
        let rate = 1.0 - f64::from(epoch) / f64::from(epochs);
        for (edge, due) in edges.iter().zip(&mut due) {
            if *due > f64::from(epoch) {
                continue;
            }
            *due += largest / edge.weight;
            // A pair stands for both of its directions.
            for (from, to) in [(edge.a as usize, edge.b as usize), (edge.b as usize, edge.a as usize)] {
                let pull = step(layout[from], layout[to], attraction);
                for axis in 0..2 {
                    layout[from][axis] += rate * pull[axis];
                    layout[to][axis] -= rate * pull[axis];
                }
                for _ in 0..PUSHES {
                    let other = generator.random_range(0..layout.len());
                    let push = step(layout[from], layout[other], repulsion);
                    for axis in 0..2 {
                        layout[from][axis] += rate * push[axis];
                    }
                }
            }
        }
    }
    layout
}

/// What `force` (of the squared distance) does to `at` in view of `other`, per axis.
fn step(at: [f64; 2], other: [f64; 2], force: fn(f64) -> f64) -> [f64; 2] {
    let difference = [at[0] - other[0], at[1] - other[1]];
    let square = difference[0].powi(2) + difference[1].powi(2);
    // Points that coincide have no direction to go.
    if square == 0.0 { [0.0; 2] } else { difference.map(|d| (force(square) * d).clamp(-CLIP, CLIP)) }
}

/// Gradient of ln(1 / (1 + a·d^(2b))) over the difference.
fn attraction(square: f64) -> f64 {
    let power = square.powf(B);
    -2.0 * A * B * power / (square * (1.0 + A * power))
}

/// Gradient of ln(1 − 1 / (1 + a·d^(2b))) over the difference.
fn repulsion(square: f64) -> f64 {
    2.0 * B / ((SOFTENING + square) * (1.0 + A * square.powf(B)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forces_are_the_gradients_of_the_cross_entropy() {
        let membership = |d: f64| 1.0 / (1.0 + A * d.powf(2.0 * B));
        for d in [0.3, 1.0, 2.5] {
            let h = 1e-6;
            let slope = |f: &dyn Fn(f64) -> f64| (f(d + h) - f(d - h)) / (2.0 * h);
            assert!((attraction(d * d) * d - slope(&|d| membership(d).ln())).abs() < 1e-5);
            let softened = repulsion(d * d) * d * (SOFTENING + d * d) / (d * d);
            assert!((softened - slope(&|d| (1.0 - membership(d)).ln())).abs() < 1e-5);
        }
    }

    #[test]
    fn the_curve_is_the_least_squares_fit_to_the_wanted_membership() {
        let grid: Vec<f64> = (0..300).map(|i| f64::from(i) * 3.0 / 299.0).collect();
        let misfit = |a: f64, b: f64| -> f64 {
            let wanted = |d: f64| if d < 0.1 { 1.0 } else { (0.1 - d).exp() };
            grid.iter().map(|&d| (1.0 / (1.0 + a * d.powf(2.0 * b)) - wanted(d)).powi(2)).sum()
        };
        for (da, db) in [(0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)] {
            assert!(misfit(A, B) < misfit(A + da, B + db));
        }
    }

    #[test]
    fn an_edge_draws_its_ends_together() {
        let start = vec![[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]];
        let edge = |a, b| Edge { a, b, weight: 1.0 };
        let layout = optimise(&[edge(0, 1), edge(2, 3)], start, 1);
        let distance = |i: usize, j: usize| (layout[i][0] - layout[j][0]).hypot(layout[i][1] - layout[j][1]);
        assert!(distance(0, 1) < 3.0 && distance(0, 2) > 2.0 * distance(0, 1), "{layout:?}");
    }
}
