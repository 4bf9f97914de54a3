//! The `fit` command from configuration to model file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tissuemap::contract::Precision;

use crate::choose_k::sweep::sweep;
use crate::config::{AUTO, Config};
use crate::data::patches::PatchSet;
use crate::data::sampling;
use crate::export::{Exported, card, export};
use crate::fit::checkpoint::Checkpoint;
use crate::fit::run_folder::RunFolder;
use crate::fit::{FitContext, FittedModel, fit};
use crate::report::ReportSource;
use crate::system::device;
use crate::system::error::TrainError;
use crate::system::files::{file_error, refuse_to_replace};
use crate::system::interrupt;

/// Arguments that `fit` and `sweep` share.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainingArgs {
    /// Configuration; `tissuemap-train config` prints a template.
    #[arg(long)]
    pub config: PathBuf,
    /// The model file to write. Metrics, checkpoint and sweep are stored in the run folder beside it.
    #[arg(long)]
    pub out: PathBuf,
    /// Device: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Folder at which relative paths of the configuration start [default: the folder of the configuration].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder for the sampled patches [default: in the run folder beside the model]. Several fits of the same patches can share it.
    #[arg(long)]
    pub patches: Option<PathBuf>,
    /// Seed; overrides the configuration.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Arguments of `tissuemap-train fit`.
#[derive(Debug, Clone, clap::Args)]
pub struct FitCommand {
    #[command(flatten)]
    pub args: TrainingArgs,
    /// Also write the model in these lower precisions, beside it: fp16, int8, or both, separated by a comma.
    #[arg(long, value_delimiter = ',')]
    pub precision: Vec<Precision>,
    /// Number of clusters; overrides the configuration. There is no sweep.
    #[arg(long)]
    pub clusters: Option<u32>,
    /// Replace older files of the names of the model, its card and its lower precisions.
    #[arg(long)]
    pub force: bool,
}

impl FitCommand {
    /// Reads slides, fits and exports. A description of the result is written to `say`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let out = &self.args.out;
        let lower = self.precision.iter().filter(|&&precision| precision != Precision::Fp32);
        let models = lower.map(|precision| out.with_extension(format!("{precision}.onnx"))).chain([out.clone()]);
        let files: Vec<PathBuf> = models.flat_map(|model| [card::path_beside(&model), model]).collect();
        refuse_to_replace(files.iter().map(PathBuf::as_path), self.force)?;
        self.args.with_patches(self.clusters, |mut config, patches, context, run| {
            if config.clusters == AUTO {
                let found = sweep(&config, patches, context, run)?;
                tracing::info!("{}", found.verdict());
                config.clusters = found.choice.clusters;
                run.write_configuration(&config)?;
            }
            let fitted = fit(&config, patches, context)?;
            fitted.write(&run.weights())?;
            let exported = export(&fitted, patches, &config, Precision::Fp32, out)?;
            // The model is complete, so the checkpoint is not needed any more.
            let checkpoint = run.checkpoint();
            if let Err(error) = Checkpoint::remove(&checkpoint) {
                tracing::warn!("{}: cannot be removed: {error}", checkpoint.display());
            }
            let said = |e| file_error(Path::new("standard output"), e);
            self.describe(say, &fitted, patches, &exported).map_err(said)?;
            for &precision in self.precision.iter().filter(|&&precision| precision != Precision::Fp32) {
                let out = out.with_extension(format!("{precision}.onnx"));
                export(&fitted, patches, &config, precision, &out)?.describe(say, &out).map_err(said)?;
            }
            let source = ReportSource { run, config: &config, base: self.args.base(), patches, fitted: &fitted };
            match source.write(&run.report(), None, context.interrupted) {
                Ok(()) => writeln!(say, "report: {}", run.report().display()).map_err(said),
                // The model is complete without a report.
                Err(error) => {
                    let folder = run.path().display();
                    tracing::warn!(
                        "the report could not be written: {error}; `tissuemap-train report --run {folder}` tries again"
                    );
                    Ok(())
                }
            }
        })
    }

    fn describe(
        &self,
        say: &mut dyn io::Write,
        fitted: &FittedModel,
        patches: &PatchSet,
        exported: &Exported,
    ) -> io::Result<()> {
        let (train, held_out) = (patches.train.count(), patches.held_out.count());
        exported.describe(say, &self.args.out)?;
        writeln!(say, "trained on {train} patches of {} section sets, {held_out} held out", patches.sets.len())?;
        for (i, size) in fitted.assignment.sizes.iter().enumerate() {
            let share = 100.0 * *size as f64 / train as f64;
            writeln!(say, "cluster {:3}: {size:6} patches, {share:5.1} %", i + 1)?;
        }
        Ok(())
    }
}

impl TrainingArgs {
    /// Reads configuration and slides and calls `then` with them. `clusters` overrides the configuration.
    pub(crate) fn with_patches<T>(
        &self,
        clusters: Option<u32>,
        then: impl FnOnce(Config, &PatchSet, &FitContext<'_>, &RunFolder) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let device = device::parse(&self.device)?;
        let config = self.configuration(clusters)?;
        let interrupt = interrupt::listen().map_err(|e| file_error(Path::new("signal handlers"), e))?;
        let interrupted = || interrupt.load(Ordering::Relaxed);
        let run = RunFolder::beside(&self.out);
        run.refuse_foreign()?;
        let store = self.patches.clone().unwrap_or_else(|| run.patches());
        let patches = sampling::patches(&config, self.base(), &store, &interrupted)?;
        run.create()?;
        run.write_configuration(&config)?;
        let (checkpoint, metrics) = (run.checkpoint(), run.metrics());
        let context =
            FitContext { device, checkpoint: Some(&checkpoint), metrics: Some(&metrics), interrupted: &interrupted };
        then(config, &patches, &context, &run)
    }

    /// Folder at which relative folders of the configuration start.
    fn base(&self) -> &Path {
        self.data.as_deref().or(self.config.parent()).unwrap_or(Path::new("."))
    }

    fn configuration(&self, clusters: Option<u32>) -> Result<Config, TrainError> {
        let mut config = Config::read(&self.config)?;
        config.clusters = clusters.unwrap_or(config.clusters);
        config.seed = self.seed.unwrap_or(config.seed);
        config.validate().map_err(|reason| TrainError::Config { path: self.config.clone(), reason })?;
        Ok(config)
    }
}
