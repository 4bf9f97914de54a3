//! Any naming rules, manifest and file names.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap::fuzzing::naming(bytes));
