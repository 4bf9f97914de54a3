//! Whether a map may be used: figures become a verdict with its reasons.
//!
//! The thresholds come from a table of 40 pairs that do not belong together or were ruined and 58 good ones, real
//! sections and known deformations (`xtask measure-registration` prints it). Wrong answers fail in two independent ways:
//! the search finds other places that fit about as well, and after refinement the edges do not run in parallel. A map is
//! refused where both say so, marked for review where one does.

use serde::{Deserialize, Serialize};

use super::quality::RegistrationQuality;

/// No place stands out: refused whatever else is found. Pieces of the right tissue in the wrong order agree in places.
const NO_MARGIN: f64 = 0.03;
/// Refused where both are below: wrong pairs reach a margin of 0.057; the one with a correlation above, 0.039, has a
/// margin below 0.
const REFUSED_MARGIN: f64 = 0.06;
const REFUSED_EDGES: f64 = 0.03;
/// Reviewed below one of these: good pairs have at least 0.146 and 0.034.
const SAFE_MARGIN: f64 = 0.12;
const SAFE_EDGES: f64 = 0.03;
/// A local area factor at or below this is a fold or a collapse; the lowest on good pairs is 0.67.
const REFUSED_JACOBIAN: f64 = 0.0;
const SAFE_JACOBIAN: f64 = 0.3;
/// Less of the fixed tissue finds its counterpart. Cropped and shifted sections that belong together keep 0.74.
const REFUSED_TISSUE: f64 = 0.2;
const SAFE_TISSUE: f64 = 0.7;
/// Expected error as a share of the fixed image's diagonal: a section set is called misregistered from 2 % on.
const REFUSED_ERROR: f64 = 0.05;
const SAFE_ERROR: f64 = 0.02;

/// Whether a map may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing speaks against it.
    Good,
    /// Used, but a person should look at it.
    Review,
    /// Not to be used.
    Refused,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Review => "review",
            Self::Refused => "refused",
        })
    }
}

/// The verdict on a map between sections whose fixed one has this diagonal, and why it is not better.
pub(crate) fn judge(quality: &RegistrationQuality, diagonal_um: f64) -> (Verdict, Vec<String>) {
    let mut findings = Vec::new();
    let mut find = |verdict: Verdict, reason: String| findings.push((verdict, reason));
    let margin = quality.search_margin.unwrap_or(f64::INFINITY);
    let edges = quality.edge_correlation;
    if margin < NO_MARGIN || (margin < REFUSED_MARGIN && edges < REFUSED_EDGES) {
        find(
            Verdict::Refused,
            format!(
                "the sections do not seem to show the same tissue (search margin {margin:.3}, edge correlation {edges:.3})"
            ),
        );
    } else if margin < SAFE_MARGIN {
        find(Verdict::Review, format!("another position fits nearly as well (search margin {margin:.3})"));
    } else if edges < SAFE_EDGES {
        find(Verdict::Review, format!("the edges of the sections hardly run in parallel (correlation {edges:.3})"));
    }
    let mut below = |value: f64, refused: f64, safe: f64, reason: String| {
        if value <= refused || value.is_nan() {
            find(Verdict::Refused, reason);
        } else if value < safe {
            find(Verdict::Review, reason);
        }
    };
    let tissue = quality.tissue_overlap_fraction;
    below(
        tissue,
        REFUSED_TISSUE,
        SAFE_TISSUE,
        format!("only {:.0} % of the tissue has a counterpart on the other section", tissue * 100.0),
    );
    let jacobian = quality.jacobian_min;
    below(
        jacobian,
        REFUSED_JACOBIAN,
        SAFE_JACOBIAN,
        format!("the map shrinks some tissue to {jacobian:.2} of its area; at 0 it folds"),
    );
    for (name, error) in [("expected error", Some(quality.estimated_error_um)), ("cycle error", quality.cycle_error_um)]
    {
        let Some(error) = error else { continue };
        let share = error / diagonal_um;
        // Negated, so that the larger is the worse.
        below(
            -share,
            -REFUSED_ERROR,
            -SAFE_ERROR,
            format!("{name} of {error:.0} µm, {:.1} % of the section's diagonal", share * 100.0),
        );
    }
    let worst = findings.iter().map(|(verdict, _)| *verdict).max().unwrap_or(Verdict::Good);
    (worst, findings.into_iter().map(|(_, reason)| reason).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of a registration that nothing speaks against.
    fn good() -> RegistrationQuality {
        RegistrationQuality {
            verdict: Verdict::Good,
            reasons: Vec::new(),
            estimated_error_um: 10.0,
            estimated_error_p90_um: 60.0,
            cycle_error_um: Some(10.0),
            overlap_fraction: 0.95,
            tissue_overlap_fraction: 0.9,
            determinant: 1.0,
            jacobian_min: 0.8,
            jacobian_max: 1.2,
            ngf_before: 0.8,
            ngf_affine: 0.7,
            ngf_after: 0.6,
            ncc: 0.8,
            edge_correlation: 0.2,
            search_score: 0.9,
            search_margin: Some(0.4),
        }
    }

    #[test]
    fn figures_become_verdicts() {
        use Verdict::{Good, Refused, Review};
        type Change = fn(&mut RegistrationQuality);
        let table: [(&str, Verdict, Change); 17] = [
            ("", Good, |_| {}),
            ("", Good, |q| q.search_margin = None),
            ("", Good, |q| q.cycle_error_um = None),
            ("another position", Review, |q| q.search_margin = Some(0.1)),
            ("same tissue", Refused, |q| q.search_margin = Some(0.02)),
            ("hardly run in parallel", Review, |q| q.edge_correlation = 0.02),
            ("hardly run in parallel", Review, |q| (q.edge_correlation, q.search_margin) = (0.02, None)),
            ("same tissue", Refused, |q| (q.edge_correlation, q.search_margin) = (0.02, Some(0.05))),
            ("only 50 % of the tissue", Review, |q| q.tissue_overlap_fraction = 0.5),
            ("only 10 % of the tissue", Refused, |q| q.tissue_overlap_fraction = 0.1),
            ("0.20 of its area", Review, |q| q.jacobian_min = 0.2),
            ("-0.10 of its area", Refused, |q| q.jacobian_min = -0.1),
            ("expected error of 30 µm, 3.0 %", Review, |q| q.estimated_error_um = 30.0),
            ("expected error of 60 µm, 6.0 %", Refused, |q| q.estimated_error_um = 60.0),
            ("expected error of NaN", Refused, |q| q.estimated_error_um = f64::NAN),
            ("cycle error of 30 µm", Review, |q| q.cycle_error_um = Some(30.0)),
            ("cycle error of inf", Refused, |q| q.cycle_error_um = Some(f64::INFINITY)),
        ];
        for (reason, expected, change) in table {
            let mut quality = good();
            change(&mut quality);
            let (verdict, reasons) = judge(&quality, 1000.0);
            assert_eq!(verdict, expected, "{reason:?}: {reasons:?}");
            assert_eq!(reasons.is_empty(), verdict == Good, "{reasons:?}");
            assert!(reason.is_empty() || reasons.iter().any(|r| r.contains(reason)), "{reason:?} not in {reasons:?}");
        }
    }

    #[test]
    fn the_worst_finding_decides_and_all_are_told() {
        let quality = RegistrationQuality { jacobian_min: -1.0, search_margin: Some(0.1), ..good() };
        let (verdict, reasons) = judge(&quality, 5000.0);
        assert_eq!((verdict, reasons.len()), (Verdict::Refused, 2), "{reasons:?}");
    }
}
