//! `tissuemapctl`: the operator's command line.

use std::process::ExitCode;

use tissuemap_daemon::ctl::{Cli, Command, SlideCommand, bus, check, plan, process, register, slide, verify};
use tissuemap_daemon::exit::{self, Exit, Failure};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli: Cli = match exit::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // Progress bars and errors are this program's words; the library's log is for whoever asks for it by RUST_LOG.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, fault }) => {
            exit::complain(&fault);
            exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Process(args) => process::run(&args),
        Command::Register(args) => register::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Slide(SlideCommand::Info(args)) => slide::info(&args),
        Command::Status(args) => in_runtime(bus::status(cli.bus, args)),
        Command::Wait(args) => in_runtime(bus::wait(cli.bus, args)),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Exit::Internal.because(&error))?.block_on(work)
}
