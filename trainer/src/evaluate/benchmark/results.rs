//! The result of every fit, in a file from which an interrupted benchmark continues.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use tissuemap::untrusted;

use crate::evaluate::benchmark::table::ComparedMethod;
use crate::system::error::TrainError;
use crate::system::files::write_whole;
use crate::vectors::agreement::Agreement;

/// Far more than any genuine file of this kind has.
const MAX_BYTES: u64 = 1 << 30;

const COLUMNS: [&str; 10] =
    ["seed", "fold", "method", "features", "context", "accuracy", "nmi", "ari", "purity", "settings"];

/// The result of one method on one fold: a row of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FitResult {
    pub(super) seed: u64,
    /// The evaluated fold, from 0.
    pub(super) fold: usize,
    pub(super) method: String,
    pub(super) features: String,
    pub(super) context: bool,
    pub(super) accuracy: f64,
    pub(super) nmi: f64,
    pub(super) ari: f64,
    pub(super) purity: f64,
    /// Digest of the images and of everything that a row depends on.
    pub(super) settings: String,
}

impl FitResult {
    pub(super) fn method(&self) -> ComparedMethod {
        ComparedMethod::new(&self.method, &self.features, self.context)
    }

    pub(super) fn agreement(&self) -> Agreement {
        Agreement { accuracy: self.accuracy, nmi: self.nmi, ari: self.ari, purity: self.purity }
    }
}

/// The rows so far, stored in a CSV file if one is given.
pub(super) struct FitResults {
    path: Option<PathBuf>,
    settings: String,
    rows: Vec<FitResult>,
}

impl FitResults {
    /// Continues with the rows of the file at `path`, if it exists. `settings` is the digest of everything they depend on.
    ///
    /// # Errors
    /// [`TrainError`] if the file is not such a table, or has rows of other settings.
    pub(super) fn open(path: Option<&Path>, settings: String) -> Result<Self, TrainError> {
        let mut rows = Vec::new();
        if let Some(path) = path.filter(|path| path.exists()) {
            let remedy = "remove that file, or name another one with --each";
            let refuse = |reason: String| TrainError::Unusable { path: path.to_owned(), reason, remedy };
            let file = untrusted::open_named(path, MAX_BYTES).map_err(|error| refuse(error.to_string()))?;
            let mut reader = csv::Reader::from_reader(file);
            let columns: Vec<&str> = reader.headers().map_err(|error| refuse(error.to_string()))?.iter().collect();
            if columns != COLUMNS {
                return Err(refuse(format!("its columns are not {}", COLUMNS.join(","))));
            }
            rows = reader
                .deserialize()
                .collect::<Result<Vec<FitResult>, _>>()
                .map_err(|error| refuse(error.to_string()))?;
            if rows.iter().any(|row| row.settings != settings) {
                return Err(refuse("it has results of other images or other settings".to_owned()));
            }
        }
        Ok(Self { path: path.map(Path::to_owned), settings, rows })
    }

    /// The rows of a finished fold; none if it is not finished.
    pub(super) fn of(&self, seed: u64, fold: usize) -> Vec<FitResult> {
        self.rows.iter().filter(|row| (row.seed, row.fold) == (seed, fold)).cloned().collect()
    }

    /// Adds the results of one fold. The file is replaced in one step.
    ///
    /// # Errors
    /// [`TrainError`] if it cannot be written.
    pub(super) fn add(
        &mut self,
        seed: u64,
        fold: usize,
        found: Vec<(ComparedMethod, Agreement)>,
    ) -> Result<Vec<FitResult>, TrainError> {
        let row = |(ComparedMethod { name, features, context, .. }, Agreement { accuracy, nmi, ari, purity })| {
            let settings = self.settings.clone();
            FitResult { seed, fold, method: name, features, context, accuracy, nmi, ari, purity, settings }
        };
        let new: Vec<FitResult> = found.into_iter().map(row).collect();
        self.rows.extend_from_slice(&new);
        if let Some(path) = &self.path {
            let wrong = |source| TrainError::File { path: path.clone(), source };
            let mut writer = csv::Writer::from_writer(Vec::new());
            let written = self.rows.iter().try_for_each(|row| writer.serialize(row));
            written.map_err(|error| wrong(error.into()))?;
            let text = writer.into_inner().map_err(|error| wrong(error.into_error()))?;
            write_whole(path, &text)?;
        }
        Ok(new)
    }
}
