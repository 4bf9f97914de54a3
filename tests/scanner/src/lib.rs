//! A slide scanner to test against. It brings slides into a folder the ways copying programs do, writes down when each
//! was really complete, and checks what a daemon made of them.
//!
//! ```text
//! template ─► plan (seeded: who, how, when) ─► script (steps of one copy) ─► play ─► ledger ─► check ◄─ sightings
//! ```
//!
//! [`trial`] puts the daemon's own arrival at the other end: real files, real file system events, the real loop, and a
//! job runner that writes down what it was given ([`recorder`]). [`soak`] lets a real daemon work for hours, with faults.

pub mod check;
pub mod hostile;
pub mod ledger;
pub mod plan;
pub mod play;
pub mod recorder;
pub mod script;
pub mod soak;
pub mod template;
pub mod trial;
