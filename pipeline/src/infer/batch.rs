//! How many patches to give at once: measured, because it depends on the machine as much as on the model.

use std::time::{Duration, Instant};

use super::providers::LARGEST_BATCH;
use super::{Model, ModelError};

/// What is used where nothing was measured.
pub(super) const UNMEASURED: usize = 64;

/// How long measuring may take, give or take the size that is being tried: the daemon is not ready before.
const BUDGET: Duration = Duration::from_secs(2);

/// A larger batch must be faster by this factor: below, it costs memory and brings nothing that is not noise.
const WORTH_IT: f64 = 1.05;

impl Model {
    /// Patches per call that are best on this machine as far as is known.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Uses this many patches per call, and warms up: the first call of a size is slow, on a GPU by seconds.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn set_batch(&mut self, batch: usize) -> Result<(), ModelError> {
        self.batch = batch.clamp(1, LARGEST_BATCH);
        self.run(&self.sample(self.batch)).map(drop)
    }

    /// Runs the golden patches, repeated, in batches of 8 to 128, keeps the size that took the least time per patch and
    /// gives what was measured: patches per call, and patches per second. The search ends before 128 where two seconds are
    /// over (a machine that slow gains nothing from larger batches) or a size does not fit into memory.
    ///
    /// # Errors
    /// Not even eight patches can be run.
    pub fn measure_batch(&mut self) -> Result<Vec<(usize, f64)>, ModelError> {
        let begun = Instant::now();
        let mut measured = Vec::new();
        for size in std::iter::successors(Some(8), |size| Some(size * 2)).take_while(|&size| size <= LARGEST_BATCH) {
            match self.throughput(size) {
                Ok(speed) => measured.push((size, speed)),
                Err(error) if measured.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(batch = size, reason = %error, "Batch does not fit");
                    break;
                }
            }
            if begun.elapsed() > BUDGET {
                break;
            }
        }
        self.batch = best(&measured);
        Ok(measured)
    }

    /// Patches per second at this batch size: the best of three runs after one that warms up, or that one where it takes
    /// long: then little of it is warming up.
    fn throughput(&mut self, size: usize) -> Result<f64, ModelError> {
        let patches = self.sample(size);
        let mut timed = || -> Result<Duration, ModelError> {
            let begun = Instant::now();
            self.run(&patches).map(|_| begun.elapsed())
        };
        let mut fastest = timed()?;
        if fastest < BUDGET / 4 {
            fastest = timed()?.min(timed()?).min(timed()?);
        }
        Ok(size as f64 / fastest.as_secs_f64().max(f64::EPSILON))
    }

    /// The golden patches over and over: real tissue, so that no operator takes a shortcut.
    fn sample(&self, size: usize) -> Vec<u8> {
        let golden = &self.contract.golden.patches;
        golden.iter().copied().cycle().take(size * self.contract.signature().tensor_len()).collect()
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
