//! `tissuemapd`: the daemon.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tissuemap_daemon::config::{self, Config};
use tissuemap_daemon::exit::{self, Exit, Failure};
use tissuemap_daemon::in_process::InProcess;
use tissuemap_daemon::job::{Fault, blocking};
use tissuemap_daemon::journal::Journal;
use tissuemap_daemon::run::Daemon;
use tissuemap_daemon::signals;
use tissuemap_daemon::status::{Status, dbus};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Watches folders for scanned slides and leaves a cluster map beside every one. Research use only.
#[derive(Parser)]
#[command(version, after_help = exit::HELP)]
enum Cli {
    /// Serve until SIGTERM or SIGINT
    Run {
        /// The configuration; `tissuemapd config` prints a commented one
        #[arg(long, value_name = "FILE", default_value = "/etc/tissuemap/tissuemapd.toml")]
        config: PathBuf,
    },
    /// Print the commented default configuration
    Config,
}

fn main() -> ExitCode {
    let cli = match exit::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,ort=warn"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let outcome = match cli {
        Cli::Run { config } => run(&config),
        Cli::Config => exit::print(config::DEFAULT),
    };
    outcome.map_or_else(
        |Failure { exit, fault }| {
            tracing::error!(reason = fault.reason(), hint = fault.hint(), "Ended");
            exit.into()
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run(path: &Path) -> Result<(), Failure> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "Starting tissuemapd, research use only");
    let config = Config::read(path).map_err(|error| {
        Exit::Usage.with(Fault::from_error(&error).or_hint("`tissuemapd config` prints a commented configuration"))
    })?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Exit::Internal.because(&error))?;
    let outcome = runtime.block_on(serve(config));
    // A look at a dead network share cannot be interrupted; it must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: Config) -> Result<(), Failure> {
    let stop = signals::receive().map_err(|error| Exit::Internal.because(&error))?;
    let (status, watched) = watch::channel(Status::default());
    let mut announcer = dbus::start(config.bus.kind, watched).await.map_err(|fault| Exit::Unavailable.with(fault))?;
    let (config, runner) =
        blocking("model", move || InProcess::load(&config.model, &config.road).map(|runner| (config, runner)))
            .await
            .map_err(|fault| Exit::Unavailable.with(fault))?;
    let (folders, model) = (config.watch.len(), config.model.clone());
    let journal = Journal::open(&config.state_folder()).map_err(|error| Exit::Unavailable.because(&error))?;
    let daemon = Daemon::new(config, Arc::new(runner), journal, status).map_err(|error| Exit::Usage.because(&error))?;
    tracing::info!(folders, model = %model.display(), "Ready");
    let outcome = daemon.run(stop, announcer.lost()).await;
    announcer.finish().await;
    outcome.map_err(|fault| Exit::Unavailable.with(fault))
}
