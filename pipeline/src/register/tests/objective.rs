use super::super::nonrigid::{Bending, GridWarp, Objective, node_count};
use super::*;
use crate::deformation::{Deformation, DisplacementField};
use crate::register::ngf::Warp;

/// A level whose moving image does not cover the right and bottom border of the fixed one.
fn level(seed: u64, factor: usize) -> Level {
    let tissue = Tissue::new(seed);
    let plane = |stain, width, height, x0: f64, y0: f64| {
        let density = |x, y| tissue.density(stain, [x as f64 * 0.6 + x0, y as f64 * 0.6 + y0]) as f32;
        Arc::new(Plane::from_fn(width, height, density))
    };
    Level::new(&Images { factor, fixed: plane(0, 71, 64, 150.0, 110.0), moving: plane(1, 91, 84, 105.0, 65.0) }, 1.0)
}

/// Lays the middle of the fixed image of [`level`] where the truth wants it, turned by `degrees` and `x`, `y` off.
fn nearly(degrees: f64, x: f64, y: f64) -> PixelAffine {
    let (sin, cos) = degrees.to_radians().sin_cos();
    PixelAffine::through([[cos, -sin], [sin, cos]], [35.0, 31.5], [110.0 + x, 106.5 + y])
}

fn numbers(count: usize, size: f64, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-size..size)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn derivative_of_the_distance_matches_finite_differences(seed in 0u64..1000, degrees in -10f64..10.0, x in -3f64..3.0, y in -3f64..3.0) {
        let level = level(seed, 1);
        let (sin, cos) = degrees.to_radians().sin_cos();
        let (centre, to) = ([35.0, 31.5], [65.0 + x, 61.5 + y]);
        let map = |p: [f64; 6]| PixelAffine::through([[cos + p[0], p[1] - sin], [sin + p[3], cos + p[4]]], centre, [to[0] + p[2], to[1] + p[5]]);
        let value = |p| level.distance(&AffineWarp::new(map(p), &level)).value;
        let mut derivative = [0.0; 6];
        level.distance_and_gradient(&AffineWarp::new(map([0.0; 6]), &level), &mut derivative);
        // Per pixel of displacement: a change of the linear part moves pixels by up to half the width.
        let per_pixel = |i: usize| if i % 3 == 2 { 1.0 } else { 1.0 / 35.0 };
        let size = (0..6).map(|i| (derivative[i] * per_pixel(i)).abs()).fold(0.0, f64::max);
        prop_assert!(size > 1e-4, "a derivative of {size} would pass any comparison");
        for (i, analytic) in derivative.iter().enumerate() {
            // A hundredth of a pixel: small against the cells of bilinear interpolation, large against the rounding of f32.
            let step = 0.01 * per_pixel(i);
            let (mut ahead, mut behind) = ([0.0; 6], [0.0; 6]);
            (ahead[i], behind[i]) = (step, -step);
            let numeric = (value(ahead) - value(behind)) / (2.0 * step);
            // The step makes some samples cross into the next cell, where the bilinear derivative jumps: up to a few
            // hundredths were seen. A wrong sign, factor or missing term is off by half and more.
            prop_assert!((analytic - numeric).abs() * per_pixel(i) < 0.1 * size, "entry {i}: {analytic} against {numeric}");
        }
    }

    #[test]
    fn gradient_of_distance_and_bending_matches_finite_differences(
        seed in 0u64..1000, degrees in -10f64..10.0, x in -3f64..3.0, y in -3f64..3.0, weight in 0.0005f64..0.005,
    ) {
        let level = level(seed, 1);
        // The moving image ends inside the fixed one at the right and the bottom: weights change there. Bending and distance
        // weigh about the same in the gradient.
        let objective = Objective::new(&level, nearly(degrees, x - 45.0, y - 45.0), 8, weight);
        let count = 2 * objective.node_count();
        let nodes = numbers(count, 0.4, seed);
        let value = |nodes: &[f64]| objective.value_and_gradient(nodes, &mut vec![0.0; count]);
        let mut gradient = vec![0.0; count];
        objective.value_and_gradient(&nodes, &mut gradient);
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        // Along the gradient, and along random directions, among which a term that is missing somewhere shows.
        let along_gradient = gradient.iter().map(|g| g / length).collect();
        let random = (0..3).map(|i| {
            let direction = numbers(count, 1.0, seed + i);
            let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
            direction.iter().map(|d| d / length).collect::<Vec<f64>>()
        });
        for direction in std::iter::once(along_gradient).chain(random) {
            let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let moved = |step: f64| value(&nodes.iter().zip(&direction).map(|(n, d)| n + step * d).collect::<Vec<_>>());
            let numeric = (moved(0.05) - moved(-0.05)) / 0.1;
            prop_assert!((analytic - numeric).abs() < 0.05 * length, "{analytic} against {numeric}, length {length}");
        }
    }

    #[test]
    fn bending_costs_nothing_for_a_constant_and_something_for_all_else(
        cols in 2usize..8, rows in 2usize..8, seed in 0u64..1000, constant in -9f64..9.0,
    ) {
        let bending = Bending { cols, rows, weight: 0.7 };
        let value = |u: &[f64]| bending.value_and_gradient(u, &mut vec![0.0; u.len()]);
        let mut gradient = vec![0.0; cols * rows];
        prop_assert_eq!(bending.value_and_gradient(&vec![constant; cols * rows], &mut gradient), 0.0);
        prop_assert!(gradient.iter().all(|g| *g == 0.0));
        let u = numbers(cols * rows, 1.0, seed);
        prop_assert!(bending.value_and_gradient(&u, &mut gradient) > 0.0);
        for i in 0..u.len() {
            let at = |step: f64| {
                let mut u = u.clone();
                u[i] += step;
                value(&u)
            };
            // Central differences of a quadratic are exact.
            let numeric = at(0.5) - at(-0.5);
            prop_assert!((gradient[i] - numeric).abs() < 1e-9, "node {i}: {} against {numeric}", gradient[i]);
        }
    }

    #[test]
    fn a_deformation_means_the_same_on_its_level(seed in 0u64..1000, degrees in 0f64..360.0, power in 0u32..5, spacing in 5usize..12) {
        let level = level(1, 1 << power);
        let factor = level.factor as f64;
        let (cols, rows) = (node_count(level.fixed.width, spacing), node_count(level.fixed.height, spacing));
        let values = numbers(2 * cols * rows, 10.0, seed);
        let field = DisplacementField {
            origin: [0.5 * factor - 0.5; 2],
            spacing: spacing as f64 * factor,
            cols,
            rows,
            nodes: values.chunks_exact(2).map(|node| [node[0] as f32, node[1] as f32]).collect(),
        };
        let map = Deformation { affine: placed(degrees, 1.1, false, [150.0, 200.0]).0, field: Some(field) };
        let warp = GridWarp::on_level(&map, &level);
        let (mut xs, mut ys) = (vec![0.0; level.fixed.width], vec![0.0; level.fixed.width]);
        for y in 0..level.fixed.height {
            warp.positions(y, &mut xs, &mut ys);
            for (x, on_level) in xs.iter().zip(&ys).map(|(x, y)| [*x, *y]).enumerate() {
                // A pixel's centre is the centre of the pixels it was made of.
                let full = map.apply([x, y].map(|v| (v as f64 + 0.5) * factor - 0.5));
                let expected = full.map(|v| (v + 0.5) / factor - 0.5);
                for (found, expected) in on_level.into_iter().zip(expected) {
                    prop_assert!((f64::from(found) - expected).abs() < 1e-3, "({x}, {y}): {found}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn a_map_in_micrometres_agrees_with_the_map_in_pixels(degrees in 0f64..360.0, x in 0f64..400.0, y in 0f64..300.0, mpp in 0.5f64..20.0) {
        let (map, mpp) = (placed(degrees, 1.02, degrees > 180.0, [190.0, 170.0]), Mpp::new(mpp).expect("plausible"));
        let moved = map.to_um(mpp).apply(UmPoint::from_pixels(x + 0.5, y + 0.5, mpp)).to_pixels(mpp);
        let expected = map.apply(x, y);
        prop_assert!((moved.0 - 0.5 - expected.0).abs() < 1e-9 && (moved.1 - 0.5 - expected.1).abs() < 1e-9);
    }

    #[test]
    fn a_map_survives_the_way_through_a_level(degrees in 0f64..360.0, factor in 1usize..20, x in 0f64..400.0, y in 0f64..300.0) {
        let map = placed(degrees, 1.1, false, [150.0, 200.0]);
        let (level, factor) = (map.to_level(factor as f64), factor as f64);
        // A point and its level coordinates name the same place before and after the map.
        let down = |v: f64| (v + 0.5) / factor - 0.5;
        let (on_level, full) = (level.apply(down(x), down(y)), map.apply(x, y));
        prop_assert!((on_level.0 - down(full.0)).abs() < 1e-9 && (on_level.1 - down(full.1)).abs() < 1e-9);
        prop_assert!(level.to_full(factor).corner_distance(&map, 400, 300) < 1e-9);
    }
}
