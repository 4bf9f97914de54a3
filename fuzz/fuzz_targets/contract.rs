//! Any text as a model's metadata.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap::fuzzing::contract(bytes));
