//! Ablation: the method with one augmentation switched on or off.

use crate::config::AugmentConfig;

/// Probability of `neighbours` if it is switched on.
const NEIGHBOURS: f64 = 0.3;

/// An augmentation that `[augment]` can switch on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Augmentation {
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
    /// Views of neighbouring patches.
    Neighbours,
    /// All of them: views do not differ.
    All,
}

impl Augmentation {
    /// `augment` with this augmentation switched: off if it is on, otherwise on with its default amount (neighbours: 0.3). `All` is always
    /// off. The second value is the name of the variant.
    pub(super) fn toggled(self, augment: &AugmentConfig) -> (AugmentConfig, &'static str) {
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

/// No augmentation.
pub(super) const NONE: AugmentConfig =
    AugmentConfig { rotations: false, flips: false, shift_px: 0, stain_jitter: 0.0, hue_jitter: 0.0, neighbours: 0.0 };
