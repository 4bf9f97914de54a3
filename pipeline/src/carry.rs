//! Carrying points, boxes and pictures between sections: there, back, and from stain to stain by way of the reference.

use crate::deformation::SectionMap;
use crate::units::UmPoint;

/// Points along each side of a box that are carried: a map bends over hundreds of micrometres, so that between a
/// sixty-fourth of a side little can happen that is not seen.
const STEPS_PER_SIDE: u32 = 64;

/// A way from the canvas of one section to that of another, in micrometres.
pub trait Carry: Sync {
    /// Where `p` lies there; `None` where nothing there belongs to it, because a map folds.
    fn carry(&self, p: UmPoint) -> Option<UmPoint>;

    /// The smallest upright box, as its top-left and bottom-right corner, that holds what becomes of the box between
    /// these two corners. `None` where none of its border can be carried.
    fn carry_box(&self, [low, high]: [UmPoint; 2]) -> Option<[UmPoint; 2]> {
        let along = |a: f64, b: f64, step: u32| a + (b - a) * f64::from(step) / f64::from(STEPS_PER_SIDE);
        let border = (0..=STEPS_PER_SIDE).flat_map(|step| {
            let (x, y) = (along(low.x, high.x, step), along(low.y, high.y, step));
            [(x, low.y), (x, high.y), (low.x, y), (high.x, y)].map(|(x, y)| UmPoint { x, y })
        });
        border.filter_map(|p| self.carry(p)).fold(None, |bounds, p| {
            let [low, high] = bounds.unwrap_or([p, p]);
            Some([UmPoint { x: low.x.min(p.x), y: low.y.min(p.y) }, UmPoint { x: high.x.max(p.x), y: high.y.max(p.y) }])
        })
    }

    /// This way, and from there `next`.
    fn then<Next: Carry>(self, next: Next) -> Chain<Self, Next>
    where
        Self: Sized,
    {
        Chain(self, next)
    }
}

/// From the reference to the section.
impl Carry for SectionMap {
    fn carry(&self, p: UmPoint) -> Option<UmPoint> {
        Some(self.apply(p))
    }
}

impl<C: Carry> Carry for &C {
    fn carry(&self, p: UmPoint) -> Option<UmPoint> {
        (*self).carry(p)
    }
}

/// From the section back to the reference, exact to [`SectionMap::INVERSION_TOLERANCE_UM`].
#[derive(Debug, Clone, Copy)]
pub struct Back<'a>(pub &'a SectionMap);

impl Carry for Back<'_> {
    fn carry(&self, p: UmPoint) -> Option<UmPoint> {
        self.0.invert(p)
    }
}

/// One way after the other; made by [`Carry::then`].
#[derive(Debug, Clone, Copy)]
pub struct Chain<A, B>(A, B);

impl<A: Carry, B: Carry> Carry for Chain<A, B> {
    fn carry(&self, p: UmPoint) -> Option<UmPoint> {
        self.1.carry(self.0.carry(p)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deformation::{Deformation, DisplacementField};

    /// A turned map whose displacement changes from node to node.
    fn map(degrees: f64, seed: u32) -> SectionMap {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let nodes = (0..12 * 9).map(|i: u32| [(i * 37 + seed) % 19, (i * 53 + seed) % 23].map(|v| v as f32)).collect();
        let field = DisplacementField { origin: [0.0; 2], spacing: 100.0, cols: 12, rows: 9, nodes };
        SectionMap::new(Deformation { affine: [[cos, -sin, 300.0], [sin, cos, -40.0]], field: Some(field) })
    }

    #[test]
    fn from_stain_to_stain_and_back_is_where_it_began() {
        let (a, b) = (map(12.0, 1), map(-160.0, 5));
        let there = Back(&a).then(&b);
        let back = Back(&b).then(&a);
        for i in 0..200 {
            let on_a = a.apply(UmPoint { x: f64::from(i % 20) * 50.0, y: f64::from(i / 20) * 80.0 });
            let on_b = there.carry(on_a).expect("regular");
            let again = back.carry(on_b).expect("regular");
            assert!((again.x - on_a.x).hypot(again.y - on_a.y) < 0.01, "{on_a:?} came back as {again:?}");
        }
    }

    fn holds_what_was_inside(way: &impl Carry) {
        let corners = [UmPoint { x: 150.0, y: 200.0 }, UmPoint { x: 700.0, y: 600.0 }];
        let [low, high] = way.carry_box(corners).expect("regular");
        for i in 0..400 {
            let (x, y) = (150.0 + f64::from(i % 20) * 550.0 / 19.0, 200.0 + f64::from(i / 20) * 400.0 / 19.0);
            let p = way.carry(UmPoint { x, y }).expect("regular");
            // The border is sampled: what bulges out between two samples is less than a micrometre.
            assert!(p.x > low.x - 1.0 && p.y > low.y - 1.0 && p.x < high.x + 1.0 && p.y < high.y + 1.0, "{p:?}");
        }
    }

    #[test]
    fn a_carried_box_holds_what_was_in_the_box() {
        let map = map(33.0, 3);
        holds_what_was_inside(&map);
        holds_what_was_inside(&Back(&map));
    }
}
