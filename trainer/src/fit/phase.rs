//! The phases of a fit and their settings.

use crate::config::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Autoencoder,
    Clusterer,
    Joint,
}

pub(super) const SCHEDULE: [Phase; 3] = [Phase::Autoencoder, Phase::Clusterer, Phase::Joint];

pub(super) struct PhaseSettings {
    pub(super) epochs: u32,
    pub(super) batch: usize,
    pub(super) learning_rate: f64,
    /// Prefix of the names of the trained variables.
    pub(super) prefix: &'static str,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Autoencoder => "autoencoder",
            Self::Clusterer => "clusterer",
            Self::Joint => "joint",
        }
    }

    pub(super) fn settings(self, config: &Config) -> PhaseSettings {
        let (a, c, j) = (&config.autoencoder, &config.imsat, &config.joint);
        let (epochs, batch, learning_rate, prefix) = match self {
            Self::Autoencoder => (a.epochs, a.batch, a.learning_rate, "autoencoder."),
            Self::Clusterer => (c.epochs, c.batch, c.learning_rate, "clusterer."),
            Self::Joint => (j.epochs, j.batch, j.learning_rate, ""),
        };
        PhaseSettings { epochs, batch: batch as usize, learning_rate, prefix }
    }
}
