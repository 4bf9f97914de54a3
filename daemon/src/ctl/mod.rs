//! The commands of `tissuemapctl`. Data goes to standard output, words to standard error.

pub mod ask;
mod bar;
pub mod bus;
pub mod check;
pub mod models;
pub mod plan;
pub mod process;
pub mod queue;
pub mod register;
pub mod sets;
pub mod slide;
pub mod status;
pub mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tissuemap::road::RoadParams;
use tissuemap::units::Mpp;

use self::ask::{CancelArgs, ExplainArgs, RetryArgs, SubmitArgs};
use self::models::ModelsCommand;
use self::queue::QueueArgs;
use self::status::StatusArgs;
use crate::config::BusKind;
use crate::exit;
use crate::pages::{CompletionsArgs, ManArgs};

const EXAMPLES: &str = "Examples:
  tissuemapctl process case7_HE.svs case7_CD31.svs --model mouse.onnx
  tissuemapctl register case7_HE.svs case7_CD31.svs --out case7
  tissuemapctl slide info case7_HE.svs
  tissuemapctl status --watch
  tissuemapctl explain case7_HE.svs
  tissuemapctl wait --timeout 3600 && echo 'a result is there'
";

/// Operates tissuemap: asks the daemon, or works on slides without it. Research use only.
#[derive(Debug, Parser)]
#[command(name = "tissuemapctl", version, after_help = format!("{EXAMPLES}\n{}", exit::HELP))]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// The D-Bus bus on which the daemon is
    #[arg(long, global = true, value_enum, default_value = "system")]
    pub bus: BusKind,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Process slides now, without the daemon
    Process(ProcessArgs),
    /// See what would be processed, before any model runs: sets, registration, tissue, patches
    Plan(PlanArgs),
    /// Find where each point of one section lies on others, without the daemon
    Register(RegisterArgs),
    /// Show what the daemon is doing
    Status(StatusArgs),
    /// Show all section sets that are queued, failed or cancelled
    Queue(QueueArgs),
    /// Say in plain words why a slide is not done yet
    Explain(ExplainArgs),
    /// Have the daemon process the sets of slides now
    Submit(SubmitArgs),
    /// Have the daemon stop a job, or leave it alone
    Cancel(CancelArgs),
    /// Have the daemon try a failed or cancelled job again
    Retry(RetryArgs),
    /// Have the daemon begin nothing new
    #[command(after_help = "Examples:\n  tissuemapctl pause && sleep 3600 && tissuemapctl resume")]
    Pause,
    /// Have the daemon go on after a pause
    #[command(after_help = "Examples:\n  tissuemapctl resume")]
    Resume,
    /// Show the daemon's models, or have another one serve
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Wait until the daemon has finished a section set
    Wait(WaitArgs),
    /// Is everything there that the daemon needs? Each finding with a hint
    Check(CheckArgs),
    /// Read results and their slides again: are they what was recorded?
    Verify(VerifyArgs),
    /// Look at a slide
    #[command(subcommand)]
    Slide(SlideCommand),
    /// Print what a shell needs to complete the command line
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Write the man pages
    #[command(hide = true)]
    Man(ManArgs),
}

/// `tissuemapctl slide`
#[derive(Debug, Subcommand)]
pub enum SlideCommand {
    /// Show vendor, resolution, levels, scanned part and all of OpenSlide's properties
    Info(InfoArgs),
}

/// Which slides, and by which model and rules.
#[derive(Debug, Args)]
pub struct SetsArgs {
    /// The slides of one or more section sets, in any order
    #[arg(required = true, value_name = "SLIDE", help_heading = "Input")]
    pub slides: Vec<PathBuf>,
    /// Micrometres per pixel of slides that state none
    #[arg(long, value_parser = parse_mpp, help_heading = "Input")]
    pub mpp: Option<Mpp>,
    /// A CSV (slide, case, block, section, stain) that overrules the file names
    #[arg(long, value_name = "CSV", help_heading = "Input")]
    pub manifest: Option<PathBuf>,
    /// The model; without it, the one that serves by --config and its state folder
    #[arg(long, value_name = "ONNX", required_unless_present = "config", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// Take model, naming and parameters from this configuration of the daemon
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub config: Option<PathBuf>,
}

/// `tissuemapctl process`
#[derive(Debug, Args)]
pub struct ProcessArgs {
    #[command(flatten)]
    pub input: SetsArgs,
    /// Also process sets that have their results already
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Print one JSON object a set
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

const PLAN_EXAMPLES: &str = "Examples:
  tissuemapctl plan case7_HE.svs case7_CD31.svs --model mouse.onnx --out look
  tissuemapctl plan /slides/*.svs --config /etc/tissuemap/tissuemapd.toml --json

Without --out nothing is written. With it, for every set, by its name:
  case7_patches.png             the patches that the model would see
  case7_CD31_checkerboard.png   both sections in turn, to look at
  case7_CD31_edges.png          the edges of both, to look at
and transforms as `tissuemapctl register` leaves them; plan.json lists all.
";

/// `tissuemapctl plan`
#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLES)]
pub struct PlanArgs {
    #[command(flatten)]
    pub input: SetsArgs,
    /// The folder for pictures; it appears when all of them are there
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Replace an earlier plan in DIR
    #[arg(long, requires = "out", help_heading = "Output")]
    pub force: bool,
    /// Print a JSON object instead of text
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

const REGISTER_EXAMPLES: &str = "Examples:
  tissuemapctl register case7_HE.svs case7_CD31.svs case7_KI67.svs --out case7
  tissuemapctl register HE.jpg CD31.jpg --mpp 3.5 --out lesion --landmarks HE_points.csv
  tissuemapctl register case7_HE.svs case7_CD31.svs --out case7 --stack --stack-mpp 0.5

Files in the folder --out, for each MOVING by its name, such as case7_CD31:
  case7_CD31_transform.json     where points of FIXED lie on MOVING, with
  case7_CD31_displacement.tif   the non-linear part: docs/REGISTRATION_FILES.md
  case7_CD31_checkerboard.png   both sections in turn, to look at
  case7_CD31_edges.png          the edges of both on FIXED, to look at
  case7_CD31_landmarks.csv      --landmarks, carried to MOVING
  registered_stack.ome.tif      --stack: what is not refused, on FIXED
  registration.json             verdicts and figures

A refused registration makes the exit code 1. Its files are written all the
same, to be looked at. Ctrl-C leaves nothing, with the exit code 130.
Research use only.
";

/// `tissuemapctl register`
#[derive(Debug, Args)]
#[command(after_help = REGISTER_EXAMPLES)]
pub struct RegisterArgs {
    /// The section to whose frame the others are registered: a slide, or a JPEG, PNG or TIFF image
    pub fixed: PathBuf,
    /// Sections of the same block; two and more are also checked against each other
    #[arg(required = true)]
    pub moving: Vec<PathBuf>,
    /// Micrometres per pixel of slides and images that state none
    #[arg(long, value_name = "UM", value_parser = parse_mpp, help_heading = "Input")]
    pub mpp: Option<Mpp>,
    /// Points to carry over (columns id,x,y): level-0 pixels of FIXED, pixel centres at integers
    #[arg(long, value_name = "CSV", help_heading = "Input")]
    pub landmarks: Option<PathBuf>,
    /// Long side of the images that are registered; below 900 precision suffers, above 2000 only time grows
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(256..=8192),
          default_value_t = RoadParams::default().register_long_side_px)]
    pub long_side: u32,
    /// The folder for the results; it appears when all of them are there
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: PathBuf,
    /// Also write all sections as one registered OME-TIFF
    #[arg(long, help_heading = "Output")]
    pub stack: bool,
    /// Resolution of the stack, unless it is FIXED's own
    #[arg(long, value_name = "UM", value_parser = parse_mpp, requires = "stack", help_heading = "Output")]
    pub stack_mpp: Option<Mpp>,
    /// Replace an earlier registration in DIR
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Print registration.json instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `tissuemapctl wait`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tissuemapctl wait --timeout 3600 && echo 'a result is there'")]
pub struct WaitArgs {
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

const CHECK_EXAMPLES: &str = "Examples:
  sudo -u tissuemap tissuemapctl check
  tissuemapctl check --config tissuemapd.toml --json

Checked are: libraries and their versions, the kernel, the configuration, the state
folder, each watched folder (readable, writable, room, a file that is touched to see
whether its event comes), inotify limits, memory, graphics card, the model (its
golden patches, in a confined worker process) and the bus. It can be run beside the
daemon; run it as the daemon's user, whose rights are what counts.
The exit code is 1 if anything FAILs.
";

/// `tissuemapctl check`
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/tissuemap/tissuemapd.toml")]
    pub config: PathBuf,
    /// Print a JSON object a finding
    #[arg(long)]
    pub json: bool,
}

const VERIFY_EXAMPLES: &str = "Examples:
  tissuemapctl verify /slides/case7_HE.tissuemap
  tissuemapctl verify /slides --outputs-only --json
  tissuemapctl verify /slides --model mouse.onnx

Every file of a result, and every slide that it was made from, is read again and
compared with the hashes in result.json. The exit code is 1 if anything differs.
";

/// `tissuemapctl verify`
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    /// Result folders, or folders with results in them
    #[arg(required = true, value_name = "DIR")]
    pub places: Vec<PathBuf>,
    /// Do not read the slides: a result may lie elsewhere than they do
    #[arg(long)]
    pub outputs_only: bool,
    /// Also tell results that were made with another model than this
    #[arg(long, value_name = "ONNX")]
    pub model: Option<PathBuf>,
    /// Print a JSON object a result
    #[arg(long)]
    pub json: bool,
}

/// `tissuemapctl slide info`
#[derive(Debug, Args)]
pub struct InfoArgs {
    #[arg(value_name = "SLIDE")]
    pub slide: PathBuf,
    /// Micrometres per pixel, if the slide states none
    #[arg(long, value_parser = parse_mpp)]
    pub mpp: Option<Mpp>,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

fn parse_mpp(text: &str) -> Result<Mpp, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Mpp::new(number).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_implausible_mpp_is_refused_with_the_reason() {
        let error = Cli::try_parse_from(["tissuemapctl", "slide", "info", "a.svs", "--mpp", "0"]).expect_err("refused");
        assert!(error.to_string().contains("plausible"), "{error}");
    }
}
