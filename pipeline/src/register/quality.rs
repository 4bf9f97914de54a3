//! How far a registration can be trusted, in numbers. Nothing is judged here.

use serde::Serialize;

use super::affine::{AffineWarp, PixelAffine};
use super::coarse::Peak;
use super::ngf::Level;
use super::similarity::Similarity;

/// Two maps that move the corners of the fixed image apart by more than this share of its diagonal (root mean square)
/// are different answers. 15 % is a rotation by 17° or a shift by 15 % of the diagonal: three angle steps of the search
/// apart, so that neighbours of the true answer are not mistaken for rivals.
const DISTINCT_SHARE: f64 = 0.15;

/// Figures on one registration. Distances are NGF distances: 0 where all edges are parallel, 1 where none is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegistrationQuality {
    /// Share of the fixed image's area that the moving image covers.
    pub overlap_fraction: f64,
    /// Determinant of the linear part: the area factor, negative for a mirrored section.
    pub determinant: f64,
    /// NGF distance with the moving image laid over the fixed one as it came.
    pub ngf_before: f64,
    /// NGF distance at the map found, on the same level.
    pub ngf_after: f64,
    /// Normalised cross-correlation of the optical densities over the overlap, at the map found.
    pub ncc: f64,
    /// Best search score (at most 2) among the candidates that agree with the map found.
    pub search_score: f64,
    /// By how much that beats the best candidate with a clearly different angle or shift. Negative where refinement
    /// overruled the search; `None` where the search met no other answer.
    pub search_margin: Option<f64>,
}

/// Measures `map` on `level`; `peaks` are all candidates of the search, best first.
pub(crate) fn measure(map: PixelAffine, level: &Level, peaks: &[Peak], size: (usize, usize)) -> RegistrationQuality {
    let warp = |map| AffineWarp::on_level(map, level);
    let after = level.distance(&warp(map));
    let (agreeing, rival) = best_by_agreement(map, peaks, size);
    RegistrationQuality {
        overlap_fraction: after.valid_share,
        determinant: map.determinant(),
        ngf_before: level.distance(&warp(PixelAffine::IDENTITY)).value,
        ngf_after: after.value,
        ncc: Similarity::measure(level, &warp(map)).ncc,
        search_score: agreeing.unwrap_or(0.0),
        search_margin: rival.map(|rival| agreeing.unwrap_or(0.0) - rival),
    }
}

/// The best scores among the peaks that agree with `map` and among those that do not.
fn best_by_agreement(map: PixelAffine, peaks: &[Peak], (width, height): (usize, usize)) -> (Option<f64>, Option<f64>) {
    let limit = DISTINCT_SHARE * (width as f64).hypot(height as f64);
    let agrees = |peak: &&Peak| peak.map.corner_distance(&map, width, height) < limit;
    let best = |wanted: bool| peaks.iter().find(|peak| agrees(peak) == wanted).map(|peak| peak.score);
    (best(true), best(false))
}
