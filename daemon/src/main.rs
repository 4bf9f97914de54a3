//! `tissuemapd`: the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tissuemap_daemon::config::{self, Config};
use tissuemap_daemon::exit::{self, Exit, Failure};
use tissuemap_daemon::job::{Fault, blocking};
use tissuemap_daemon::journal::Journal;
use tissuemap_daemon::run::Daemon;
use tissuemap_daemon::status::{Status, dbus};
use tissuemap_daemon::worker::{Workers, child};
use tissuemap_daemon::{log, signals};
use tokio::sync::watch;

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
    /// What tissuemapd starts to open slides and models in; not for people
    #[command(hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let outcome = match exit::parse() {
        Err(code) => return code,
        // Its log is the daemon's.
        Ok(Cli::Worker) => return child::serve(),
        Ok(Cli::Config) => exit::print(config::DEFAULT).inspect_err(|failure| exit::complain(&failure.fault)),
        Ok(Cli::Run { config }) => run(&config),
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
    log::start();
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
        blocking("model", move || Workers::start(Path::new("/proc/self/exe"), &config).map(|runner| (config, runner)))
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
