//! The worker's log lines travel to the supervisor, which alone writes a log.

use std::fmt::{Debug, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::protocol::{Event, Level, send};

/// The worker's end of the line to its supervisor; its threads take turns.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<UnixStream>>);

impl Line {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Sends an event. A supervisor that is gone is noticed by the thread that reads; nothing is to be done here.
    pub(super) fn tell(&self, event: &Event) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = send(&mut *socket, event);
    }
}

impl<S: Subscriber> Layer<S> for Line {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.tell(&Event::Log { level: level(event.metadata()), text: text.0 });
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

/// The message, then `name=value` for every field.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

/// Writes a worker's line into the log, as one line: what a worker says cannot look like another line.
pub(super) fn repeat(level: Level, text: &str) {
    let text = one_line(text);
    match level {
        Level::Error => tracing::error!(target: "tissuemap_worker", "{text}"),
        Level::Warn => tracing::warn!(target: "tissuemap_worker", "{text}"),
        Level::Info => tracing::info!(target: "tissuemap_worker", "{text}"),
        Level::Debug => tracing::debug!(target: "tissuemap_worker", "{text}"),
    }
}

/// The text without line ends and terminal controls, and not longer than anyone reads.
pub(super) fn one_line(text: &str) -> String {
    text.chars().take(2000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_stays_one_line() {
        assert_eq!(one_line("a\nERROR forged\u{1b}[2J"), "a ERROR forged [2J");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 2000);
    }
}
