//! Files that are replaced in one step.

use std::fs;
use std::io;
use std::path::Path;

use tch::{TchError, Tensor};
use tissuemap::durable::{write_file, write_file_at};

use super::error::TrainError;

/// Writes a file in one step: it appears complete or not at all, and is on the disk when this returns.
///
/// # Errors
/// [`TrainError::File`].
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_file(path, bytes).map_err(|error| file_error(path, error))
}

/// Writes a safetensors file that appears whole or not at all, and is on the disk when this returns.
///
/// # Errors
/// [`TrainError::File`], or [`TrainError::Torch`] where the tensors cannot be written down.
pub(crate) fn write_tensors(tensors: &[(&String, &Tensor)], path: &Path) -> Result<(), TrainError> {
    write_file_at(path, |unfinished| Tensor::write_safetensors(tensors, unfinished)).map_err(|error| match error {
        TchError::Io(error) => file_error(path, error),
        other => other.into(),
    })
}

/// Refuses to write files that are there already, unless by `force`.
///
/// # Errors
/// [`TrainError::Unusable`] names the first of them.
pub(crate) fn refuse_to_replace<'a>(files: impl IntoIterator<Item = &'a Path>, force: bool) -> Result<(), TrainError> {
    let there = files.into_iter().find(|file| !force && file.symlink_metadata().is_ok());
    there.map_or(Ok(()), |file| {
        Err(TrainError::Unusable {
            path: file.to_owned(),
            reason: "is there already".into(),
            remedy: "name another file, or replace this one with --force",
        })
    })
}

/// The error of a file or folder.
pub(crate) fn file_error(path: &Path, source: io::Error) -> TrainError {
    TrainError::File { path: path.to_owned(), source }
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(path: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(path).map_err(|e| file_error(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h21_a_file_that_is_there_is_replaced_by_force_only() {
        let folder = tempfile::tempdir().expect("folder");
        let (there, link, free) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        fs::write(&there, "mine").expect("written");
        std::os::unix::fs::symlink("nowhere", &link).expect("written");
        for taken in [&there, &link] {
            let error = refuse_to_replace([free.as_path(), taken], false).expect_err("refused").to_string();
            assert!(error.contains(&format!("{}: is there already", taken.display())), "{error}");
            refuse_to_replace([taken.as_path()], true).expect("forced");
        }
        refuse_to_replace([free.as_path()], false).expect("free");
    }
}
