//! What systemd is told (`sd_notify(3)`): ready, reloading, stopping, a line of status, and that the daemon is alive. Where
//! no systemd listens, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use super::{State, Status};

/// After so long without [`watchdog_ping`] systemd ends the daemon; none where it does not watch.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The daemon is alive. Only the loop may say so.
pub fn watchdog_ping() {
    tell(&[NotifyState::Watchdog]);
}

/// Everything is there: bus, journal, model.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends that.
pub fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    tell(&[NotifyState::Reloading, now]);
}

/// The daemon is ending, which may take so long.
pub fn stopping(longest: Duration) {
    let longest = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)]);
}

/// A socket that is gone is systemd's trouble, and a line in the log each time would be ours.
fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Tells the line of status whenever it changes, until the status has no sender any more.
pub async fn announce(mut status: watch::Receiver<Status>) {
    let mut told = String::new();
    loop {
        let line = line(&status.borrow_and_update());
        if line != told {
            tell(&[NotifyState::Status(&line)]);
            told = line;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// The status in one line, as `systemctl status` shows it: `busy: case7, infer 45 %; 3 queued; 1 problem`.
pub fn line(status: &Status) -> String {
    let mut parts = vec![match (status.state, &status.job) {
        (State::Starting, _) => match status.waits.first() {
            Some(wait) => format!("starting: {}", wait.what),
            None => "starting: the model is loaded and proved".to_owned(),
        },
        (state, Some(job)) => {
            format!("{}: {}, {} {:.0} %", state.as_str(), job.set, job.stage, (100.0 * job.progress).floor())
        }
        (state, None) => state.as_str().to_owned(),
    }];
    let mut count = |number: usize, one: &str, many: &str| {
        if number > 0 {
            parts.push(format!("{number} {}", if number == 1 { one } else { many }));
        }
    };
    count(status.queue.len(), "queued", "queued");
    count(status.waiting.len(), "waits for stains", "wait for stains");
    count(status.arriving.len(), "arriving", "arriving");
    count(status.problems.len(), "problem", "problems");
    if status.paused {
        parts.push("paused".into());
    }
    if status.disk.is_some() {
        parts.push("disk full".into());
    }
    // A file name cannot say something to systemd.
    parts.join("; ").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JobId;
    use crate::status::CurrentJob;

    #[test]
    fn the_line_says_what_is_going_on_and_how_much_more_there_is() {
        let mut status = Status::default();
        assert_eq!(line(&status), "starting: the model is loaded and proved");
        status.state = State::Idle;
        assert_eq!(line(&status), "idle");
        status.paused = true;
        status.queue = vec!["case8".into()];
        assert_eq!(line(&status), "idle; 1 queued; paused");
        status.state = State::Busy;
        status.job = Some(CurrentJob { id: JobId(7), set: "case7".into(), stage: "infer", progress: 0.45, left: None });
        status.problems = vec!["a".into(), "b".into()];
        status.paused = false;
        assert_eq!(line(&status), "busy: case7, infer 45 %; 1 queued; 2 problems");
        status.job.as_mut().expect("there").set = "x\nWATCHDOG=1".into();
        assert_eq!(line(&status), "busy: x WATCHDOG=1, infer 45 %; 1 queued; 2 problems");
    }
}
