//! The scanner against the daemon's own arrival, in one process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tissuemap_daemon::command::Commander;
use tissuemap_daemon::config::Config;
use tissuemap_daemon::journal::Journal;
use tissuemap_daemon::models::Models;
use tissuemap_daemon::run::Daemon;
use tissuemap_daemon::status::Status;
use tokio::sync::{mpsc, watch};

use crate::check::{Verdict, check};
use crate::ledger::Entry;
use crate::plan::{Copy, Wish, plan};
use crate::play::play;
use crate::recorder::{Recorder, Shared, Sighting};
use crate::template::Template;

/// How the daemon is set up for a trial.
#[derive(Debug, Clone)]
pub struct Setup {
    pub settle_seconds: u64,
    pub scan_seconds: u64,
    /// No file system events: as if every one were lost.
    pub poll: bool,
    /// Copies at a time.
    pub parallel: usize,
    /// Once everything is there, the daemon may take so long to have done it.
    pub patience: Duration,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Outcome {
    pub ledger: Vec<Entry>,
    pub sightings: Vec<Sighting>,
    pub verdict: Verdict,
    /// What the daemon says needs a person.
    pub problems: Vec<String>,
    pub took: Duration,
}

/// Brings the slides of a wish into `folder`, which must be empty, lets the daemon's loop take them, and compares.
///
/// # Errors
/// The trial could not be carried out. What the daemon did wrong is in the verdict.
pub fn trial(folder: &Path, wish: &Wish, setup: &Setup, templates: Option<&[Template]>) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let incoming = folder.join("incoming");
    std::fs::create_dir(&incoming).with_context(|| incoming.display().to_string())?;
    let copies = plan(&incoming, wish, templates)?;
    let recorder = Arc::new(Recorder::new(&wish.stains));
    let config = config(folder, wish, setup)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (ledger, problems) = runtime.block_on(serve(config, &recorder, copies, setup))?;
    let sightings = recorder.sightings();
    let verdict = check(&ledger, &sightings, setup.settle_seconds as f64);
    Ok(Outcome { ledger, sightings, verdict, problems, took: begun.elapsed() })
}

fn config(folder: &Path, wish: &Wish, setup: &Setup) -> anyhow::Result<Config> {
    let Setup { settle_seconds, scan_seconds, poll, .. } = setup;
    let marker = wish.marker.as_ref().map(|(marker, _)| format!("marker = {:?}\n", marker.pattern()));
    let text = format!(
        "model = \"none.onnx\"\ndrain_seconds = 5\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nsettle_seconds = {settle_seconds}\n\
         scan_seconds = {scan_seconds}\npoll = {poll}\n{}[bus]\nkind = \"none\"\n",
        marker.unwrap_or_default()
    );
    let path = folder.join("tissuemapd.toml");
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    std::fs::write(folder.join("none.onnx"), "")?;
    Ok(Config::read(&path)?)
}

/// Runs the daemon while the copies come, until it has processed as many slides as came or patience is over.
async fn serve(
    config: Config,
    recorder: &Arc<Recorder>,
    copies: Vec<Copy>,
    setup: &Setup,
) -> anyhow::Result<(Vec<Entry>, Vec<String>)> {
    let (status, told) = watch::channel(Status::default());
    let journal = Journal::open(&config.state_folder())?;
    let backend = Arc::new(Shared(Arc::clone(recorder)));
    let models = Models::start(&config, &*backend).map_err(|fault| anyhow!("{fault}"))?;
    // Nobody asks anything of it.
    let (_, commands) = Commander::new();
    let daemon = Daemon::new(config, backend, models, journal, status, commands)?;
    let (stop, stopped) = mpsc::channel(1);
    let daemon = tokio::spawn(daemon.run(stopped, std::future::pending()));
    let parallel = setup.parallel;
    let ledger = tokio::task::spawn_blocking(move || play(&copies, parallel)).await??;
    let end = Instant::now() + setup.patience;
    while recorder.processed() < ledger.len() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Long enough for every slide to settle and be done once more, if anything makes the daemon do that.
    tokio::time::sleep(Duration::from_secs(2 * setup.settle_seconds + setup.scan_seconds + 1)).await;
    let problems = told.borrow().problems.clone();
    stop.send("end of the trial").await?;
    daemon.await?.map_err(|fault| anyhow!("{fault}"))?;
    Ok((ledger, problems))
}
