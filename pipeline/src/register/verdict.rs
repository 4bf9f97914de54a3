//! Whether a map may be used: figures become a verdict with its reasons.
//!
//! The thresholds come from a table of 40 pairs that do not belong together or were ruined and 58 good ones, real
//! sections and known deformations (`xtask measure-registration` prints it). Wrong answers fail in two independent ways:
//! the search finds other places that fit about as well, and after refinement the edges do not run in parallel. A map is
//! refused where both say so, marked for review where one does.

use serde::{Deserialize, Serialize};

use super::quality::RegistrationQuality;

/// Refused where both are below: wrong pairs reach a margin of 0.057 and a correlation of 0.027.
const REFUSED_MARGIN: f64 = 0.06;
const REFUSED_EDGES: f64 = 0.03;
/// Reviewed below one of these: good pairs have at least 0.146 and 0.035.
const SAFE_MARGIN: f64 = 0.12;
const SAFE_EDGES: f64 = 0.03;
/// A local area factor at or below this is a fold or a collapse; the lowest on good pairs is 0.5.
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
    if margin < REFUSED_MARGIN && edges < REFUSED_EDGES {
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
