//! The training of a model, in three phases: autoencoder, clusterer on the frozen latent vectors, both together.
//!
//! [`fit`] runs all phases and gives a [`FittedModel`]. `training` runs the phases, `epoch` one epoch of a phase. `restarts` tries several
//! initialisations of the clusterer. [`checkpoint`] makes an interrupted fit resumable. [`run_folder`] is the folder beside the model.

pub mod assignment;
pub mod checkpoint;
mod context;
mod epoch;
mod fitted;
mod latents;
pub mod metrics;
mod networks;
mod phase;
mod restarts;
pub mod run_folder;
#[cfg(test)]
mod tests;
mod training;

use tch::Tensor;

pub(crate) use self::checkpoint::autoencoder_fingerprint;
pub use self::context::FitContext;
pub use self::fitted::FittedModel;
pub(crate) use self::latents::Latents;
use self::networks::Networks;
pub(crate) use self::networks::clusterer_device;
pub use self::networks::{Evaluation, evaluate};
use self::phase::{Phase, PhaseSettings, SCHEDULE};
use self::training::TrainingRun;
use crate::config::Config;
use crate::data::patches::PatchSet;
use crate::system::error::TrainError;

/// Fits a model to `patches`. The same configuration, patches and device kind give the same model on the CPU, whether or
/// not the fit was interrupted and resumed in between.
///
/// # Errors
/// [`TrainError`]: too few patches, a collapsed or diverged fit, an interruption, or an unusable checkpoint folder.
pub fn fit(config: &Config, patches: &PatchSet, context: &FitContext<'_>) -> Result<FittedModel, TrainError> {
    check(config, patches, &SCHEDULE)?;
    TrainingRun::new(config, patches, context)?.run()
}

/// Checks that there are enough patches for these phases, and sets the threads of libtorch.
fn check(config: &Config, patches: &PatchSet, phases: &[Phase]) -> Result<(), TrainError> {
    let count = patches.train.count();
    for phase in phases {
        let PhaseSettings { epochs, batch, .. } = phase.settings(config);
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

/// Runs the first phase only and returns the latent vectors for the second. A fit with any number of clusters can continue from its
/// checkpoint.
///
/// # Errors
/// As [`fit`].
pub(crate) fn fit_autoencoder(
    config: &Config,
    patches: &PatchSet,
    context: &FitContext<'_>,
) -> Result<Latents, TrainError> {
    autoencoder_alone(&first_phase_of(config), patches, context)?.latents(Phase::Clusterer, 1)
}

/// The configuration for the first phase. The clusterer is not used there, but a network must have one.
fn first_phase_of(config: &Config) -> Config {
    Config { clusters: 2, ..config.clone() }
}

fn autoencoder_alone<'a>(
    config: &'a Config,
    patches: &'a PatchSet,
    context: &'a FitContext<'a>,
) -> Result<TrainingRun<'a>, TrainError> {
    check(config, patches, &SCHEDULE[..1])?;
    let mut run = TrainingRun::new(config, patches, context)?;
    let resume = run.resume(&[run.autoencoder_fingerprint])?;
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
    context: &FitContext<'_>,
) -> Result<[Tensor; 2], TrainError> {
    let config = first_phase_of(config);
    let Networks { autoencoder, clusterer, .. } = autoencoder_alone(&config, patches, context)?.networks;
    let of = |patches| Ok::<_, TrainError>(evaluate(&autoencoder, &clusterer, patches)?.latent);
    Ok([of(&patches.train)?, of(&patches.held_out)?])
}
