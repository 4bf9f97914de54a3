//! What every single fit reached, as a file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::table::Method;
use crate::agreement::Agreement;
use crate::error::TrainError;

/// A CSV with a row for each fit, with and without context.
pub(super) struct EachFit {
    path: PathBuf,
    file: File,
}

impl EachFit {
    /// Starts the file, in place of an older one.
    ///
    /// # Errors
    /// [`TrainError`] when it cannot be written.
    pub(super) fn create(path: &Path) -> Result<Self, TrainError> {
        let wrong = |source| TrainError::File { path: path.to_owned(), source };
        let mut file = File::create(path).map_err(wrong)?;
        file.write_all(b"seed,fold,method,features,context,accuracy,nmi,ari\n").map_err(wrong)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds what one fit reached; folds count from 0.
    ///
    /// # Errors
    /// [`TrainError`] when it cannot be written.
    pub(super) fn write(
        &mut self,
        seed: u64,
        fold: usize,
        method: &Method,
        reached: &Agreement,
    ) -> Result<(), TrainError> {
        let Method { name, features, context, .. } = method;
        let Agreement { accuracy, nmi, ari, .. } = reached;
        let context = if *context { "yes" } else { "no" };
        let row = format!("{seed},{fold},{name},{features},{context},{accuracy:.4},{nmi:.4},{ari:.4}\n");
        let wrong = |source| TrainError::File { path: self.path.clone(), source };
        self.file.write_all(row.as_bytes()).map_err(wrong)
    }
}
