//! The fit: autoencoder alone, clusterer on the frozen latent, then both together.

mod epoch;
mod starts;

use std::fs;
use std::path::Path;

use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::adam::Adam;
use crate::autoencoder::Autoencoder;
use crate::checkpoint::{Checkpoint, Position};
use crate::clusters::Assignment;
use crate::config::{Config, ImsatConfig, SweepConfig};
use crate::dataset::{PatchSet, Patches, chunks};
use crate::error::TrainError;
use crate::imsat::Clusterer;
use crate::layers::Mode;
use crate::neighbours::Neighbours;
use crate::progress::{self, MetricsTable};
pub(crate) use epoch::Latents;

/// What surrounds a fit but does not change its result.
pub struct Surroundings<'a> {
    /// Where to compute.
    pub device: Device,
    /// Folder of the checkpoint from which the fit goes on and into which it writes; none: no checkpoints.
    pub checkpoint: Option<&'a Path>,
    /// Where the metrics table is written after every epoch, so that a failed fit can be looked into.
    pub metrics: Option<&'a Path>,
    /// Asked before every batch: whether to stop. The state before the running epoch is then kept as a checkpoint.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

/// What a file of weights calls the digest of the patches.
const PATCHES: &str = "patches.sha256";

/// A fitted model.
#[derive(Debug)]
pub struct Fitted {
    store: VarStore,
    /// Stands for the patches that it was made of.
    patches: [u8; 32],
    /// Patch → latent → patch.
    pub autoencoder: Autoencoder,
    /// Latent → cluster, clusters ordered from dark to bright tissue.
    pub clusterer: Clusterer,
    /// The clusters of the training patches.
    pub assignment: Assignment,
}

/// What the model says about patches, in evaluation mode; on the CPU.
#[derive(Debug)]
pub struct Evaluation {
    /// `[N, D]`.
    pub latent: Tensor,
    /// `[N, K]`.
    pub log_probs: Tensor,
    /// `[N]`, mean squared, normalised units.
    pub reconstruction_error: Tensor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Autoencoder,
    Clusterer,
    Joint,
}

const SCHEDULE: [Phase; 3] = [Phase::Autoencoder, Phase::Clusterer, Phase::Joint];

struct Plan {
    epochs: u32,
    batch: usize,
    learning_rate: f64,
    /// Which variables move.
    prefix: &'static str,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Autoencoder => "autoencoder",
            Self::Clusterer => "clusterer",
            Self::Joint => "joint",
        }
    }

    fn plan(self, config: &Config) -> Plan {
        let (a, c, j) = (&config.autoencoder, &config.imsat, &config.joint);
        let (epochs, batch, learning_rate, prefix) = match self {
            Self::Autoencoder => (a.epochs, a.batch, a.learning_rate, "autoencoder."),
            Self::Clusterer => (c.epochs, c.batch, c.learning_rate, "clusterer."),
            Self::Joint => (j.epochs, j.batch, j.learning_rate, ""),
        };
        Plan { epochs, batch: batch as usize, learning_rate, prefix }
    }
}

/// Fits a model to `patches`. The same configuration, patches and device kind give the same model on the CPU, whether or
/// not the fit was interrupted and resumed in between.
///
/// # Errors
/// [`TrainError`]: too few patches, a collapsed or diverged fit, an interruption, or an unusable checkpoint folder.
pub fn fit(config: &Config, patches: &PatchSet, surroundings: &Surroundings<'_>) -> Result<Fitted, TrainError> {
    check(config, patches, &SCHEDULE)?;
    Run::new(config, patches, surroundings)?.run()
}

/// Refuses too few patches for these phases, and sets up libtorch.
fn check(config: &Config, patches: &PatchSet, phases: &[Phase]) -> Result<(), TrainError> {
    let count = patches.train.count();
    for phase in phases {
        let Plan { epochs, batch, .. } = phase.plan(config);
        if epochs > 0 && count < batch as i64 {
            let name = phase.name();
            return Err(TrainError::NoData(format!(
                "{count} patches are less than one batch ({batch}) of phase {name}"
            )));
        }
    }
    if patches.held_out.count() == 0 {
        return Err(TrainError::NoData("no patch is held out".to_owned()));
    }
    tch::set_num_threads(i32::try_from(config.cpu_threads).unwrap_or(1));
    Ok(())
}

/// Goes through the first phase only, and returns what the clusterer's phase would look at. Its checkpoint is the one from
/// which a fit with any number of clusters goes on.
///
/// # Errors
/// As [`fit`].
pub(crate) fn fit_autoencoder(
    config: &Config,
    patches: &PatchSet,
    surroundings: &Surroundings<'_>,
) -> Result<Latents, TrainError> {
    autoencoder_alone(&first_phase_of(config), patches, surroundings)?.latents(Phase::Clusterer, 1)
}

/// The clusterer is not used in the first phase, but a network has one.
fn first_phase_of(config: &Config) -> Config {
    Config { clusters: 2, ..config.clone() }
}

fn autoencoder_alone<'a>(
    config: &'a Config,
    patches: &'a PatchSet,
    surroundings: &'a Surroundings<'a>,
) -> Result<Run<'a>, TrainError> {
    check(config, patches, &SCHEDULE[..1])?;
    let mut run = Run::new(config, patches, surroundings)?;
    let resume = run.resume(&[run.first_fingerprint])?;
    run.phase(0, Phase::Autoencoder, resume.as_ref())?;
    Ok(run)
}

/// As [`fit_autoencoder`], but returns the latent vectors `[N, D]` of the training patches and of those held out.
///
/// # Errors
/// As [`fit`].
pub(crate) fn autoencoder_latents(
    config: &Config,
    patches: &PatchSet,
    surroundings: &Surroundings<'_>,
) -> Result<[Tensor; 2], TrainError> {
    let config = first_phase_of(config);
    let Networks { autoencoder, clusterer, .. } = autoencoder_alone(&config, patches, surroundings)?.networks;
    let of = |patches| Ok::<_, TrainError>(evaluate(&autoencoder, &clusterer, patches)?.latent);
    Ok([of(&patches.train)?, of(&patches.held_out)?])
}

/// Runs the model over patches.
///
/// # Errors
/// [`TrainError`] when patches cannot be read.
pub fn evaluate(autoencoder: &Autoencoder, clusterer: &Clusterer, patches: &Patches) -> Result<Evaluation, TrainError> {
    let _frozen = tch::no_grad_guard();
    let (mut latents, mut log_probs, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (from, to) in chunks(patches.count()) {
        let x = autoencoder.normalise(&patches.range(from, to)?);
        let latent = autoencoder.encode(&x, Mode::Eval);
        let decoded = autoencoder.decode(&latent, Mode::Eval);
        errors.push(Autoencoder::reconstruction_error(&x, &decoded).to_device(Device::Cpu));
        log_probs.push(clusterer.log_probs(&latent, Mode::Eval).to_device(Device::Cpu));
        latents.push(latent.to_device(Device::Cpu));
    }
    let join = |parts: &[Tensor]| Tensor::cat(parts, 0);
    Ok(Evaluation { latent: join(&latents), log_probs: join(&log_probs), reconstruction_error: join(&errors) })
}

struct Run<'a> {
    config: &'a Config,
    patches: &'a PatchSet,
    surroundings: &'a Surroundings<'a>,
    fingerprint: [u8; 32],
    /// That of the first phase, which fits with any clusterer share.
    first_fingerprint: [u8; 32],
    networks: Networks,
    neighbours: Neighbours,
    metrics: MetricsTable,
    /// Of the clusterers that have started out, in their order.
    start_losses: Vec<f64>,
}

impl Fitted {
    /// Keeps the weights in one file, which replaces an older one in one step.
    ///
    /// # Errors
    /// [`TrainError`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let partial = path.with_extension("partial");
        let mut variables = self.store.variables();
        variables.insert(PATCHES.to_owned(), Tensor::from_slice(&self.patches));
        Tensor::write_safetensors(&variables.iter().collect::<Vec<_>>(), &partial)?;
        fs::rename(&partial, path).map_err(|source| TrainError::File { path: path.to_owned(), source })
    }

    /// The model whose weights [`Fitted::write`] kept, on `device`; `config` and `patches` as it was fitted with.
    ///
    /// # Errors
    /// [`TrainError`] when the file is missing, or belongs to another configuration or to other patches.
    pub fn read(path: &Path, config: &Config, patches: &PatchSet, device: Device) -> Result<Self, TrainError> {
        let Networks { mut store, autoencoder, clusterer } = Networks::new(config, device, None);
        store.load(path)?;
        let kept = Tensor::read_safetensors(path)?.into_iter().find(|(name, _)| name == PATCHES);
        let kept = kept.map(|(_, digest)| Vec::<u8>::try_from(digest)).transpose()?;
        let digest = patches.digest();
        if kept.as_deref() != Some(&digest) {
            return Err(TrainError::OtherPatches { path: path.to_owned() });
        }
        let assignment = Assignment::new(&evaluate(&autoencoder, &clusterer, &patches.train)?.log_probs)?;
        Ok(Self { store, patches: digest, autoencoder, clusterer, assignment })
    }

    /// What the model says about patches in whole float32, computed on the processor: a GPU's convolutions round what they
    /// multiply (TF32, 10 bits of mantissa).
    ///
    /// # Errors
    /// As [`evaluate`].
    pub(crate) fn evaluate_exactly(&self, config: &Config, patches: &Patches) -> Result<Evaluation, TrainError> {
        if self.store.device() == Device::Cpu {
            return evaluate(&self.autoencoder, &self.clusterer, patches);
        }
        let Networks { mut store, autoencoder, clusterer } = Networks::new(config, Device::Cpu, None);
        store.copy(&self.store)?;
        evaluate(&autoencoder, &clusterer, patches)
    }
}

/// What is trained.
struct Networks {
    store: VarStore,
    autoencoder: Autoencoder,
    clusterer: Clusterer,
}

impl Networks {
    /// Fresh ones. `normalisation`: mean and deviation per plane; none where they are about to be read.
    fn new(config: &Config, device: Device, normalisation: Option<(&[f32], &[f32])>) -> Self {
        let store = VarStore::new(device);
        let shape = config.shape();
        let unknown = vec![1.0; shape.channels as usize];
        let (mean, deviation) = normalisation.unwrap_or((&unknown, &unknown));
        let autoencoder = Autoencoder::new(&(store.root() / "autoencoder"), &shape, mean, deviation);
        let clusterer = new_clusterer(&store, config);
        Self { store, autoencoder, clusterer }
    }
}

fn new_clusterer(store: &VarStore, config: &Config) -> Clusterer {
    let hidden: Vec<i64> = config.imsat.hidden.iter().copied().map(i64::from).collect();
    let path = store.root() / "clusterer";
    Clusterer::new(&path, config.shape().latent_dim, &hidden, i64::from(config.clusters))
}

/// Where a clusterer with these hidden layers is trained on frozen latents, in a fit on `device`. Without any its thousands of
/// steps are so small that a GPU spends its time waiting for them (docs/GPU.md), and the processor is faster.
pub(crate) fn place_of_clusterer(hidden: &[u32], device: Device) -> Device {
    if hidden.is_empty() { Device::Cpu } else { device }
}

impl<'a> Run<'a> {
    fn new(config: &'a Config, patches: &'a PatchSet, surroundings: &'a Surroundings<'a>) -> Result<Self, TrainError> {
        tch::manual_seed(stream(config.seed, usize::MAX, 0).random());
        let (mean, deviation) = patches.plane_statistics()?;
        let networks = Networks::new(config, surroundings.device, Some((&mean, &deviation)));
        let (fingerprint, first_fingerprint) = (fingerprint(config, patches), first_fingerprint(config, patches));
        let neighbours = Neighbours::new(patches.train.origins(), config.neighbour_radius());
        let metrics = MetricsTable::new();
        Ok(Self {
            config,
            patches,
            surroundings,
            fingerprint,
            first_fingerprint,
            networks,
            neighbours,
            metrics,
            start_losses: Vec::new(),
        })
    }

    fn run(mut self) -> Result<Fitted, TrainError> {
        let mut resume = self.resume(&[self.fingerprint, self.first_fingerprint])?;
        let start = resume.as_ref().map_or(0, |checkpoint| checkpoint.position().phase);
        for (index, phase) in SCHEDULE.into_iter().enumerate().skip(start) {
            self.phase(index, phase, resume.take().as_ref())?;
        }
        self.finish()
    }

    /// Puts the state back that a checkpoint of one of these fingerprints kept, if there is one.
    fn resume(&mut self, fingerprints: &[[u8; 32]]) -> Result<Option<Checkpoint>, TrainError> {
        let Some(folder) = self.surroundings.checkpoint else { return Ok(None) };
        let read = |fingerprint| Checkpoint::read(folder, fingerprint).transpose();
        let Some(checkpoint) = fingerprints.iter().find_map(read).transpose()? else { return Ok(None) };
        let phase = SCHEDULE[checkpoint.position().phase.min(2)];
        // The first phase leaves the clusterer as it is drawn, whatever its shape.
        let prefix = if phase == Phase::Autoencoder { phase.plan(self.config).prefix } else { "" };
        checkpoint.restore_variables(&self.networks.store, prefix)?;
        self.metrics = checkpoint.metrics();
        self.start_losses = checkpoint.position().start_losses;
        tracing::info!("going on from the checkpoint in phase {}", phase.name());
        Ok(Some(checkpoint))
    }

    fn phase(&mut self, index: usize, phase: Phase, resume: Option<&Checkpoint>) -> Result<(), TrainError> {
        let plan = phase.plan(self.config);
        let mut latents: Option<Latents> = None;
        if phase == Phase::Clusterer {
            // This phase leaves the encoder as it is, so its latents are made once.
            let made = self.latents(phase, index)?;
            let place = place_of_clusterer(&self.config.imsat.hidden, self.surroundings.device);
            self.networks.store.set_device(place);
            latents = Some(made.to_device(place));
        }
        let mut adam = Adam::new(&self.networks.store, plan.prefix, plan.learning_rate);
        if let Some(latents) = &latents
            && !self.choose_start(latents)?
        {
            let kept = self.surroundings.checkpoint.map(|folder| self.snapshot(&adam, index, 0).write(folder));
            return Err(TrainError::Interrupted { checkpoint: kept.transpose()? });
        }
        let mut done = 0;
        if let Some(checkpoint) = resume {
            checkpoint.restore_optimiser(&mut adam)?;
            done = checkpoint.position().epochs_done;
        }
        let bar = progress::bar(u64::from(plan.epochs));
        bar.set_prefix(phase.name());
        bar.set_position(u64::from(done));
        for epoch in done..plan.epochs {
            if phase == Phase::Joint {
                latents = Some(self.latents(phase, index)?);
            }
            let before = self.surroundings.checkpoint.map(|folder| (folder, self.snapshot(&adam, index, epoch)));
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
            if let Some(folder) = self.surroundings.checkpoint
                && ((epoch + 1).is_multiple_of(self.config.checkpoint_every_epochs) || epoch + 1 == plan.epochs)
            {
                self.snapshot(&adam, index, epoch + 1).write(folder)?;
            }
        }
        self.networks.store.set_device(self.surroundings.device);
        self.conclude(phase, &bar)
    }

    fn write_metrics(&self) -> Result<(), TrainError> {
        let Some(path) = self.surroundings.metrics else { return Ok(()) };
        fs::write(path, self.metrics.as_str()).map_err(|source| TrainError::File { path: path.to_owned(), source })
    }

    /// Says how a phase ended, and refuses a collapsed clustering.
    fn conclude(&self, phase: Phase, bar: &ProgressBar) -> Result<(), TrainError> {
        bar.finish_and_clear();
        tracing::info!("{}: {} epochs done; {}", phase.name(), bar.position(), bar.message());
        if phase == Phase::Autoencoder {
            return Ok(());
        }
        self.assign()?.collapse().map_or(Ok(()), |reason| Err(TrainError::Collapsed(reason)))
    }

    fn finish(mut self) -> Result<Fitted, TrainError> {
        let order = self.assign()?.dark_to_bright(&self.patches.train)?;
        self.networks.clusterer.reorder(&order);
        let assignment = self.assign()?;
        let Networks { store, autoencoder, clusterer } = self.networks;
        Ok(Fitted { store, patches: self.patches.digest(), autoencoder, clusterer, assignment })
    }

    fn assign(&self) -> Result<Assignment, TrainError> {
        let evaluation = evaluate(&self.networks.autoencoder, &self.networks.clusterer, &self.patches.train)?;
        Ok(Assignment::new(&evaluation.log_probs)?)
    }

    fn snapshot(&self, adam: &Adam, phase: usize, epochs_done: u32) -> Checkpoint {
        let fingerprint = if phase == 0 { &self.first_fingerprint } else { &self.fingerprint };
        let position = Position { phase, epochs_done, start_losses: self.start_losses.clone() };
        Checkpoint::take(&self.networks.store, adam, &position, &self.metrics, fingerprint)
    }
}

/// Random numbers of their own for every epoch of every phase, so that a resumed fit draws what the first would have.
fn stream(seed: u64, phase: usize, epoch: u32) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(phase as u64).to_le_bytes());
    bytes[16..20].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// Stands for everything that decides the first phase: not the clusterer, whose fresh weights are drawn after the
/// autoencoder's.
pub(crate) fn first_fingerprint(config: &Config, patches: &PatchSet) -> [u8; 32] {
    let Config { clusters, joint, sweep, imsat, .. } = Config::default();
    // Which view is compared is drawn in every phase.
    let imsat = ImsatConfig { views: config.imsat.views, ..imsat };
    fingerprint(&Config { clusters, imsat, joint, sweep, ..config.clone() }, patches)
}

/// Stands for everything that decides the result: a checkpoint is used only where this is equal.
fn fingerprint(config: &Config, patches: &PatchSet) -> [u8; 32] {
    // Where the slides lie does not matter once their patches are equal.
    // Nor how its number of clusters was found, nor what the model will be called.
    let config = Config { sets: Vec::new(), sweep: SweepConfig::default(), revision: None, ..config.clone() };
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(format!("{config:?}"));
    hash.update(patches.digest());
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
