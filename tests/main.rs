//! The one integration binary. Each module says what belongs in it.
#![allow(clippy::print_stderr, reason = "a test that skips says so")]

/// Where test data lies and how a test says that it was skipped.
mod support;

/// Real slide files through real OpenSlide: every good one opens and reads, every bad one has its own error.
mod slides;

/// Label map, picture and polygons of one result against each other and against what was painted.
mod overlays;

/// House rules: file lengths, hazard ids, no machine's paths.
mod tidy;

/// The modules of each crate: no cycles, few entries per folder.
mod structure;

/// Slides arrive, overlays appear, originals stay as they were: both programs as processes, a bus of their own.
mod end_to_end;

/// A simulated scanner at the daemon's own loop: every style of copying, bursts, lost events, markers.
mod arrive;

/// Trainer and daemon see the same bits, and the shipped model computes here what it computed when it was trained.
mod skew;

/// Landmarks of real section pairs after registration.
mod registration;

/// `tissuemap-train`'s command line: usage, configuration, exit codes.
mod training;

/// A stack as the Python package for OME-TIFF sees it.
mod stacks;

/// `tissuemapctl register`: its files against each other, against landmarks, and as Python reads them.
mod register_command;

/// Damaged slides through the worker.
mod hostile;

/// The worker processes: what they survive, what survives them, what they cannot do.
mod worker;

/// The sandbox from the inside: what a program in it tries in vain.
mod sandbox;

/// Results are read again and compared with their records.
mod verify_command;

/// `tissuemapctl plan`: what it says and draws of real sections.
mod plan_command;

/// The system's message bus with our policy: who may look, who may change.
mod bus;

/// Models that are dropped while the daemon serves: what is refused, and what jobs notice of it.
mod swap;

/// Everybody is killed, again and again, and no byte of any result is another.
mod kills;

/// `tissuemapd` as a service: what systemd hears, when it hears nothing, lights, metrics, the audit log.
mod service;
