//! What a fit leaves beside its model: `model.run/` beside `model.onnx`, from which reports and other exports are made
//! without training again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::system::error::TrainError;

/// The folder of one fit.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The one that belongs to a model file.
    pub fn beside(model: &Path) -> Self {
        Self(model.with_extension("run"))
    }

    /// One that is named itself.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Makes it where it is missing.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn create(&self) -> Result<(), TrainError> {
        fs::create_dir_all(&self.0).map_err(|source| TrainError::File { path: self.0.clone(), source })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Folder of the state between two epochs; gone once the fit is done.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// One row per epoch, CSV.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.csv")
    }

    /// The drawn patches.
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

    /// The fits of the sweep, a file each.
    pub fn sweep_fits(&self) -> PathBuf {
        self.0.join("sweep")
    }

    /// The sweep's evidence for each number of clusters and its choice, JSON.
    pub fn sweep(&self) -> PathBuf {
        self.0.join("sweep.json")
    }

    /// The sweep's table, CSV.
    pub fn sweep_table(&self) -> PathBuf {
        self.0.join("sweep.csv")
    }

    /// Where the patches lie and which cluster of the sweep's choice they belong to, CSV.
    pub fn sweep_map(&self) -> PathBuf {
        self.0.join("sweep-map.csv")
    }

    fn configuration(&self) -> PathBuf {
        self.0.join("configuration.toml")
    }

    /// Keeps the configuration that the fit used, command line included.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn write_configuration(&self, config: &Config) -> Result<(), TrainError> {
        let path = self.configuration();
        let text =
            toml::to_string(config).map_err(|e| TrainError::Config { path: path.clone(), reason: e.to_string() })?;
        fs::write(&path, text).map_err(|source| TrainError::File { path, source })
    }

    /// The configuration that the fit used.
    ///
    /// # Errors
    /// [`TrainError::Config`].
    pub fn read_configuration(&self) -> Result<Config, TrainError> {
        Config::read(&self.configuration())
    }
}
