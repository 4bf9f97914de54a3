//! Everything that trainer and daemon must do identically.

pub mod contract;
pub mod infer;
pub mod libs;
pub mod slide;
pub mod units;
