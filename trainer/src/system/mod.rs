//! What every other module uses: errors, files, devices, signals and progress bars.

pub mod device;
pub mod error;
pub(crate) mod files;
pub mod interrupt;
pub mod precision;
pub(crate) mod progress;
pub mod tensors;
