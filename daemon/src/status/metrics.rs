//! The status as figures for Prometheus, in a file that `node_exporter`'s textfile collector reads. No port is opened.

use std::fmt::{Display, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tissuemap::durable::write_figures;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::pulse::Pulse;
use super::{State, Status};
use crate::disk;
use crate::journal::JobState;

/// Prometheus asks every quarter or half of a minute.
const EVERY: Duration = Duration::from_secs(15);
/// A job changes its status a hundred times; nobody reads so often.
const SPACING: Duration = Duration::from_secs(1);

/// Writes the figures whenever the status changes, and regularly, until it has no sender any more; then they say that
/// nothing runs. Without a pulse nothing is written: the file's age is then what says so.
pub async fn keep(file: PathBuf, state_folder: PathBuf, mut status: watch::Receiver<Status>, pulse: Pulse) {
    let started = SystemTime::now();
    let mut trouble = false;
    loop {
        let next = Instant::now() + EVERY;
        if pulse.is_felt() {
            let text = text(&status.borrow_and_update(), disk::free(&state_folder).ok(), started);
            let written = write_figures(&file, text.as_bytes());
            // Once, not every quarter of a minute for a month.
            if let Some(error) = written.as_ref().err().filter(|_| !trouble) {
                tracing::warn!(file = %file.display(), reason = %error, "Metrics not written");
            }
            trouble = written.is_err();
        }
        sleep(SPACING).await;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { break },
            () = sleep_until(next) => {}
        }
    }
    if let Err(error) = down(&file) {
        tracing::warn!(file = %file.display(), reason = %error, "Metrics not written");
    }
}

/// The figures when nothing runs.
///
/// # Errors
/// The file cannot be written.
pub fn down(file: &Path) -> io::Result<()> {
    let mut text = Text(String::new());
    text.up(false);
    write_figures(file, text.0.as_bytes())
}

/// The figures of a daemon that runs. `free` are the bytes left for its state.
pub fn text(status: &Status, free: Option<u64>, started: SystemTime) -> String {
    let mut text = Text(String::new());
    text.up(true);
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    text.gauge("start_time_seconds", "When the daemon started, in seconds since 1970.", started);
    text.family("info", "gauge", "Version of the daemon.");
    text.labelled("info", Some(("version", env!("CARGO_PKG_VERSION"))), 1);
    text.family("model_info", "gauge", "The model in use.");
    text.labelled("model_info", Some(("model", &status.model)), 1);
    text.family("state", "gauge", "1 for the state that the daemon is in.");
    for state in [State::Starting, State::Idle, State::Busy, State::Draining] {
        text.labelled("state", Some(("state", state.as_str())), u8::from(state == status.state));
    }
    text.gauge("paused", "1 while a person wants nothing new to be begun.", u8::from(status.paused));
    text.gauge("disk_full", "1 while nothing is begun for want of room.", u8::from(status.disk.is_some()));
    text.gauge("job_running", "1 while a set is being processed.", u8::from(status.job.is_some()));
    text.gauge("queue_length", "Sets that will be processed.", status.queue.len());
    text.gauge("waiting_sets", "Sets that lack stains.", status.waiting.len());
    text.gauge("arriving_slides", "Slides that are being copied or tested.", status.arriving.len());
    text.gauge("problems", "Folders, slides and sets that need a person.", status.problems.len());
    text.family("jobs", "gauge", "Jobs that are not done, by their state.");
    for state in JobState::OPEN {
        let number = status.jobs.iter().filter(|job| job.state == state).count();
        text.labelled("jobs", Some(("state", state.as_str())), number);
    }
    let totals = &status.totals;
    text.counter("jobs_done_total", "Jobs that left results.", totals.done);
    text.counter("jobs_failed_total", "Tries that failed.", totals.failed);
    text.counter("jobs_quarantined_total", "Sets that were given up.", totals.quarantined);
    text.counter("worker_restarts_total", "Worker processes that were replaced.", totals.worker_restarts);
    if let Some(seconds) = totals.last_job_seconds {
        text.gauge("last_job_duration_seconds", "How long the last job took.", seconds);
    }
    if let Some(free) = free {
        text.gauge("state_free_bytes", "Room on the file system of the state folder.", free);
    }
    text.0
}

/// The text format of Prometheus, version 0.0.4.
struct Text(String);

impl Text {
    fn up(&mut self, up: bool) {
        self.gauge("up", "1 while the daemon runs.", u8::from(up));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.labelled(name, None, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.labelled(name, None, value);
    }

    // Writing to a string cannot fail.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP tissuemap_{name} {help}\n# TYPE tissuemap_{name} {kind}");
    }

    fn labelled(&mut self, name: &str, label: Option<(&str, &str)>, value: impl Display) {
        let _ = write!(self.0, "tissuemap_{name}");
        if let Some((label, text)) = label {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{{{label}=\"{text}\"}}");
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests;
