//! The `sweep` command.

use std::io;
use std::path::PathBuf;

use super::sweep;
use crate::error::TrainError;
use crate::run::FitCommand;

/// What `tissuemap-train sweep` is asked to do.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepCommand {
    /// Configuration; `tissuemap-train config` prints a template.
    #[arg(long)]
    pub config: PathBuf,
    /// The model that a later `fit` will write; the sweep lies in the run folder beside it.
    #[arg(long)]
    pub out: PathBuf,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Folder at which relative paths of the configuration start (without it: the configuration's own folder).
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where drawn patches are kept (without it: in the run folder).
    #[arg(long)]
    pub patches: Option<PathBuf>,
    /// Overrules the configuration's seed.
    #[arg(long)]
    pub seed: Option<u64>,
}

impl SweepCommand {
    /// Reads slides, sweeps; `say` gets the table.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let Self { config, out, device, data, patches, seed } = self.clone();
        let fit = FitCommand { config, out, device, data, patches, precision: Vec::new(), clusters: None, seed };
        let found = fit.prepared(|config, patches, surroundings, run| sweep(&config, patches, surroundings, run))?;
        tracing::info!("{}", found.verdict());
        write!(say, "{}", found.csv()).map_err(|source| TrainError::File { path: "standard output".into(), source })
    }
}
