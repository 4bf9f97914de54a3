//! Where workers leave what they draw: a folder for each that no other worker may see, emptied after every job (hazard h27).
//!
//! ```text
//! <state folder>/worker/staging/<number of the worker>/<number of the job>/<number of the result>/…
//!                       removing/…        what an earlier daemon left
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, fallocate};
use tissuemap::removal;

use super::private_folder;

/// The folder of all workers.
pub(super) struct StagingArea {
    folder: PathBuf,
    next: AtomicU64,
}

/// The folder that the worker of one seat may write; it goes with its owner.
pub(super) struct WorkerFolder {
    path: PathBuf,
    next: AtomicU64,
}

/// The folder of one job; it goes with its owner, and so does whatever else the worker has left beside it.
pub(super) struct JobFolder<'a> {
    worker: &'a WorkerFolder,
    pub(super) path: PathBuf,
}

impl StagingArea {
    /// Begins with an empty folder in `place`. What an earlier daemon left goes in the background: it may be much.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub(super) fn open(place: &Path) -> io::Result<Self> {
        let (folder, removing) = (place.join("staging"), place.join("removing"));
        private_folder(&removing)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        match fs::rename(&folder, removing.join(now.to_string())) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Its workers' numbers begin with the time, so that what stays there is in nobody's way.
            Err(error) => warn_left(&folder, &error),
        }
        private_folder(&folder)?;
        let removal = move || {
            if let Err(error) = removal::empty_folder(&removing) {
                warn_left(&removing, &error);
            }
        };
        std::thread::Builder::new().name("removal".into()).spawn(removal)?;
        Ok(Self { folder, next: AtomicU64::new(now as u64) })
    }

    /// A folder for one more worker.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn worker(&self) -> io::Result<WorkerFolder> {
        let path = self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        new_folder(&path)?;
        Ok(WorkerFolder { path, next: AtomicU64::new(1) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }
}

impl WorkerFolder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty folder for a job.
    ///
    /// # Errors
    /// It cannot be made, or the worker has made it itself.
    pub(super) fn job(&self) -> io::Result<JobFolder<'_>> {
        match removal::empty_folder(&self.path) {
            // The state folder lies at its path anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => private_folder(&self.path)?,
            outcome => outcome?,
        }
        let path = self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        new_folder(&path)?;
        Ok(JobFolder { worker: self, path })
    }
}

impl JobFolder<'_> {
    /// Whether the disk or a quota has no room for one more large file.
    pub(super) fn is_disk_full(&self) -> bool {
        const ROOM: u64 = 64 << 20;
        let file = self.worker.path.join("room");
        let reserve =
            || -> io::Result<()> { Ok(fallocate(File::create_new(&file)?, FallocateFlags::empty(), 0, ROOM)?) };
        let full = reserve().is_err_and(|error| {
            // Where room cannot be reserved, nothing can be said.
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Unsupported
            )
        });
        let _ = fs::remove_file(file);
        full
    }
}

/// One that is there already is somebody else's.
fn new_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path)
}

impl Drop for JobFolder<'_> {
    fn drop(&mut self) {
        if let Err(error) = removal::empty_folder(&self.worker.path) {
            warn_left(&self.worker.path, &error);
        }
    }
}

impl Drop for WorkerFolder {
    fn drop(&mut self) {
        if let Err(error) = removal::remove_tree(&self.path) {
            warn_left(&self.path, &error);
        }
    }
}

fn warn_left(folder: &Path, error: &io::Error) {
    tracing::warn!(folder = %folder.display(), reason = %error, "Staged files not removed; remove the folder by hand");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_every_worker_has_a_folder_of_its_own_and_every_job_an_empty_one() {
        let state = tempfile::tempdir().expect("tempdir");
        let area = StagingArea::open(state.path()).expect("writable");
        let (one, other) = (area.worker().expect("writable"), area.worker().expect("writable"));
        assert_ne!(one.path(), other.path());
        let first = one.job().expect("writable");
        fs::write(first.path.join("result.json"), "{}").expect("writable");
        // What a worker leaves beside its job's folder, for the next one.
        fs::create_dir_all(one.path().join("2/0")).expect("writable");
        let place = first.path.clone();
        drop(first);
        assert!(!place.exists());
        fs::create_dir_all(one.path().join("2/0")).expect("writable");
        let second = one.job().expect("made anew");
        assert_eq!(fs::read_dir(&second.path).expect("readable").count(), 0);
        drop(second);
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }

    #[test]
    fn h27_what_an_earlier_daemon_left_does_not_keep_the_next_from_starting() {
        let state = tempfile::tempdir().expect("tempdir");
        let old = state.path().join("staging/7/1");
        fs::create_dir_all(&old).expect("writable");
        // As deep as a path can name.
        let deep = (0..1000).fold(old.clone(), |path, _| path.join("a"));
        fs::create_dir_all(&deep).expect("writable");
        let area = StagingArea::open(state.path()).expect("starts");
        assert!(!old.exists(), "not in the way of any worker");
        assert_eq!(fs::read_dir(area.path()).expect("readable").count(), 0);
        drop(area.worker().expect("writable").job().expect("writable"));
        // It goes in the background.
        while fs::read_dir(state.path().join("removing")).expect("readable").count() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
