//! Any bytes as `models.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap_daemon::fuzzing::memory(bytes));
