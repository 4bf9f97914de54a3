//! The daemon on the scanner's computer, as a library for its two programs `tissuemapd` and `tissuemapctl`.
//!
//! ```text
//! arrive (watch, scan, settle) ─► folder ─► sets ─► run (the one select!) ─► job ─► worker ═► in_process
//!                          journal, schedule, models ─┘  └─► status ─► dbus, systemd, leds, metrics
//! ```

pub mod arrive;
mod aside;
pub mod audit;
pub mod check;
pub mod claim;
pub mod command;
pub mod config;
pub mod ctl;
pub mod disk;
pub mod done;
pub mod exit;
pub mod explain;
mod fault;
pub mod folder;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod in_process;
pub mod job;
pub mod journal;
pub mod lock;
pub mod log;
pub mod models;
pub mod outputs;
pub mod pages;
pub mod priority;
pub mod run;
pub mod schedule;
pub mod sets;
pub mod signals;
pub mod status;
#[cfg(test)]
mod testing;
pub mod worker;
