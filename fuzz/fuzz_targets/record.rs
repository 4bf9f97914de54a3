//! Any bytes as a `result.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap::fuzzing::record(bytes));
