//! Device, files and interruption of a fit.

use std::path::Path;

use tch::Device;

/// Settings of a fit that do not change its result.
pub struct FitContext<'a> {
    /// The device.
    pub device: Device,
    /// Folder of the checkpoint: the fit continues from it and writes to it. None: no checkpoints.
    pub checkpoint: Option<&'a Path>,
    /// File of the metrics table. It is written after every epoch, so it also exists if the fit fails.
    pub metrics: Option<&'a Path>,
    /// Called before every batch. If it returns true, the fit stops and saves the state before the running epoch as a checkpoint.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}
