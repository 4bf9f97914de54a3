//! The signals that ask a program to end, or to read its configuration again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Receives the name of every SIGTERM and SIGINT from now on.
///
/// # Errors
/// The handlers cannot be installed.
pub fn receive() -> io::Result<mpsc::Receiver<&'static str>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Two: one to drain, one to cancel; more say nothing new.
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if sender.send(name).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Receives every SIGHUP from now on, which asks a daemon to read its configuration again.
///
/// # Errors
/// The handler cannot be installed.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Becomes true with the first SIGTERM or SIGINT from now on, for work that looks up now and then. It replaces the sudden
/// end that the signals would otherwise be.
///
/// # Errors
/// The handlers cannot be installed.
pub fn flag() -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { receive() })?;
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(signals.recv());
        raised.store(true, Ordering::Relaxed);
    })?;
    Ok(flag)
}
