//! What the workers of a seat are for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::keeper::Load;
use super::protocol::Setup;

/// What the workers of a seat are for.
pub(super) struct Duty {
    /// `jobs` or `probes`, for the log.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) setup: Setup,
    /// A worker that tells nothing for so long, in the midst of work, stands still.
    pub(super) stall: Duration,
    /// Counts the workers that had to be replaced.
    pub(super) restarts: Arc<AtomicU32>,
    /// The model to load before anything else.
    pub(super) load: Option<Load>,
}
