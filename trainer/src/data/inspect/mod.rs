//! The `inspect` command: shows the training data of a configuration without training.
//!
//! Every section set is opened and registered as for a fit. Patches are cut for the contact sheets only.

mod report;
mod sheet;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tissuemap::road::{Prepared, Section};

use self::report::{InspectReport, SectionReport, SetReport};
use self::sheet::{ContactSheets, SheetRow};
use crate::config::Config;
use crate::data::sampling::{self, ConfiguredSet, ConfiguredSets, PatchPositions, SamplingProgress};
use crate::system::error::TrainError;
use crate::system::files::file_error;
use crate::system::interrupt;

/// Arguments of `tissuemap-train inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectCommand {
    /// Configuration; `tissuemap-train config` prints a template.
    #[arg(long)]
    pub config: PathBuf,
    /// Folder at which relative paths of the configuration start [default: the folder of the configuration].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder for contact sheets: some patches of every set, one row per stain.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl InspectCommand {
    /// Inspects all section sets. The report is written to `say`.
    ///
    /// # Errors
    /// [`TrainError`]; a set that cannot be used is not an error; the report lists it.
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

/// Inspects all section sets of a configuration and writes contact sheets into `out`.
fn inspect(
    config: &Config,
    base: &Path,
    out: Option<&Path>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<InspectReport, TrainError> {
    let configured_sets = ConfiguredSets::find(config, base)?;
    let mut sheets = out.map(|folder| ContactSheets::new(folder, config)).transpose()?;
    let progress = SamplingProgress::over("inspect", configured_sets.sets.len(), 0, interrupted);
    let mut sets = Vec::new();
    for (index, configured_set) in configured_sets.sets.iter().enumerate() {
        progress.begin(index, &configured_set.set.key.to_string());
        let (mut set, prepared) = inspect_set(config, configured_set, &progress)?;
        if let (Some(sheets), Some((prepared, positions))) = (&mut sheets, prepared) {
            match SheetRow::cut(&set.name, &prepared, &positions) {
                Ok(sample) => sheets.add(&sample)?,
                Err(error) => set.left_out = Some(error.to_string()),
            }
        }
        sets.push(set);
    }
    drop(progress);
    sheets.map_or(Ok(()), ContactSheets::finish)?;
    Ok(InspectReport::new(config, sets, configured_sets.ungrouped))
}

/// Inspects one set. The second value is the set with its patch positions, if it can be used.
fn inspect_set(
    config: &Config,
    configured_set: &ConfiguredSet,
    progress: &SamplingProgress<'_>,
) -> Result<(SetReport, Option<(Prepared, PatchPositions)>), TrainError> {
    let name = configured_set.set.key.to_string();
    let mut report = SetReport {
        name: name.clone(),
        folder: configured_set.from.folder.clone(),
        held_out_folder: configured_set.from.held_out,
        sections: configured_set.set.slides.iter().map(|(stain, path)| SectionReport::unopened(stain, path)).collect(),
        tissue_mm2: None,
        train_patches: 0,
        held_out_patches: 0,
        warning: None,
        left_out: None,
    };
    let prepared = match sampling::prepare(config, configured_set, progress)? {
        Ok(prepared) => prepared,
        Err(reason) => {
            report.left_out = Some(reason);
            return Ok((report, None));
        }
    };
    report.sections = prepared.sections.iter().map(|section| section_report(section, config)).collect();
    let cell_mm2 = (prepared.grid.spec.cell_um() / 1000.0).powi(2);
    report.tissue_mm2 = Some(prepared.cells.len() as f64 * cell_mm2);
    let positions = sampling::missing_section(&prepared).map_or_else(
        || {
            PatchPositions::draw(
                &name,
                &prepared.grid,
                &sampling::cells_on_all_slides(&prepared),
                configured_set.from.held_out,
                config,
            )
        },
        Err,
    );
    match positions {
        Ok(positions) => {
            report.train_patches = positions.train.len();
            report.held_out_patches = positions.held_out.len();
            report.warning.clone_from(&positions.warning);
            Ok((report, Some((prepared, positions))))
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
