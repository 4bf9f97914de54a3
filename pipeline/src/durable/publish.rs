//! How a folder that was filled under a hidden name gets its own, and what becomes of what stands there.
//!
//! Nothing that somebody else has written is removed, replaced or hidden, whenever the program is killed:
//!
//! 1. Every new file is fsynced, then the folder with them. A kill before or here leaves a hidden folder of new files.
//! 2. Where nothing has the name, the new folder is renamed to it; what appears meanwhile is not replaced.
//! 3. Where an older result stands that holds nothing but files of ours as we wrote them, the two are exchanged in one
//!    step, and the older files are removed one by one, each after it was looked at once more.
//! 4. Else the new folder is first renamed to a visible name, `<name>.kept-<n>`, and then exchanged with what stands there.
//!    So whatever was there is visible beside the result from now on. Then what is not ours is moved from there into the
//!    result, unless its name is taken; then our own files that nobody has changed are removed, one by one; then the folder,
//!    if it is empty. What is left there stays.
//!
//! File systems without exchange (some network shares): what stands there is renamed to the visible name first, so that a
//! reader may for a moment see no result.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;

use super::file::{folder_of, lacks, move_aside, rename_new, rename_with, sync_folder, write_file};
use super::seal::{MAX_RECORD_BYTES, Ours, RecordKind, seal};
use super::{DurableError, sync};
use crate::escape::for_people;
use crate::untrusted;

/// What the last part of the name of a folder begins with that holds what could not stay in a result.
const KEPT: &str = ".kept-";

/// Names of files may have so many bytes.
const NAME_MAX: usize = 255;

/// More names than this are counted in a warning.
const NAMED: usize = 5;

/// A place that others rename at the same moment is looked at anew so often.
const LOOKS: usize = 8;

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The folder.
    pub folder: PathBuf,
    /// What a person should know about files that were there.
    pub warnings: Vec<String>,
}

/// What a test does between two steps.
pub(super) type Steps<'a> = &'a mut dyn FnMut(&'static str);

/// True for the name of what was kept beside a result of this ending.
pub fn is_kept(path: &Path, ending: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once(KEPT).is_some_and(|(before, number)| {
        !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
            && before.ends_with(&format!(".{ending}"))
    })
}

/// Gives the folder `staged` the name `target`. Where that fails, the new files are removed.
pub(super) fn publish(staged: &Path, target: &Path, kind: RecordKind, after: Steps) -> Result<Published, DurableError> {
    // Nothing fails once the folders are exchanged: from then on, what is there is not ours to remove.
    name(staged, target, kind, after).inspect_err(|_| remove_files(staged))
}

fn name(staged: &Path, target: &Path, kind: RecordKind, after: Steps) -> Result<Published, DurableError> {
    for entry in fs::read_dir(staged).map_err(|e| DurableError::new("list", staged, e))? {
        sync(&entry.map_err(|e| DurableError::new("list", staged, e))?.path())?;
    }
    sync(staged)?;
    after("flushed");
    let failed = |e| DurableError::new("rename a result to", target, e);
    for _ in 0..LOOKS {
        match rename_new(staged, target) {
            Ok(()) => {
                after("named");
                sync_folder(folder_of(target)).map_err(failed)?;
                return Ok(Published { folder: target.into(), warnings: Vec::new() });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        // Without one, what had the name has gone meanwhile.
        if let Some(older) = Older::look(target, kind) {
            return older.replace(staged, target, kind, after);
        }
    }
    Err(failed(io::ErrorKind::ResourceBusy.into()))
}

/// What has the name of the result.
struct Older {
    ours: Ours,
    /// No folder of ours: kept aside as it is.
    whole: bool,
    /// Names that are not ours.
    foreign: Vec<OsString>,
    /// Names that are ours, but not as we wrote them.
    changed: Vec<OsString>,
}

impl Older {
    fn look(target: &Path, kind: RecordKind) -> Option<Self> {
        let what = target.symlink_metadata().ok()?;
        let whole = Self { ours: Ours::default(), whole: true, foreign: Vec::new(), changed: Vec::new() };
        let entries = if what.is_dir() { fs::read_dir(target) } else { return Some(whole) };
        let Ok(entries) = entries.and_then(Iterator::collect::<io::Result<Vec<_>>>) else { return Some(whole) };
        let mut older = Self { ours: Ours::read(target, kind), whole: false, ..whole };
        for name in entries.into_iter().map(|entry| entry.file_name()) {
            if !older.ours.names(&name) {
                older.foreign.push(name);
            } else if !older.ours.is_unchanged(target, &name) {
                older.changed.push(name);
            }
        }
        older.foreign.sort();
        older.changed.sort();
        Some(older)
    }

    fn replace(
        mut self,
        staged: &Path,
        target: &Path,
        kind: RecordKind,
        after: Steps,
    ) -> Result<Published, DurableError> {
        let failed = |e| DurableError::new("rename a result to", target, e);
        let mut warnings = Vec::new();
        let only_ours = !self.whole && self.foreign.is_empty() && self.changed.is_empty();
        let mut aside = staged.to_path_buf();
        if !only_ours {
            aside = move_aside(staged, |number| kept_name(target, number)).map_err(failed)?;
            after("visible");
            // The names of the new files are taken.
            let clash = |name: &OsString| aside.join(name).symlink_metadata().is_ok();
            let (clashing, carried): (Vec<_>, Vec<_>) = self.foreign.drain(..).partition(clash);
            self.foreign = carried;
            self.changed.extend(clashing);
            warnings = self.warnings(target, &aside);
            write_warnings(&aside, kind, &warnings).inspect_err(|_| remove_files(&aside))?;
            after("warned");
        }
        let aside = exchange(&aside, target, after).inspect_err(|_| remove_files(&aside))?;
        after("exchanged");
        let mut flushed = sync_folder(folder_of(target));
        if !self.whole {
            self.clear(&aside, target, after);
        }
        let left = aside.symlink_metadata().is_ok();
        if left && aside == staged {
            // Somebody has put something there between the look and the exchange.
            match move_aside(&aside, |number| kept_name(target, number)) {
                Ok(visible) => warnings.push(kept(&visible, "what was put there while the result was replaced")),
                Err(error) => warnings.push(format!("{}: {error}", for_people(&aside))),
            }
        } else if left && !self.whole && self.changed.is_empty() {
            warnings.push(kept(&aside, "what could not be moved into the new result or removed"));
        }
        flushed = flushed.and_then(|()| sync_folder(target)).and_then(|()| sync_folder(folder_of(target)));
        if let Err(error) = flushed {
            warnings.push(format!("{}: not flushed: {error}", for_people(target)));
        }
        Ok(Published { folder: target.into(), warnings })
    }

    /// Moves what is not ours into the result, and removes what is. Whatever cannot be moved or removed stays.
    fn clear(&self, aside: &Path, target: &Path, after: Steps) {
        let told = |action: &str, path: &Path, error: &io::Error| {
            tracing::warn!(path = %for_people(path), reason = %error, "File of an older result cannot be {action}");
        };
        // Listed anew: something may have come since.
        let entries = fs::read_dir(aside).into_iter().flatten().flatten();
        let names: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
        for name in names.iter().filter(|name| !self.ours.names(name)) {
            if let Err(error) = rename_new(&aside.join(name), &target.join(name)) {
                told("moved into the new one", &aside.join(name), &error);
            }
            after("carried one");
        }
        // The record last: as long as it is there, it tells which of the others are ours.
        let mut ours: Vec<&OsString> = names.iter().filter(|name| self.ours.names(name)).collect();
        ours.sort_by_key(|name| self.ours.is_record(name));
        for name in ours {
            let path = aside.join(name);
            if self.ours.is_unchanged(aside, name)
                && let Err(error) = fs::remove_file(&path)
            {
                told("removed", &path, &error);
            }
            after("removed one");
        }
        // Fails where something is left, which is what is wanted.
        let _ = fs::remove_dir(aside);
        after("cleared");
    }

    fn warnings(&self, target: &Path, aside: &Path) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.whole {
            warnings.push(kept(aside, "what had the name of the result and is no folder that can be read"));
        }
        if !self.foreign.is_empty() {
            let names = listed(&self.foreign);
            warnings.push(format!(
                "{} held files that tissuemap did not write; they were carried over into the new result: {names}",
                for_people(target)
            ));
        }
        if !self.changed.is_empty() {
            warnings.push(kept(
                aside,
                &format!("what was changed or has the name of a new file: {}", listed(&self.changed)),
            ));
        }
        warnings
    }
}

/// Puts warnings into the record of a folder that is not published yet.
fn write_warnings(folder: &Path, kind: RecordKind, warnings: &[String]) -> Result<(), DurableError> {
    let path = folder.join(kind.name);
    let failed = |e| DurableError::new("write", &path, e);
    let text = untrusted::read(&path, MAX_RECORD_BYTES).map_err(|e| failed(e.into()))?;
    match (kind.with_warnings)(&text, warnings) {
        Some(text) => write_file(&path, seal(&text).as_bytes()).map_err(failed),
        None => Ok(()),
    }
}

/// Exchanges the new folder with what has its name; gives where that is now.
fn exchange(new: &Path, target: &Path, after: Steps) -> Result<PathBuf, DurableError> {
    let failed = |e| DurableError::new("rename a result to", target, e);
    match rename_with(new, target, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(new.into()),
        Err(errno) if lacks(errno) => {
            let aside = move_aside(target, |number| kept_name(target, number)).map_err(failed)?;
            after("moved aside");
            if let Err(error) = rename_new(new, target) {
                // As it was; where even that fails, it stays visible beside.
                let _ = rename_new(&aside, target);
                return Err(failed(error));
            }
            Ok(aside)
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Removes files of ours that get no name, and their folder; never what is in folders.
pub(super) fn remove_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %for_people(folder), reason = %error, "Folder of an unpublished result not removed");
    }
}

fn kept(aside: &Path, what: &str) -> String {
    format!("kept aside in {}: {what}", for_people(aside))
}

fn listed(names: &[OsString]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| for_people(Path::new(name)).to_string()).collect();
    let more = names.len().saturating_sub(NAMED);
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// `<name>.kept-<number>`, shortened where a file system would not take it; the ending stays.
fn kept_name(target: &Path, number: u32) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let end = format!("{KEPT}{number}");
    let mut bytes = name.as_bytes().to_vec();
    if bytes.len() + end.len() > NAME_MAX {
        let ending = target.extension().map_or(Vec::new(), |ending| [b".", ending.as_bytes()].concat());
        let mut length = NAME_MAX.saturating_sub(end.len() + ending.len()).min(bytes.len());
        while length > 0 && bytes[length] & 0xC0 == 0x80 {
            length -= 1;
        }
        bytes.truncate(length);
        bytes.extend(ending);
    }
    bytes.extend(end.as_bytes());
    target.with_file_name(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests;
