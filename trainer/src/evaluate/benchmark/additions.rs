//! What each of the tissue additions contributes: the method with one of them the other way round.

use crate::config::AugmentConfig;

/// Probability of `neighbours` where it is put in.
const NEIGHBOURS: f64 = 0.3;

/// What makes two views of one tissue differ, as `[augment]` switches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Addition {
    /// Quarter turns.
    Rotations,
    /// Mirror images.
    Flips,
    /// Shifts by a few pixels.
    Shift,
    /// A factor on each stain's optical density.
    StainJitter,
    /// A factor on each stain's colours.
    HueJitter,
    /// Views from right beside.
    Neighbours,
    /// Every one of them: views that do not differ at all.
    All,
}

impl Addition {
    /// `augment` with this addition off where it is on, and on, as much as the defaults' (neighbours: 0.3), where it is off;
    /// `All` goes off. Then the name of that.
    pub(super) fn switched(self, augment: &AugmentConfig) -> (AugmentConfig, &'static str) {
        let usual = AugmentConfig::default();
        let mut other = augment.clone();
        let amount = |now: f64, usual: f64| if now > 0.0 { 0.0 } else { usual };
        let (on, without, with) = match self {
            Self::Rotations => {
                other.rotations = !augment.rotations;
                (other.rotations, "without rotations", "with rotations")
            }
            Self::Flips => {
                other.flips = !augment.flips;
                (other.flips, "without flips", "with flips")
            }
            Self::Shift => {
                other.shift_px = if augment.shift_px > 0 { 0 } else { usual.shift_px };
                (other.shift_px > 0, "without shift", "with shift")
            }
            Self::StainJitter => {
                other.stain_jitter = amount(augment.stain_jitter, usual.stain_jitter);
                (other.stain_jitter > 0.0, "without stain jitter", "with stain jitter")
            }
            Self::HueJitter => {
                other.hue_jitter = amount(augment.hue_jitter, usual.hue_jitter);
                (other.hue_jitter > 0.0, "without hue jitter", "with hue jitter")
            }
            Self::Neighbours => {
                other.neighbours = amount(augment.neighbours, NEIGHBOURS);
                (other.neighbours > 0.0, "without neighbours", "with neighbours")
            }
            Self::All => return (NONE, "without any"),
        };
        (other, if on { with } else { without })
    }
}

/// Each patch by itself.
pub(super) const NONE: AugmentConfig =
    AugmentConfig { rotations: false, flips: false, shift_px: 0, stain_jitter: 0.0, hue_jitter: 0.0, neighbours: 0.0 };
