//! The daemon's pulse: it beats as long as the loop turns and what it waits for makes progress. Whatever shows that the
//! daemon is alive (systemd's watchdog, lights that blink, metrics that are fresh) follows it, so that none of them goes on
//! by itself when the loop stands still.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::systemd;

/// Time between two beats where systemd does not ask for more.
const EVERY: Duration = Duration::from_secs(5);
/// So many missed beats are no late ones any more.
const MISSED: u32 = 3;

/// The end at which the loop beats.
#[derive(Debug)]
pub struct Heart {
    every: Duration,
    next: Instant,
    beats: watch::Sender<Instant>,
}

impl Heart {
    /// Beats twice in the time after which systemd would act, where it wants to be told.
    pub fn new() -> Self {
        let every = systemd::watchdog().map_or(EVERY, |limit| EVERY.min(limit / 2));
        Self { every, next: Instant::now(), beats: watch::channel(Instant::now()).0 }
    }

    /// When the next beat is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Whether a beat is due; then the next is due a while later, whatever becomes of this one.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }

    /// The daemon is alive.
    pub fn beat(&self) {
        self.beats.send_replace(Instant::now());
        systemd::watchdog_ping();
    }

    /// An end at which it can be felt.
    pub fn pulse(&self) -> Pulse {
        Pulse { every: self.every, beats: self.beats.subscribe() }
    }
}

impl Default for Heart {
    fn default() -> Self {
        Self::new()
    }
}

/// The end at which the pulse is felt.
#[derive(Debug, Clone)]
pub struct Pulse {
    every: Duration,
    beats: watch::Receiver<Instant>,
}

impl Pulse {
    /// Whether the daemon is alive.
    pub fn is_felt(&self) -> bool {
        self.beats.borrow().elapsed() < self.every * MISSED
    }
}
