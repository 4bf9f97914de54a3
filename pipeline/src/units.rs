//! Frames and units as types. Conversion between frames happens here and nowhere else.
//!
//! Continuous coordinates are **edge-based**: the top-left corner of the top-left pixel is (0, 0) and pixel `i` covers
//! `[i, i + 1)`. Then levels differ by a factor and micrometres by the mpp, without half-pixel terms. Code that indexes
//! pixel centres by integers (registration kernels, landmark files) adds or subtracts 0.5 at its own border.
//!
//! | type | frame | unit |
//! |---|---|---|
//! | [`Level0Point`], [`Level0Rect`] | full canvas of one slide, bounds offset **included** | level-0 pixels of that slide |
//! | [`UmPoint`] | the same canvas | micrometres |
//! | [`PixelRect`] | one level, or a slide resampled to an mpp | whole pixels there |
//! | [`Cell`] | the map grid, laid over the reference section | cells |

use serde::{Deserialize, Serialize};

/// Micrometres per pixel; finite and within what a microscope or an overview camera can produce.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Mpp(f64);

impl Mpp {
    /// 0.01 is ten times finer than oil immersion scanners reach; 100 is a flatbed scan of the whole glass (CAMELYON's
    /// overview levels are 29). Outside this range the number is a mistake: resolution tags in other units, or absent.
    pub const PLAUSIBLE: std::ops::RangeInclusive<f64> = 0.01..=100.0;

    /// # Errors
    /// [`ImplausibleMpp`] when `um_per_px` is not finite or outside [`Mpp::PLAUSIBLE`].
    pub fn new(um_per_px: f64) -> Result<Self, ImplausibleMpp> {
        if Self::PLAUSIBLE.contains(&um_per_px) { Ok(Self(um_per_px)) } else { Err(ImplausibleMpp(um_per_px)) }
    }

    /// Micrometres per pixel as a number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A resolution that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} µm per pixel is outside the plausible 0.01 to 100")]
pub struct ImplausibleMpp(pub f64);

impl TryFrom<f64> for Mpp {
    type Error = ImplausibleMpp;
    fn try_from(value: f64) -> Result<Self, Self::Error> {
        Self::new(value)
    }
}

impl From<Mpp> for f64 {
    fn from(mpp: Mpp) -> f64 {
        mpp.0
    }
}

/// A point in level-0 pixels of one slide, full canvas, edge-based.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level0Point {
    pub x: f64,
    pub y: f64,
}

impl Level0Point {
    /// To micrometres on the same canvas. `mpp` is that of level 0.
    pub fn to_um(self, mpp: Mpp) -> UmPoint {
        UmPoint { x: self.x * mpp.0, y: self.y * mpp.0 }
    }
}

/// A point in micrometres from the canvas origin of one section.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UmPoint {
    pub x: f64,
    pub y: f64,
}

impl UmPoint {
    /// To level-0 pixels of the slide whose level-0 resolution is `mpp`.
    pub fn to_level0(self, mpp: Mpp) -> Level0Point {
        Level0Point { x: self.x / mpp.0, y: self.y / mpp.0 }
    }

    /// To continuous, edge-based pixels of the slide resampled to `mpp`.
    pub fn to_pixels(self, mpp: Mpp) -> (f64, f64) {
        (self.x / mpp.0, self.y / mpp.0)
    }

    /// From continuous, edge-based pixels of the slide resampled to `mpp`.
    pub fn from_pixels(x: f64, y: f64, mpp: Mpp) -> Self {
        Self { x: x * mpp.0, y: y * mpp.0 }
    }
}

/// A whole-pixel rectangle at level 0, full canvas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level0Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Level0Rect {
    /// The top-left corner.
    pub fn origin(self) -> Level0Point {
        Level0Point { x: f64::from(self.x), y: f64::from(self.y) }
    }
}

/// A whole-pixel rectangle in one level, or in a slide resampled to some mpp. May reach beyond the slide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PixelRect {
    pub x: i64,
    pub y: i64,
    pub width: u32,
    pub height: u32,
}

/// One cell of the map grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    pub col: u32,
    pub row: u32,
}

/// An affine map between micrometre frames: `(a·x + b·y + c, d·x + e·y + f)`, stored `[[a, b, c], [d, e, f]]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Affine(pub [[f64; 3]; 2]);

impl Affine {
    pub const IDENTITY: Self = Self([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);

    /// Where `p` goes.
    pub fn apply(&self, p: UmPoint) -> UmPoint {
        let [[a, b, c], [d, e, f]] = self.0;
        UmPoint { x: a * p.x + b * p.y + c, y: d * p.x + e * p.y + f }
    }

    /// Determinant of the linear part: the area factor, negative for a mirrored section.
    pub fn determinant(&self) -> f64 {
        let [[a, b, _], [d, e, _]] = self.0;
        a * e - b * d
    }

    /// The inverse, or `None` where the linear part is singular.
    pub fn inverse(&self) -> Option<Self> {
        let [[a, b, c], [d, e, f]] = self.0;
        let det = self.determinant();
        if !det.is_finite() || det.abs() < 1e-12 {
            return None;
        }
        let (ia, ib, id, ie) = (e / det, -b / det, -d / det, a / det);
        Some(Self([[ia, ib, -(ia * c + ib * f)], [id, ie, -(id * c + ie * f)]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn affine_inverse_undoes(a in 0.5f64..2.0, b in -0.4f64..0.4, c in -1e4f64..1e4, d in -0.4f64..0.4, e in 0.5f64..2.0,
                                 f in -1e4f64..1e4, x in 0f64..1e5, y in 0f64..1e5) {
            let map = Affine([[a, b, c], [d, e, f]]);
            let back = map.inverse().expect("regular").apply(map.apply(UmPoint { x, y }));
            prop_assert!((back.x - x).abs() < 1e-6 && (back.y - y).abs() < 1e-6);
        }

        #[test]
        fn micrometres_and_pixels_round_trip(x in 0f64..1e6, y in 0f64..1e6, mpp in 0.05f64..50.0) {
            let mpp = Mpp::new(mpp).expect("plausible");
            let back = Level0Point { x, y }.to_um(mpp).to_level0(mpp);
            prop_assert!((back.x - x).abs() < 1e-6 && (back.y - y).abs() < 1e-6);
        }
    }

    #[test]
    fn implausible_mpp_is_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1000.0] {
            assert!(Mpp::new(bad).is_err(), "{bad}");
        }
        assert!(Mpp::new(28.969).is_ok());
    }
}
