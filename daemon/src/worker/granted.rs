//! What a worker was granted, as objects. Landlock's rules hold the folders and files that were there when the worker
//! confined itself, the configuration names paths: when a path leads elsewhere since, the worker may not follow.
//!
//! A share whose host is gone does not answer. So every path is asked on a thread of its own, of which there is one at most,
//! and nobody waits for long.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};

use crate::identity::Identity;

/// A local disk answers in microseconds, a share that works in milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Where a path leads.
#[derive(Debug)]
enum Place {
    At(Identity),
    /// There is nothing, or it cannot be reached, for this reason.
    Away(io::Error),
    /// Nobody has answered.
    Silent,
}

/// Paths that are granted, and who asks where they lead.
#[derive(Debug)]
pub(super) struct Paths(Vec<Asked>);

#[derive(Debug)]
struct Asked {
    path: PathBuf,
    /// The answer to a question that took too long.
    late: Option<Receiver<io::Result<Identity>>>,
}

/// Where all paths led at one moment.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<(PathBuf, Place)>);

impl Paths {
    pub(super) fn new<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| Asked { path: path.clone(), late: None }).collect())
    }

    /// Where they lead now. Waits for no answer that was late the last time, and for all others together no longer than
    /// [`ANSWER_LIMIT`].
    pub(super) fn look(&mut self) -> Places {
        let end = Instant::now() + ANSWER_LIMIT;
        // All are asked before one is waited for.
        let waits: Vec<bool> = self.0.iter_mut().map(Asked::ask).collect();
        let places = self.0.iter_mut().zip(waits).map(|(asked, wait)| {
            let end = if wait { end } else { Instant::now() };
            (asked.path.clone(), asked.answer(end))
        });
        Places(places.collect())
    }
}

impl Paths {
    /// Whether this process may read this file, and it lies where it is granted when all links are followed. False where
    /// nobody answers.
    pub(super) fn may_read(&self, file: &Path) -> bool {
        let Some(granted) = self.0.iter().map(|asked| &asked.path).find(|granted| file.starts_with(granted)) else {
            return false;
        };
        let (file, granted) = (file.to_path_buf(), granted.clone());
        let (sender, answer) = mpsc::channel();
        let asked = std::thread::Builder::new().name("granted path".into()).spawn(move || {
            let inside = || file.canonicalize().ok()?.starts_with(granted.canonicalize().ok()?).then_some(());
            let may = inside().is_some() && access(&file, Access::READ_OK).is_ok();
            // Nobody may be there to hear it any more.
            let _ = sender.send(may);
        });
        asked.is_ok() && answer.recv_timeout(ANSWER_LIMIT).unwrap_or(false)
    }
}

impl Asked {
    /// False where a question is still open.
    fn ask(&mut self) -> bool {
        if self.late.is_some() {
            return false;
        }
        let (sender, answer) = mpsc::channel();
        let path = self.path.clone();
        let asked = std::thread::Builder::new().name("granted path".into()).spawn(move || {
            // Nobody may be there to hear it any more.
            let _ = sender.send(Identity::of(&path));
        });
        // Without a thread, the sender is gone and nobody answers.
        drop(asked);
        self.late = Some(answer);
        true
    }

    fn answer(&mut self, end: Instant) -> Place {
        let Some(answer) = &self.late else { return Place::Silent };
        let place = match answer.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Ok(identity)) => Place::At(identity),
            Ok(Err(error)) => Place::Away(error),
            Err(RecvTimeoutError::Timeout) => return Place::Silent,
            Err(RecvTimeoutError::Disconnected) => Place::Silent,
        };
        self.late = None;
        place
    }
}

impl Places {
    /// A path that leads to another object `now` than it did then. One that leads nowhere now is none: there is nothing to
    /// be granted, and it may come back as it was.
    pub(super) fn changed<'a>(&self, now: &'a Self) -> Option<&'a Path> {
        let pairs = self.0.iter().zip(&now.0);
        let changed =
            pairs.map(|((_, then), (path, now))| (path, then, now)).find(|(_, then, now)| match (then, now) {
                (Place::At(then), Place::At(now)) => then != now,
                (Place::Away(_) | Place::Silent, Place::At(_)) => true,
                (_, Place::Away(_) | Place::Silent) => false,
            });
        changed.map(|(path, ..)| path.as_path())
    }

    /// The granted path that `path` is or lies below, if it leads nowhere, and why: `None` where nobody answers.
    pub(super) fn away(&self, path: &Path) -> Option<(&Path, Option<&io::Error>)> {
        let (granted, place) = self.0.iter().find(|(granted, _)| path.starts_with(granted))?;
        match place {
            Place::At(_) => None,
            Place::Away(error) => Some((granted, Some(error))),
            Place::Silent => Some((granted, None)),
        }
    }

    /// Whether a worker can be granted this path without standing still at it.
    pub(super) fn answers(&self, path: &Path) -> bool {
        !self.0.iter().any(|(granted, place)| granted == path && matches!(place, Place::Silent))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn changed(before: &Places, paths: &mut Paths) -> Option<PathBuf> {
        before.changed(&paths.look()).map(Path::to_path_buf)
    }

    #[test]
    fn h23_a_path_that_appears_or_leads_elsewhere_has_changed_and_one_that_is_away_has_not() {
        let place = tempfile::tempdir().expect("tempdir");
        let [folder, aside, late] = ["in", "aside", "late"].map(|name| place.path().join(name));
        fs::create_dir(&folder).expect("create");
        let mut paths = Paths::new([&folder, &late]);
        let before = paths.look();
        assert_eq!(changed(&before, &mut paths), None);
        assert!(before.away(&folder.join("a.svs")).is_none());
        assert!(before.away(&late.join("a.svs")).is_some_and(|(_, why)| why.is_some()));

        fs::rename(&folder, &aside).expect("rename");
        assert_eq!(changed(&before, &mut paths), None, "away");
        fs::create_dir(&folder).expect("create");
        assert_eq!(changed(&before, &mut paths), Some(folder.clone()), "another one");
        fs::remove_dir(&folder).expect("remove");
        fs::rename(&aside, &folder).expect("rename");
        assert_eq!(changed(&before, &mut paths), None, "back as it was");
        fs::create_dir(&late).expect("create");
        assert_eq!(changed(&before, &mut paths), Some(late), "it appeared");
    }

    #[test]
    fn h23_a_path_that_does_not_answer_is_waited_for_once_and_has_changed_when_it_answers() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().to_path_buf();
        let (sender, answer) = mpsc::channel();
        let mut paths = Paths(vec![Asked { path: path.clone(), late: Some(answer) }]);
        let silent = paths.look();
        assert!(silent.away(&path).is_some_and(|(_, why)| why.is_none()) && !silent.answers(&path));
        sender.send(Identity::of(&path)).expect("it is waited for");
        assert_eq!(changed(&silent, &mut paths), Some(path.clone()));
        assert!(paths.look().answers(&path));
    }
}
