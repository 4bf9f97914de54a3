//! A map of the latent space in two dimensions: UMAP ("Uniform Manifold Approximation and Projection for Dimension
//! Reduction", 2018, arXiv 1802.03426), for pictures and as a second space in which cluster indices are computed.
//!
//! Nearest neighbours are exact ([`crate::vectors::points`]), the start is the layout of the first two principal components, and the
//! optimisation walks the edges in a fixed order on one thread, so that the same points and seed give the same map on any
//! machine. Equation and algorithm numbers are those of the paper; where it leaves a choice, umap-learn's is taken.

mod graph;
mod layout;
mod trust;

use tch::TchError;

use crate::vectors::pca::Pca;
use crate::vectors::points::Points;
pub use trust::trustworthiness;

/// Size of the neighbourhood whose shape is kept, the point itself included.
const NEIGHBOURS: usize = 15;
/// Largest absolute coordinate of the start, as in umap-learn: far enough apart for forces to act, near enough to meet.
const START_EXTENT: f64 = 10.0;

/// Coordinates in the layout, `[n, 2]`, for each of `points`.
///
/// # Errors
/// An error of libtorch.
pub fn umap(points: &Points, seed: u64) -> Result<Points, TchError> {
    if points.count() == 0 {
        return Ok(points.clone());
    }
    let start = start(points, seed)?;
    let edges = graph::fuzzy_edges(&points.nearest(NEIGHBOURS - 1));
    let layout = layout::optimise(&edges, start, seed);
    let values = layout.into_iter().flatten().map(|x| x as f32).collect();
    Ok(Points::new(values, 2).unwrap_or_else(|_| unreachable!("clipped forces keep coordinates finite")))
}

/// The first two principal components, scaled to [`START_EXTENT`].
fn start(points: &Points, seed: u64) -> Result<Vec<[f64; 2]>, TchError> {
    let samples = points.to_tensor();
    let scores = Pca::fit(&samples, 2, seed)?.project(&samples);
    let extent = scores.abs().max().double_value(&[]);
    // Points that all coincide stay where they are.
    let scaled = scores * if extent > 0.0 { START_EXTENT / extent } else { 1.0 };
    // One column only where points are fewer than two or have one coordinate.
    let rows = scaled.pad([0, 2 - scaled.size()[1]], "constant", 0.0).contiguous().view([-1]);
    let values = Vec::<f32>::try_from(rows)?;
    Ok(values.chunks_exact(2).map(|xy| [f64::from(xy[0]), f64::from(xy[1])]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gaussian_points, planted_points};
    use crate::vectors::agreement::Agreement;
    use crate::vectors::kmeans::kmeans;
    use crate::vectors::labels::Labels;

    #[test]
    fn separated_components_become_separate_islands() {
        let (points, truth) = planted_points(1, 6, 600, 20, 3.0);
        let layout = umap(&points, 1).expect("maps");
        assert_eq!((layout.count(), layout.dims()), (600, 2));
        let islands = Labels::new(&kmeans(&layout, 6, 1).cluster);
        assert!(Agreement::new(&truth, &islands).ari > 0.99);
        assert!(trustworthiness(&points, &layout, 15) > 0.85);
    }

    #[test]
    fn neighbours_on_a_curved_sheet_stay_neighbours() {
        // A rolled-up strip in three dimensions: principal components alone would lay its turns over each other.
        let noise = gaussian_points(2, 800, 2);
        let values = noise.rows().enumerate().flat_map(|(i, row)| {
            let angle = 4.0 + i as f32 * 0.01;
            [angle * angle.cos(), row[0] * 3.0, angle * angle.sin()]
        });
        let roll = Points::new(values.collect(), 3).expect("points");
        let layout = umap(&roll, 1).expect("maps");
        let start = Points::new(start(&roll, 1).expect("start").concat().iter().map(|&x| x as f32).collect(), 2);
        let [mapped, projected] = [&layout, &start.expect("points")].map(|layout| trustworthiness(&roll, layout, 15));
        assert!(mapped > 0.99 && mapped > projected + 0.04, "{mapped} {projected}");
    }

    #[test]
    fn same_seed_same_map_and_another_seed_another() {
        let points = gaussian_points(3, 120, 5);
        let map = |seed| umap(&points, seed).expect("maps");
        assert_eq!(map(1), map(1));
        assert_ne!(map(1), map(2));
    }

    #[test]
    fn few_equal_or_one_dimensional_points_are_mapped_too() {
        for values in [vec![], vec![1.0], vec![1.0; 40], vec![0.0, 1.0, 2.0]] {
            let points = Points::new(values, 1).expect("points");
            assert_eq!(umap(&points, 1).expect("maps").count(), points.count());
        }
    }
}
