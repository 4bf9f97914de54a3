//! The log: on standard error, where systemd's journal or a terminal takes it.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// What is logged: as `RUST_LOG` says, else what an operator wants to know.
pub fn filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,ort=warn"))
}

/// Begins to log.
pub fn start() {
    let ansi = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter()).with_writer(stderr).with_ansi(ansi).init();
}
