//! Which files of a folder are ours, and unchanged.
//!
//! The record of a folder (`result.json`) lists the other files with their sizes and hashes under `outputs`, and holds the
//! hash of itself, its *seal*: the SHA-256 of its own text with that hash left empty. Whatever is not in the list, and
//! whatever differs from it, belongs to a person.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::write_new;
use crate::hex::hex;
use crate::overlay::{OutputFile, sha256_of_read};
use crate::untrusted;

/// The member of a record that holds its seal, and the value before it is sealed.
const UNSEALED: &str = "\"record_sha256\": \"\"";
const SEAL: &str = "\"record_sha256\": \"";

/// A record is far smaller.
pub(super) const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Copying programs set new times, one file after the other: a record that is older than this beside its files was not
/// written later than they.
const WRITTEN_TOGETHER: std::time::Duration = std::time::Duration::from_mins(1);

/// What the record of a kind of folder is called, and how it is understood.
#[derive(Debug, Clone, Copy)]
pub struct RecordKind {
    /// The file.
    pub name: &'static str,
    /// Whether a record that has no seal, because an older version wrote it, is whole and says what such a version says.
    pub is_of_older_version: fn(&[u8]) -> bool,
    /// The record with these warnings besides, not sealed; none where such records have no warnings.
    pub with_warnings: fn(&[u8], &[String]) -> Option<String>,
}

/// Puts the seal into the text of a record that was written with `"record_sha256": ""`. A quotation mark inside of a JSON
/// string is escaped, so that no value can be taken for the member.
pub fn seal(text: &str) -> String {
    text.replacen(UNSEALED, &format!("{SEAL}{}\"", hex(Sha256::digest(text))), 1)
}

/// Whether the text is as it was sealed; none without a seal.
pub(crate) fn is_as_sealed(text: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(text).ok()?;
    let at = text.find(SEAL)? + SEAL.len();
    let found = text.get(at..at + 64)?;
    let before = format!("{}{}", &text[..at], &text[at + 64..]);
    Some(hex(Sha256::digest(before)) == found)
}

/// Writes the record of a folder that is being filled: `content` (an object), the sizes and hashes of all files that are
/// there, and the seal.
///
/// # Errors
/// A file cannot be read, `content` is no object, or the record is there already.
pub fn write_record(folder: &Path, name: &str, content: &impl Serialize) -> io::Result<()> {
    #[derive(Serialize)]
    struct Sealed<'a, T> {
        #[serde(flatten)]
        content: &'a T,
        outputs: Vec<OutputFile>,
        record_sha256: &'static str,
    }
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    let read = |name: &OsString| OutputFile::read(folder, &name.to_string_lossy());
    let outputs = names.iter().map(read).collect::<io::Result<_>>()?;
    let text = serde_json::to_string_pretty(&Sealed { content, outputs, record_sha256: "" })?;
    write_new(&folder.join(name), seal(&(text + "\n")))
}

/// The files of a folder that were written by us.
#[derive(Debug, Default)]
pub(super) struct Ours {
    record: &'static str,
    /// The record is as it was written.
    record_intact: bool,
    files: BTreeMap<String, OutputFile>,
}

impl Ours {
    /// What the record in `folder` says; nothing where there is none that can be believed.
    pub(super) fn read(folder: &Path, kind: RecordKind) -> Self {
        #[derive(Deserialize)]
        struct Outputs {
            #[serde(default)]
            outputs: Vec<OutputFile>,
        }
        let path = folder.join(kind.name);
        let Ok(text) = untrusted::read(&path, MAX_RECORD_BYTES) else { return Self::default() };
        let Ok(Outputs { outputs }) = serde_json::from_slice(&text) else { return Self::default() };
        let record_intact = is_as_sealed(&text).unwrap_or_else(|| {
            (kind.is_of_older_version)(&text) && was_written_with(&path, outputs.iter().map(|file| &*file.file))
        });
        // A list that a person has changed still tells which bytes were written by us: hashes cannot be guessed.
        let files = outputs.into_iter().map(|file| (file.file.clone(), file)).collect();
        Self { record: kind.name, record_intact, files }
    }

    /// Whether a file of this name was written by us, whatever became of it.
    pub(super) fn names(&self, name: &OsStr) -> bool {
        name.to_str().is_some_and(|name| name == self.record || self.files.contains_key(name))
    }

    /// Whether it is the name of the record.
    pub(super) fn is_record(&self, name: &OsStr) -> bool {
        name == self.record
    }

    /// Whether the file of this name is ours and as we wrote it. Files of another size are not read.
    pub(super) fn is_unchanged(&self, folder: &Path, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else { return false };
        if name == self.record {
            // It is read again: it may have been changed since.
            let sealed = untrusted::read(&folder.join(name), MAX_RECORD_BYTES).ok().map(|text| is_as_sealed(&text));
            return self.record_intact && sealed.is_some_and(|sealed| sealed != Some(false));
        }
        let Some(file) = self.files.get(name) else { return false };
        let same = || -> io::Result<bool> {
            let opened = untrusted::open(&folder.join(name), file.bytes)?;
            let same_size = opened.file().metadata()?.len() == file.bytes;
            Ok(same_size && sha256_of_read(opened, &mut |_| {})? == (file.bytes, file.sha256.clone()))
        };
        same().unwrap_or(false)
    }
}

/// Whether the record was not written later than its files.
fn was_written_with<'a>(record: &Path, files: impl Iterator<Item = &'a str>) -> bool {
    let modified = |path: &Path| path.symlink_metadata().and_then(|file| file.modified()).ok();
    let newest = files.filter_map(|file| modified(&record.with_file_name(Path::new(file).file_name()?))).max();
    modified(record).zip(newest).is_some_and(|(record, newest)| record <= newest + WRITTEN_TOGETHER)
}
