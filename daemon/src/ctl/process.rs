//! `tissuemapctl process`: the whole road once, without the daemon.

use std::collections::BTreeSet;
use std::io;

use tissuemap::infer::InferOptions;
use tissuemap::road::SetResult;
use tissuemap::section_set::{Grouped, SectionSet};

use super::ProcessArgs;
use super::bar::Bar;
use crate::arrive::members::fingerprint;
use crate::done::{Maker, is_done, would_lose};
use crate::exit::{self, Exit, Failure};
use crate::in_process::InProcess;
use crate::job::{Fault, Job, JobRunner};
use crate::outputs;

/// Groups the slides, processes each set and prints its output directories.
///
/// # Errors
/// Nothing could be begun, or some slides or sets failed; the others are processed all the same.
pub fn run(args: &ProcessArgs) -> Result<(), Failure> {
    let wanted = args.input.read()?;
    let options = InferOptions { providers: wanted.providers.clone(), ..InferOptions::default() };
    let runner =
        InProcess::load(&wanted.model, &wanted.params, &options).map_err(|fault| Exit::Unavailable.with(fault))?;
    let Grouped { sets, errors } = wanted.group(&runner.model().stains)?;

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
    let job = Job { set, inputs, mpp: args.input.mpp };
    if !args.force && is_done(&job, runner.model(), Maker::This) {
        bar.end("has its results already; --force processes it again");
        return Ok(());
    }
    let lost = if args.force { BTreeSet::new() } else { would_lose(&job, runner.model()) };
    if !lost.is_empty() {
        let stains = lost.into_iter().collect::<Vec<_>>().join(", ");
        bar.end(&format!("has results that were made with {stains} besides; --force replaces them"));
        return Ok(());
    }
    // Not after minutes of work.
    for folder in outputs::folders(job.set.slides.values()) {
        outputs::try_to_write(&folder).map_err(|error| {
            bar.end("not begun");
            Exit::JobsFailed.with(outputs::unwritable(&folder, &error))
        })?;
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
        return exit::json(result);
    }
    Ok(exit::lines(result.outputs.iter().map(|output| output.display())))
}
