//! The worker's log lines travel to the supervisor, which alone writes a log.

use std::fmt::{Debug, Write as _};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::protocol::{Event, Level, send};
use super::said::one_line;
use crate::job::Fault;

/// The worker's end of the line to its supervisor; its threads take turns.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<UnixStream>>);

impl Line {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Sends an event that nobody waits for. A supervisor that is gone is noticed by the thread that reads; nothing is to be
    /// done here.
    pub(super) fn tell(&self, event: &Event) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = send(&mut *socket, event);
    }

    /// Sends the answer to a request. One that cannot be sent is answered by the fault that it is: whoever waits is told at
    /// once (hazard h29).
    pub(super) fn answer(&self, event: &Event) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = send(&mut *socket, event)
            && matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidData)
        {
            let reason = one_line(&format!("worker: {} cannot be told: {error}", subject(event)));
            let fault = Fault::new(reason, "shorten the names in the model or the set").with_id(UNTELLABLE);
            let _ = send(&mut *socket, &Event::Fault(fault));
        }
    }
}

/// Id of the fault that an answer is which does not fit into a message.
pub(crate) const UNTELLABLE: &str = "worker.answer-too-large";

/// What an answer tells, for the fault that takes its place.
fn subject(event: &Event) -> &'static str {
    match event {
        Event::Loaded { .. } => "the description of the model",
        Event::Drawn(_) => "the result of the set",
        Event::Fault(_) => "a fault",
        _ => "an answer",
    }
}

impl<S: Subscriber> Layer<S> for Line {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.tell(&Event::Log { level: level(event.metadata()), text: one_line(&text.0) });
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

/// Writes a worker's line into the log. Callers have made it one line ([`super::said`]).
pub(super) fn repeat(level: Level, text: &str) {
    match level {
        Level::Error => tracing::error!(target: "tissuemap_worker", "{text}"),
        Level::Warn => tracing::warn!(target: "tissuemap_worker", "{text}"),
        Level::Info => tracing::info!(target: "tissuemap_worker", "{text}"),
        Level::Debug => tracing::debug!(target: "tissuemap_worker", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::receive;
    use super::*;

    #[test]
    fn h29_an_answer_that_does_not_fit_is_answered_by_a_fault_that_names_it() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a socket");
        let line = Line::new(ours);
        let stain =
            |i: usize| tissuemap::contract::StainSpec { name: format!("s{i}"), aliases: vec!["x".repeat(60); 400] };
        let info = crate::job::ModelInfo {
            path: "m.onnx".into(),
            sha256: "ab".into(),
            stains: (0..400).map(stain).collect(),
            provider: tissuemap::infer::Provider::Cpu,
            revision: None,
            golden: String::new(),
        };
        line.answer(&Event::Loaded { info, batch: 8 });
        let Event::Fault(fault) = receive(&mut theirs).expect("an answer") else { panic!("no fault") };
        assert!(fault.id() == Some(UNTELLABLE) && fault.reason().contains("the description of the model"), "{fault}");
        line.answer(&Event::Fault(Fault::new("x".repeat(5 << 20), "shorter")));
        let Event::Fault(fault) = receive(&mut theirs).expect("an answer") else { panic!("no fault") };
        assert_eq!(fault.id(), Some(UNTELLABLE));
        line.answer(&Event::Probed);
        assert_eq!(receive::<Event>(&mut theirs).expect("an answer"), Event::Probed);
    }
}
