//! Folders: there, readable, writable, with room, and with events that arrive.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};

use super::Finding;
use crate::config::{Config, Watch};
use crate::disk;
use crate::job::Fault;

/// An event of a local disk comes within milliseconds; of one that does not come in this time, none comes.
const EVENT_LIMIT: Duration = Duration::from_secs(2);

/// The folder that holds the daemon's own state.
pub(super) fn state(config: &Config) -> Finding {
    const CHECK: &str = "state folder";
    let folder = config.state_folder();
    let hint = "make it writable for the daemon's user, or set `state_folder`; run this check as that user";
    // The daemon makes it if it can: then the nearest folder above decides.
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    if let Err(error) = Probe::in_folder(there) {
        return Finding::fail(CHECK, &Fault::new(format!("{}: {error}", folder.display()), hint));
    }
    match disk::shortage([there], config.schedule.min_free()) {
        Some(shortage) => Finding::fail(CHECK, &Fault::from(&shortage)),
        None => Finding::ok(CHECK, folder.display().to_string()),
    }
}

/// A folder with slides.
pub(super) fn watched(watch: &Watch, min_free: u64, tell: &mut dyn FnMut(Finding)) {
    let folder = watch.folder.display();
    let check = format!("folder {folder}");
    if let Err(error) = fs::read_dir(&watch.folder) {
        let hint = "mount the share, or correct `folder` in [[watch]]; run this check as the daemon's user";
        return tell(Finding::fail(check, &Fault::new(error.to_string(), hint)));
    }
    if let Err(error) = Probe::in_folder(&watch.folder) {
        let hint = "results lie beside the slides: make the folder writable for the daemon's user (ReadWritePaths= in its unit)";
        return tell(Finding::fail(check, &Fault::new(format!("cannot be written: {error}"), hint)));
    }
    tell(match disk::shortage([watch.folder.as_path()], min_free) {
        Some(shortage) => Finding::fail(check, &Fault::from(&shortage)),
        None => Finding::ok(check, "can be read and written"),
    });
    tell(events(watch));
}

/// Touches a file and waits for its event.
fn events(watch: &Watch) -> Finding {
    let check = format!("events {}", watch.folder.display());
    if watch.poll {
        return Finding::ok(check, format!("none are asked for; looked through every {} s", watch.scan_seconds));
    }
    match seen_after(&watch.folder) {
        Ok(Some(time)) => Finding::ok(check, format!("a new file was seen after {} ms", time.as_millis())),
        Ok(None) => Finding::warn(
            check,
            format!(
                "none came within {} s; slides are found by looking every {} s",
                EVENT_LIMIT.as_secs(),
                watch.scan_seconds
            ),
            "set `poll = true` for a network share",
        ),
        Err(error) => Finding::warn(
            check,
            format!("cannot be asked for: {error}; slides are found by looking every {} s", watch.scan_seconds),
            "raise fs.inotify.max_user_instances and max_user_watches, or set `poll = true`",
        ),
    }
}

fn seen_after(folder: &Path) -> notify::Result<Option<Duration>> {
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender)?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    let begun = Instant::now();
    let probe = Probe::in_folder(folder)?;
    while let Some(left) = EVENT_LIMIT.checked_sub(begun.elapsed()) {
        match events.recv_timeout(left) {
            Ok(Ok(event)) if event.paths.iter().any(|path| **path == *probe.0) => return Ok(Some(begun.elapsed())),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(None)
}

/// A file that is there for a moment. Its name is hidden, so that no daemon and no viewer takes notice.
struct Probe(tempfile::TempPath);

impl Probe {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut file = tempfile::Builder::new().prefix(".tissuemap-check-").tempfile_in(folder)?;
        file.write_all(b"tissuemapctl check\n")?;
        Ok(Self(file.into_temp_path()))
    }
}
