//! `tissuemapd`: the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tissuemap_daemon::audit::{self, Audit, Requester, Verified};
use tissuemap_daemon::command::Commander;
use tissuemap_daemon::config::{self, Config};
use tissuemap_daemon::exit::{self, Exit, Failure};
use tissuemap_daemon::job::{Fault, blocking};
use tissuemap_daemon::journal::Journal;
use tissuemap_daemon::lock::Lock;
use tissuemap_daemon::models::Models;
use tissuemap_daemon::pages::{self, CompletionsArgs, ManArgs};
use tissuemap_daemon::run::Daemon;
use tissuemap_daemon::status::dbus::{self, Access, Authority};
use tissuemap_daemon::status::pulse::Pulse;
use tissuemap_daemon::status::{Status, leds, metrics, systemd};
use tissuemap_daemon::worker::{Workers, child};
use tissuemap_daemon::{log, signals};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

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
    Config {
        /// Print nothing, but say whether this one can be used
        #[arg(long, value_name = "FILE")]
        check: Option<PathBuf>,
    },
    /// Say whether an audit log is as it was written, and its last hash
    Audit { file: PathBuf },
    /// Clear what a killed daemon leaves: lights go dark, the metrics say that nothing runs
    CleanUp {
        #[arg(long, value_name = "FILE", default_value = "/etc/tissuemap/tissuemapd.toml")]
        config: PathBuf,
    },
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
        Ok(Cli::Run { config }) => run(&config).inspect_err(|Failure { fault, .. }| {
            tracing::error!(reason = fault.reason(), hint = fault.hint(), "Ended");
        }),
        Ok(other) => answer(other).inspect_err(|failure| exit::complain(&failure.fault)),
    };
    outcome.map_or_else(|failure| failure.exit.into(), |()| ExitCode::SUCCESS)
}

/// What needs no daemon.
fn answer(cli: Cli) -> Result<(), Failure> {
    match cli {
        Cli::Config { check: Some(file) } => read(&file).map(drop),
        Cli::Completions(args) => pages::completions(Cli::command(), args.shell),
        Cli::Man(args) => pages::man(Cli::command(), &args.folder),
        Cli::Audit { file } => {
            let read = audit::verify(&file).map_err(|error| {
                let reason = format!("audit log {}: {error}", file.display());
                Exit::Unavailable.with(Fault::new(reason, "it lies in the daemon's state folder, or as [audit] says"))
            })?;
            let whole = read.map_err(|broken| {
                let reason = format!("audit log {}: {broken}", file.display());
                Exit::JobsFailed
                    .with(Fault::new(reason, "compare it with a copy; what comes before that line is whole"))
            })?;
            let Verified { entries, lost, last, torn_bytes } = whole;
            exit::print(&format!("{entries} entries, whole; the last is {last}\n"))?;
            if lost > 0 {
                exit::say(&format!("{lost} entries are missing: the disk had no room for them in time"));
            }
            if torn_bytes > 0 {
                exit::say(&format!("{torn_bytes} bytes of a line that is not whole follow, as after a loss of power"));
            }
            Ok(())
        }
        Cli::CleanUp { config } => {
            log::start();
            let config = read(&config)?;
            leds::darken(&mut leds::lamps(&config.leds));
            config
                .metrics
                .file
                .map_or(Ok(()), |file| metrics::down(&file).map_err(|error| Exit::Unavailable.because(&error)))
        }
        Cli::Config { check: None } | Cli::Run { .. } | Cli::Worker => exit::print_own(config::DEFAULT),
    }
}

fn read(path: &Path) -> Result<Config, Failure> {
    Config::read(path).map_err(|error| {
        Exit::Usage.with(Fault::from_error(&error).or_hint("`tissuemapd config` prints a commented configuration"))
    })
}

fn run(path: &Path) -> Result<(), Failure> {
    log::start();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "Starting tissuemapd, research use only");
    let config = read(path)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Exit::Internal.because(&error))?;
    let outcome = runtime.block_on(serve(path, config));
    // A look at a dead network share cannot be interrupted; it must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(path: &Path, config: Config) -> Result<(), Failure> {
    let stop = signals::receive().map_err(|error| Exit::Internal.because(&error))?;
    let hangups = signals::hangups().map_err(|error| Exit::Internal.because(&error))?;
    let (status, watched) = watch::channel(Status::default());
    tokio::spawn(systemd::announce(watched.clone()));
    // What is asked before the models are loaded waits until they are.
    let (commander, commands) = Commander::new();
    let authority = Authority::on(config.bus.kind);
    let access = Access { status: watched.clone(), commander: commander.clone(), authority };
    let mut announcer = dbus::start(config.bus.kind, access).await.map_err(|fault| Exit::Unavailable.with(fault))?;
    // Before the staging folder is cleared, which may be that of a running daemon's job; journal and audit log before the
    // models are proved for minutes.
    let state = config.state_folder();
    let _lock = Lock::of(&state).map_err(|fault| Exit::Unavailable.with(fault))?;
    let journal = Journal::open(&state).map_err(|error| Exit::Unavailable.because(&error))?;
    let log = config.audit.file.clone().unwrap_or_else(|| state.join(Audit::FILE));
    let audit = Audit::open(&log).map_err(|error| Exit::Unavailable.because(&error))?;
    let load = move || {
        let workers = Workers::start(Path::new("/proc/self/exe"), &config)?;
        let tell = |wait| status.send_modify(|status| status.waits = vec![wait]);
        let models = Models::start_telling(&config, &workers, &tell)?;
        Ok((config, Arc::new(workers), models, status))
    };
    let (config, workers, models, status) =
        blocking("models", load).await.map_err(|fault| Exit::Unavailable.with(fault))?;
    let serving = models.serving_in_words();
    let daemon = Daemon::new(config.clone(), workers, models, journal, status, commands);
    let daemon = daemon.map_err(|error| Exit::Usage.because(&error))?.audited(audit);
    tokio::spawn(reload(hangups, path.to_owned(), commander.on_behalf_of(Requester::Signal)));
    let shown = show(&config, &watched, &daemon.pulse(), &commander);
    systemd::ready();
    tracing::info!(folders = config.watch.len(), models = serving, "Ready");
    let outcome = daemon.run(stop, announcer.lost()).await;
    announcer.finish().await;
    // A light that cannot be put out within this time is not ours any more.
    let _ = tokio::time::timeout(Duration::from_secs(3), shown.join_all()).await;
    outcome.map_err(|fault| Exit::Unavailable.with(fault))
}

/// Whatever shows the status beside the bus; each task ends, and leaves its place dark, when the status ends.
fn show(config: &Config, status: &watch::Receiver<Status>, pulse: &Pulse, commander: &Commander) -> JoinSet<()> {
    let mut shown = JoinSet::new();
    let (status, pulse) = (|| status.clone(), || pulse.clone());
    let lamps = leds::lamps(&config.leds);
    if lamps.iter().any(Option::is_some) {
        shown.spawn(leds::drive(lamps, status(), pulse()));
    }
    if let Some(file) = config.metrics.file.clone() {
        shown.spawn(metrics::keep(file, config.state_folder(), status(), pulse()));
    }
    if let Some(button) = leds::button(&config.leds) {
        tokio::spawn(leds::obey(button, commander.on_behalf_of(Requester::Button), status()));
    }
    shown
}

/// Reads the configuration again at every SIGHUP. One that cannot be used is told, and the old one goes on.
async fn reload(mut hangups: Signal, path: PathBuf, commander: Commander) {
    while hangups.recv().await.is_some() {
        systemd::reloading();
        let file = path.clone();
        let read = blocking("configuration", move || Config::read(&file).map_err(|error| Fault::from_error(&error)));
        let outcome = match read.await {
            Ok(config) => commander.reload(config).await.map_err(|refusal| refusal.fault),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = outcome {
            tracing::error!(reason = fault.reason(), hint = fault.hint(), "The old configuration goes on");
        }
        systemd::ready();
    }
}
