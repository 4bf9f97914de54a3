//! From the slides and options of a command line to section sets.

use std::path::PathBuf;

use tissuemap::contract::StainSpec;
use tissuemap::infer::Provider;
use tissuemap::road::RoadParams;
use tissuemap::section_set::{Grouped, Manifest, NamingRules, group};

use super::SetsArgs;
use crate::config::Config;
use crate::exit::{self, Exit, Failure};
use crate::job::{Fault, namer};
use crate::models;

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
        let model = match (&self.model, &config) {
            (Some(model), _) => model.clone(),
            (None, Some(config)) => served(config).map_err(|fault| Exit::Usage.with(fault))?,
            (None, None) => return Err(Exit::Usage.with(Fault::new("no model", "give --model or --config"))),
        };
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

/// The model that the daemon of this configuration uses: the one that serves, by what its state folder tells, else the
/// configured one.
fn served(config: &Config) -> Result<PathBuf, Fault> {
    let files = models::files(config).or_else(|fault| {
        // Not everybody may look into the daemon's state folder.
        let configured = config.model.clone().ok_or_else(|| fault.clone())?;
        exit::say(&format!("{fault}; using the configured model {}", configured.display()));
        Ok::<_, Fault>(vec![configured])
    })?;
    match files.as_slice() {
        [model] => Ok(model.clone()),
        [] => {
            let reason = "no model: the configuration names none, and none serves by its state folder";
            Err(Fault::new(reason, "give --model, or drop a model into the daemon's model folder"))
        }
        several => {
            let names: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
            Err(Fault::new(format!("several models serve: {}", names.join(", ")), "name one of them with --model"))
        }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_model_is_the_one_that_serves_by_the_state_folder_or_else_the_configured_one() {
        let folder = tempfile::tempdir().expect("tempdir");
        let state = folder.path().join("state");
        let of = |settings: &str| {
            let file = folder.path().join("tissuemapd.toml");
            let text = format!("{settings}state_folder = \"{}\"\n[[watch]]\nfolder = \".\"\n", state.display());
            fs::write(&file, text).expect("written");
            served(&Config::read(&file).expect("valid"))
        };
        assert!(of("").expect_err("none").reason().starts_with("no model"));
        assert_eq!(of("model = \"m.onnx\"\n").expect("configured"), folder.path().join("m.onnx"));
        let row = |sha256: &str, state: &str| {
            serde_json::json!({ "sha256": sha256, "name": "kept.onnx", "state": state, "reason": "", "stains": ["HE"],
                "since": { "secs_since_epoch": 0, "nanos_since_epoch": 0 }, "revision": null, "provider": null, "golden": "",
                "replaced": null, "on_trial": false, "suspects": [], "jobs_done": 0, "jobs_failed": 0 })
        };
        let remember = |rows: Vec<serde_json::Value>| {
            fs::create_dir_all(&state).expect("made");
            let text = serde_json::json!({ "rows": rows, "handled": {} }).to_string();
            fs::write(state.join("models.json"), text).expect("written");
        };
        for sha256 in ["aa", "bb"] {
            let place = state.join("worker/models").join(sha256);
            fs::create_dir_all(&place).expect("made");
            fs::write(place.join("kept.onnx"), "").expect("written");
        }
        remember(vec![row("aa", "standby"), row("bb", "active")]);
        let serving = state.join("worker/models/bb/kept.onnx");
        assert_eq!(of("").expect("the one that serves"), serving);
        assert_eq!(of("model = \"m.onnx\"\n").expect("as the daemon does"), serving);
        remember(vec![row("aa", "active"), row("bb", "active")]);
        let fault = of("").expect_err("two");
        assert!(fault.reason().contains("several models serve") && fault.hint().is_some(), "{fault}");
    }
}
