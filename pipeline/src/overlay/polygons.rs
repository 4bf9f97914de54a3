//! Outlines of equal labels as polygons with holes.

use std::collections::BTreeMap;

use crate::map::{BACKGROUND, LabelMap};

/// A vertex in whole cells: `(col, row)` of a cell's corner.
pub(super) type Vertex = (u32, u32);

/// A closed ring (first vertex repeated at the end) of one polygon; the first ring of a polygon is its shell,
/// counter-clockwise when y is taken to point up (RFC 7946), the others are holes.
pub(super) type Polygon = Vec<Vec<Vertex>>;

/// The 4-connected pieces of each cluster as polygons, in the order of their first cell. Rings touch at most in
/// points, never cross: valid simple features.
pub(super) fn polygons(map: &LabelMap) -> BTreeMap<u8, Vec<Polygon>> {
    let pieces = pieces(map);
    // Outgoing boundary edges of every piece; a vertex has two where the piece touches itself diagonally.
    let mut edges: BTreeMap<usize, BTreeMap<Vertex, Vec<Vertex>>> = BTreeMap::new();
    let piece_at = |col: i64, row: i64| {
        let inside = (0..i64::from(map.cols)).contains(&col) && (0..i64::from(map.rows)).contains(&row);
        if inside { pieces[row as usize * map.cols as usize + col as usize] } else { None }
    };
    for row in 0..map.rows {
        for col in 0..map.cols {
            let (c, r) = (i64::from(col), i64::from(row));
            let Some(piece) = piece_at(c, r) else { continue };
            let sides = [
                ((c, r - 1), (col, row), (col + 1, row)),
                ((c + 1, r), (col + 1, row), (col + 1, row + 1)),
                ((c, r + 1), (col + 1, row + 1), (col, row + 1)),
                ((c - 1, r), (col, row + 1), (col, row)),
            ];
            for (neighbour, from, to) in sides {
                if piece_at(neighbour.0, neighbour.1) != Some(piece) {
                    edges.entry(piece).or_default().entry(from).or_default().push(to);
                }
            }
        }
    }
    let mut found: BTreeMap<u8, Vec<Polygon>> = BTreeMap::new();
    for (first_cell, edges) in edges {
        found.entry(map.labels[first_cell]).or_default().push(rings(edges));
    }
    found
}

/// For each cell the index of the first cell of its 4-connected piece; `None` for background.
fn pieces(map: &LabelMap) -> Vec<Option<usize>> {
    let (cols, rows) = (map.cols as usize, map.rows as usize);
    let mut pieces = vec![None; map.labels.len()];
    let mut open = Vec::new();
    for start in 0..map.labels.len() {
        if map.labels[start] == BACKGROUND || pieces[start].is_some() {
            continue;
        }
        pieces[start] = Some(start);
        open.push(start);
        while let Some(cell) = open.pop() {
            let (col, row) = (cell % cols, cell / cols);
            let left = (col > 0).then(|| cell - 1);
            let right = (col + 1 < cols).then(|| cell + 1);
            let up = (row > 0).then(|| cell - cols);
            let down = (row + 1 < rows).then(|| cell + cols);
            for next in [left, right, up, down].into_iter().flatten() {
                if pieces[next].is_none() && map.labels[next] == map.labels[start] {
                    pieces[next] = Some(start);
                    open.push(next);
                }
            }
        }
    }
    pieces
}

/// Chains edges to rings. Where a piece touches itself in a point, the ring turns left, away from the cell it came
/// along: it follows the same neighbour outside, so that a hole stays a hole and the shell does not pass a point twice.
fn rings(mut edges: BTreeMap<Vertex, Vec<Vertex>>) -> Polygon {
    let mut rings = Vec::new();
    // The smallest vertex left is a top-left corner; for the first ring it is one of the shell's.
    while let Some((&start, _)) = edges.first_key_value() {
        let mut ring = vec![start];
        let mut direction = (0_i64, 0_i64);
        let mut at = start;
        while let Some(ends) = edges.get_mut(&at) {
            let left = |to: &Vertex| {
                let turn = (i64::from(to.0) - i64::from(at.0), i64::from(to.1) - i64::from(at.1));
                direction.0 * turn.1 - direction.1 * turn.0 < 0
            };
            let next = ends.swap_remove(ends.iter().position(left).unwrap_or(0));
            if ends.is_empty() {
                edges.remove(&at);
            }
            let step = (i64::from(next.0) - i64::from(at.0), i64::from(next.1) - i64::from(at.1));
            // Only corners are kept.
            if step == direction {
                ring.pop();
            }
            ring.push(next);
            (at, direction) = (next, step);
            if at == start {
                break;
            }
        }
        rings.push(ring);
    }
    rings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::UmPoint;

    fn map(cols: u32, labels: Vec<u8>) -> LabelMap {
        let (rows, unusual) = (labels.len() as u32 / cols, vec![0; labels.len()]);
        LabelMap { origin: UmPoint { x: 0.0, y: 0.0 }, cell_um: 1.0, cols, rows, labels, unusual }
    }

    fn area(ring: &[Vertex]) -> f64 {
        let cross = |w: &[Vertex]| f64::from(w[0].0) * f64::from(w[1].1) - f64::from(w[1].0) * f64::from(w[0].1);
        ring.windows(2).map(cross).sum::<f64>() / 2.0
    }

    /// Even-odd rule over all rings of a polygon.
    fn contains(polygon: &Polygon, x: f64, y: f64) -> bool {
        let crossings = polygon.iter().flat_map(|ring| ring.windows(2)).filter(|w| {
            let ((x0, y0), (x1, y1)) = ((f64::from(w[0].0), f64::from(w[0].1)), (f64::from(w[1].0), f64::from(w[1].1)));
            (y0 > y) != (y1 > y) && x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)
        });
        crossings.count() % 2 == 1
    }

    #[test]
    fn a_ring_of_cells_is_a_shell_with_a_hole() {
        let found = polygons(&map(3, vec![1, 1, 1, 1, 2, 1, 1, 1, 1]));
        assert_eq!(
            found[&1],
            vec![vec![vec![(0, 0), (3, 0), (3, 3), (0, 3), (0, 0)], vec![(1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]]]
        );
        assert_eq!(found[&2].len(), 1);
    }

    #[test]
    fn pieces_that_touch_in_a_point_are_two_polygons() {
        let found = polygons(&map(2, vec![1, 0, 0, 1]));
        assert_eq!(found[&1].len(), 2);
        assert!(found[&1].iter().all(|polygon| polygon.len() == 1));
    }

    #[test]
    fn a_piece_that_touches_itself_in_a_point_keeps_its_hole_apart() {
        // The hole (1, 1) meets the outside (2, 2) diagonally.
        let found = polygons(&map(3, vec![1, 1, 1, 1, 0, 1, 1, 1, 0]));
        let [polygon] = &found[&1][..] else { panic!("one piece") };
        assert_eq!(polygon.len(), 2, "{polygon:?}");
        assert!((area(&polygon[0]) - 8.0).abs() < 1e-9 && (area(&polygon[1]) + 1.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn every_cell_lies_in_a_polygon_of_its_label_and_no_other(
            cols in 1u32..9, labels in prop::collection::vec(0u8..4, 64)
        ) {
            let rows = labels.len() as u32 / cols;
            let map = map(cols, labels[..(cols * rows) as usize].to_vec());
            let found = polygons(&map);
            for row in 0..rows {
                for col in 0..cols {
                    let label = map.labels[(row * cols + col) as usize];
                    let (x, y) = (f64::from(col) + 0.5, f64::from(row) + 0.5);
                    for (&cluster, polygons) in &found {
                        let hits = polygons.iter().filter(|p| contains(p, x, y)).count();
                        prop_assert_eq!(hits, usize::from(cluster == label));
                    }
                }
            }
            let total: f64 = found.values().flatten().flatten().map(|ring| area(ring)).sum();
            let labelled = map.labels.iter().filter(|&&l| l != BACKGROUND).count();
            prop_assert!((total - labelled as f64).abs() < 1e-9, "shells positive, holes negative: {} {}", total, labelled);
            for ring in found.values().flatten().flatten() {
                let mut seen = std::collections::BTreeSet::new();
                prop_assert!(ring[1..].iter().all(|v| seen.insert(*v)), "a ring passes no point twice: {:?}", ring);
            }
            for polygon in found.values().flatten() {
                prop_assert!(area(&polygon[0]) > 0.0 && polygon[1..].iter().all(|hole| area(hole) < 0.0));
            }
        }
    }
}
