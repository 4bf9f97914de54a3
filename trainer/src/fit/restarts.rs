//! Which of several fresh clusterers goes on.
//!
//! IMSAT's loss has many minima, and in which of them a clusterer ends hangs on the weights that it starts from. The loss tells
//! good ends from poor ones and tells so early (docs/ARCHITECTURE.md has the figures). So several start out, as is usual for
//! k-means, and the one with the lowest loss goes on.

use rand::RngExt;
use tch::Tensor;
use tch::nn::VarStore;

use super::latents::Latents;
use super::networks::new_clusterer;
use super::phase::{Phase, Plan, SCHEDULE};
use super::training::{Run, stream};
use crate::model::adam::Adam;
use crate::system::error::TrainError;
use crate::system::progress;

/// A start runs for this part of the phase's epochs; its loss is the mean over this part of those, the last ones.
const PART: u32 = 5;
/// Streams of random numbers of the starts come after those of the phases.
const FIRST_STREAM: usize = SCHEDULE.len();

type Weights = Vec<(String, Tensor)>;

impl Run<'_> {
    /// Leaves the clusterer as the best of `imsat.starts` left it, going on after those whose losses are known already;
    /// false when interrupted, the best so far then being in its place.
    pub(super) fn choose_start(&mut self, latents: &Latents) -> Result<bool, TrainError> {
        let starts = self.config.imsat.starts;
        if starts < 2 {
            return Ok(true);
        }
        let bar = progress::bar(u64::from(starts));
        bar.set_prefix("starts");
        for start in self.start_losses.len()..starts as usize {
            bar.set_position(start as u64);
            let best = self.copied();
            let loss = self.start(start, latents)?;
            // An interrupted start has no loss, and one that is no number is not below anything.
            if !loss.is_some_and(|loss| loss < self.lowest_loss()) {
                self.place(&best)?;
            }
            let Some(loss) = loss else { return Ok(false) };
            self.start_losses.push(loss);
        }
        bar.finish_and_clear();
        let highest = self.start_losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        tracing::info!(
            "clusterer: the best of {starts} starts goes on, with a loss of {:.4}; the worst has {highest:.4}",
            self.lowest_loss()
        );
        Ok(true)
    }

    fn lowest_loss(&self) -> f64 {
        self.start_losses.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Trains a fresh clusterer for a while; its loss, or none when interrupted.
    pub(super) fn start(&mut self, start: usize, latents: &Latents) -> Result<Option<f64>, TrainError> {
        let phase = Phase::Clusterer;
        let Plan { epochs, prefix, learning_rate, .. } = phase.plan(self.config);
        let epochs = (epochs / PART).max(1);
        let counted = (epochs / PART).max(1);
        let index = FIRST_STREAM + start;
        tch::manual_seed(stream(self.config.seed, index, u32::MAX).random());
        let store = VarStore::new(self.networks.store.device());
        new_clusterer(&store, self.config);
        self.place(&store.variables().into_iter().collect::<Weights>())?;
        let mut adam = Adam::new(&self.networks.store, prefix, learning_rate);
        let mut sum = 0.0;
        for epoch in 0..epochs {
            let Some(metrics) = self.epoch(phase, index, epoch, &mut adam, Some(latents))? else { return Ok(None) };
            if epoch >= epochs - counted {
                sum += metrics.loss;
            }
        }
        Ok(Some(sum / f64::from(counted)))
    }

    /// The clusterer's weights, and what its layers normalise by.
    fn copied(&self) -> Weights {
        let all = self.networks.store.variables().into_iter();
        let own = all.filter(|(name, _)| name.starts_with(Phase::Clusterer.plan(self.config).prefix));
        own.map(|(name, variable)| (name, variable.detach().copy())).collect()
    }

    fn place(&mut self, weights: &Weights) -> Result<(), TrainError> {
        let _frozen = tch::no_grad_guard();
        let mut variables = self.networks.store.variables();
        for (name, weight) in weights {
            if let Some(variable) = variables.get_mut(name) {
                variable.f_copy_(weight)?;
            }
        }
        Ok(())
    }
}
