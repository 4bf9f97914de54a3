//! Files that are replaced in one step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::error::TrainError;

/// Writes a file in one step: it appears complete or not at all.
///
/// # Errors
/// [`TrainError::File`].
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let partial = path.with_added_extension("partial");
    let written = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    written().map_err(|source| TrainError::File { path: path.to_owned(), source })
}

/// The error of a file or folder.
pub(crate) fn file_error(path: &Path, source: io::Error) -> TrainError {
    TrainError::File { path: path.to_owned(), source }
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(path: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(path).map_err(|e| file_error(path, e))
}
