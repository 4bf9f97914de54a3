//! Is a result still what was published, and are its slides still those it was made from?

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::record::sha256_of;
use super::{FILES, RECORD_BYTES, RESULT_JSON, Record};
use crate::untrusted;

/// Why nothing can be said about a folder.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{}: no result: cannot read {RESULT_JSON}: {source}", folder.display())]
    Unreadable { folder: PathBuf, source: io::Error },
    #[error("{}: {RESULT_JSON} is damaged: {source}", folder.display())]
    Damaged { folder: PathBuf, source: serde_json::Error },
}

/// What became of a file since the record was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// The bytes are those of the record.
    Same,
    Changed,
    Missing,
    /// It is there, and the record, an old one, says nothing of it.
    NotRecorded,
    /// It is there and cannot be read, for this reason.
    Unreadable(String),
}

/// A file and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub path: PathBuf,
    pub state: FileState,
}

/// What was found about a result.
#[derive(Debug, Clone)]
pub struct Verified {
    pub record: Record,
    /// The files of the result but its record.
    pub outputs: Vec<Checked>,
    /// The slides that the model saw; empty where they were not to be read.
    pub slides: Vec<Checked>,
    /// Files in the folder that no result has.
    pub foreign: Vec<PathBuf>,
}

impl Verified {
    /// True when every file that was looked at is there with the bytes of the record. Foreign files are left to whoever
    /// put them there.
    pub fn is_sound(&self) -> bool {
        self.outputs.iter().chain(&self.slides).all(|checked| checked.state == FileState::Same)
    }
}

/// Reads all files of the result in `folder` again, and with `slides` also the slides that it was made from, which are
/// looked for beside the folder. `read` hears of every piece how many bytes it has.
///
/// # Errors
/// There is no record to compare with.
pub fn verify(folder: &Path, slides: bool, read: &mut dyn FnMut(u64)) -> Result<Verified, VerifyError> {
    let text = untrusted::read(&folder.join(RESULT_JSON), RECORD_BYTES);
    let text = text.map_err(|error| VerifyError::Unreadable { folder: folder.into(), source: error.into() })?;
    let record: Record =
        serde_json::from_slice(&text).map_err(|source| VerifyError::Damaged { folder: folder.into(), source })?;
    let recorded: BTreeMap<&str, &str> =
        record.outputs.iter().map(|output| (output.file.as_str(), output.sha256.as_str())).collect();
    let names = FILES.iter().copied().filter(|name| *name != RESULT_JSON);
    let outputs = names.map(|name| check(folder.join(name), recorded.get(name).copied(), read)).collect();
    let beside = folder.parent().unwrap_or(Path::new("."));
    let inputs = record.inputs.iter().filter(|_| slides);
    // A record that was tampered with must not lead elsewhere.
    let name = |file: &str| Path::new(file).file_name().unwrap_or_default().to_owned();
    let slides = inputs.map(|input| check(beside.join(name(&input.file)), Some(&input.sha256), read)).collect();
    let foreign = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| !is_ours(path)).collect(),
        Err(source) => return Err(VerifyError::Unreadable { folder: folder.into(), source }),
    };
    Ok(Verified { record, outputs, slides, foreign })
}

fn is_ours(path: &Path) -> bool {
    FILES.iter().any(|name| path.file_name().is_some_and(|file| file == *name))
}

fn check(path: PathBuf, recorded: Option<&str>, read: &mut dyn FnMut(u64)) -> Checked {
    let state = match sha256_of(&path, read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => FileState::Missing,
        Err(error) => FileState::Unreadable(error.to_string()),
        Ok((_, found)) => match recorded {
            None => FileState::NotRecorded,
            Some(sha256) if sha256 == found => FileState::Same,
            Some(_) => FileState::Changed,
        },
    };
    Checked { path, state }
}
