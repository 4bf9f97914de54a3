//! The `inspect` command: what a configuration would train on, before any training.
//!
//! Every section set is opened and registered as for a fit; patches are only cut for the contact sheets.

mod report;
mod sheet;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tissuemap::road::{Prepared, Section};

use self::report::{Report, SectionReport, SetReport};
use self::sheet::{Sample, Sheets};
use crate::config::Config;
use crate::data::sampling::{self, Candidate, Candidates, Places, Watch};
use crate::system::error::TrainError;
use crate::system::files::file_error;
use crate::system::interrupt;

/// What `tissuemap-train inspect` is asked to do.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectCommand {
    /// Configuration; `tissuemap-train config` prints a template.
    #[arg(long)]
    pub config: PathBuf,
    /// Folder at which relative paths of the configuration start (without it: the configuration's own folder).
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder for contact sheets: some patches of every set, a row per stain.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl InspectCommand {
    /// Looks at all section sets; `say` gets the report.
    ///
    /// # Errors
    /// [`TrainError`]; a set that cannot be used is no error, it stands in the report.
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let config = Config::read(&self.config)?;
        let interrupt = interrupt::listen().map_err(|e| file_error(Path::new("signal handlers"), e))?;
        let interrupted = || interrupt.load(Ordering::Relaxed);
        let base = self.data.as_deref().or(self.config.parent()).unwrap_or(Path::new("."));
        let report = inspect(&config, base, self.out.as_deref(), &interrupted)?;
        let written = if self.json { report.write_json(say) } else { report.write_table(say) };
        written.map_err(|e| file_error(Path::new("standard output"), e))
    }
}

/// Looks at all section sets of a configuration; contact sheets go into `out`.
fn inspect(
    config: &Config,
    base: &Path,
    out: Option<&Path>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Report, TrainError> {
    let candidates = Candidates::find(config, base)?;
    let mut sheets = out.map(|folder| Sheets::new(folder, config)).transpose()?;
    let watch = Watch::over("inspect", candidates.sets.len(), 0, interrupted);
    let mut sets = Vec::new();
    for (index, candidate) in candidates.sets.iter().enumerate() {
        watch.begin(index, &candidate.set.key.to_string());
        let (mut set, prepared) = look(config, candidate, &watch)?;
        if let (Some(sheets), Some((prepared, places))) = (&mut sheets, prepared) {
            match Sample::cut(&set.name, &prepared, &places) {
                Ok(sample) => sheets.add(&sample)?,
                Err(error) => set.left_out = Some(error.to_string()),
            }
        }
        sets.push(set);
    }
    drop(watch);
    sheets.map_or(Ok(()), Sheets::finish)?;
    Ok(Report::new(config, sets, candidates.unplaced))
}

/// One set, and where its patches would be cut; none where it would be left out.
fn look(
    config: &Config,
    candidate: &Candidate,
    watch: &Watch<'_>,
) -> Result<(SetReport, Option<(Prepared, Places)>), TrainError> {
    let name = candidate.set.key.to_string();
    let mut report = SetReport {
        name: name.clone(),
        folder: candidate.from.folder.clone(),
        held_out_folder: candidate.from.held_out,
        sections: candidate.set.slides.iter().map(|(stain, path)| SectionReport::unopened(stain, path)).collect(),
        tissue_mm2: None,
        train_patches: 0,
        held_out_patches: 0,
        warning: None,
        left_out: None,
    };
    let prepared = match sampling::prepare(config, candidate, watch)? {
        Ok(prepared) => prepared,
        Err(reason) => {
            report.left_out = Some(reason);
            return Ok((report, None));
        }
    };
    report.sections = prepared.sections.iter().map(|section| section_report(section, config)).collect();
    let cell_mm2 = (prepared.grid.spec.cell_um() / 1000.0).powi(2);
    report.tissue_mm2 = Some(prepared.cells.len() as f64 * cell_mm2);
    let places = sampling::incomplete(&prepared).map_or_else(
        || Places::draw(&name, &prepared.grid, &sampling::whole(&prepared), candidate.from.held_out, config),
        Err,
    );
    match places {
        Ok(places) => {
            report.train_patches = places.train.len();
            report.held_out_patches = places.held_out.len();
            report.warning.clone_from(&places.warning);
            Ok((report, Some((prepared, places))))
        }
        Err(reason) => {
            report.left_out = Some(reason);
            Ok((report, None))
        }
    }
}

fn section_report(section: &Section, config: &Config) -> SectionReport {
    let info = section.slide.as_ref().map(|slide| slide.info());
    let verdict = section.verdict();
    SectionReport {
        stain: section.stain.clone(),
        slide: info.map(|info| info.path.clone()),
        mpp: info.map(|info| info.mpp.get()),
        size_px: info.map(|info| [info.levels[0].width, info.levels[0].height]),
        is_reference: section.stain == config.reference,
        verdict: verdict.as_ref().map(|verdict| verdict.verdict),
        estimated_error_um: verdict.as_ref().and_then(|verdict| verdict.estimated_error_um),
        reasons: verdict.map(|verdict| verdict.reasons).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
