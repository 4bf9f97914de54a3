//! Any bytes through the socket between supervisor and worker, both ways.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap_daemon::fuzzing::messages(bytes));
