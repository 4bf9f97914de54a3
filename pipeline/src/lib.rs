//! Everything that trainer and daemon must do identically.

pub mod libs;
pub mod register;
pub mod slide;
pub mod units;
