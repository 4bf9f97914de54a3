//! `scanner-simulator`: the command line.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tissuemap_daemon::arrive::names::Marker;
use tissuemap_scanner::check::{Verdict, check, results};
use tissuemap_scanner::ledger;
use tissuemap_scanner::plan::{Wish, plan};
use tissuemap_scanner::play::play;
use tissuemap_scanner::recorder::Sighting;
use tissuemap_scanner::script::Stalls;
use tissuemap_scanner::soak::{self, program_beside, soak};
use tissuemap_scanner::template::Template;
use tissuemap_scanner::trial::{Setup, trial};

/// Brings slides into a folder the ways scanners and copying programs do, and checks what tissuemapd made of them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring slides into a folder that a daemon watches, and write down when each was complete
    Copy {
        /// The watched folder
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// Where to write down what happened, as CSV
        #[arg(long, value_name = "FILE", default_value = "ledger.csv")]
        ledger: PathBuf,
        #[command(flatten)]
        slides: Slides,
    },
    /// Compare a ledger with the results beside the slides, or with recorded events
    Check {
        /// What `copy` wrote down
        ledger: PathBuf,
        /// The daemon's settle time
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        settle: u64,
        /// The daemon's log: tells what was done twice
        #[arg(long, value_name = "FILE", conflicts_with = "events")]
        log: Option<PathBuf>,
        /// Events that `trial` recorded, instead of results
        #[arg(long, value_name = "FILE")]
        events: Option<PathBuf>,
    },
    /// Bring slides to the daemon's own loop in this process, with a job runner that records, and compare
    Trial {
        #[command(flatten)]
        slides: Slides,
        /// Let every file system event get lost
        #[arg(long)]
        poll: bool,
        /// Keep ledger.csv and events.jsonl in this folder
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// Let a real daemon work for hours while it is killed, stopped, robbed of its folder and its room, and given models; and
    /// tell whether it holds more and more, loses a set, does one twice or touches what is not its own. As root, disks of its
    /// own are mounted (scripts/soak.sh does that for others, too)
    Soak {
        /// How long; a part of an hour is fine
        #[arg(long, value_name = "HOURS", default_value_t = 1.0)]
        hours: f64,
        /// The same seed brings the same sets and faults, at other moments
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Sets at a time
        #[arg(long, value_name = "N", default_value_t = 6)]
        parallel: u64,
        /// The program tissuemapd; without this, the one beside this program
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// A new or empty folder for everything: samples.csv, events.txt, summary.txt, daemon.log
        #[arg(long, value_name = "DIR")]
        keep: PathBuf,
    },
}

#[derive(Args)]
struct Slides {
    /// How many
    #[arg(long = "slides", value_name = "N", default_value_t = 100)]
    count: usize,
    /// Stains of a set
    #[arg(long, value_delimiter = ',', default_value = "HE,CD31,KI67")]
    stains: Vec<String>,
    /// Copy the slides of this folder instead of made-up ones, which no slide reader opens
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Bytes of a made-up slide
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    bytes: usize,
    /// The daemon's settle time; copies stall for up to 93 % of it
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    settle: u64,
    /// Most stalls of one copy
    #[arg(long, value_name = "N", default_value_t = 3)]
    stalls: usize,
    /// Copies at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    parallel: usize,
    /// All at once and without stalls
    #[arg(long)]
    burst: bool,
    /// Leave a marker of this name after each slide, such as {stem}.done
    #[arg(long, value_name = "NAME")]
    marker: Option<String>,
    /// The same seed brings the same slides in the same way
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What the names of the cases begin with
    #[arg(long, value_name = "TEXT", default_value = "sim")]
    prefix: String,
}

impl Slides {
    fn wish(&self) -> anyhow::Result<Wish> {
        let settle = Duration::from_secs(self.settle);
        let marker = self.marker.clone().map(Marker::try_from).transpose().map_err(anyhow::Error::msg)?;
        Ok(Wish {
            seed: self.seed,
            slides: self.count,
            stains: self.stains.clone(),
            bytes: self.bytes,
            stalls: Stalls { most: self.stalls, length: settle.mul_f64(0.75)..settle.mul_f64(0.93) },
            burst: self.burst,
            marker: marker.map(|marker| (marker, settle.mul_f64(1.5))),
            prefix: self.prefix.clone(),
        })
    }

    fn templates(&self) -> anyhow::Result<Option<Vec<Template>>> {
        self.from.as_deref().map(Template::read_all).transpose()
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// True when nothing was found wrong.
fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Copy { into, ledger, slides } => {
            let into = std::path::absolute(&into)?;
            let copies = plan(&into, &slides.wish()?, slides.templates()?.as_deref())?;
            ledger::write(&ledger, &play(&copies, slides.parallel)?)?;
            writeln!(std::io::stderr(), "{} slides brought; see {}", copies.len(), ledger.display())?;
            Ok(true)
        }
        Command::Check { ledger, settle, log, events } => {
            let ledger = ledger::read(&ledger)?;
            let text = |path: PathBuf| fs::read_to_string(&path).with_context(|| path.display().to_string());
            let sightings = match events {
                Some(events) => {
                    text(events)?.lines().map(serde_json::from_str).collect::<Result<Vec<Sighting>, _>>()?
                }
                None => results(&ledger, log.map(text).transpose()?.as_deref()),
            };
            tell(&check(&ledger, &sightings, settle as f64))
        }
        Command::Trial { slides, poll, keep } => {
            let folder = tempfile::tempdir()?;
            let setup = Setup {
                settle_seconds: slides.settle,
                scan_seconds: 2,
                poll,
                parallel: slides.parallel,
                patience: Duration::from_mins(10),
            };
            let outcome = trial(folder.path(), &slides.wish()?, &setup, slides.templates()?.as_deref())?;
            if let Some(keep) = keep {
                fs::create_dir_all(&keep).with_context(|| keep.display().to_string())?;
                ledger::write(&keep.join("ledger.csv"), &outcome.ledger)?;
                events(&keep.join("events.jsonl"), &outcome.sightings)?;
            }
            writeln!(std::io::stderr(), "{:.0} s", outcome.took.as_secs_f64())?;
            tell(&outcome.verdict)
        }
        Command::Soak { hours, seed, parallel, program, keep } => {
            let program = program.map_or_else(program_beside, Ok)?;
            let time = Duration::try_from_secs_f64(hours * 3600.0).context("--hours")?;
            let report = soak(&soak::Wish { time, seed, parallel, program, folder: std::path::absolute(keep)? })?;
            write!(std::io::stdout(), "{}", report.text)?;
            Ok(report.wrong.is_empty())
        }
    }
}

fn tell(verdict: &Verdict) -> anyhow::Result<bool> {
    write!(std::io::stdout(), "{verdict}")?;
    Ok(verdict.is_good())
}

fn events(path: &Path, sightings: &[Sighting]) -> anyhow::Result<()> {
    let lines = sightings.iter().map(|sighting| Ok(serde_json::to_string(sighting)? + "\n"));
    let text = lines.collect::<serde_json::Result<String>>()?;
    fs::write(path, text).with_context(|| path.display().to_string())
}
