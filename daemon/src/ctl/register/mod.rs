//! `tissuemapctl register`: registers sections without a model and leaves the result as files, for programs and to look at.

pub(super) mod output;
pub(super) mod sections;
mod stack;
mod summary;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tissuemap::escape;
use tissuemap::landmarks;
use tissuemap::placement::{Placement, PlacementError, place, registration_mpp};
use tissuemap::register::{RegisterParams, Verdict};
use tissuemap::slide::{OpenOptions, SlideSource, open_slide_or_image};

use super::RegisterArgs;
use super::bar::Bar;
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;
use crate::signals;
use sections::FixedSection;
use summary::{SectionSummary, Summary};

/// A slide and what its files and channels are called.
pub(super) struct Section {
    pub(super) name: String,
    pub(super) slide: Arc<dyn SlideSource>,
}

/// Registers all sections, publishes the folder and prints the table.
///
/// # Errors
/// Nothing could be begun, a slide cannot be read, or a signal came: nothing is published then. A registration is
/// refused: everything is published all the same.
pub fn run(args: &RegisterArgs) -> Result<(), Failure> {
    let staging = output::prepare(&args.out, args.force, summary::FILE)?;
    let points = args.landmarks.as_deref().map(landmarks::read).transpose();
    let points = points.map_err(|error| Exit::Usage.because(&error))?;
    let stop = signals::flag().map_err(|error| Exit::Internal.because(&error))?;
    let bar = Bar::new("sections");
    let result = (|| {
        let sections = open(args, &bar)?;
        let summary = register(args, &sections, points.as_deref(), staging.path(), &Work { bar: &bar, stop: &stop })?;
        output::write_record(staging.path(), summary::FILE, &summary)?;
        ended(&stop)?;
        output::publish(staging, summary::FILE)?;
        Ok(summary)
    })();
    bar.end(result.as_ref().map_or("failed", |_| "registered"));
    report(&result?, args)
}

/// How far the work is, and whether it should end.
struct Work<'a> {
    bar: &'a Bar,
    stop: &'a AtomicBool,
}

impl Work<'_> {
    fn advance(&self, stage: &'static str, done: u64, total: u64) -> ControlFlow<()> {
        self.bar.show(stage, done, total);
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn ended(stop: &AtomicBool) -> Result<(), Failure> {
    if stop.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
}

fn interrupted() -> Failure {
    Exit::Interrupted.with(Fault::new("ended by a signal, nothing is written", "the same command begins anew"))
}

/// The fixed section first.
fn open(args: &RegisterArgs, bar: &Bar) -> Result<Vec<Section>, Failure> {
    let options = OpenOptions { mpp: args.mpp, ..OpenOptions::default() };
    let paths: Vec<&Path> = std::iter::once(&args.fixed).chain(&args.moving).map(AsRef::as_ref).collect();
    let mut sections: Vec<Section> = Vec::with_capacity(paths.len());
    for path in &paths {
        bar.show("open", sections.len() as u64, paths.len() as u64);
        let slide = open_slide_or_image(path, &options).map_err(|error| Exit::JobsFailed.with(Fault::from(error)))?;
        let name = unused_name(&slide.info().stem(), &sections);
        sections.push(Section { name, slide });
    }
    Ok(sections)
}

/// `stem`, or with a number behind it where another section has that name already.
fn unused_name(stem: &str, sections: &[Section]) -> String {
    let numbered = (2..).map(|number| format!("{stem}_{number}"));
    let free = |name: &String| sections.iter().all(|section| section.name != *name);
    std::iter::once(stem.to_owned()).chain(numbered).find(free).expect("numbers do not end")
}

fn register(
    args: &RegisterArgs,
    sections: &[Section],
    points: Option<&[landmarks::Landmark]>,
    folder: &Path,
    work: &Work<'_>,
) -> Result<Summary, Failure> {
    let (fixed, moving) = sections.split_first().expect("the command line has a fixed section");
    let slides: Vec<&Arc<dyn SlideSource>> = sections.iter().map(|section| &section.slide).collect();
    // Said before the work, not after it.
    let stack_mpp = args.stack.then(|| stack::resolution(fixed.slide.info(), args.stack_mpp)).transpose()?;
    let mpp = registration_mpp(&slides, args.long_side);
    let advance = |done, total| work.advance("register", done, total);
    let placements = place(&fixed.slide, &slides[1..], mpp, &RegisterParams::default(), &advance);
    let placements = placements.map_err(|error| match error {
        PlacementError::Slide(error) => Exit::JobsFailed.with(Fault::from(error)),
        PlacementError::Cancelled => interrupted(),
    })?;

    let on_fixed = FixedSection::new(fixed, mpp, points)?;
    let mut summary = Summary::new(fixed.slide.info(), mpp);
    for (done, (section, placement)) in moving.iter().zip(&placements).enumerate() {
        if work.advance("pictures", done as u64, moving.len() as u64).is_break() {
            return Err(interrupted());
        }
        let files = match placement.found() {
            Some(found) => on_fixed.write(folder, section, found)?,
            None => Vec::new(),
        };
        summary.add(SectionSummary::new(section, placement, files));
    }
    if let Some(mpp) = stack_mpp {
        let mut stained = vec![(fixed, None)];
        stained.extend(moving.iter().zip(&placements).filter_map(|(section, placement)| match placement {
            Placement::Registered(found) => Some((section, Some(&found.map))),
            _ => None,
        }));
        stack::write(folder, &stained, mpp, work)?;
        summary.files.push(stack::FILE.into());
    }
    Ok(summary)
}

/// Tells verdicts, and makes refusals the program's failure.
fn report(summary: &Summary, args: &RegisterArgs) -> Result<(), Failure> {
    for section in &summary.sections {
        for reason in &section.reasons {
            exit::say(&format!("warning: {} is {}: {reason}", section.name, section.verdict));
        }
    }
    exit::print(&if args.json { escape::json(&summary.json()?) } else { summary.table() })?;
    let refused: Vec<&str> =
        summary.sections.iter().filter(|s| s.verdict == Verdict::Refused).map(|s| s.name.as_str()).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let reason = format!("the registration of {} is refused", refused.join(", "));
    let hint = format!("look at the pictures in {}; use nothing of it", args.out.display());
    Err(Exit::JobsFailed.with(Fault::new(reason, hint)))
}

#[cfg(test)]
mod tests {
    use tissuemap::slide::SyntheticSlide;
    use tissuemap::units::Mpp;

    use super::*;

    #[test]
    fn sections_of_the_same_file_name_are_told_apart() {
        let mut sections = Vec::new();
        for stem in ["HE", "HE_2", "HE", "HE"] {
            let slide = SyntheticSlide::new(image::RgbImage::new(8, 8), Mpp::new(1.0).expect("plausible"));
            let name = unused_name(stem, &sections);
            sections.push(Section { name, slide: Arc::new(slide) });
        }
        let names: Vec<&str> = sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, ["HE", "HE_2", "HE_3", "HE_4"]);
    }
}
