//! A running fit: all phases in order, from a checkpoint if there is one.

use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tissuemap::durable::write_figures;

use super::assignment::Assignment;
use super::checkpoint::{Checkpoint, FitPosition, autoencoder_fingerprint, fingerprint};
use super::context::FitContext;
use super::fitted::FittedModel;
use super::latents::Latents;
use super::metrics::MetricsTable;
use super::networks::{Networks, clusterer_device, evaluate};
use super::phase::{Phase, SCHEDULE};
use crate::config::Config;
use crate::data::patch_neighbours::PatchNeighbours;
use crate::data::patches::PatchSet;
use crate::model::adam::Adam;
use crate::system::error::TrainError;
use crate::system::files::file_error;
use crate::system::progress;

pub(super) struct TrainingRun<'a> {
    pub(super) config: &'a Config,
    pub(super) patches: &'a PatchSet,
    pub(super) context: &'a FitContext<'a>,
    pub(super) fingerprint: [u8; 32],
    /// Fingerprint of the first phase, which does not depend on the clusterer.
    pub(super) autoencoder_fingerprint: [u8; 32],
    pub(super) networks: Networks,
    pub(super) neighbours: PatchNeighbours,
    pub(super) metrics: MetricsTable,
    /// Losses of the finished restarts of the clusterer, in order.
    pub(super) restart_losses: Vec<f64>,
}

impl<'a> TrainingRun<'a> {
    pub(super) fn new(
        config: &'a Config,
        patches: &'a PatchSet,
        context: &'a FitContext<'a>,
    ) -> Result<Self, TrainError> {
        tch::manual_seed(stream(config.seed, usize::MAX, 0).random());
        let (mean, deviation) = patches.channel_statistics()?;
        let networks = Networks::new(config, context.device, Some((&mean, &deviation)));
        let (fingerprint, autoencoder_fingerprint) =
            (fingerprint(config, patches), autoencoder_fingerprint(config, patches));
        let neighbours = PatchNeighbours::new(patches.train.origins(), config.neighbour_radius());
        let metrics = MetricsTable::new();
        Ok(Self {
            config,
            patches,
            context,
            fingerprint,
            autoencoder_fingerprint,
            networks,
            neighbours,
            metrics,
            restart_losses: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<FittedModel, TrainError> {
        let mut resume = self.resume(&[self.fingerprint, self.autoencoder_fingerprint])?;
        let start = resume.as_ref().map_or(0, |checkpoint| checkpoint.position().phase);
        for (index, phase) in SCHEDULE.into_iter().enumerate().skip(start) {
            self.phase(index, phase, resume.take().as_ref())?;
        }
        self.finish()
    }

    /// Restores the state of a checkpoint with one of these fingerprints, if there is one.
    pub(super) fn resume(&mut self, fingerprints: &[[u8; 32]]) -> Result<Option<Checkpoint>, TrainError> {
        let Some(folder) = self.context.checkpoint else { return Ok(None) };
        let read = |fingerprint| Checkpoint::read(folder, fingerprint).transpose();
        let Some(checkpoint) = fingerprints.iter().find_map(read).transpose()? else { return Ok(None) };
        let phase = SCHEDULE[checkpoint.position().phase.min(2)];
        // The first phase leaves the clusterer as it is drawn, whatever its shape.
        let prefix = if phase == Phase::Autoencoder { phase.settings(self.config).prefix } else { "" };
        checkpoint.restore_variables(&self.networks.store, prefix)?;
        self.metrics = checkpoint.metrics();
        self.restart_losses = checkpoint.position().restart_losses;
        tracing::info!("continuing from the checkpoint in phase {}", phase.name());
        Ok(Some(checkpoint))
    }

    pub(super) fn phase(&mut self, index: usize, phase: Phase, resume: Option<&Checkpoint>) -> Result<(), TrainError> {
        let settings = phase.settings(self.config);
        let mut latents: Option<Latents> = None;
        if phase == Phase::Clusterer {
            // This phase leaves the encoder as it is, so its latents are made once.
            let made = self.latents(phase, index)?;
            let place = clusterer_device(&self.config.imsat.hidden, self.context.device);
            self.networks.store.set_device(place);
            latents = Some(made.to_device(place));
        }
        let mut adam = Adam::new(&self.networks.store, settings.prefix, settings.learning_rate);
        if let Some(latents) = &latents
            && !self.choose_restart(latents)?
        {
            let kept = self.context.checkpoint.map(|folder| self.snapshot(&adam, index, 0).write(folder));
            return Err(TrainError::Interrupted { checkpoint: kept.transpose()? });
        }
        let mut done = 0;
        if let Some(checkpoint) = resume {
            checkpoint.restore_optimiser(&mut adam)?;
            done = checkpoint.position().epochs_done;
        }
        let bar = progress::bar(u64::from(settings.epochs));
        bar.set_prefix(phase.name());
        bar.set_position(u64::from(done));
        for epoch in done..settings.epochs {
            if phase == Phase::Joint {
                latents = Some(self.latents(phase, index)?);
            }
            let before = self.context.checkpoint.map(|folder| (folder, self.snapshot(&adam, index, epoch)));
            let Some(metrics) = self.epoch(phase, index, epoch, &mut adam, latents.as_ref())? else {
                let checkpoint = before.map(|(folder, state)| state.write(folder)).transpose()?;
                return Err(TrainError::Interrupted { checkpoint });
            };
            if !metrics.loss.is_finite() {
                return Err(TrainError::Diverged { value: metrics.loss, phase: phase.name(), epoch: epoch + 1 });
            }
            self.metrics.push(phase.name(), epoch + 1, &metrics);
            self.write_metrics()?;
            bar.set_message(metrics.brief());
            bar.inc(1);
            if let Some(folder) = self.context.checkpoint
                && ((epoch + 1).is_multiple_of(self.config.checkpoint_every_epochs) || epoch + 1 == settings.epochs)
            {
                self.snapshot(&adam, index, epoch + 1).write(folder)?;
            }
        }
        self.networks.store.set_device(self.context.device);
        self.finish_phase(phase, &bar)
    }

    fn write_metrics(&self) -> Result<(), TrainError> {
        let Some(path) = self.context.metrics else { return Ok(()) };
        // The checkpoint holds them too: after a power cut they are written again.
        write_figures(path, self.metrics.as_str().as_bytes()).map_err(|error| file_error(path, error))
    }

    /// Logs the end of a phase, and refuses a collapsed clustering.
    fn finish_phase(&self, phase: Phase, bar: &ProgressBar) -> Result<(), TrainError> {
        bar.finish_and_clear();
        tracing::info!("{}: {} epochs done; {}", phase.name(), bar.position(), bar.message());
        if phase == Phase::Autoencoder {
            return Ok(());
        }
        self.assign()?.collapse().map_or(Ok(()), |reason| Err(TrainError::Collapsed(reason)))
    }

    fn finish(mut self) -> Result<FittedModel, TrainError> {
        let order = self.assign()?.order_by_brightness(&self.patches.train)?;
        self.networks.clusterer.reorder(&order);
        let assignment = self.assign()?;
        let Networks { store, autoencoder, clusterer } = self.networks;
        Ok(FittedModel { store, patches: self.patches.digest(), autoencoder, clusterer, assignment })
    }

    fn assign(&self) -> Result<Assignment, TrainError> {
        let evaluation = evaluate(&self.networks.autoencoder, &self.networks.clusterer, &self.patches.train)?;
        Ok(Assignment::new(&evaluation.log_probs)?)
    }

    fn snapshot(&self, adam: &Adam, phase: usize, epochs_done: u32) -> Checkpoint {
        let fingerprint = if phase == 0 { &self.autoencoder_fingerprint } else { &self.fingerprint };
        let position = FitPosition { phase, epochs_done, restart_losses: self.restart_losses.clone() };
        Checkpoint::take(&self.networks.store, adam, &position, &self.metrics, fingerprint)
    }
}

/// Every epoch of every phase has its own random numbers, so a resumed fit draws the same ones as an uninterrupted fit.
pub(super) fn stream(seed: u64, phase: usize, epoch: u32) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(phase as u64).to_le_bytes());
    bytes[16..20].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}
