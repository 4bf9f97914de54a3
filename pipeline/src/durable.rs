//! Durable writes: a file, or a folder of results, appears whole or not at all.

mod file;
mod publish;
mod seal;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use file::{
    clear_unfinished, is_unfinished, move_aside, rename_new, sync_folder, write_figures, write_file, write_file_at,
    write_file_with, write_new,
};
pub use publish::{Published, is_kept};
use rustix::fs::{Mode, OFlags, openat};
pub(crate) use seal::is_as_sealed;
pub use seal::{RecordKind, seal, write_record};
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::overlay::OutputFile;

/// Why results could not be published.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct DurableError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DurableError {
    /// Whether the disk or quota is full: the job may be repeated once there is room.
    pub fn is_no_space(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether what was to be taken over is not what was told: nothing is wrong with our own disk.
    pub fn is_refused(&self) -> bool {
        self.action == TAKE_OVER
    }

    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.into(), source }
    }
}

const TAKE_OVER: &str = "take over";

/// A file of a result is far smaller; more is nothing that a model drew.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// Publishes folders of one set, each in one step. All are whole before the first appears, so a failure until then leaves
/// no new result beside an old one.
///
/// # Errors
/// As [`Staging::publish`].
pub fn publish_all(staged: Vec<Staging>, kind: RecordKind) -> Result<Vec<Published>, DurableError> {
    staged.into_iter().map(|staging| staging.publish(kind)).collect()
}

/// A folder that is being filled; it is removed again unless it is published.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    target: PathBuf,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            publish::remove_files(&self.folder);
        }
    }
}

impl Staging {
    /// Prepares to publish `target`. The staging folder lies beside it (a rename must not cross file systems) and is
    /// named `.tissuemap-…`, which the watcher ignores.
    ///
    /// # Errors
    /// The parent folder is not writable.
    pub fn beside(target: &Path) -> Result<Self, DurableError> {
        let parent = file::folder_of(target);
        let dir = tempfile::Builder::new()
            .prefix(file::UNFINISHED)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(parent)
            .map_err(|e| DurableError::new("create a staging folder in", parent, e))?;
        Ok(Self { folder: dir.keep(), target: target.into() })
    }

    /// Where files are written until then.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Copies these files from a folder that somebody less trusted has filled and may still change: a link, a device or
    /// anything else that is no ordinary file of this folder alone is refused, because it might lead to what only we may
    /// read; and so is what has other bytes than was told. Their names are the caller's.
    ///
    /// # Errors
    /// A file is missing, is not one, or is another one; or copying fails.
    pub fn take_in(&self, folder: &Path, files: &[OutputFile]) -> Result<(), DurableError> {
        let way = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, way | OFlags::DIRECTORY, Mode::empty());
        let opened = opened.map_err(|e| DurableError::new(TAKE_OVER, folder, e.into()))?;
        for named in files {
            let name = &named.file;
            let path = folder.join(name);
            let failed = |e| DurableError::new(TAKE_OVER, &path, e);
            // Opening a pipe must not wait for its writer.
            let file = openat(&opened, name, way | OFlags::NONBLOCK, Mode::empty()).map_err(|e| failed(e.into()))?;
            let file = File::from(file);
            let what = file.metadata().map_err(failed)?;
            if !what.is_file() || what.nlink() != 1 || what.len() > MAX_FILE_BYTES {
                return Err(failed(io::Error::other("not an ordinary file")));
            }
            let changed = || failed(io::Error::other("other bytes than were told"));
            let target = self.path().join(name);
            let create = |e| DurableError::new("create", &target, e);
            let mut copy = File::create_new(&target).map_err(create)?;
            // One byte more tells a file that grew.
            let copied = copy_hashed(file.take(named.bytes.saturating_add(1)), &mut copy);
            let (bytes, sha256) = copied.map_err(|e| DurableError::new("write", &target, e))?;
            if (bytes, &sha256) != (named.bytes, &named.sha256) {
                return Err(changed());
            }
        }
        Ok(())
    }

    /// Makes the folder visible under its name, replacing an older result; see [`publish`](mod@publish) for the steps and
    /// for what becomes of files that are not ours.
    ///
    /// # Errors
    /// Any of the system calls; what has the name is then as it was, or visible beside it.
    pub fn publish(mut self, kind: RecordKind) -> Result<Published, DurableError> {
        // What has this name afterwards may be an older result.
        let folder = std::mem::take(&mut self.folder);
        publish::publish(&folder, &self.target, kind, &mut |_| {})
    }
}

/// Length and SHA-256 of what was copied.
fn copy_hashed(mut from: impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    loop {
        let piece = match from.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(hash.finalize()))),
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(piece);
        to.write_all(piece)?;
        bytes += piece.len() as u64;
    }
}

fn sync(path: &Path) -> Result<(), DurableError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| DurableError::new("flush", path, e))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::CWD;

    use super::*;

    const KIND: RecordKind =
        RecordKind { name: "result.json", is_of_older_version: |_| false, with_warnings: |_, _| None };

    fn publish(target: &Path, text: &str) {
        let staging = Staging::beside(target).expect("writable");
        for name in ["a.txt", "b.txt"] {
            fs::write(staging.path().join(name), text).expect("writable");
        }
        write_record(staging.path(), KIND.name, &serde_json::json!({})).expect("writable");
        staging.publish(KIND).expect("published");
    }

    #[test]
    fn a_result_replaces_the_older_one_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let target = dir.path().join("case7_HE.tissuemap");
        publish(&target, "one");
        publish(&target, "two");
        assert_eq!(fs::read_to_string(target.join("b.txt")).expect("whole"), "two");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn an_unpublished_result_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let staging = Staging::beside(&dir.path().join("x.tissuemap")).expect("writable");
        fs::write(staging.path().join("half"), "…").expect("writable");
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn h06_what_is_being_filled_lies_beside_its_place_under_a_hidden_name() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let staging = Staging::beside(&dir.path().join("case7_HE.tissuemap")).expect("writable");
        assert_eq!(staging.path().parent(), Some(dir.path()), "a rename reaches no other file system");
        let name = staging.path().file_name().expect("a name").to_string_lossy();
        assert!(name.starts_with(".tissuemap-"), "{name}");
    }

    #[test]
    fn h04_only_ordinary_files_are_taken_over_from_a_staging_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (staged, secret) = (dir.path().join("staged"), dir.path().join("secret"));
        fs::create_dir(&staged).expect("writable");
        fs::write(&secret, "key").expect("writable");
        let take = |name: &str| {
            let staging = Staging::beside(&dir.path().join("x.tissuemap")).expect("writable");
            staging
                .take_in(&staged, &[told(name, "map")])
                .map(|()| fs::read_to_string(staging.path().join(name)).expect("readable"))
        };
        fs::write(staged.join("fine"), "map").expect("writable");
        std::os::unix::fs::symlink(&secret, staged.join("link")).expect("writable");
        fs::hard_link(&secret, staged.join("hard")).expect("writable");
        fs::create_dir(staged.join("folder")).expect("writable");
        let pipe = rustix::fs::mknodat(CWD, staged.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0);
        pipe.expect("writable");
        assert_eq!(take("fine").expect("an ordinary file"), "map");
        for name in ["link", "hard", "folder", "pipe", "absent"] {
            let error = take(name).expect_err(name).to_string();
            assert!(error.contains(&format!("staged/{name}")), "{error}");
        }
        std::os::unix::fs::symlink(&staged, dir.path().join("elsewhere")).expect("writable");
        let staging = Staging::beside(&dir.path().join("x.tissuemap")).expect("writable");
        let through = staging.take_in(&dir.path().join("elsewhere"), &[told("fine", "map")]);
        assert!(through.is_err(), "the folder itself is a link");
    }

    fn told(name: &str, content: &str) -> OutputFile {
        let sha256 = hex(Sha256::digest(content));
        OutputFile { file: name.into(), bytes: content.len() as u64, sha256 }
    }

    #[test]
    fn h27_a_staged_file_that_is_not_what_was_told_is_not_taken_over() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let staged = dir.path().join("staged");
        fs::create_dir(&staged).expect("writable");
        for (content, taken) in [("map", true), ("mad", false), ("map and more", false), ("ma", false), ("", false)] {
            fs::write(staged.join("file"), content).expect("writable");
            let staging = Staging::beside(&dir.path().join("x.tissuemap")).expect("writable");
            let outcome = staging.take_in(&staged, &[told("file", "map")]);
            assert_eq!(outcome.is_ok(), taken, "{content:?}: {outcome:?}");
        }
    }

    #[test]
    fn h06_a_reader_never_sees_part_of_a_set() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let target = dir.path().join("case7_HE.tissuemap");
        publish(&target, "0");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut looks = 0_u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // One open folder is one result, whatever is renamed meanwhile.
                    let folder = rustix::fs::open(&target, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
                        .expect("there");
                    let read = |name: &str| {
                        let file =
                            rustix::fs::openat(&folder, name, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
                        file.map(|f| io::read_to_string(File::from(f)).expect("readable")).ok()
                    };
                    let (a, b) = (read("a.txt"), read("b.txt"));
                    // A replaced folder is being removed: files may be gone, but never of two results.
                    if let (Some(a), Some(b)) = (a, b) {
                        assert_eq!(a, b);
                        looks += 1;
                    }
                }
                looks
            });
            (1..200).for_each(|i| publish(&target, &i.to_string()));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().expect("no torn result") > 0);
        });
    }
}
