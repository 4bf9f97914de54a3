//! Any damage of the journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tissuemap_daemon::fuzzing::journal(bytes));
