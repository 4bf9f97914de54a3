//! `tissuemap-train`: see `--help`.

use std::io::{self, IsTerminal, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use tissuemap_trainer::cli::export::ExportCommand;
use tissuemap_trainer::cli::fit::FitCommand;
use tissuemap_trainer::cli::name::NameCommand;
use tissuemap_trainer::cli::report::ReportCommand;
use tissuemap_trainer::cli::sweep::SweepCommand;
use tissuemap_trainer::config::DEFAULT_TOML;
use tissuemap_trainer::data::inspect::InspectCommand;
use tissuemap_trainer::evaluate::benchmark::BenchmarkCommand;
use tissuemap_trainer::evaluate::vectors::EvaluateCommand;
use tissuemap_trainer::system::error::TrainError;

const EXAMPLES: &str = "\
Examples:
  tissuemap-train config > train.toml          # the commented default configuration
  tissuemap-train inspect --config train.toml --out sheets    # shows the training data
  tissuemap-train fit --config train.toml --out model.onnx
  tissuemap-train fit --config train.toml --out model.onnx --device cuda:0 --clusters 13 --seed 7
  tissuemap-train export --run model.run --out model.int8.onnx --precision int8
  tissuemap-train name model.onnx --print > names.toml
  tissuemap-train name model.onnx names.toml --out named.onnx
  tissuemap-train report --run model.run --data slides
  tissuemap-train sweep --config train.toml --out model.onnx > evidence.csv
  tissuemap-train benchmark --images labelled > table.csv     # a folder of images per class
  tissuemap-train evaluate --vectors latents.npy --clusters 2-20 > table.csv

Ctrl-C saves a checkpoint beside the model. The same command continues from it.
Exit codes: 0 done, 2 failed, 64 wrong usage or configuration, 130 interrupted.";

/// Trains a tissue clustering model and exports it as one ONNX file.
#[derive(Parser)]
#[command(name = "tissuemap-train", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the commented default configuration.
    Config,
    /// Show the training data without training: sets, slides, registration, patches, disk space.
    Inspect(InspectCommand),
    /// Train on section sets and write the model.
    #[command(after_help = EXAMPLES)]
    Fit(FitCommand),
    /// Export the model of a finished fit again, in any precision.
    Export(ExportCommand),
    /// Set names and colours of clusters, or propose names from annotations.
    Name(NameCommand),
    /// Write the report on a fitted model: one HTML file.
    Report(ReportCommand),
    /// Choose the number of clusters: fit clusterers with every number and print the evidence for each.
    Sweep(SweepCommand),
    /// Cluster labelled images with this and other methods, and compare the result with the labels.
    Benchmark(BenchmarkCommand),
    /// Cluster vectors with several methods, and print quality indices for each number of clusters.
    Evaluate(EvaluateCommand),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colours).without_time().with_target(false).init();
    // Failures of libtorch (for example out of memory) are panics. They are reported like every other error.
    panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&cli.command)));
    match outcome.unwrap_or_else(|panic| Err(TrainError::from_panic(&*panic).into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

const EXIT_USAGE: u8 = 64;
const EXIT_FAILED: u8 = 2;

fn run(command: &Command) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match command {
        Command::Config => write!(stdout, "{DEFAULT_TOML}").map_err(|e| anyhow!("standard output: {e}")),
        Command::Inspect(inspect) => Ok(inspect.run(&mut stdout)?),
        Command::Fit(fit) => Ok(fit.run(&mut stdout)?),
        Command::Export(export) => Ok(export.run(&mut stdout)?),
        Command::Name(name) => Ok(name.run(&mut stdout, &mut io::stderr().lock())?),
        Command::Report(report) => Ok(report.run(&mut stdout)?),
        Command::Sweep(sweep) => Ok(sweep.run(&mut stdout)?),
        Command::Benchmark(benchmark) => Ok(benchmark.run(&mut stdout)?),
        Command::Evaluate(evaluate) => Ok(evaluate.run(&mut stdout)?),
    }
}

/// Prints the chain of causes in one line, then the hint.
fn report(error: &anyhow::Error) -> ExitCode {
    let train = error.downcast_ref::<TrainError>();
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {error:#}");
    if let Some(hint) = train.and_then(TrainError::hint) {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    ExitCode::from(train.map_or(EXIT_FAILED, TrainError::exit_code))
}
