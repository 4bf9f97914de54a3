//! Any bytes as the daemon's configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap_daemon::fuzzing::configuration(bytes));
