//! `tissuemapctl explain`, `submit`, `cancel`, `retry`, `pause` and `resume`: what people ask of the daemon.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::bus::{connect, refused};
use crate::config::BusKind;
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;

/// `tissuemapctl explain`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tissuemapctl explain case7_HE.svs
  tissuemapctl explain /slides/case7_HE.svs --json | jq -r .state
")]
pub struct ExplainArgs {
    #[arg(value_name = "SLIDE")]
    pub slide: PathBuf,
    /// Print a JSON object: slide, state (one word), sentence, hint
    #[arg(long)]
    pub json: bool,
}

/// `tissuemapctl submit`
#[derive(Debug, Args)]
#[command(after_help = "Prints the number of each slide's job.

Examples:
  tissuemapctl submit case7_HE.svs          the set of this slide, even if stains are missing
  tissuemapctl submit /slides/batch3/*.svs
")]
pub struct SubmitArgs {
    /// Slides in the watched folders; their sets are processed as they are now
    #[arg(required = true, value_name = "SLIDE")]
    pub slides: Vec<PathBuf>,
}

/// `tissuemapctl cancel`
#[derive(Debug, Args)]
#[command(
    after_help = "The slides stay where they are, and nothing is processed until somebody retries the job or submits a slide of it.

Examples:
  tissuemapctl queue        shows the numbers
  tissuemapctl cancel 17
"
)]
pub struct CancelArgs {
    /// The job's number, as `tissuemapctl queue` shows it
    #[arg(value_name = "JOB")]
    pub job: i64,
}

/// `tissuemapctl retry`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tissuemapctl queue        shows the numbers, and why jobs failed
  tissuemapctl retry 17
")]
pub struct RetryArgs {
    /// The number of a job that failed, was given up or cancelled
    #[arg(value_name = "JOB")]
    pub job: i64,
}

/// Prints where a slide stands.
///
/// # Errors
/// There is no daemon, or it cannot tell.
pub async fn explain(kind: BusKind, args: ExplainArgs) -> Result<(), Failure> {
    let slide = absolute(&args.slide)?;
    let (state, sentence, hint) = connect(kind).await?.explain(&slide).await.map_err(refused)?;
    let hint = Some(hint).filter(|hint| !hint.is_empty());
    exit::print(&if args.json {
        exit::json(&json!({ "slide": slide, "state": state, "sentence": sentence, "hint": hint }))?
    } else {
        let hint = hint.map(|hint| format!("hint: {hint}"));
        exit::lines([format!("{slide} {sentence}")].into_iter().chain(hint))
    })
}

/// Has the sets of these slides processed, and prints the numbers of their jobs.
///
/// # Errors
/// There is no daemon, or it refuses some of them; the others are submitted all the same.
pub async fn submit(kind: BusKind, args: SubmitArgs) -> Result<(), Failure> {
    let daemon = connect(kind).await?;
    let mut failures = 0;
    for slide in &args.slides {
        match daemon.submit(&absolute(slide)?).await.map_err(refused) {
            Ok(job) => exit::print(&format!("{job}\n"))?,
            Err(Failure { exit: Exit::JobsFailed, fault }) if args.slides.len() > 1 => {
                exit::complain(&fault);
                failures += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    match failures {
        0 => Ok(()),
        n => Err(Exit::JobsFailed.with(Fault::new(format!("{n} not submitted"), "the reasons are above"))),
    }
}

/// Stops a job, or has it left alone.
///
/// # Errors
/// There is no daemon, or it refuses.
pub async fn cancel(kind: BusKind, args: CancelArgs) -> Result<(), Failure> {
    connect(kind).await?.cancel(args.job).await.map_err(refused)
}

/// Has a job tried again.
///
/// # Errors
/// There is no daemon, or it refuses.
pub async fn retry(kind: BusKind, args: RetryArgs) -> Result<(), Failure> {
    connect(kind).await?.retry(args.job).await.map_err(refused)
}

/// Has nothing new begun.
///
/// # Errors
/// There is no daemon, or it refuses.
pub async fn pause(kind: BusKind) -> Result<(), Failure> {
    connect(kind).await?.pause().await.map_err(refused)?;
    exit::say("paused, also over restarts, until `tissuemapctl resume`; a set that is being processed goes on");
    Ok(())
}

/// Ends a pause.
///
/// # Errors
/// There is no daemon, or it refuses.
pub async fn resume(kind: BusKind) -> Result<(), Failure> {
    connect(kind).await?.resume().await.map_err(refused)
}

/// The daemon has a working directory of its own.
fn absolute(slide: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(slide).map_err(|error| Exit::Usage.because(&error))?;
    path.into_os_string().into_string().map_err(|path| {
        let reason = format!("{}: not UTF-8, and D-Bus takes nothing else", path.display());
        Exit::Usage.with(Fault::new(reason, "rename it"))
    })
}
