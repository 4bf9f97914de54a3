//! The commands of `tissuemap-train`.

pub mod export;
pub mod fit;
pub mod name;
pub mod report;
pub mod sweep;
