//! Hints from the operating system that something changed in a watch folder.
//!
//! Hints coalesce: ten thousand events between two looks are one hint, so nothing can overflow on our side, and the
//! kernel's own overflow arrives as a rescan flag, which is a hint like any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::names::Ignore;
use crate::config::Watch;
use crate::identity::Identity;

/// One folder's flag, raised by the watcher's thread and taken down by the scan.
#[derive(Debug)]
struct Flag {
    folder: PathBuf,
    ignore: Ignore,
    raised: AtomicBool,
}

#[derive(Debug)]
struct Flags {
    folders: Vec<Flag>,
    bell: Notify,
}

/// Watches folders through the operating system where that works. A folder that cannot be watched is still scanned.
#[derive(Debug)]
pub struct Hints {
    flags: Arc<Flags>,
    watcher: Option<RecommendedWatcher>,
    /// What each folder was when it was last asked for its events; none while they are not asked for.
    watched: Vec<Option<Identity>>,
}

impl Hints {
    /// Hints for `folders`, known by their index from here on. Nothing is watched before [`Hints::ensure`].
    pub fn new(folders: &[Watch]) -> Self {
        let flag = |watch: &Watch| Flag {
            folder: watch.folder.clone(),
            ignore: watch.ignore.clone(),
            raised: AtomicBool::new(false),
        };
        let flags = Arc::new(Flags { folders: folders.iter().map(flag).collect(), bell: Notify::new() });
        let sink = Arc::clone(&flags);
        let watcher = notify::recommended_watcher(move |event| sink.take_in(&event));
        if let Err(error) = &watcher {
            tracing::warn!(%error, "No file system events; the periodic scan finds every slide, only later");
        }
        Self { flags, watcher: watcher.ok(), watched: vec![None; folders.len()] }
    }

    /// Watches folder number `index` unless it is watched already. Called after each successful scan, so that a network
    /// share mounted later is picked up, and a folder that lies at its path since: events follow the old one.
    pub fn ensure(&mut self, index: usize, identity: Identity) {
        if self.watched[index] == Some(identity) {
            return;
        }
        self.forget(index);
        let Some(watcher) = self.watcher.as_mut() else { return };
        let folder = &self.flags.folders[index].folder;
        if let Err(error) = watcher.watch(folder, RecursiveMode::Recursive) {
            tracing::warn!(
                folder = %folder.display(), %error,
                "Cannot watch; the periodic scan finds every slide, only later; hint: raise fs.inotify.max_user_watches, or set poll = true"
            );
        }
        // Also after a failure: repeating it at every scan would fill the log with one line.
        self.watched[index] = Some(identity);
    }

    /// Folder number `index` could not be read: once it is there again it is another one to the operating system, and
    /// has to be watched anew.
    pub fn forget(&mut self, index: usize) {
        if let Some(watcher) = self.watcher.as_mut().filter(|_| self.watched[index].is_some()) {
            // Fails where the folder took its watch with it.
            let _ = watcher.unwatch(&self.flags.folders[index].folder);
        }
        self.watched[index] = None;
    }

    /// Waits for a hint and gives the indices of the folders concerned; may be empty. Cancel safe.
    pub async fn next(&self) -> Vec<usize> {
        self.flags.bell.notified().await;
        let raised = |(index, flag): (usize, &Flag)| flag.raised.swap(false, Ordering::AcqRel).then_some(index);
        self.flags.folders.iter().enumerate().filter_map(raised).collect()
    }
}

impl Flags {
    fn take_in(&self, event: &notify::Result<Event>) {
        let concerns = |flag: &Flag| match event {
            Ok(event) if event.need_rescan() => true,
            Ok(event) => is_write(event.kind) && event.paths.iter().any(|path| flag.concerns(path)),
            // Whatever went wrong, looking is the answer.
            Err(_) => true,
        };
        let mut any = false;
        for flag in self.folders.iter().filter(|flag| concerns(flag)) {
            flag.raised.store(true, Ordering::Release);
            any = true;
        }
        if any {
            self.bell.notify_one();
        }
    }
}

impl Flag {
    /// True for a path that a scan would look at. Our own output raises events below ignored names.
    fn concerns(&self, path: &Path) -> bool {
        path.strip_prefix(&self.folder)
            .is_ok_and(|below| !below.iter().any(|name| self.ignore.ignores(Path::new(name))))
    }
}

/// Reading raises events too, our own reading included; those say nothing new.
fn is_write(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag as NotifyFlag};

    use super::*;

    fn watch(folder: &Path) -> Watch {
        toml::from_str(&format!("folder = {folder:?}")).expect("valid")
    }

    fn raised(hints: &Hints) -> Vec<bool> {
        hints.flags.folders.iter().map(|flag| flag.raised.load(Ordering::Acquire)).collect()
    }

    #[test]
    fn an_event_concerns_only_its_folder_and_reading_or_temporary_names_none() {
        let hints = Hints::new(&["/a", "/b"].map(|folder| watch(Path::new(folder))));
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        hints.flags.take_in(&Ok(event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/a/x.svs")));
        hints.flags.take_in(&Ok(event(EventKind::Create(CreateKind::File), "/b/x.svs.part")));
        hints.flags.take_in(&Ok(event(EventKind::Create(CreateKind::File), "/b/.tissuemap-1/overlay.png")));
        assert_eq!(raised(&hints), [false, false]);
        hints.flags.take_in(&Ok(event(EventKind::Create(CreateKind::File), "/b/x.svs")));
        assert_eq!(raised(&hints), [false, true]);
    }

    #[test]
    fn h02_an_overflow_concerns_every_folder() {
        let hints = Hints::new(&["/a", "/b"].map(|folder| watch(Path::new(folder))));
        hints.flags.take_in(&Ok(Event::new(EventKind::Other).set_flag(NotifyFlag::Rescan)));
        assert_eq!(raised(&hints), [true, true]);
    }

    fn ensure(hints: &mut Hints, folder: &Path) {
        hints.ensure(0, Identity::of(folder).expect("there"));
    }

    #[tokio::test]
    async fn a_new_file_raises_a_hint() {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut hints = Hints::new(&[watch(folder.path())]);
        ensure(&mut hints, folder.path());
        std::fs::write(folder.path().join("x.svs"), "x").expect("write");
        assert_eq!(hints.next().await, [0]);
    }

    #[tokio::test]
    async fn a_folder_that_was_away_is_watched_again() {
        let parent = tempfile::tempdir().expect("tempdir");
        let folder = parent.path().join("share");
        std::fs::create_dir(&folder).expect("create");
        let mut hints = Hints::new(&[watch(&folder)]);
        ensure(&mut hints, &folder);
        std::fs::remove_dir(&folder).expect("remove");
        hints.forget(0);
        while hints.next().await != [0] {}
        std::fs::create_dir(&folder).expect("create");
        ensure(&mut hints, &folder);
        std::fs::write(folder.join("x.svs"), "x").expect("write");
        assert_eq!(hints.next().await, [0]);
    }

    #[tokio::test]
    async fn h23_events_come_from_the_folder_that_lies_at_the_path_now() {
        let parent = tempfile::tempdir().expect("tempdir");
        let [folder, aside] = ["in", "in-2023"].map(|name| parent.path().join(name));
        std::fs::create_dir(&folder).expect("create");
        let mut hints = Hints::new(&[watch(&folder)]);
        ensure(&mut hints, &folder);
        std::fs::rename(&folder, &aside).expect("rename");
        std::fs::create_dir(&folder).expect("create");
        ensure(&mut hints, &folder);
        // What the rename itself raised.
        let settled = std::time::Duration::from_millis(300);
        while tokio::time::timeout(settled, hints.next()).await.is_ok() {}
        std::fs::write(folder.join("x.svs"), "x").expect("write");
        let hint = async { while hints.next().await != [0] {} };
        tokio::time::timeout(std::time::Duration::from_mins(1), hint).await.expect("an event of the new folder");
    }
}
