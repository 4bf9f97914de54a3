//! What the surroundings say: a cell's cluster is decided by its own patch and by those around it.
//!
//! Tissue comes in regions wider than a patch, and a patch alone shows often too little to tell them apart. Each cell's cluster
//! probabilities are replaced by their Gaussian-weighted geometric mean over the tissue cells around it (a logarithmic
//! opinion pool). Where the clusterer parts the latent by planes, that is its answer to the mean latent of the region:
//! averaging logits is averaging latents. How wide is the model's to say, because it was judged with it.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::units::Cell;

/// The Gaussian is cut off at this many standard deviations: what lies beyond weighs a hundredth of the middle.
const REACH: f64 = 3.0;
/// What stands for a probability of 0, whose logarithm would outvote everyone.
const LEAST: f32 = 1e-6;

/// Cluster probabilities `[n, clusters]` of `cells` (distinct, in any order), the logarithm of each averaged over the cells
/// around it: weights exp(−d²/2σ²) of the distance d between cells, σ being `sigma` cells; rows still add up to 1. Cells that are not
/// given (background) have no say. A `sigma` of 0 changes nothing.
///
/// # Panics
/// When there are not `clusters` probabilities a cell.
pub fn smoothed(cells: &[Cell], probs: &[f32], clusters: usize, sigma: f64) -> Vec<f32> {
    assert_eq!(probs.len(), cells.len() * clusters, "one probability a cell and cluster");
    if sigma <= 0.0 {
        return probs.to_vec();
    }
    let places: HashMap<(u32, u32), usize> = cells.iter().enumerate().map(|(i, c)| ((c.col, c.row), i)).collect();
    let weights = offsets(sigma);
    let logs: Vec<f32> = probs.iter().map(|p| p.max(LEAST).ln()).collect();
    let mut means = vec![0.0; probs.len()];
    means.par_chunks_mut(clusters).zip(cells).for_each(|(mean, cell)| {
        let mut total = 0.0;
        for &(dx, dy, weight) in &weights {
            let place = cell.col.checked_add_signed(dx).zip(cell.row.checked_add_signed(dy));
            let Some(&i) = place.and_then(|place| places.get(&place)) else { continue };
            total += weight;
            mean.iter_mut().zip(&logs[i * clusters..]).for_each(|(mean, log)| *mean += weight * log);
        }
        // The cell itself is always there, so the total is at least 1.
        mean.iter_mut().for_each(|mean| *mean = (*mean / total).exp());
        let sum: f32 = mean.iter().sum();
        mean.iter_mut().for_each(|mean| *mean /= sum);
    });
    means
}

/// Steps in columns and rows within reach, with their weights.
fn offsets(sigma: f64) -> Vec<(i32, i32, f32)> {
    let most = (REACH * sigma).floor() as i32;
    let weight = |dx: i32, dy: i32| (-f64::from(dx * dx + dy * dy) / (2.0 * sigma * sigma)).exp();
    let inside = |&(dx, dy): &(i32, i32)| f64::from(dx * dx + dy * dy) <= (REACH * sigma).powi(2);
    let steps = (-most..=most).flat_map(|dy| (-most..=most).map(move |dx| (dx, dy)));
    steps.filter(inside).map(|(dx, dy)| (dx, dy, weight(dx, dy) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid(cols: u32, rows: u32) -> Vec<Cell> {
        (0..rows).flat_map(|row| (0..cols).map(move |col| Cell { col, row })).collect()
    }

    #[test]
    fn a_lone_dissenter_follows_its_region_and_borders_stay() {
        // Two halves, and one cell of the left half that says otherwise, though not by much.
        let cells = grid(10, 6);
        let left = |i: usize| cells[i].col < 5;
        let prob = |i: usize| {
            if i == 22 {
                0.4
            } else if left(i) {
                0.9
            } else {
                0.1
            }
        };
        let probs: Vec<f32> = (0..60).flat_map(|i| [prob(i), 1.0 - prob(i)]).collect();
        let smooth = smoothed(&cells, &probs, 2, 1.0);
        for i in 0..60 {
            assert_eq!(smooth[2 * i] > 0.5, left(i), "{:?}", cells[i]);
        }
    }

    #[test]
    fn cells_across_a_gap_of_background_beyond_reach_have_no_say() {
        let cells = [Cell { col: 0, row: 0 }, Cell { col: 4, row: 0 }];
        let probs = [0.75, 0.25, 0.0, 1.0];
        let alone = smoothed(&cells, &probs, 2, 1.0);
        assert!(alone.iter().zip(probs).all(|(found, own)| (found - own).abs() < 1e-5), "{alone:?}");
        assert_eq!(smoothed(&cells, &probs, 2, 0.0), probs);
    }

    #[test]
    fn planes_decide_by_the_mean_latent_of_the_region() {
        // Three planes over a latent of one value: logits are linear in it, so that pooling is averaging latents.
        let softmax = |z: f64| {
            let e = [2.0 * z, 0.5 - z, 0.1].map(f64::exp);
            e.map(|v| (v / e.iter().sum::<f64>()) as f32)
        };
        let cells = grid(5, 1);
        let latents = [0.9, -0.4, 0.3, -1.2, 0.1];
        let probs: Vec<f32> = latents.iter().flat_map(|&z| softmax(z)).collect();
        let smooth = smoothed(&cells, &probs, 3, 1.0);
        for (i, row) in smooth.chunks(3).enumerate() {
            let weight = |j: usize| {
                let d = i.abs_diff(j) as f64;
                if d <= 3.0 { (-d * d / 2.0).exp() } else { 0.0 }
            };
            let total: f64 = (0..5).map(weight).sum();
            let mean = (0..5).map(|j| weight(j) * latents[j]).sum::<f64>() / total;
            for (found, expected) in row.iter().zip(softmax(mean)) {
                assert!((found - expected).abs() < 1e-5, "{i}: {row:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn rows_stay_probabilities_and_the_order_of_cells_does_not_matter(
            values in prop::collection::vec(0.01f32..1.0, 36 * 3), sigma in 0.1f64..2.5,
        ) {
            let probs: Vec<f32> = values.chunks(3).flat_map(|v| { let s: f32 = v.iter().sum(); [v[0] / s, v[1] / s, v[2] / s] }).collect();
            let cells = grid(6, 6);
            let smooth = smoothed(&cells, &probs, 3, sigma);
            for row in smooth.chunks(3) {
                prop_assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4 && row.iter().all(|&p| p > 0.0));
            }
            let reversed: Vec<Cell> = cells.iter().rev().copied().collect();
            let turned: Vec<f32> = probs.chunks(3).rev().flatten().copied().collect();
            let back: Vec<f32> = smoothed(&reversed, &turned, 3, sigma).chunks(3).rev().flatten().copied().collect();
            prop_assert_eq!(back, smooth);
        }
    }
}
