//! Ctrl-C and SIGTERM: the first asks the fit to stop after a checkpoint, the second ends the program.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// The exit code that shells expect of an interrupted program: 128 + SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Installs the handlers. The flag becomes true with the first signal.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn listen() -> io::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let (mut interrupts, mut terminations) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "the second Ctrl-C ends at once; no model is half-written, it is renamed into place"
                    )]
                    process::exit(EXIT_INTERRUPTED.into());
                }
                tracing::warn!("stopping; interrupt again to end immediately");
            }
        });
    });
    Ok(asked)
}
