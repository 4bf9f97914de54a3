//! The report on a finished fit, from what its run folder holds.

use std::path::Path;

use tissuemap::infer::Model;
use tissuemap::untrusted;

use super::baselines::baselines;
use super::data::ReportInputs;
use super::render;
use super::slide_maps::SlideMaps;
use crate::choose_k::choice::Evidence;
use crate::choose_k::table::Sweep;
use crate::config::Config;
use crate::data::patches::PatchSet;
use crate::fit::FittedModel;
use crate::fit::run_folder::RunFolder;
use crate::system::error::TrainError;
use crate::system::files::write_whole;
use crate::vectors::labels::Labels;

/// A finished fit, of which a report is to be written.
pub struct ReportSource<'a> {
    /// Its folder; the model lies beside it.
    pub run: &'a RunFolder,
    /// As it was fitted with.
    pub config: &'a Config,
    /// Where relative folders of the configuration start.
    pub base: &'a Path,
    /// What it was fitted to.
    pub patches: &'a PatchSet,
    /// The model before its export.
    pub fitted: &'a FittedModel,
}

impl ReportSource<'_> {
    /// Writes the page to `out`, which appears as a whole.
    ///
    /// # Errors
    /// [`TrainError`]. Slides that are not there any more are no error.
    pub fn write(
        &self,
        out: &Path,
        classes: Option<&Labels>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), TrainError> {
        let path = self.run.path().with_extension("onnx");
        let mut model = Model::load(&path)?;
        let maps = SlideMaps::make(self.config, self.base, &mut model, &self.patches.sets, interrupted)?;
        let metrics = untrusted::read_to_string(&self.run.metrics(), untrusted::SMALL).unwrap_or_default();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let sweep = Sweep::read(&self.run.sweep());
        let evidence: Vec<Evidence> =
            sweep.iter().flat_map(|sweep| sweep.candidates.iter().map(|candidate| candidate.evidence)).collect();
        let clusters = self.config.clusters as usize;
        let comparison = baselines(self.fitted, &self.patches.train, clusters, classes)?;
        let page = render(&ReportInputs {
            name: &name,
            date: &jiff::Zoned::now().date().to_string(),
            config: self.config,
            contract: model.contract(),
            sha256: model.sha256(),
            fitted: self.fitted,
            patches: self.patches,
            metrics: &metrics,
            maps: &maps,
            sweep: sweep.as_ref().map(|sweep| (evidence.as_slice(), &sweep.choice)),
            comparison: &comparison,
            classes,
        })?;
        write_whole(out, page.as_bytes())
    }
}
