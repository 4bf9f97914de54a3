//! How far a rounded model is from float32, on patches that no loss saw.

use tch::{Tensor, no_grad};
use tissuemap::contract::Precision;
use tissuemap::infer::Model;

use crate::data::patches::Patches;
use crate::system::error::TrainError;
use crate::system::precision::PrecisionAgreement;
use crate::system::tensors::to_vec;

/// More tell no more: the share of equal labels is then known to within 0.5 %.
const MAX_PATCHES: usize = 2000;
/// Patches per call of ONNX Runtime.
const BATCH: usize = 64;

impl PrecisionAgreement {
    /// Runs `model` on ONNX Runtime over `patches`, or evenly chosen ones of them, and compares with what float32 gives on
    /// libtorch (log-probabilities `[N, K]` of all patches).
    pub(super) fn measure(model: &mut Model, patches: &Patches, log_probs: &Tensor) -> Result<Self, TrainError> {
        let every = (patches.count() as usize).div_ceil(MAX_PATCHES).max(1);
        let chosen: Vec<i64> = (0..patches.count()).step_by(every).collect();
        let expected = no_grad(|| log_probs.index_select(0, &Tensor::from_slice(&chosen)).exp());
        let mut found = Vec::new();
        for batch in chosen.chunks(BATCH) {
            found.extend(model.run(&Vec::<u8>::try_from(patches.gather(batch)?.reshape([-1]))?)?.probs);
        }
        Ok(Self::of(&to_vec(&expected)?, &found, chosen.len()))
    }

    /// From probabilities `[patches, K]`, row-major.
    fn of(expected: &[f32], found: &[f32], patches: usize) -> Self {
        let clusters = expected.len() / patches.max(1);
        let label = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        let rows = expected.chunks(clusters).zip(found.chunks(clusters));
        let same = rows.filter(|(a, b)| label(a) == label(b)).count();
        let differences = || expected.iter().zip(found).map(|(a, b)| f64::from((a - b).abs()));
        Self {
            patches,
            labels: same as f64 / patches as f64,
            largest: differences().fold(0.0, f64::max),
            mean: differences().sum::<f64>() / expected.len() as f64,
        }
    }

    /// Whether a model of `precision` may be this far off.
    pub(super) fn check(self, precision: Precision) -> Result<(), TrainError> {
        let least = min_equal_labels(precision);
        if self.labels < least { Err(TrainError::Rounded { precision, agreement: self, least }) } else { Ok(()) }
    }

    pub(super) fn as_json(self) -> serde_json::Value {
        let Self { patches, labels, largest, mean } = self;
        serde_json::json!({
            "patches": patches, "same_cluster": labels, "largest_difference": largest, "mean_difference": mean,
        })
    }
}

/// Patches that lie between two clusters change sides in any precision; more than these would be seen on a map.
fn min_equal_labels(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 1.0,
        Precision::Fp16 => 0.98,
        Precision::Int8 => 0.95,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_rows() {
        let found = PrecisionAgreement::of(&[0.75, 0.25, 0.0, 1.0], &[0.25, 0.75, 0.0, 1.0], 2);
        assert_eq!(found, PrecisionAgreement { patches: 2, labels: 0.5, largest: 0.5, mean: 0.25 });
    }

    #[test]
    fn too_few_equal_labels_are_refused_with_figures_and_a_hint() {
        let poor = PrecisionAgreement { patches: 400, labels: 0.9475, largest: 0.5, mean: 0.01 };
        let error = poor.check(Precision::Int8).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("94.75 % of 400") && text.contains("at least 95 %") && text.contains("int8"), "{text}");
        assert!(error.hint().is_some());
        assert!(PrecisionAgreement { labels: 0.95, ..poor }.check(Precision::Int8).is_ok());
        assert!(PrecisionAgreement { labels: 0.95, ..poor }.check(Precision::Fp16).is_err());
    }
}
