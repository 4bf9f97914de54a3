//! Durable writes: a file, or a folder of results, appears whole or not at all.

mod file;
mod publish;
mod seal;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use file::{
    clear_unfinished, is_unfinished, move_aside, rename_new, sync_folder, write_figures, write_file, write_file_at,
    write_file_with, write_new,
};
pub use publish::{Published, is_kept};
use rustix::fs::{Mode, OFlags, openat};
pub use seal::{RecordKind, seal, write_record};

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

    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.into(), source }
    }
}

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

    /// Copies these files from a folder that somebody less trusted has filled: a link, a device or anything else that is
    /// no ordinary file of this folder alone is refused, because it might lead to what only we may read.
    ///
    /// # Errors
    /// A file is missing or is not one, or copying fails.
    pub fn take_in(&self, folder: &Path, names: &[&str]) -> Result<(), DurableError> {
        let way = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, way | OFlags::DIRECTORY, Mode::empty());
        let opened = opened.map_err(|e| DurableError::new("open the staged result", folder, e.into()))?;
        for name in names {
            let path = folder.join(name);
            let failed = |e| DurableError::new("take over", &path, e);
            // Opening a pipe must not wait for its writer.
            let file = openat(&opened, *name, way | OFlags::NONBLOCK, Mode::empty()).map_err(|e| failed(e.into()))?;
            let mut file = File::from(file);
            let what = file.metadata().map_err(failed)?;
            if !what.is_file() || what.nlink() != 1 || what.len() > MAX_FILE_BYTES {
                return Err(failed(io::Error::other("not an ordinary file")));
            }
            let target = self.path().join(name);
            let create = |e| DurableError::new("create", &target, e);
            let mut copy = File::create_new(&target).map_err(create)?;
            io::copy(&mut file, &mut copy).map_err(|e| DurableError::new("write", &target, e))?;
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
            staging.take_in(&staged, &[name]).map(|()| fs::read_to_string(staging.path().join(name)).expect("readable"))
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
        assert!(staging.take_in(&dir.path().join("elsewhere"), &["fine"]).is_err(), "the folder itself is a link");
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
