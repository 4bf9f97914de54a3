//! Whether results can be written beside slides, found out before a job computes for minutes (hazard h24).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tissuemap::overlay::result_folder;
use tissuemap::section_set::SectionSet;

use crate::config::Schedule;
use crate::job::Fault;

/// The folders in which results of these slides appear.
pub fn folders<'a>(slides: impl IntoIterator<Item = &'a PathBuf>) -> BTreeSet<PathBuf> {
    let parent = |slide: &PathBuf| result_folder(slide).parent().map(Path::to_path_buf);
    slides.into_iter().filter_map(parent).collect()
}

/// Makes a folder with a file in it as publishing does, under a hidden name, and removes it again. Blocks on a dead share.
///
/// # Errors
/// Results could not be written there, for this reason.
pub fn try_to_write(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let staged = tempfile::Builder::new().prefix(".tissuemap-").tempdir_in(folder)?;
    // One block: a quota that is used up lets folders be made, but nothing be written.
    std::fs::write(staged.path().join("tried"), [0; 4096])?;
    staged.close()
}

/// What is said where it cannot be written.
pub fn unwritable(folder: &Path, error: &io::Error) -> Fault {
    Fault::new(
        format!("{}: results cannot be written here: {error}", folder.display()),
        "make it writable for the daemon's user (ReadWritePaths= in a drop-in of its unit, or how the share is mounted); \
         sets that wait for it then go on by themselves",
    )
}

/// The first folder of a set in which results cannot be written any more, as the state of a folder that is out of reach;
/// one that is full is none. Blocks on a dead share.
pub fn unwritable_now(set: &SectionSet) -> Option<Fault> {
    folders(set.slides.values()).iter().find_map(|folder| {
        let error = try_to_write(folder).err()?;
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        (!full).then(|| Fault::unreachable(folder, &error))
    })
}

/// Folders in which results cannot be written: states of the folders, for which sets wait and no try counts.
#[derive(Debug, Default)]
pub struct Blocked(BTreeMap<PathBuf, State>);

#[derive(Debug)]
struct State {
    fault: Fault,
    /// Tries to write that failed in a row.
    failed: u32,
    /// When the next one is due.
    again: Duration,
}

/// A longer wait saves nothing: a try is three system calls.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

impl Blocked {
    /// Takes in that results cannot be written in `folder`; true for news.
    pub fn add(&mut self, folder: PathBuf, fault: Fault, schedule: &Schedule, now: Duration) -> bool {
        let before = self.0.get(&folder);
        let failed = before.map_or(0, |state| state.failed) + 1;
        let news = before.is_none_or(|state| state.fault != fault);
        let again = now + schedule.retry_wait(failed).min(LONGEST_WAIT);
        self.0.insert(folder, State { fault, failed, again });
        news
    }

    /// These folders can be written.
    pub fn remove<'a>(&mut self, folders: impl IntoIterator<Item = &'a PathBuf>) {
        for folder in folders {
            if self.0.remove(folder).is_some() {
                tracing::info!(folder = %folder.display(), "Results can be written here again");
            }
        }
    }

    /// Keeps those only that work waits for.
    pub fn retain(&mut self, wanted: &BTreeSet<PathBuf>) {
        self.0.retain(|folder, _| wanted.contains(folder));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why results in these folders have to wait at `now`.
    pub fn holds<'a>(&self, folders: impl IntoIterator<Item = &'a PathBuf>, now: Duration) -> Option<&Fault> {
        folders.into_iter().find_map(|folder| self.0.get(folder).filter(|state| state.again > now)).map(|s| &s.fault)
    }

    /// When the next try to write is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.0.values().map(|state| state.again).min()
    }

    /// What needs a person.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.0.values().map(|state| state.fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn h24_a_folder_in_which_results_cannot_be_written_is_found_by_trying_and_nothing_is_left() {
        let place = tempfile::tempdir().expect("tempdir");
        try_to_write(place.path()).expect("writable");
        assert_eq!(fs::read_dir(place.path()).expect("readable").count(), 0, "nothing is left");
        let error = try_to_write(Path::new("/proc/self")).expect_err("the kernel's own");
        let text = unwritable(Path::new("/proc/self"), &error).to_string();
        assert!(text.starts_with("/proc/self: results cannot be written here: "), "{text}");
        assert!(text.contains("; hint: "), "{text}");
    }

    #[test]
    fn h24_tries_to_write_come_ever_more_rarely_and_the_longest_wait_is_minutes() {
        let mut blocked = Blocked::default();
        let (folder, schedule) = (PathBuf::from("/in"), Schedule::default());
        let fault = || Fault::new("/in: read-only", "mount it for writing");
        assert!(blocked.add(folder.clone(), fault(), &schedule, Duration::ZERO));
        let mut now = Duration::ZERO;
        for _ in 0..10 {
            assert!(blocked.holds([&folder], now).is_some());
            now = blocked.next_due().expect("tried again");
            assert_eq!(blocked.holds([&folder], now), None, "one may try");
            assert!(!blocked.add(folder.clone(), fault(), &schedule, now), "no news");
        }
        assert_eq!(blocked.next_due(), Some(now + LONGEST_WAIT));
        blocked.remove([&folder]);
        assert!(blocked.is_empty());
    }
}
