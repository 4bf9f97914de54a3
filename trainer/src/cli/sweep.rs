//! The `sweep` command.

use std::io;

use crate::choose_k::sweep::sweep;
use crate::cli::fit::TrainingArgs;
use crate::system::error::TrainError;

/// Arguments of `tissuemap-train sweep`.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepCommand {
    #[command(flatten)]
    pub args: TrainingArgs,
}

impl SweepCommand {
    /// Reads slides and sweeps. The table is written to `say`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let found =
            self.args.with_patches(None, |config, patches, context, run| sweep(&config, patches, context, run))?;
        tracing::info!("{}", found.verdict());
        write!(say, "{}", found.csv()).map_err(|source| TrainError::File { path: "standard output".into(), source })
    }
}
