//! `tissuemapctl process`: the whole road once, without the daemon.

use std::io;
use std::path::PathBuf;

use tissuemap::road::{RoadParams, SetResult};
use tissuemap::section_set::{Grouped, Manifest, SectionSet, group};

use super::ProcessArgs;
use super::bar::Bar;
use crate::arrive::members::fingerprint;
use crate::config::Config;
use crate::done::is_done;
use crate::exit::{self, Exit, Failure};
use crate::in_process::InProcess;
use crate::job::{Fault, Job, JobRunner};

/// Groups the slides, processes each set and prints its output directories.
///
/// # Errors
/// Nothing could be begun, or some slides or sets failed; the others are processed all the same.
pub fn run(args: &ProcessArgs) -> Result<(), Failure> {
    let config = args.config.as_deref().map(Config::read).transpose().map_err(|error| Exit::Usage.because(&error))?;
    let model = args.model.clone().or(config.as_ref().map(|config| config.model.clone()));
    let model = model.ok_or_else(|| Exit::Usage.with(Fault::new("no model", "give --model or --config")))?;
    let params = config.as_ref().map_or_else(RoadParams::default, |config| config.road.clone());
    let naming = config.map(|config| config.naming).unwrap_or_default();

    let manifest =
        args.manifest.as_deref().map(Manifest::read).transpose().map_err(|error| Exit::Usage.because(&error))?;
    let runner = InProcess::load(&model, &params).map_err(|fault| Exit::Unavailable.with(fault))?;
    let namer = runner.model().namer(&naming).map_err(|error| Exit::Usage.because(&error))?;
    let slides: Vec<PathBuf> =
        args.slides.iter().map(|slide| std::path::absolute(slide).unwrap_or_else(|_| slide.clone())).collect();
    let Grouped { sets, errors } = group(&slides, &namer, manifest.as_ref());

    let mut failures = errors.len();
    for error in &errors {
        exit::complain(&Fault::from_error(error));
    }
    for set in sets {
        match process(set, args, &runner) {
            Err(Failure { exit: Exit::JobsFailed, fault }) => {
                exit::complain(&fault);
                failures += 1;
            }
            other => other?,
        }
    }
    match failures {
        0 => Ok(()),
        n => Err(Exit::JobsFailed.with(Fault::new(format!("{n} failed"), "the reasons are above"))),
    }
}

fn process(set: SectionSet, args: &ProcessArgs, runner: &InProcess) -> Result<(), Failure> {
    let bar = Bar::new(&format!("set {}", set.key));
    let inputs = set.slides.values().map(|slide| Ok((slide.clone(), fingerprint(slide)?)));
    let inputs = inputs.collect::<io::Result<_>>().map_err(|error| Exit::JobsFailed.because(&error))?;
    let job = Job { set, inputs, mpp: args.mpp };
    if !args.force && is_done(&job, runner.model()) {
        bar.end("has its results already; --force processes it again");
        return Ok(());
    }
    let result = runner.process(&job, &bar).map_err(|fault| {
        bar.end("failed");
        Exit::JobsFailed.with(fault)
    })?;
    bar.end(&format!("{} tissue cells", result.tissue_cells));
    for warning in &result.warnings {
        exit::say(&format!("warning: set {}: {warning}", result.key));
    }
    exit::print(&listing(&result, args.json)?)
}

fn listing(result: &SetResult, json: bool) -> Result<String, Failure> {
    if json {
        return serde_json::to_string(result).map(|line| line + "\n").map_err(|error| Exit::Internal.because(&error));
    }
    Ok(exit::lines(result.outputs.iter().map(|output| output.display())))
}
