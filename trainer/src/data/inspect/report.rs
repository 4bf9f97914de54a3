//! The result of `inspect`, as a table for people and as JSON for programs.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tissuemap::register::Verdict;

use crate::config::Config;
use crate::data::loader;

/// The training data of a configuration.
#[derive(Debug, Serialize)]
pub(super) struct InspectReport {
    stains: Vec<String>,
    patch_px: u32,
    /// Micrometres per pixel of a patch.
    mpp: f64,
    pub(super) sets: Vec<SetReport>,
    /// Slides that are in no set, and why.
    pub(super) slides_in_no_set: Vec<String>,
    pub(super) total: Totals,
}

/// Over the sets that can be used.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Totals {
    pub(super) sets: usize,
    pub(super) train_patches: usize,
    pub(super) held_out_patches: usize,
    /// Size of all patches.
    pub(super) disk_bytes: u64,
    /// Memory of a fit on the CPU besides the networks: batches, patch positions, latent vectors.
    pub(super) memory_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct SetReport {
    pub(super) name: String,
    /// The path in the configuration.
    pub(super) folder: PathBuf,
    /// Whether the folder is used for evaluation only.
    pub(super) held_out_folder: bool,
    /// In the order of the channels; all slides of the set if it could not be opened.
    pub(super) sections: Vec<SectionReport>,
    /// Area of the cells from which patches are sampled.
    pub(super) tissue_mm2: Option<f64>,
    pub(super) train_patches: usize,
    pub(super) held_out_patches: usize,
    pub(super) warning: Option<String>,
    /// The reason, if it would be left out.
    pub(super) left_out: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct SectionReport {
    pub(super) stain: String,
    pub(super) slide: Option<PathBuf>,
    /// Micrometres per level-0 pixel.
    pub(super) mpp: Option<f64>,
    /// Width and height of level 0.
    pub(super) size_px: Option<[u32; 2]>,
    pub(super) is_reference: bool,
    pub(super) verdict: Option<Verdict>,
    pub(super) estimated_error_um: Option<f64>,
    /// Why the verdict is not better.
    pub(super) reasons: Vec<String>,
}

impl SectionReport {
    /// Of a slide that was found but not opened.
    pub(super) fn unopened(stain: &str, slide: &Path) -> Self {
        Self {
            stain: stain.to_owned(),
            slide: Some(slide.to_owned()),
            mpp: None,
            size_px: None,
            is_reference: false,
            verdict: None,
            estimated_error_um: None,
            reasons: Vec::new(),
        }
    }

    /// Cells of its line in the table: stain, file, size, resolution, placement.
    fn cells(&self) -> [String; 5] {
        let file = self.slide.as_ref().and_then(|path| path.file_name());
        let placement = match (self.verdict, self.estimated_error_um) {
            (Some(verdict), Some(error)) => format!("{verdict}, about {error:.1} µm off"),
            (Some(verdict), None) => verdict.to_string(),
            (None, _) if self.is_reference => "reference".to_owned(),
            (None, _) => String::new(),
        };
        [
            self.stain.clone(),
            file.unwrap_or_default().to_string_lossy().into_owned(),
            self.size_px.map(|[width, height]| format!("{width} x {height} px")).unwrap_or_default(),
            self.mpp.map(|mpp| format!("{mpp:.3} µm/px")).unwrap_or_default(),
            placement,
        ]
    }
}

impl InspectReport {
    pub(super) fn new(config: &Config, sets: Vec<SetReport>, slides_in_no_set: Vec<String>) -> Self {
        let shape = config.shape();
        let patch_bytes = (shape.channels * shape.patch_px * shape.patch_px) as u64;
        let used = || sets.iter().filter(|set| set.left_out.is_none());
        let train_patches: usize = used().map(|set| set.train_patches).sum();
        let held_out_patches: usize = used().map(|set| set.held_out_patches).sum();
        let batch = u64::from(config.autoencoder.batch.max(config.joint.batch));
        // A patch is known by its set, corner and row; a latent has a radius beside its values.
        let (place_bytes, latent_bytes) = (32, 4 * (shape.latent_dim as u64 + 1));
        let total = Totals {
            sets: used().count(),
            train_patches,
            held_out_patches,
            disk_bytes: (train_patches + held_out_patches) as u64 * patch_bytes,
            memory_bytes: loader::batches_in_memory(1) as u64 * batch * patch_bytes
                + (train_patches + held_out_patches) as u64 * place_bytes
                + train_patches as u64 * latent_bytes,
        };
        let stains = config.stains.iter().map(|stain| stain.name.clone()).collect();
        let patches = &config.patches;
        Self { stains, patch_px: patches.patch_px, mpp: patches.mpp.get(), sets, slides_in_no_set, total }
    }

    pub(super) fn write_json(&self, to: &mut dyn io::Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *to, self)?;
        writeln!(to)
    }

    pub(super) fn write_table(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let Self { patch_px, mpp, total, .. } = self;
        let side_um = f64::from(*patch_px) * mpp;
        writeln!(to, "patches of {patch_px} px at {mpp} µm/px ({side_um} µm), stains {}", self.stains.join(", "))?;
        for set in &self.sets {
            writeln!(to)?;
            set.write_table(to)?;
        }
        if !self.slides_in_no_set.is_empty() {
            writeln!(to, "\nslides in no set:")?;
            self.slides_in_no_set.iter().try_for_each(|reason| writeln!(to, "  {reason}"))?;
        }
        let (sets, left_out) = (total.sets, self.sets.len() - total.sets);
        writeln!(to, "\n{sets} section sets to be used, {left_out} left out")?;
        writeln!(to, "{} patches to train on, {} held out", total.train_patches, total.held_out_patches)?;
        writeln!(
            to,
            "{} on the disk, about {} in memory beside the networks",
            size(total.disk_bytes),
            size(total.memory_bytes)
        )
    }
}

impl SetReport {
    fn write_table(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let kept_apart = if self.held_out_folder { " (held-out folder)" } else { "" };
        write!(to, "{}{kept_apart}: ", self.name)?;
        match (&self.left_out, self.tissue_mm2) {
            (Some(reason), _) => writeln!(to, "LEFT OUT, {reason}")?,
            (None, tissue) => writeln!(
                to,
                "{} patches to train on, {} held out, from {:.2} mm² of tissue",
                self.train_patches,
                self.held_out_patches,
                tissue.unwrap_or_default()
            )?,
        }
        let lines: Vec<[String; 5]> = self.sections.iter().map(SectionReport::cells).collect();
        let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        for (cells, section) in lines.iter().zip(&self.sections) {
            let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(to, "  {}", padded.join("  ").trim_end())?;
            section.reasons.iter().try_for_each(|reason| writeln!(to, "    {reason}"))?;
        }
        self.warning.iter().try_for_each(|warning| writeln!(to, "  warning: {warning}"))
    }
}

/// `1.2 GB`, in powers of ten.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    [("TB", 1e12), ("GB", 1e9), ("MB", 1e6)]
        .into_iter()
        .find(|(_, unit)| bytes >= *unit)
        .map_or_else(|| format!("{:.0} kB", bytes / 1e3), |(name, unit)| format!("{:.1} {name}", bytes / unit))
}
