//! The true deformation of a derived section, and its file.

use std::collections::BTreeMap;

use anyhow::Context;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tissuemap::units::{Affine, Mpp, UmPoint};

use super::spline::Spline;

/// Version of the warps file, its field `format`; the meaning of its fields is documented on [`Warps`] and [`Warp`].
pub(crate) const FORMAT: &str = "tissuemap-warps/1";

/// A microtome section turns by a few degrees on the water bath before it is caught.
const MAX_ROTATION_DEGREES: f64 = 6.0;

/// The file `<case>_warps.json`: where each point of the reference section lies in every section of the set.
/// All coordinates are micrometres from the top-left corner of a section's canvas, y down (edge-based).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Warps {
    pub(crate) format: String,
    pub(crate) case: String,
    pub(crate) seed: u64,
    /// Resolution of every section's level 0.
    pub(crate) mpp: Mpp,
    /// The stain whose section is the reference frame.
    pub(crate) reference: String,
    /// Size of the reference section's level 0 in pixels.
    pub(crate) reference_size_px: [u32; 2],
    /// Canonical stain to where its section is and how it is deformed.
    pub(crate) sections: BTreeMap<String, Section>,
}

/// One section of the set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Section {
    /// File name, beside the warps file.
    pub(crate) file: String,
    /// Size of level 0 in pixels.
    pub(crate) size_px: [u32; 2],
    /// Reference µm to this section's µm.
    pub(crate) warp: Warp,
}

/// `section = affine(reference) + (displacement_x(reference), displacement_y(reference))`, all in µm. The displacement
/// is a uniform cubic B-spline of the reference coordinates; see [`Spline`] for its grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Warp {
    pub(crate) affine: Affine,
    /// `[x, y]` components; absent for the reference itself.
    pub(crate) displacement: Option<[Spline; 2]>,
}

impl Warp {
    /// The reference section's own.
    pub(crate) const IDENTITY: Self = Self { affine: Affine::IDENTITY, displacement: None };

    /// A deformation as serial sections show it: a turn about the centre, a shift of up to 2 % of the diagonal, and a
    /// smooth displacement whose largest length is 1 to 2 % of the diagonal.
    ///
    /// `reference_um` and `section_um` are the two canvases' sizes; centres map to each other but for the shift.
    pub(crate) fn random(rng: &mut impl Rng, reference_um: [f64; 2], section_um: [f64; 2]) -> Self {
        let diagonal = reference_um[0].hypot(reference_um[1]);
        let angle = rng.random_range(-MAX_ROTATION_DEGREES..=MAX_ROTATION_DEGREES).to_radians();
        let shift = [(); 2].map(|()| rng.random_range(-0.02..=0.02) * diagonal / std::f64::consts::SQRT_2);
        let (sin, cos) = angle.sin_cos();
        let [cx, cy] = reference_um.map(|v| v / 2.0);
        let affine = Affine([
            [cos, -sin, section_um[0] / 2.0 + shift[0] - (cos * cx - sin * cy)],
            [sin, cos, section_um[1] / 2.0 + shift[1] - (sin * cx + cos * cy)],
        ]);
        // A fifth of the diagonal between control points: stretch and compression over millimetres, not wobbles at the
        // scale of glands, and slopes well below 1, so that the map stays invertible.
        let spacing = diagonal / 5.0;
        let mut displacement = [(); 2].map(|()| Spline::random(rng, reference_um, spacing));
        let largest = probe(reference_um)
            .map(|p| displacement[0].at(p.x, p.y).hypot(displacement[1].at(p.x, p.y)))
            .fold(f64::MIN_POSITIVE, f64::max);
        let scale = rng.random_range(0.01..=0.02) * diagonal / largest;
        displacement.iter_mut().flat_map(|spline| &mut spline.values).for_each(|value| *value *= scale);
        Self { affine, displacement: Some(displacement) }
    }

    /// Reference µm to section µm.
    pub(crate) fn apply(&self, reference: UmPoint) -> UmPoint {
        let point = self.affine.apply(reference);
        let [dx, dy] = self.displacement_at(reference);
        UmPoint { x: point.x + dx, y: point.y + dy }
    }

    /// A function from section µm to reference µm: the fixed point of `p = affine⁻¹(section − displacement(p))`, which
    /// contracts because the displacement's slope stays well below 1. A thousandth of a micrometre is below any pixel.
    pub(crate) fn inverse(&self) -> anyhow::Result<impl Fn(UmPoint) -> UmPoint + Sync> {
        let back = self.affine.inverse().context("the warp's affine part is singular")?;
        Ok(move |section: UmPoint| {
            let mut point = back.apply(section);
            for _ in 0..20 {
                let [dx, dy] = self.displacement_at(point);
                let next = back.apply(UmPoint { x: section.x - dx, y: section.y - dy });
                let step = (next.x - point.x).abs() + (next.y - point.y).abs();
                point = next;
                if step < 1e-3 {
                    break;
                }
            }
            point
        })
    }

    fn displacement_at(&self, p: UmPoint) -> [f64; 2] {
        self.displacement.as_ref().map_or([0.0; 2], |[x, y]| [x.at(p.x, p.y), y.at(p.x, p.y)])
    }
}

/// A 33 × 33 lattice over the canvas: several points per spline cell.
fn probe(size_um: [f64; 2]) -> impl Iterator<Item = UmPoint> {
    (0..33 * 33)
        .map(move |i| UmPoint { x: size_um[0] * f64::from(i % 33) / 32.0, y: size_um[1] * f64::from(i / 33) / 32.0 })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SIZE: [f64; 2] = [1100.0, 1480.0];

    #[test]
    fn inverse_undoes_the_warp_everywhere() {
        for seed in 0..20 {
            let warp = Warp::random(&mut ChaCha8Rng::seed_from_u64(seed), SIZE, [1150.0, 1400.0]);
            let inverse = warp.inverse().expect("invertible");
            for p in probe(SIZE) {
                let back = inverse(warp.apply(p));
                assert!((back.x - p.x).hypot(back.y - p.y) < 1e-3, "seed {seed}: {p:?} came back as {back:?}");
            }
        }
    }

    #[test]
    fn deformation_is_as_large_as_documented_and_never_folds() {
        let diagonal = SIZE[0].hypot(SIZE[1]);
        for seed in 0..20 {
            let warp = Warp::random(&mut ChaCha8Rng::seed_from_u64(seed), SIZE, SIZE);
            let nonlinear = |p: UmPoint| {
                let (bent, straight) = (warp.apply(p), warp.affine.apply(p));
                (bent.x - straight.x).hypot(bent.y - straight.y) / diagonal
            };
            let largest = probe(SIZE).map(nonlinear).fold(0.0, f64::max);
            assert!((0.0099..=0.0201).contains(&largest), "seed {seed}: {largest}");
            for p in probe(SIZE) {
                let at = |dx, dy| warp.apply(UmPoint { x: p.x + dx, y: p.y + dy });
                let (o, x, y) = (at(0.0, 0.0), at(1.0, 0.0), at(0.0, 1.0));
                let jacobian = (x.x - o.x) * (y.y - o.y) - (x.y - o.y) * (y.x - o.x);
                assert!((0.5..1.6).contains(&jacobian), "seed {seed}: Jacobian {jacobian} at {p:?}");
            }
        }
    }
}
