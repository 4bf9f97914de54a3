//! Golden patches, repeated on this machine.

use super::{Model, ModelError, Outputs};
use crate::contract::{CLUSTER_PROBS, LATENT, RECONSTRUCTION_ERROR};

/// How far the golden patches are from the trainer's outputs: largest differences, relative to the output's largest value
/// where that exceeds 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    /// Golden patches compared, each in the batch of all and alone.
    pub patches: usize,
    /// In `cluster_probs`.
    pub probs: f32,
    /// In `latent`.
    pub latent: f32,
    /// In `reconstruction_error`.
    pub reconstruction_error: f32,
    /// Patches whose most probable cluster is another one.
    pub labels_changed: usize,
    /// The largest difference that the model's precision allows.
    pub allowed: f32,
}

impl GoldenReport {
    /// Whether the machine computes what the trainer did.
    pub fn passes(&self) -> bool {
        self.labels_changed == 0
            && [self.probs, self.latent, self.reconstruction_error].iter().all(|&d| d <= self.allowed)
    }
}

impl std::fmt::Display for GoldenReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { patches, probs, latent, reconstruction_error, labels_changed, allowed } = self;
        write!(
            f,
            "largest difference {probs:.1e} in {CLUSTER_PROBS}, {latent:.1e} in {LATENT}, {reconstruction_error:.1e} in \
             {RECONSTRUCTION_ERROR} (allowed {allowed:.0e}), {labels_changed} of {patches} labels changed"
        )
    }
}

impl Model {
    /// Runs the golden patches, all in one batch and each alone, and compares with what the trainer computed.
    ///
    /// The single runs catch models whose answer for a patch depends on its neighbours in the batch.
    ///
    /// # Errors
    /// [`ModelError::GoldenMismatch`] with the figures, or whatever [`Model::run`] finds.
    pub fn verify_golden(&mut self) -> Result<GoldenReport, ModelError> {
        self.repeat_golden().map(|(report, _)| report)
    }

    /// As [`Model::verify_golden`]; also gives what each patch got alone.
    pub(super) fn repeat_golden(&mut self) -> Result<(GoldenReport, Outputs), ModelError> {
        let golden = self.contract.golden.clone();
        let batch = self.run(&golden.patches)?;
        let alone = self.run_alone(&golden.patches)?;
        let worst = |expected: &[f32], pick: fn(&Outputs) -> &[f32]| {
            difference(expected, pick(&batch)).max(difference(expected, pick(&alone)))
        };
        let labels = |probs: &[f32]| probs.chunks(self.contract.clusters.len()).map(most_probable).collect::<Vec<_>>();
        let (expected, in_batch, single) = (labels(&golden.probs), labels(&batch.probs), labels(&alone.probs));
        let report = GoldenReport {
            patches: golden.len(),
            probs: worst(&golden.probs, |outputs| &outputs.probs),
            latent: worst(&golden.latent, |outputs| &outputs.latent),
            reconstruction_error: worst(&golden.reconstruction_error, |outputs| &outputs.reconstruction_error),
            labels_changed: (0..golden.len())
                .filter(|&i| in_batch[i] != expected[i] || single[i] != expected[i])
                .count(),
            allowed: self.precision.golden_tolerance(),
        };
        if report.passes() {
            Ok((report, alone))
        } else {
            Err(ModelError::GoldenMismatch { path: self.path.clone(), report })
        }
    }

    /// Runs each patch in a batch of its own.
    pub(super) fn run_alone(&mut self, patches: &[u8]) -> Result<Outputs, ModelError> {
        let mut alone = Outputs::default();
        for patch in patches.chunks(self.contract.signature().tensor_len()) {
            let one = self.run(patch)?;
            alone.probs.extend(one.probs);
            alone.latent.extend(one.latent);
            alone.reconstruction_error.extend(one.reconstruction_error);
        }
        Ok(alone)
    }
}

/// Largest absolute difference, in units of the largest expected value where that exceeds 1.
pub(super) fn difference(expected: &[f32], found: &[f32]) -> f32 {
    let scale = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    expected.iter().zip(found).map(|(e, f)| (e - f).abs()).fold(0.0, f32::max) / scale
}

/// Index of the largest value; the first of equals.
pub(super) fn most_probable(row: &[f32]) -> usize {
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best }).unwrap_or_default()
}
