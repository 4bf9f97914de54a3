use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::testing::{gaussian_points, planted_points};

/// What scikit-learn said: golden/make.py.
#[derive(Deserialize)]
struct Golden {
    dims: usize,
    values: Vec<f32>,
    labels: Vec<i64>,
    silhouette: f64,
    davies_bouldin: f64,
    calinski_harabasz: f64,
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + b.abs())
}

fn one(points: &Points, labels: &Labels) -> Indices {
    indices(points, std::slice::from_ref(labels)).expect("indices")[0]
}

#[test]
fn shared_indices_equal_those_of_scikit_learn() {
    let cases: BTreeMap<String, Golden> =
        serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/indices.json")))
            .expect("golden numbers");
    assert_eq!(cases.len(), 3);
    for (name, golden) in cases {
        let points = Points::new(golden.values, golden.dims).expect("points");
        let found = one(&points, &Labels::new(&golden.labels));
        assert!(close(found.silhouette, golden.silhouette, 1e-6), "{name}: {found:?}");
        assert!(close(found.davies_bouldin, golden.davies_bouldin, 1e-6), "{name}: {found:?}");
        assert!(close(found.calinski_harabasz, golden.calinski_harabasz, 1e-6), "{name}: {found:?}");
    }
}

/// Dunn, generalised Dunn and Xie–Beni as their papers write them, pair by pair, without any of the code under test.
fn naive(points: &Points, labels: &Labels) -> [f64; 3] {
    let clusters: Vec<Vec<Vec<f64>>> = (0..labels.kinds() as u32)
        .map(|c| {
            let members = points.rows().zip(labels.of()).filter(|&(_, &label)| label == c);
            members.map(|(row, _)| row.iter().map(|&x| f64::from(x)).collect()).collect()
        })
        .collect();
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
    let centre = |cluster: &Vec<Vec<f64>>| -> Vec<f64> {
        (0..points.dims()).map(|k| cluster.iter().map(|p| p[k]).sum::<f64>() / cluster.len() as f64).collect()
    };
    let centres: Vec<Vec<f64>> = clusters.iter().map(centre).collect();
    let (mut apart, mut widest) = (f64::INFINITY, 0f64);
    let (mut centres_apart, mut largest_spread, mut squares) = (f64::INFINITY, 0f64, 0.0);
    for (a, cluster) in clusters.iter().enumerate() {
        let to_centre: Vec<f64> = cluster.iter().map(|p| distance(p, &centres[a])).collect();
        largest_spread = largest_spread.max(2.0 * to_centre.iter().sum::<f64>() / cluster.len() as f64);
        squares += to_centre.iter().map(|d| d * d).sum::<f64>();
        for p in cluster {
            widest = cluster.iter().map(|q| distance(p, q)).fold(widest, f64::max);
        }
        for (b, other) in clusters.iter().enumerate().filter(|&(b, _)| b != a) {
            centres_apart = centres_apart.min(distance(&centres[a], &centres[b]));
            for p in cluster {
                apart = other.iter().map(|q| distance(p, q)).fold(apart, f64::min);
            }
        }
    }
    [apart / widest, centres_apart / largest_spread, squares / points.count() as f64 / (centres_apart * centres_apart)]
}

#[test]
fn dunn_and_xie_beni_equal_a_naive_implementation() {
    let (planted, truth) = planted_points(1, 4, 203, 6, 3.0);
    let halves = Labels::new(&(0..203).map(|i| i64::from(i > 50)).collect::<Vec<_>>());
    let noise = gaussian_points(2, 203, 2);
    for (points, labels) in [(&planted, &truth), (&planted, &halves), (&noise, &truth)] {
        let found = one(points, labels);
        let expected = naive(points, labels);
        for (value, expected) in [found.dunn, found.generalised_dunn, found.xie_beni].into_iter().zip(expected) {
            assert!(close(value, expected, 1e-9), "{found:?} {expected:?}");
        }
    }
}

#[test]
fn one_outlier_decides_dunn_but_not_the_generalised_dunn() {
    let (points, truth) = planted_points(3, 3, 300, 4, 8.0);
    let before = one(&points, &truth);
    let mut values: Vec<f32> = points.rows().flatten().copied().collect();
    // The first point moves most of the way to the centre of another cluster.
    for k in 0..4 {
        values[k] += 0.8 * (values[4 + k] - values[k]);
    }
    let after = one(&Points::new(values, 4).expect("points"), &truth);
    assert!(after.dunn < 0.5 * before.dunn, "{before:?} {after:?}");
    assert!(after.generalised_dunn > 0.8 * before.generalised_dunn, "{before:?} {after:?}");
}

#[test]
fn one_walk_gives_each_clustering_the_figures_of_its_own_walk() {
    let (points, truth) = planted_points(4, 5, 120, 3, 4.0);
    let other = Labels::new(&(0..120).map(|i| i / 17).collect::<Vec<_>>());
    let together = indices(&points, &[truth.clone(), other.clone()]).expect("indices");
    assert_eq!(together, [one(&points, &truth), one(&points, &other)]);
}

#[test]
fn clusterings_without_indices_are_refused() {
    let points = gaussian_points(5, 6, 2);
    let refusal = |numbers: &[i64]| indices(&points, &[Labels::new(numbers)]).expect_err("refused");
    assert_eq!(refusal(&[0; 5]), IndexError::Count { labels: 5, points: 6 });
    assert_eq!(refusal(&[0; 6]), IndexError::Clusters { clusters: 1, points: 6 });
    assert_eq!(refusal(&[0, 1, 2, 3, 4, 5]), IndexError::Clusters { clusters: 6, points: 6 });
}

#[test]
fn duplicates_give_no_nan() {
    let same = Points::new(vec![1.0; 12], 2).expect("points");
    let found = one(&same, &Labels::new(&[0, 0, 0, 1, 1, 1]));
    assert_eq!((found.silhouette, found.dunn, found.generalised_dunn), (0.0, 0.0, 0.0));
    assert_eq!((found.davies_bouldin, found.calinski_harabasz, found.xie_beni), (0.0, 1.0, f64::INFINITY));
}

fn assert_alike(a: &Indices, b: &Indices) -> Result<(), TestCaseError> {
    let figures =
        |i: &Indices| [i.silhouette, i.davies_bouldin, i.calinski_harabasz, i.dunn, i.generalised_dunn, i.xie_beni];
    for (x, y) in figures(a).into_iter().zip(figures(b)) {
        prop_assert!(close(x, y, 1e-3), "{a:?} {b:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn indices_do_not_depend_on_order_names_place_or_scale(
        seed in any::<u64>(), clusters in 2usize..6, shift in -50f32..50.0, scale in 0.1f32..10.0,
    ) {
        let (points, labels) = planted_points(seed, clusters, 60, 3, 3.0);
        let original = one(&points, &labels);

        let reversed = Points::new((0..60).rev().flat_map(|i| points.row(i).to_vec()).collect(), 3).expect("points");
        let names: Vec<i64> = labels.of().iter().rev().map(|&label| -i64::from(label) * 3).collect();
        assert_alike(&one(&reversed, &Labels::new(&names)), &original)?;

        let moved = points.rows().flatten().map(|x| x * scale + shift).collect();
        assert_alike(&one(&Points::new(moved, 3).expect("points"), &labels), &original)?;
    }
}
