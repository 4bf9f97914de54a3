//! The daemon on the scanner's computer, as a library for its two programs `tissuemapd` and `tissuemapctl`.
//!
//! ```text
//! arrive (watch, scan, settle) ─► folder ─► sets ─► run (the one select!) ─► job ─► worker ═► in_process
//!                                                    └─► status ─► dbus
//! ```

pub mod arrive;
pub mod config;
pub mod ctl;
pub mod done;
pub mod exit;
pub mod folder;
pub mod in_process;
pub mod job;
pub mod log;
pub mod priority;
pub mod run;
pub mod sets;
pub mod signals;
pub mod status;
pub mod worker;
