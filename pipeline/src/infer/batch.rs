//! How many patches to give at once: measured, because it depends on the machine as much as on the model.

use std::time::{Duration, Instant};

use super::golden::{difference, most_probable};
use super::providers::LARGEST_BATCH;
use super::{GoldenReport, Model, ModelError, Outputs};

/// What is used where nothing was measured.
pub(super) const UNMEASURED: usize = 64;

/// How long measuring may take, give or take the size that is being tried: the daemon is not ready before.
const BUDGET: Duration = Duration::from_secs(2);

/// A larger batch must be faster by this factor: below, it costs memory and brings nothing that is not noise.
const WORTH_IT: f64 = 1.05;

/// The input of a batch takes no more memory than this, whatever its patches are.
const MOST_BYTES: usize = 512 << 20;

/// Patches that are no golden ones, among these in every batch that is compared. With copies of one golden patch alone, a
/// mean over the batch would change nothing.
const VARIANTS: usize = 8;

/// Patches, and what each gets in a batch of its own: what it must get in any batch.
pub(super) struct Alone {
    patches: Vec<u8>,
    outputs: Outputs,
}

/// Whether a batch size that was kept can be one that was measured.
pub(super) fn is_size(size: usize) -> bool {
    (1..=LARGEST_BATCH).contains(&size)
}

impl Model {
    /// Patches per call that are best on this machine as far as is known.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The golden patches, of which `outputs` tells what each got alone, and variants of them.
    pub(super) fn alone(&mut self, mut outputs: Outputs) -> Result<Alone, ModelError> {
        let mut patches = self.contract.golden.patches.clone();
        // Inverted tissue: different from every golden patch, and no operator takes a shortcut on it.
        let length = self.contract.signature().tensor_len();
        let most = VARIANTS.min((MOST_BYTES / 8 / length).max(1)).min(self.contract.golden.len());
        let variants: Vec<u8> = patches[..most * length].iter().map(|value| 255 - value).collect();
        let theirs = self.run_alone(&variants)?;
        patches.extend(variants);
        outputs.probs.extend(theirs.probs);
        outputs.latent.extend(theirs.latent);
        outputs.reconstruction_error.extend(theirs.reconstruction_error);
        Ok(Alone { patches, outputs })
    }

    /// Uses this many patches per call, compares such a batch with patches alone, and warms up: the first call of a size is
    /// slow, on a GPU by seconds.
    ///
    /// # Errors
    /// [`ModelError::BatchDependent`], or as [`Model::run`].
    pub(super) fn set_batch(&mut self, batch: usize, alone: &Alone) -> Result<(), ModelError> {
        self.batch = batch.clamp(1, self.largest());
        let outputs = self.run(&self.sample(self.batch, alone))?;
        self.compare(self.batch, &outputs, alone)
    }

    /// Runs patches in batches of 8 to 128, compares each with patches alone, keeps the size that took the least time per
    /// patch and gives what was measured: patches per call, and patches per second. The search ends before 128 where two
    /// seconds are over (a machine that slow gains nothing from larger batches) or a size does not fit into memory.
    ///
    /// # Errors
    /// [`ModelError::BatchDependent`], or not even eight patches can be run.
    pub(super) fn measure_batch(&mut self, alone: &Alone) -> Result<Vec<(usize, f64)>, ModelError> {
        let begun = Instant::now();
        let mut measured = Vec::new();
        let largest = self.largest();
        for size in std::iter::successors(Some(8), |size| Some(size * 2)).take_while(|&size| size <= largest) {
            match self.throughput(size, alone) {
                Ok(speed) => measured.push((size, speed)),
                // Only what ONNX Runtime refuses may be for want of memory; any other fault is the model's.
                Err(ModelError::Run { reason, .. }) if !measured.is_empty() => {
                    tracing::warn!(batch = size, reason, "Batch does not fit");
                    break;
                }
                Err(error) => return Err(error),
            }
            if begun.elapsed() > BUDGET {
                break;
            }
        }
        self.batch = best(&measured);
        Ok(measured)
    }

    fn largest(&self) -> usize {
        LARGEST_BATCH.min((MOST_BYTES / self.contract.signature().tensor_len()).max(8))
    }

    /// Patches per second at this batch size: the best of three runs after one that warms up, or that one where it takes
    /// long: then little of it is warming up.
    fn throughput(&mut self, size: usize, alone: &Alone) -> Result<f64, ModelError> {
        let patches = self.sample(size, alone);
        let mut timed = || -> Result<(Duration, Outputs), ModelError> {
            let begun = Instant::now();
            self.run(&patches).map(|outputs| (begun.elapsed(), outputs))
        };
        let (mut fastest, outputs) = timed()?;
        if fastest < BUDGET / 4 {
            for _ in 0..3 {
                fastest = timed()?.0.min(fastest);
            }
        }
        self.compare(size, &outputs, alone)?;
        Ok(size as f64 / fastest.as_secs_f64().max(f64::EPSILON))
    }

    /// The patches over and over.
    fn sample(&self, size: usize, alone: &Alone) -> Vec<u8> {
        alone.patches.iter().copied().cycle().take(size * self.contract.signature().tensor_len()).collect()
    }

    /// Whether patches got in a batch what they get alone, within what the model's precision allows.
    fn compare(&self, batch: usize, found: &Outputs, alone: &Alone) -> Result<(), ModelError> {
        let expected = |pick: fn(&Outputs) -> &Vec<f32>| -> Vec<f32> {
            pick(&alone.outputs).iter().copied().cycle().take(pick(found).len()).collect()
        };
        let allowed = self.precision.golden_tolerance();
        let probs = expected(|outputs| &outputs.probs);
        // Where two clusters are as probable alone, any difference decides.
        let clear = |row: &[f32]| {
            let most = row[most_probable(row)];
            row.iter().filter(|&&p| p >= most - 2.0 * allowed).count() == 1
        };
        let rows =
            |values: &'_ [f32]| values.chunks(self.contract.clusters.len()).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let labels_changed = rows(&probs)
            .iter()
            .zip(rows(&found.probs))
            .filter(|(alone, found)| clear(alone) && most_probable(alone) != most_probable(found))
            .count();
        let report = GoldenReport {
            patches: batch,
            probs: difference(&probs, &found.probs),
            latent: difference(&expected(|outputs| &outputs.latent), &found.latent),
            reconstruction_error: difference(
                &expected(|outputs| &outputs.reconstruction_error),
                &found.reconstruction_error,
            ),
            labels_changed,
            allowed,
        };
        if report.passes() {
            Ok(())
        } else {
            Err(ModelError::BatchDependent { path: self.path.clone(), batch, report })
        }
    }
}

/// The smallest size that no larger one beats by [`WORTH_IT`].
fn best(measured: &[(usize, f64)]) -> usize {
    let mut best = measured.first().copied().unwrap_or((UNMEASURED, 0.0));
    for &(size, speed) in measured {
        if speed > best.1 * WORTH_IT {
            best = (size, speed);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_batch_is_taken_only_where_it_is_worth_it() {
        assert_eq!(best(&[(8, 100.0), (16, 102.0), (32, 104.0)]), 8);
        assert_eq!(best(&[(8, 100.0), (16, 150.0), (32, 155.0), (64, 140.0)]), 16);
        assert_eq!(best(&[(8, 100.0), (16, 150.0), (32, 220.0), (64, 400.0)]), 64);
        assert_eq!(best(&[]), UNMEASURED);
    }
}
