//! The `export` command: writes a finished fit as a model file of any precision, without training.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tch::Device;
use tissuemap::contract::Precision;

use crate::data::sampling;
use crate::export::{card, export};
use crate::fit::FittedModel;
use crate::fit::run_folder::RunFolder;
use crate::system::error::TrainError;
use crate::system::files::refuse_to_replace;
use crate::system::interrupt;

/// Arguments of `tissuemap-train export`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportCommand {
    /// The run folder beside the model, written by `fit`.
    #[arg(long)]
    pub run: PathBuf,
    /// The model file to write; its card is written beside it.
    #[arg(long)]
    pub out: PathBuf,
    /// Precision: fp32, fp16 or int8.
    #[arg(long, default_value = "fp32")]
    pub precision: Precision,
    /// Folder of the sampled patches, if the fit was given one with --patches.
    #[arg(long)]
    pub patches: Option<PathBuf>,
    /// Folder at which relative paths of the configuration start [default: the folder that contains the run folder].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Replace an older file --out and its card.
    #[arg(long)]
    pub force: bool,
}

impl ExportCommand {
    /// Reads weights and patches and exports. A description of the result is written to `say`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        refuse_to_replace([self.out.as_path(), &card::path_beside(&self.out)], self.force)?;
        let interrupt = interrupt::listen()
            .map_err(|source| TrainError::File { path: PathBuf::from("signal handlers"), source })?;
        let run = RunFolder::at(&self.run);
        let config = run.read_configuration()?;
        let base = self.data.as_deref().or_else(|| self.run.parent()).unwrap_or(Path::new("."));
        let store = self.patches.clone().unwrap_or_else(|| run.patches());
        let patches = sampling::patches(&config, base, &store, &|| interrupt.load(Ordering::Relaxed))?;
        tch::set_num_threads(i32::try_from(config.cpu_threads).unwrap_or(1));
        let fitted = FittedModel::read(&run.weights(), &config, &patches, Device::Cpu)?;
        let exported = export(&fitted, &patches, &config, self.precision, &self.out)?;
        exported
            .describe(say, &self.out)
            .map_err(|source| TrainError::File { path: PathBuf::from("standard output"), source })
    }
}
