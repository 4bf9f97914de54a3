//! The status as lights on the machine (hazard h13). What shows is a function of the status alone.
//!
//! **Invariant:** no light that says something stands still. A process that was killed leaves its lights as they were at
//! that moment; blinking is what it cannot leave.

mod lamp;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub use self::lamp::{Button, Lamp, button, lamps, look};
use super::pulse::Pulse;
use super::{State, Status};
use crate::command::Commander;

/// What one light shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    Dark,
    /// One second on, one off.
    Slow,
    /// A quarter of a second on, a quarter off.
    Fast,
}

impl Light {
    fn period(self) -> Option<Duration> {
        match self {
            Self::Dark => None,
            Self::Slow => Some(Duration::from_secs(1)),
            Self::Fast => Some(Duration::from_millis(250)),
        }
    }

    /// Whether it is on at this time.
    pub fn is_lit(self, at: Duration) -> bool {
        self.period().is_some_and(|period| (at.as_millis() / period.as_millis()).is_multiple_of(2))
    }
}

/// What all lights show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Slow: alive, and takes work.
    pub ready: Light,
    /// Slow: a set is being processed.
    pub busy: Light,
    /// Fast: something needs a person; slow: paused.
    pub attention: Light,
}

impl Pattern {
    /// All dark: not running, not ready, or not alive.
    pub const DARK: Self = Self { ready: Light::Dark, busy: Light::Dark, attention: Light::Dark };

    fn lights(self) -> [Light; 3] {
        [self.ready, self.busy, self.attention]
    }
}

/// What the lights show of a status.
pub fn pattern(status: &Status) -> Pattern {
    let lit = |light: Light, when: bool| if when { light } else { Light::Dark };
    let serves = matches!(status.state, State::Idle | State::Busy);
    let attention = if !status.problems.is_empty() || status.disk.is_some() { Light::Fast } else { Light::Slow };
    let takes_work = serves && !status.paused && status.disk.is_none();
    Pattern {
        ready: lit(Light::Slow, takes_work),
        busy: lit(Light::Slow, status.state != State::Starting && status.job.is_some()),
        attention: lit(attention, status.state != State::Starting && (attention == Light::Fast || status.paused)),
    }
}

/// Drives the lights until the status has no sender any more; then all are dark. Without a pulse they are dark, too.
pub async fn drive(mut lamps: [Option<Box<dyn Lamp>>; 3], mut status: watch::Receiver<Status>, pulse: Pulse) {
    let begun = Instant::now();
    let mut shown = [false; 3];
    loop {
        let pattern = if pulse.is_felt() { pattern(&status.borrow_and_update()) } else { Pattern::DARK };
        let now = begun.elapsed();
        show(&mut lamps, &mut shown, pattern.lights().map(|light| light.is_lit(now)));
        let fast = pattern.lights().contains(&Light::Fast);
        let period = (if fast { Light::Fast } else { Light::Slow }).period().unwrap_or_default();
        let next = begun + period * (now.as_millis() / period.as_millis() + 1) as u32;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { break },
            () = sleep_until(next) => {}
        }
    }
    show(&mut lamps, &mut shown, [false; 3]);
}

/// Makes all lights dark, whoever left them on.
pub fn darken(lamps: &mut [Option<Box<dyn Lamp>>; 3]) {
    show(lamps, &mut [true; 3], [false; 3]);
}

fn show(lamps: &mut [Option<Box<dyn Lamp>>; 3], shown: &mut [bool; 3], lit: [bool; 3]) {
    for ((place, shown), lit) in lamps.iter_mut().zip(shown).zip(lit) {
        let Some(lamp) = place.as_mut().filter(|_| *shown != lit) else { continue };
        *shown = lit;
        if let Err(error) = lamp.set(lit) {
            tracing::warn!(reason = %error, "A light is gone; it is not driven any more");
            *place = None;
        }
    }
}

/// Pauses the daemon at the push of a button, and lets it go on at the next.
pub async fn obey(mut button: Button, commander: Commander, status: watch::Receiver<Status>) {
    while button.pushes.recv().await.is_some() {
        let paused = status.borrow().paused;
        let outcome = if paused { commander.resume().await } else { commander.pause().await };
        if let Err(fault) = outcome {
            tracing::warn!(reason = %fault, "The button was pushed in vain");
        }
    }
}

#[cfg(test)]
mod tests;
