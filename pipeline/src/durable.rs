//! The one durable write: a folder of results appears whole or not at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

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

/// Publishes folders of one set, each in one step, and gives their names. All are whole before the first appears, so a
/// failure until then leaves no new result beside an old one.
///
/// # Errors
/// As [`Staging::publish`].
pub fn publish_all(staged: Vec<Staging>) -> Result<Vec<PathBuf>, DurableError> {
    staged
        .into_iter()
        .map(|staging| {
            let target = staging.target.clone();
            staging.publish().map(|()| target)
        })
        .collect()
}

/// A folder that is being filled; it is removed again unless it is published.
#[derive(Debug)]
pub struct Staging {
    dir: tempfile::TempDir,
    target: PathBuf,
}

impl Staging {
    /// Prepares to publish `target`. The staging folder lies beside it (a rename must not cross file systems) and is
    /// named `.tissuemap-…`, which the watcher ignores.
    ///
    /// # Errors
    /// The parent folder is not writable.
    pub fn beside(target: &Path) -> Result<Self, DurableError> {
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = tempfile::Builder::new()
            .prefix(".tissuemap-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(parent)
            .map_err(|e| DurableError::new("create a staging folder in", parent, e))?;
        Ok(Self { dir, target: target.into() })
    }

    /// Where files are written until then.
    pub fn path(&self) -> &Path {
        self.dir.path()
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

    /// Makes the folder visible under its name, replacing an older result.
    ///
    /// 1. Every file is fsynced, then the staging folder. A crash before or here leaves only the staging folder.
    /// 2. The folder is renamed to its name; where an older result stands, the two are exchanged in one step
    ///    (`RENAME_EXCHANGE`). A crash around here leaves the old or the new result, both whole.
    /// 3. The parent folder is fsynced: from here on the new result survives a power cut.
    /// 4. The older result, now under the staging name, is removed. A crash before leaves it there, ignored.
    ///
    /// File systems without exchange (some network shares): the older result is renamed away first, so that a reader
    /// may for a moment see none.
    ///
    /// # Errors
    /// Any of the system calls; the target is then as it was.
    pub fn publish(self) -> Result<(), DurableError> {
        let staged = self.dir.path();
        let entries = fs::read_dir(staged).map_err(|e| DurableError::new("list", staged, e))?;
        for entry in entries {
            let path = entry.map_err(|e| DurableError::new("list", staged, e))?.path();
            sync(&path)?;
        }
        sync(staged)?;
        let rename =
            |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| DurableError::new("rename a result to", to, e));
        let mut replaced = None;
        if self.target.exists() {
            if renameat_with(CWD, staged, CWD, &self.target, RenameFlags::EXCHANGE).is_err() {
                let aside = staged.with_extension("old");
                rename(&self.target, &aside)?;
                rename(staged, &self.target)?;
                replaced = Some(aside);
            }
        } else {
            rename(staged, &self.target)?;
        }
        sync(self.target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        if let Some(aside) = replaced {
            fs::remove_dir_all(&aside).map_err(|e| DurableError::new("remove the replaced result", &aside, e))?;
        }
        // After an exchange the staging name holds the older result; dropping `dir` removes it.
        Ok(())
    }
}

fn sync(path: &Path) -> Result<(), DurableError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| DurableError::new("flush", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(target: &Path, text: &str) {
        let staging = Staging::beside(target).expect("writable");
        for name in ["a.txt", "b.txt"] {
            fs::write(staging.path().join(name), text).expect("writable");
        }
        staging.publish().expect("published");
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
