//! Where on a section a cluster is at home: the smoothed local share of each cluster.

use tissuemap::map::{BACKGROUND, LabelMap};

/// Beyond so many standard deviations a Gaussian's weight is below a hundredth of its middle's.
const REACH: f64 = 3.0;

/// For each of the labels 1…`clusters`, the share that it has of the tissue around each cell of `map`, row-major, 0…1:
/// the cells around are weighed by a Gaussian whose standard deviation is `sigma` cells, glass counts for nothing. 0 on
/// glass. On tissue the shares of all clusters add up to 1.
pub(in crate::report) fn densities(map: &LabelMap, clusters: u8, sigma: f64) -> Vec<Vec<f32>> {
    let weights = weights(sigma);
    let smooth = |is_in: &dyn Fn(u8) -> bool| {
        let values: Vec<f32> = map.labels.iter().map(|&label| f32::from(u8::from(is_in(label)))).collect();
        let rows = along(&values, map.cols as usize, 1, &weights);
        along(&rows, map.rows as usize, map.cols as usize, &weights)
    };
    let tissue = smooth(&|label| label != BACKGROUND);
    let share = |cluster: u8| {
        let own = smooth(&|label| label == cluster);
        let of_cell = |(i, own): (usize, f32)| if map.labels[i] == BACKGROUND { 0.0 } else { own / tissue[i] };
        own.into_iter().enumerate().map(of_cell).collect()
    };
    (1..=clusters).map(share).collect()
}

/// Of a cell and of those at each distance from it.
fn weights(sigma: f64) -> Vec<f32> {
    let reach = (sigma * REACH).ceil() as usize;
    (0..=reach).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp() as f32).collect()
}

/// Weighted sums along lines of `length` values that lie `step` apart; what lies beyond an end counts for nothing.
fn along(values: &[f32], length: usize, step: usize, weights: &[f32]) -> Vec<f32> {
    let sum = |i: usize| {
        let place = i / step % length;
        let side = |distance: usize, weight: f32| {
            let before = if place >= distance { values[i - distance * step] } else { 0.0 };
            let after = if place + distance < length { values[i + distance * step] } else { 0.0 };
            weight * (before + after)
        };
        values[i] * weights[0] + weights.iter().enumerate().skip(1).map(|(d, &w)| side(d, w)).sum::<f32>()
    };
    (0..values.len()).map(sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tissuemap::units::UmPoint;

    fn map(cols: u32, labels: Vec<u8>) -> LabelMap {
        let rows = labels.len() as u32 / cols;
        LabelMap {
            origin: UmPoint { x: 0.0, y: 0.0 },
            cell_um: 10.0,
            cols,
            rows,
            unusual: vec![0; labels.len()],
            labels,
        }
    }

    #[test]
    fn a_border_between_two_halves_is_smooth_and_straight() {
        let found = densities(&map(40, (0..40 * 21).map(|i| if i % 40 < 20 { 1 } else { 2 }).collect()), 2, 2.0);
        let row = &found[0][40 * 10..40 * 11];
        assert!(row.windows(2).all(|pair| pair[0] >= pair[1]), "{row:?}");
        assert!((row[0] - 1.0).abs() < 1e-6 && row[39] < 1e-6);
        // The border lies between cells 19 and 20; Φ(½ cell) with σ of 2 cells is 0.599.
        assert!((row[19] - 0.599).abs() < 0.005 && (row[19] + row[20] - 1.0).abs() < 1e-6, "{row:?}");
        assert!(found[0].chunks(40).all(|other| other.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5)));
    }

    #[test]
    fn glass_neither_has_a_share_nor_takes_one() {
        let labels = vec![1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        let found = densities(&map(12, labels), 2, 1.0);
        assert_eq!(found[0][..2], [1.0, 0.0]);
        assert!(found[1][4] > 0.999 && found[1][5] == 0.0);
    }

    proptest! {
        #[test]
        fn shares_on_tissue_add_up_to_one(
            cols in 1u32..12, labels in prop::collection::vec(0u8..4, 1..10), sigma in 0.5f64..4.0,
        ) {
            let labels: Vec<u8> = labels.iter().cycle().take(labels.len() * cols as usize).copied().collect();
            let found = densities(&map(cols, labels.clone()), 3, sigma);
            for (i, &label) in labels.iter().enumerate() {
                let sum: f32 = found.iter().map(|share| share[i]).sum();
                let expected = if label == BACKGROUND { 0.0 } else { 1.0 };
                prop_assert!((sum - expected).abs() < 1e-4);
            }
        }
    }
}
