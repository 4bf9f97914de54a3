//! `tissuemapd`: the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tissuemap_daemon::command::Commander;
use tissuemap_daemon::config::{self, Config};
use tissuemap_daemon::exit::{self, Exit, Failure};
use tissuemap_daemon::job::{Fault, blocking};
use tissuemap_daemon::journal::Journal;
use tissuemap_daemon::models::Models;
use tissuemap_daemon::pages::{self, CompletionsArgs, ManArgs};
use tissuemap_daemon::run::Daemon;
use tissuemap_daemon::status::Status;
use tissuemap_daemon::status::dbus::{self, Access, Authority};
use tissuemap_daemon::worker::{Workers, child};
use tissuemap_daemon::{log, signals};
use tokio::sync::watch;

/// Watches folders for scanned slides and leaves a cluster map beside every one. Research use only.
#[derive(Parser)]
#[command(name = "tissuemapd", version, after_help = exit::HELP)]
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
    /// Print what a shell needs to complete the command line
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Write the man pages
    #[command(hide = true)]
    Man(ManArgs),
}

fn main() -> ExitCode {
    let outcome = match exit::parse() {
        Err(code) => return code,
        // Its log is the daemon's.
        Ok(Cli::Worker) => return child::serve(),
        Ok(Cli::Config) => exit::print(config::DEFAULT).inspect_err(|failure| exit::complain(&failure.fault)),
        Ok(Cli::Completions(args)) => {
            pages::completions(Cli::command(), args.shell).inspect_err(|failure| exit::complain(&failure.fault))
        }
        Ok(Cli::Man(args)) => {
            pages::man(Cli::command(), &args.folder).inspect_err(|failure| exit::complain(&failure.fault))
        }
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
    // What is asked before the models are loaded waits until they are.
    let (commander, commands) = Commander::new();
    let access = Access { status: watched, commander, authority: Authority::on(config.bus.kind) };
    let mut announcer = dbus::start(config.bus.kind, access).await.map_err(|fault| Exit::Unavailable.with(fault))?;
    let load = move || {
        let workers = Workers::start(Path::new("/proc/self/exe"), &config)?;
        Models::start(&config, &workers).map(|models| (config, Arc::new(workers), models))
    };
    let (config, workers, models) = blocking("models", load).await.map_err(|fault| Exit::Unavailable.with(fault))?;
    let (folders, serving) = (config.watch.len(), models.serving_in_words());
    let journal = Journal::open(&config.state_folder()).map_err(|error| Exit::Unavailable.because(&error))?;
    let daemon = Daemon::new(config, workers, models, journal, status, commands);
    let daemon = daemon.map_err(|error| Exit::Usage.because(&error))?;
    tracing::info!(folders, models = serving, "Ready");
    let outcome = daemon.run(stop, announcer.lost()).await;
    announcer.finish().await;
    outcome.map_err(|fault| Exit::Unavailable.with(fault))
}
