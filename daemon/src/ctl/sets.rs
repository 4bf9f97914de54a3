//! From the slides and options of a command line to section sets.

use std::path::PathBuf;

use tissuemap::contract::StainSpec;
use tissuemap::infer::Provider;
use tissuemap::road::RoadParams;
use tissuemap::section_set::{Grouped, Manifest, NamingRules, group};

use super::SetsArgs;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::job::{Fault, namer};

/// What a command line asks for.
pub(super) struct Wanted {
    pub(super) model: PathBuf,
    pub(super) params: RoadParams,
    /// What may compute, in this order.
    pub(super) providers: Vec<Provider>,
    naming: NamingRules,
    manifest: Option<Manifest>,
    slides: Vec<PathBuf>,
}

impl SetsArgs {
    /// Reads configuration and manifest.
    ///
    /// # Errors
    /// One of them cannot be used, or no model is named.
    pub(super) fn read(&self) -> Result<Wanted, Failure> {
        let config =
            self.config.as_deref().map(Config::read).transpose().map_err(|error| Exit::Usage.because(&error))?;
        let model = self.model.clone().or(config.as_ref().and_then(|config| config.model.clone()));
        let model = model.ok_or_else(|| {
            Exit::Usage.with(Fault::new("no model", "give --model, or a --config that names one as `model`"))
        })?;
        let manifest = self.manifest.as_deref().map(Manifest::read).transpose();
        let absolute = |slide: &PathBuf| std::path::absolute(slide).unwrap_or_else(|_| slide.clone());
        Ok(Wanted {
            model,
            params: config.as_ref().map_or_else(RoadParams::default, |config| config.road.clone()),
            providers: config.as_ref().map_or_else(|| vec![Provider::Cpu], |config| config.worker.providers.clone()),
            naming: config.map(|config| config.naming).unwrap_or_default(),
            manifest: manifest.map_err(|error| Exit::Usage.because(&error))?,
            slides: self.slides.iter().map(absolute).collect(),
        })
    }
}

impl Wanted {
    /// Groups the slides by the naming rules and the model's stains.
    ///
    /// # Errors
    /// A stain spelling of the rules means something else in the model.
    pub(super) fn group(&self, stains: &[StainSpec]) -> Result<Grouped, Failure> {
        let namer = namer(&self.naming, stains).map_err(|error| Exit::Usage.because(&error))?;
        Ok(group(&self.slides, &namer, self.manifest.as_ref()))
    }
}
