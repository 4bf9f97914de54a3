//! `tissuemapctl check`: prints what [`crate::check`] finds.

use super::CheckArgs;
use crate::check::{self, Finding, Grade};
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;

/// The daemon's program, installed or built beside this one.
const DAEMON: &str = "tissuemapd";

/// Prints a line for every finding as soon as it is there.
///
/// # Errors
/// Something fails that the daemon cannot do without.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(|error| Exit::Internal.because(&error))?.with_file_name(DAEMON);
    let (mut failed, mut printed) = (0, Ok(()));
    check::run(&args.config, &program, &mut |finding| {
        failed += usize::from(finding.grade == Grade::Fail);
        if printed.is_ok() {
            printed = line(&finding, args.json).and_then(|line| exit::print(&line));
        }
    });
    printed?;
    match failed {
        0 => Ok(()),
        n => Err(Exit::JobsFailed.with(Fault::new(format!("checks that failed: {n}"), "the remedies are above"))),
    }
}

fn line(finding: &Finding, json: bool) -> Result<String, Failure> {
    if json {
        return exit::json(finding);
    }
    let Finding { check, grade, detail, hint } = finding;
    let hint = hint.as_ref().map(|hint| format!("      hint: {hint}"));
    Ok(exit::lines([format!("{:<4}  {check}: {detail}", grade.as_str())].into_iter().chain(hint)))
}
