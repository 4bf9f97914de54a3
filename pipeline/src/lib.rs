//! Everything that trainer and daemon must do identically.

pub mod canvas;
pub mod carry;
pub mod context;
pub mod contract;
pub mod deformation;
pub mod durable;
pub mod escape;
pub mod fine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hex;
pub mod infer;
pub mod landmarks;
pub mod libs;
pub mod look;
pub mod map;
pub mod overlay;
pub mod patches;
pub mod placement;
pub mod pyramid;
pub mod register;
pub mod removal;
pub mod road;
pub mod section_set;
pub mod slide;
pub mod tissue;
pub mod transform;
pub mod units;
pub mod untrusted;
pub mod warp;
