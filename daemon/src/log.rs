//! The log: to systemd's journal with its fields where standard error leads there, as text on standard error elsewhere.

mod journal;

use std::io::{IsTerminal, stderr};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use self::journal::Journal;

/// What is logged: as `RUST_LOG` says, else what an operator wants to know.
pub fn filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,ort=warn"))
}

/// Begins to log.
pub fn start() {
    let registry = tracing_subscriber::registry().with(filter());
    match Journal::behind_stderr() {
        Some(journal) => registry.with(journal).init(),
        None => registry.with(fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal())).init(),
    }
}
