//! The `sweep` command.

use std::io;

use crate::choose_k::sweep::sweep;
use crate::cli::fit::Setup;
use crate::system::error::TrainError;

/// What `tissuemap-train sweep` is asked to do.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepCommand {
    #[command(flatten)]
    pub setup: Setup,
}

impl SweepCommand {
    /// Reads slides, sweeps; `say` gets the table.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let found = self
            .setup
            .prepared(None, |config, patches, surroundings, run| sweep(&config, patches, surroundings, run))?;
        tracing::info!("{}", found.verdict());
        write!(say, "{}", found.csv()).map_err(|source| TrainError::File { path: "standard output".into(), source })
    }
}
