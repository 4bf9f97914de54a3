//! Several random initialisations of the clusterer.
//!
//! The loss of IMSAT has many minima, so the result depends on the initial weights. The value of the loss separates good from poor results,
//! and does so early (figures in docs/ARCHITECTURE.md). Therefore several initialisations are trained for a short time, as is usual for
//! k-means, and the one with the lowest loss is trained further.

use rand::RngExt;
use tch::Tensor;
use tch::nn::VarStore;

use super::latents::Latents;
use super::networks::new_clusterer;
use super::phase::{Phase, PhaseSettings, SCHEDULE};
use super::training::{TrainingRun, stream};
use crate::model::adam::Adam;
use crate::system::error::TrainError;
use crate::system::progress;

/// A restart takes this fraction (one n-th) of the epochs of the phase. Its loss is the mean over the last n-th of these epochs.
const FRACTION: u32 = 5;
/// The random number streams of the restarts follow those of the phases.
const FIRST_STREAM: usize = SCHEDULE.len();

type NamedTensors = Vec<(String, Tensor)>;

impl TrainingRun<'_> {
    /// Sets the clusterer to the best of `imsat.restarts`, after those whose losses are already known. Returns false if interrupted; the
    /// clusterer then has the best weights so far.
    pub(super) fn choose_restart(&mut self, latents: &Latents) -> Result<bool, TrainError> {
        let restarts = self.config.imsat.restarts;
        if restarts < 2 {
            return Ok(true);
        }
        let bar = progress::bar(u64::from(restarts));
        bar.set_prefix("restarts");
        for restart in self.restart_losses.len()..restarts as usize {
            bar.set_position(restart as u64);
            let best = self.clusterer_weights();
            let loss = self.run_restart(restart, latents)?;
            // An interrupted restart has no loss, and NaN is never lower.
            if !loss.is_some_and(|loss| loss < self.lowest_loss()) {
                self.load_weights(&best)?;
            }
            let Some(loss) = loss else { return Ok(false) };
            self.restart_losses.push(loss);
        }
        bar.finish_and_clear();
        let highest = self.restart_losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        tracing::info!(
            "clusterer: the best of {restarts} initialisations has a loss of {:.4}, the worst of {highest:.4}",
            self.lowest_loss()
        );
        Ok(true)
    }

    fn lowest_loss(&self) -> f64 {
        self.restart_losses.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Trains a new clusterer for a short time. Returns its loss, or none if interrupted.
    pub(super) fn run_restart(&mut self, restart: usize, latents: &Latents) -> Result<Option<f64>, TrainError> {
        let phase = Phase::Clusterer;
        let PhaseSettings { epochs, prefix, learning_rate, .. } = phase.settings(self.config);
        let epochs = (epochs / FRACTION).max(1);
        let counted = (epochs / FRACTION).max(1);
        let index = FIRST_STREAM + restart;
        tch::manual_seed(stream(self.config.seed, index, u32::MAX).random());
        let store = VarStore::new(self.networks.store.device());
        new_clusterer(&store, self.config);
        self.load_weights(&store.variables().into_iter().collect::<NamedTensors>())?;
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

    /// A copy of the weights and running statistics of the clusterer.
    fn clusterer_weights(&self) -> NamedTensors {
        let all = self.networks.store.variables().into_iter();
        let own = all.filter(|(name, _)| name.starts_with(Phase::Clusterer.settings(self.config).prefix));
        own.map(|(name, variable)| (name, variable.detach().copy())).collect()
    }

    fn load_weights(&mut self, weights: &NamedTensors) -> Result<(), TrainError> {
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
