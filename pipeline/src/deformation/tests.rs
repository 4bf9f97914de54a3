//! The laws of maps between sections: there and back, between frames, and what their derivative says.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// Turned by any angle, scaled, mirrored or not, shifted.
fn affine() -> impl Strategy<Value = [[f64; 3]; 2]> {
    (0f64..360.0, 0.8f64..1.25, any::<bool>(), -500f64..500.0, -500f64..500.0).prop_map(
        |(degrees, scale, mirrored, x, y)| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            let flip = if mirrored { -scale } else { scale };
            [[flip * cos, -scale * sin, x], [flip * sin, scale * cos, y]]
        },
    )
}

/// A field whose displacements are at most `largest` node distances long along each axis.
fn field(largest: f32) -> impl Strategy<Value = DisplacementField> {
    (2usize..7, 2usize..7, 5f64..40.0, prop::array::uniform2(-30f64..30.0)).prop_flat_map(
        move |(cols, rows, spacing, origin)| {
            let reach = largest * spacing as f32;
            prop::collection::vec(prop::array::uniform2(-reach..reach), cols * rows)
                .prop_map(move |nodes| DisplacementField { origin, spacing, cols, rows, nodes })
        },
    )
}

fn deformation(largest: f32) -> impl Strategy<Value = Deformation> {
    (affine(), field(largest)).prop_map(|(affine, field)| Deformation { affine, field: Some(field) })
}

/// A map that cannot fold: no displacement changes by more than 0.2 a unit of length along an axis, 0.4 in all, and the
/// affine part shrinks nothing below 0.8.
fn regular() -> impl Strategy<Value = Deformation> {
    deformation(0.1)
}

/// Points in the grid of any [`field`] and well beyond it.
const ANYWHERE: Range<f64> = -200.0..400.0;

fn distance(p: [f64; 2], q: [f64; 2]) -> f64 {
    (p[0] - q[0]).hypot(p[1] - q[1])
}

/// Area factors by finite differences over a lattice of points inside one cell, up to a hundredth of its side away from
/// its border.
fn sampled_factors(map: &Deformation, col: usize, row: usize) -> impl Iterator<Item = f64> {
    let field = map.field.as_ref().expect("a field");
    let corner = field.position(row * field.cols + col);
    let (spacing, step) = (field.spacing, 1e-3 * field.spacing);
    let sense = (map.affine[0][0] * map.affine[1][1] - map.affine[0][1] * map.affine[1][0]).signum();
    (0..64).map(move |i| {
        let share = |i: i32| 0.01 + 0.98 * f64::from(i) / 7.0;
        let [x, y] = [corner[0] + spacing * share(i % 8), corner[1] + spacing * share(i / 8)];
        let slope = |a: [f64; 2], b: [f64; 2]| {
            let (a, b) = (map.apply(a), map.apply(b));
            [(b[0] - a[0]) / (2.0 * step), (b[1] - a[1]) / (2.0 * step)]
        };
        let along_x = slope([x - step, y], [x + step, y]);
        let along_y = slope([x, y - step], [x, y + step]);
        sense * (along_x[0] * along_y[1] - along_y[0] * along_x[1])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn there_and_back_is_where_it_began(map in regular(), x in ANYWHERE, y in ANYWHERE) {
        let p = UmPoint { x, y };
        let map = SectionMap::new(map);
        let back = map.invert(map.apply(p)).expect("cannot fold");
        // The inverse is exact to the tolerance where the map goes to; the map shrinks nothing below 0.4.
        let miss = distance([back.x, back.y], [x, y]);
        prop_assert!(miss <= SectionMap::INVERSION_TOLERANCE_UM / 0.4, "{miss}");
    }

    #[test]
    fn back_and_there_is_where_it_began(map in regular(), x in -800f64..800.0, y in -800f64..800.0) {
        let map = PixelMap(map);
        let (u, v) = map.invert(x, y).expect("cannot fold");
        let there = map.apply(u, v);
        prop_assert!(distance([there.0, there.1], [x, y]) <= 1e-3);
    }

    #[test]
    fn an_inverse_is_right_or_none_even_where_the_map_folds(map in deformation(3.0), x in ANYWHERE, y in ANYWHERE) {
        let target = map.apply([x, y]);
        let tolerance = 1e-3;
        if let Some(found) = map.invert(target, [0.0, 0.0], tolerance) {
            prop_assert!(distance(map.apply(found), target) <= tolerance);
        }
    }

    #[test]
    fn the_range_of_area_factors_is_what_dense_sampling_finds(map in deformation(0.8)) {
        let field = map.field.as_ref().expect("a field");
        let cells = (0..field.rows - 1).flat_map(|row| (0..field.cols - 1).map(move |col| (col, row)));
        let sampled = cells.flat_map(|(col, row)| sampled_factors(&map, col, row));
        let (low, high) = sampled.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (least, most) = map.jacobian_range(|_| true);
        prop_assert!(least <= low + 1e-6 && high <= most + 1e-6, "{low} to {high} outside {least} to {most}");
        // Samples stay a hundredth of a side away from the corners, where the extremes are.
        let slack = 0.05 * (most - least) + 1e-6;
        prop_assert!(low - least <= slack && most - high <= slack, "{low} to {high} well inside {least} to {most}");
    }

    #[test]
    fn only_cells_with_a_counted_corner_count(map in deformation(0.8), node in 0usize..4) {
        let cols = map.field.as_ref().expect("a field").cols;
        let (col, row) = (node % 2, node / 2);
        let counted = map.jacobian_range(|i| i == row * cols + col);
        prop_assert!(map.jacobian_range(|_| true).0 <= counted.0 && counted.1 <= map.jacobian_range(|_| true).1);
        for factor in sampled_factors(&map, 0, 0) {
            prop_assert!(counted.0 <= factor + 1e-6 && factor <= counted.1 + 1e-6);
        }
    }

    #[test]
    fn pixel_centres_are_half_a_pixel_from_the_corner_in_micrometres(
        map in deformation(1.0), mpp in 0.2f64..20.0, x in ANYWHERE, y in ANYWHERE,
    ) {
        let (map, mpp) = (PixelMap(map), Mpp::new(mpp).expect("plausible"));
        let to_um = |(x, y): (f64, f64)| UmPoint { x: (x + 0.5) * mpp.get(), y: (y + 0.5) * mpp.get() };
        let (moved, expected) = (map.to_um(mpp).apply(to_um((x, y))), to_um(map.apply(x, y)));
        let miss_px = distance([moved.x, moved.y], [expected.x, expected.y]) / mpp.get();
        // Displacements are kept as f32: seven digits of at most 60 px.
        prop_assert!(miss_px < 1e-4, "{miss_px} px");
    }

    #[test]
    fn moving_both_origins_moves_points_and_nothing_else(
        map in deformation(1.0), x in ANYWHERE, y in ANYWHERE, by in prop::array::uniform4(-1e4f64..1e4),
    ) {
        let map = SectionMap::new(map);
        let [from, to] = [UmPoint { x: by[0], y: by[1] }, UmPoint { x: by[2], y: by[3] }];
        let expected = map.apply(UmPoint { x, y });
        let moved = map.between(from, to).apply(UmPoint { x: x + from.x, y: y + from.y });
        prop_assert!(distance([moved.x - to.x, moved.y - to.y], [expected.x, expected.y]) < 1e-6);
    }
}

#[test]
fn what_a_collapsed_map_never_reaches_has_no_inverse() {
    let onto_a_line = Deformation { affine: [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], field: None };
    assert_eq!(onto_a_line.invert([3.0, 1.0], [0.0, 0.0], 1e-3), None);
    assert_eq!(SectionMap::new(onto_a_line).invert(UmPoint { x: 3.0, y: 1.0 }), None);
}

#[test]
fn a_fold_shows_as_a_negative_area_factor() {
    // The middle column of nodes is pushed past the right one.
    let nodes = (0..9).map(|i| if i % 3 == 1 { [15.0, 0.0] } else { [0.0, 0.0] }).collect();
    let field = DisplacementField { origin: [0.0; 2], spacing: 10.0, cols: 3, rows: 3, nodes };
    for flip in [1.0, -1.0] {
        let map = Deformation { affine: [[flip, 0.0, 0.0], [0.0, 1.0, 0.0]], field: Some(field.clone()) };
        assert_eq!(map.jacobian_range(|_| true), (-0.5, 2.5), "mirrored: {}", flip < 0.0);
    }
}
