//! `tissuemapctl plan`: everything before the model, to look at before any work is done.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Serialize, Serializer};
use tissuemap::contract::Cluster;
use tissuemap::durable::Staging;
use tissuemap::escape::{self, file_component, for_people};
use tissuemap::infer::Model;
use tissuemap::look::captioned;
use tissuemap::map::LabelMap;
use tissuemap::overlay::{RESEARCH_USE_ONLY, blend};
use tissuemap::placement::{Placement, PlacementKind, registration_mpp};
use tissuemap::register::Verdict;
use tissuemap::road::{Layout, Prepared, Progress, RoadError, RoadParams, Stage, StainVerdict, prepare};
use tissuemap::section_set::{Grouped, SectionSet};
use tissuemap::slide::{SlideSource, thumbnail};
use tissuemap::tissue::TissueOutcome;

use super::PlanArgs;
use super::bar::Bar;
use super::register::Section;
use super::register::output;
use super::register::sections::{FixedSection, unreadable};
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;
use crate::signals;
use crate::status::stage_name;

const RECORD: &str = "plan.json";
const FORMAT: &str = "tissuemap-plan/1";
/// A cell that would become a patch, over the section's own colours.
const PATCH: [u8; 3] = [40, 110, 220];

/// What would be processed.
#[derive(Debug, Serialize)]
struct Plan {
    format: &'static str,
    research_use_only: &'static str,
    model: String,
    sets: Vec<SetPlan>,
    /// Slides that are in no set, and sets that cannot be processed.
    #[serde(serialize_with = "as_told")]
    problems: Vec<Fault>,
    files: Vec<String>,
}

fn as_told<S: Serializer>(problems: &[Fault], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(problems.iter().map(ToString::to_string))
}

/// One section set.
#[derive(Debug, Serialize)]
struct SetPlan {
    set: String,
    stains: Vec<StainPlan>,
    /// Share of the reference's scanned area that is tissue.
    tissue_fraction: f64,
    /// Cells of the map; those with enough tissue become patches.
    cells: usize,
    patches: usize,
    /// Side of a patch, in micrometres.
    patch_um: f64,
}

/// One stain of a set.
#[derive(Debug, Serialize)]
struct StainPlan {
    stain: String,
    slide: Option<String>,
    /// `reference`, `registered`, `left-out` or `missing`.
    placement: PlacementKind,
    registration: Option<StainVerdict>,
}

/// Prints the plan of every set and leaves its pictures.
///
/// # Errors
/// Nothing could be begun, some slides or sets cannot be processed, or a signal came: no picture is left then.
pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let wanted = args.input.read()?;
    let staging = args.out.as_deref().map(|out| output::prepare(out, args.force, RECORD)).transpose()?;
    let stop = signals::flag().map_err(|error| Exit::Internal.because(&error))?;
    let model = Model::load(&wanted.model).map_err(|error| Exit::Unavailable.because(&error))?;
    let (layout, model) = (Layout::from(model.contract()), model.sha256().to_owned());
    let params = RoadParams { mpp: args.input.mpp.or(wanted.params.mpp), ..wanted.params.clone() };
    let Grouped { sets, errors } = wanted.group(&layout.stains)?;

    let problems = errors.iter().map(|error| Fault::from_error(error)).collect();
    let mut plan =
        Plan { format: FORMAT, research_use_only: RESEARCH_USE_ONLY, model, sets: vec![], problems, files: vec![] };
    for set in &sets {
        let bar = Bar::new(&format!("set {}", set.key));
        let hearing = Hearing { bar: &bar, stop: &stop };
        match prepare(set, &layout, &params, &hearing) {
            Ok(prepared) => {
                if let Some(staging) = &staging {
                    plan.files.extend(draw(set, &prepared, &layout, &params, staging.path())?);
                }
                let planned = SetPlan::new(set, &prepared);
                bar.end(&format!("{} patches", planned.patches));
                plan.sets.push(planned);
            }
            Err(RoadError::Cancelled) => {
                let hint = "the same command begins anew";
                return Err(Exit::Interrupted.with(Fault::new("ended by a signal, nothing is written", hint)));
            }
            Err(error) => {
                bar.end("cannot be processed");
                plan.problems.push(Fault::from_error(&error));
            }
        }
    }
    publish(&mut plan, staging)?;
    plan.problems.iter().for_each(exit::complain);
    exit::print(&if args.json { escape::json(&json(&plan)?) } else { plan.sets.iter().map(SetPlan::text).collect() })?;
    match plan.problems.len() {
        0 => Ok(()),
        n => Err(Exit::JobsFailed.with(Fault::new(format!("problems: {n}"), "the remedies are above"))),
    }
}

fn publish(plan: &mut Plan, staging: Option<Staging>) -> Result<(), Failure> {
    let Some(staging) = staging else { return Ok(()) };
    plan.files.push(RECORD.into());
    output::write_record(staging.path(), RECORD, plan)?;
    output::publish(staging, RECORD)
}

fn json(plan: &Plan) -> Result<String, Failure> {
    serde_json::to_string_pretty(plan).map(|text| text + "\n").map_err(|error| Exit::Internal.because(&error))
}

fn unwritable(path: &Path, error: &dyn std::error::Error) -> Failure {
    Exit::JobsFailed.with(Fault::new(format!("{}: {error}", path.display()), "check free space beside --out"))
}

/// A bar that Ctrl-C stops.
struct Hearing<'a> {
    bar: &'a Bar,
    stop: &'a AtomicBool,
}

impl Progress for Hearing<'_> {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        self.bar.show(stage_name(stage), done, total);
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Writes the pictures of a set; gives their names.
fn draw(
    set: &SectionSet,
    prepared: &Prepared,
    layout: &Layout,
    params: &RoadParams,
    folder: &Path,
) -> Result<Vec<String>, Failure> {
    let slides: Vec<&Arc<dyn SlideSource>> = prepared.sections.iter().filter_map(|s| s.slide.as_ref()).collect();
    let mpp = registration_mpp(&slides, params.register_long_side_px);
    let named = |stain: &str, slide: &Arc<dyn SlideSource>| Section {
        name: format!("{}_{stain}", set.key),
        slide: Arc::clone(slide),
    };
    let reference = prepared.sections.iter().find(|section| section.stain == layout.reference);
    let Some((reference, slide)) = reference.and_then(|section| Some((section, section.slide.as_ref()?))) else {
        return Ok(vec![]);
    };
    let fixed = named(&reference.stain, slide);
    let on_fixed = FixedSection::new(&fixed, mpp, None)?;
    let mut files = vec![patches(set, prepared, slide, mpp, folder)?];
    for section in &prepared.sections {
        if let (Placement::Registered(found), Some(slide)) = (&section.placement, &section.slide) {
            files.extend(on_fixed.write(folder, &named(&section.stain, slide), found)?);
        }
    }
    Ok(files)
}

/// The reference section with the cells that become patches.
fn patches(
    set: &SectionSet,
    prepared: &Prepared,
    slide: &Arc<dyn SlideSource>,
    mpp: tissuemap::units::Mpp,
    folder: &Path,
) -> Result<String, Failure> {
    let mut labels = vec![0; prepared.grid.cell_count()];
    prepared.cells.iter().for_each(|&cell| labels[prepared.grid.index(cell)] = 1);
    let map = LabelMap::of_reference(&prepared.grid, labels, vec![0; prepared.grid.cell_count()]);
    let cluster = Cluster { id: 1, name: "patch".into(), color: PATCH };
    let picture = thumbnail(slide, mpp).map_err(unreadable)?;
    let picture = blend(&picture, mpp, slide.info().bounds_origin(), &map, &[cluster]);
    let plan = SetPlan::new(set, prepared);
    let title = format!("{}: {} patches of {:.0} µm", set.key, plan.patches, plan.patch_um);
    let words = format!("patches: {} of {} cells have enough tissue", plan.patches, plan.cells);
    let lines: Vec<String> = plan.stains.iter().map(StainPlan::text).collect();
    let legend: Vec<_> =
        std::iter::once((Some(PATCH), words)).chain(lines.into_iter().map(|line| (None, line))).collect();
    let name = format!("{}_patches.png", file_component(&set.key.to_string()));
    let path = folder.join(&name);
    captioned(&picture, &title, plan.is_good(), &legend, &[]).save(&path).map_err(|error| unwritable(&path, &error))?;
    Ok(name)
}

impl SetPlan {
    fn new(set: &SectionSet, prepared: &Prepared) -> Self {
        let stain = |section: &tissuemap::road::Section| StainPlan {
            stain: section.stain.clone(),
            slide: set.slides.get(&section.stain).map(|slide| slide.display().to_string()),
            placement: section.placement.kind(),
            registration: section.verdict(),
        };
        let tissue_fraction = match prepared.tissue {
            TissueOutcome::Found { fraction } => fraction,
            TissueOutcome::Empty { .. } => 0.0,
        };
        let spec = prepared.grid.spec;
        Self {
            set: set.key.to_string(),
            stains: prepared.sections.iter().map(stain).collect(),
            tissue_fraction,
            cells: prepared.grid.cell_count(),
            patches: prepared.cells.len(),
            patch_um: f64::from(spec.patch_px) * spec.mpp.get(),
        }
    }

    fn is_good(&self) -> bool {
        let good = |stain: &StainPlan| match &stain.registration {
            Some(judged) => judged.verdict == Verdict::Good,
            None => stain.placement == PlacementKind::Reference,
        };
        self.patches > 0 && self.stains.iter().all(good)
    }

    fn text(&self) -> String {
        let mut out = format!(
            "set {}: {} patches of {:.0} µm, {:.0} % tissue\n",
            for_people(&self.set),
            self.patches,
            self.patch_um,
            100.0 * self.tissue_fraction
        );
        // Writing to a string cannot fail.
        for stain in &self.stains {
            let _ = writeln!(out, "  {}", for_people(&stain.text()));
        }
        out
    }
}

impl StainPlan {
    fn text(&self) -> String {
        let Self { stain, placement, registration, .. } = self;
        let Some(StainVerdict { verdict, estimated_error_um, reasons, .. }) = registration else {
            let fill = if *placement == PlacementKind::Missing { "; its fill colour stands in" } else { "" };
            return format!("{stain:<8} {placement}{fill}");
        };
        let error = estimated_error_um.map(|error| format!(", estimated error {error:.1} µm")).unwrap_or_default();
        let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        format!("{stain:<8} {placement}, {verdict}{error}{reasons}")
    }
}
