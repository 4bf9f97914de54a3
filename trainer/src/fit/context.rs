//! What a fit is told beside its configuration and patches.

use std::path::Path;

use tch::Device;

/// What surrounds a fit but does not change its result.
pub struct FitContext<'a> {
    /// Where to compute.
    pub device: Device,
    /// Folder of the checkpoint from which the fit goes on and into which it writes; none: no checkpoints.
    pub checkpoint: Option<&'a Path>,
    /// Where the metrics table is written after every epoch, so that a failed fit can be looked into.
    pub metrics: Option<&'a Path>,
    /// Asked before every batch: whether to stop. The state before the running epoch is then kept as a checkpoint.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}
