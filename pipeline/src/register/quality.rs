//! How far a registration can be trusted, in numbers; `verdict` judges them.

use serde::{Deserialize, Serialize};

use super::affine::{AffineWarp, PixelAffine};
use super::coarse::Peak;
use super::consensus::Consensus;
use super::ngf::{Level, Warp};
use super::nonrigid::GridWarp;
use super::similarity::Similarity;
use super::verdict::{Verdict, judge};
use crate::deformation::Deformation;
use crate::units::Mpp;

/// Two maps that move the corners of the fixed image apart by more than this share of its diagonal (root mean square)
/// are different answers. 15 % is a rotation by 17° or a shift by 15 % of the diagonal: three angle steps of the search
/// apart, so that neighbours of the true answer are not mistaken for rivals.
const DISTINCT_SHARE: f64 = 0.15;
/// The estimates share what misleads them all, so their mean errs by more than they differ: by 1.3 times on sections that
/// are truly the same, by 2.5 to 21 times (median 4.4) on neighbouring ones, landmarks' own errors included.
pub(crate) const ERROR_PER_SPREAD: f64 = 3.0;
/// Density (1 is the densest tissue) that glass does not reach once noise is blurred away.
pub(super) const TISSUE_DENSITY: f64 = 0.05;
/// Blur before tissue is told from glass, in level pixels: lumina of glands are part of the tissue they lie in.
pub(super) const TISSUE_SIGMA_PX: f32 = 4.0;

/// Figures on one registration. NGF distances are 0 where all edges are parallel, 1 where none is. "On tissue" means
/// weighted by the fixed section's optical density.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistrationQuality {
    /// Whether the map may be used.
    pub verdict: Verdict,
    /// Why the verdict is not better, in plain words; empty when it is good.
    pub reasons: Vec<String>,
    /// Estimated distance of the map from the truth in micrometres: median and 90th percentile on tissue.
    pub estimated_error_um: f64,
    pub estimated_error_p90_um: f64,
    /// Distance in micrometres between the direct way to this section and the way by another stain's section: median
    /// on tissue. `None` where no other stain was there to ask.
    pub cycle_error_um: Option<f64>,
    /// Share of the fixed image's area that the moving image covers.
    pub overlap_fraction: f64,
    /// Share of the fixed section's tissue that lies on tissue of the moving one.
    pub tissue_overlap_fraction: f64,
    /// Determinant of the affine part: the area factor, negative for a mirrored section.
    pub determinant: f64,
    /// Smallest and largest local area factor on tissue; at or below 0 the map folds.
    pub jacobian_min: f64,
    pub jacobian_max: f64,
    /// NGF distance with the moving image laid over the fixed one as it came.
    pub ngf_before: f64,
    /// NGF distance of the affine map, on the same level.
    pub ngf_affine: f64,
    /// NGF distance of the map found, on the same level.
    pub ngf_after: f64,
    /// Normalised cross-correlation of the optical densities over the overlap, at the map found.
    pub ncc: f64,
    /// Normalised correlation of the edges' directions over the overlap, at the map found.
    pub edge_correlation: f64,
    /// Best search score (at most 2) among the candidates that agree with the map found.
    pub search_score: f64,
    /// By how much that beats the best candidate with a clearly different angle or shift. Negative where refinement
    /// overruled the search; `None` where the search met no other answer.
    pub search_margin: Option<f64>,
}

/// Measures the map on `level`; `peaks` are all candidates of the search, best first.
pub(crate) fn measure(
    consensus: &Consensus,
    affine: PixelAffine,
    level: &Level,
    peaks: &[Peak],
    mpp: Mpp,
) -> RegistrationQuality {
    let map = &consensus.map;
    let size = (level.fixed.width * level.factor, level.fixed.height * level.factor);
    let warp = GridWarp::on_level(map, level);
    let after = level.distance(&warp);
    let similarity = Similarity::measure(level, &warp);
    let (agreeing, rival) = best_by_agreement(affine, peaks, size);
    let tissue = tissue_at_nodes(level, map);
    let [median, p90] =
        [0.5, 0.9].map(|share| ERROR_PER_SPREAD * weighted_quantile(&consensus.spread, &tissue, share) * mpp.get());
    let (jacobian_min, jacobian_max) = map.jacobian_range(|node| tissue[node] >= TISSUE_DENSITY);
    let mut quality = RegistrationQuality {
        verdict: Verdict::Good,
        reasons: Vec::new(),
        estimated_error_um: median,
        estimated_error_p90_um: p90,
        cycle_error_um: None,
        overlap_fraction: after.valid_share,
        tissue_overlap_fraction: tissue_overlap(level, &warp),
        determinant: affine.determinant(),
        jacobian_min,
        jacobian_max,
        ngf_before: level.distance(&AffineWarp::on_level(PixelAffine::IDENTITY, level)).value,
        ngf_affine: level.distance(&AffineWarp::on_level(affine, level)).value,
        ngf_after: after.value,
        ncc: similarity.ncc,
        edge_correlation: similarity.edges,
        search_score: agreeing.unwrap_or(0.0),
        search_margin: rival.map(|rival| agreeing.unwrap_or(0.0) - rival),
    };
    let diagonal_um = (size.0 as f64).hypot(size.1 as f64) * mpp.get();
    (quality.verdict, quality.reasons) = judge(&quality, diagonal_um);
    quality
}

impl RegistrationQuality {
    /// Adds what the comparison with another stain says, and judges anew.
    pub(super) fn set_cycle_error(&mut self, error_um: f64, fixed_diagonal_um: f64) {
        self.cycle_error_um = Some(error_um);
        (self.verdict, self.reasons) = judge(self, fixed_diagonal_um);
    }
}

/// Optical density of the fixed image around each node of the map's field.
fn tissue_at_nodes(level: &Level, map: &Deformation) -> Vec<f64> {
    let Some(field) = &map.field else { return Vec::new() };
    let factor = level.factor as f64;
    let smooth = level.fixed.gaussian((0.5 * field.spacing / factor) as f32);
    (0..field.nodes.len())
        .map(|i| {
            let [x, y] = field.position(i).map(|v| ((v + 0.5) / factor - 0.5) as f32);
            f64::from(smooth.sample(x, y).value)
        })
        .collect()
}

/// Share of the fixed tissue that `warp` lays on tissue.
fn tissue_overlap(level: &Level, warp: &GridWarp) -> f64 {
    let [fixed, moving] = [&level.fixed, &level.moving].map(|image| image.gaussian(TISSUE_SIGMA_PX));
    let (mut xs, mut ys) = (vec![0.0; fixed.width], vec![0.0; fixed.width]);
    let (mut tissue, mut covered) = (0u32, 0u32);
    for y in 0..fixed.height {
        warp.positions(y, &mut xs, &mut ys);
        for (density, (x, y)) in fixed.row(y).iter().zip(xs.iter().zip(&ys)) {
            if f64::from(*density) >= TISSUE_DENSITY {
                tissue += 1;
                let sample = moving.sample(*x, *y);
                covered += u32::from(sample.inside && f64::from(sample.value) >= TISSUE_DENSITY);
            }
        }
    }
    if tissue == 0 { 0.0 } else { f64::from(covered) / f64::from(tissue) }
}

/// The value below which `share` of the weight lies; NaN without weight.
fn weighted_quantile(values: &[f64], weights: &[f64], share: f64) -> f64 {
    let mut pairs: Vec<(f64, f64)> = values.iter().copied().zip(weights.iter().copied()).collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = weights.iter().sum();
    let mut seen = 0.0;
    let reached = pairs.iter().find(|(_, weight)| {
        seen += weight;
        seen >= share * total
    });
    reached.map_or(f64::NAN, |(value, _)| *value)
}

/// The best scores among the peaks that agree with `map` and among those that do not.
fn best_by_agreement(map: PixelAffine, peaks: &[Peak], (width, height): (usize, usize)) -> (Option<f64>, Option<f64>) {
    let limit = DISTINCT_SHARE * (width as f64).hypot(height as f64);
    let agrees = |peak: &&Peak| peak.map.corner_distance(&map, width, height) < limit;
    let best = |wanted: bool| peaks.iter().find(|peak| agrees(peak) == wanted).map(|peak| peak.score);
    (best(true), best(false))
}
