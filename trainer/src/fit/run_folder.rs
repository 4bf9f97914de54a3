//! The run folder: `model.run/` beside `model.onnx`. Reports and other exports are made from it without training.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::system::error::TrainError;
use crate::system::files::write_whole;

/// The run folder of one fit.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The run folder of a model file.
    pub fn beside(model: &Path) -> Self {
        Self(model.with_extension("run"))
    }

    /// The run folder with this path.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Creates the folder if it is missing.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn create(&self) -> Result<(), TrainError> {
        fs::create_dir_all(&self.0).map_err(|source| TrainError::File { path: self.0.clone(), source })
    }

    /// Refuses a folder of this name that no fit has made: its files might be replaced.
    ///
    /// # Errors
    /// [`TrainError::Unusable`] where it holds something, but neither patches nor a configuration as a fit begins with.
    pub fn refuse_foreign(&self) -> Result<(), TrainError> {
        let holds_something = fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_some());
        let of_a_fit = [self.patches(), self.configuration()].iter().any(|path| path.exists());
        if holds_something && !of_a_fit {
            return Err(TrainError::Unusable {
                path: self.0.clone(),
                reason: "the folder holds something that no fit has left".into(),
                remedy: "name another model with --out, or move the folder away",
            });
        }
        Ok(())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Folder of the checkpoint. It is removed at the end of the fit.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// The metrics table: CSV, one row per epoch.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.csv")
    }

    /// The sampled patches.
    pub fn patches(&self) -> PathBuf {
        self.0.join("patches.zarr")
    }

    /// The report on the finished fit.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// Weights of the finished fit.
    pub fn weights(&self) -> PathBuf {
        self.0.join("weights.safetensors")
    }

    /// Folder of the fits of the sweep, one file each.
    pub fn sweep_fits(&self) -> PathBuf {
        self.0.join("sweep")
    }

    /// Evidence of the sweep for each number of clusters, and its choice; JSON.
    pub fn sweep(&self) -> PathBuf {
        self.0.join("sweep.json")
    }

    /// The table of the sweep, CSV.
    pub fn sweep_table(&self) -> PathBuf {
        self.0.join("sweep.csv")
    }

    /// Positions of the patches and their clusters for the chosen number, CSV.
    pub fn sweep_map(&self) -> PathBuf {
        self.0.join("sweep-map.csv")
    }

    fn configuration(&self) -> PathBuf {
        self.0.join("configuration.toml")
    }

    /// Writes the configuration of the fit, including options of the command line.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn write_configuration(&self, config: &Config) -> Result<(), TrainError> {
        let path = self.configuration();
        let text =
            toml::to_string(config).map_err(|e| TrainError::Config { path: path.clone(), reason: e.to_string() })?;
        write_whole(&path, text.as_bytes())
    }

    /// Reads the configuration of the fit.
    ///
    /// # Errors
    /// [`TrainError::Config`].
    pub fn read_configuration(&self) -> Result<Config, TrainError> {
        Config::read(&self.configuration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h21_a_folder_that_no_fit_has_made_is_no_run_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let run = RunFolder::beside(&folder.path().join("model.onnx"));
        run.refuse_foreign().expect("not there");
        run.create().and_then(|()| run.refuse_foreign()).expect("empty");
        fs::write(run.metrics(), "mine").expect("written");
        let error = run.refuse_foreign().expect_err("a person's").to_string();
        assert!(error.contains("model.run: the folder holds something"), "{error}");
        fs::create_dir(run.patches()).expect("written");
        run.refuse_foreign().expect("a fit that was ended early");
    }
}
