//! `tissuemapctl`: the operator's command line.

use std::process::ExitCode;

use clap::CommandFactory;
use tissuemap_daemon::ctl::{
    Cli, Command, SlideCommand, ask, bus, check, models, plan, process, queue, register, slide, status, verify,
};
use tissuemap_daemon::exit::{self, Exit, Failure};
use tissuemap_daemon::pages;
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
        Command::Status(args) => in_runtime(status::status(cli.bus, args)),
        Command::Queue(args) => in_runtime(queue::queue(cli.bus, args)),
        Command::Explain(args) => in_runtime(ask::explain(cli.bus, args)),
        Command::Submit(args) => in_runtime(ask::submit(cli.bus, args)),
        Command::Cancel(args) => in_runtime(ask::cancel(cli.bus, args)),
        Command::Retry(args) => in_runtime(ask::retry(cli.bus, args)),
        Command::Pause => in_runtime(ask::pause(cli.bus)),
        Command::Resume => in_runtime(ask::resume(cli.bus)),
        Command::Models(command) => in_runtime(models::run(cli.bus, command)),
        Command::Completions(args) => pages::completions(Cli::command(), args.shell),
        Command::Man(args) => pages::man(Cli::command(), &args.folder),
        Command::Wait(args) => in_runtime(bus::wait(cli.bus, args)),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Exit::Internal.because(&error))?.block_on(work)
}
