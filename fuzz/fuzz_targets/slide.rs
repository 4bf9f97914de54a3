//! Damaged slides through the real supervisor and its worker: whatever they do to the worker, the supervisor answers for
//! this slide and reads the next one. OpenSlide itself is not compiled with coverage; that its answer is one that was not seen
//! before stands in for it.
#![no_main]
// A fuzzer reads these counters besides its own.
#![allow(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use tissuemap_scanner::hostile::Examiner;

/// libFuzzer takes a change of these for new coverage.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static ANSWERS: [AtomicU8; 4096] = [const { AtomicU8::new(0) }; 4096];

static EXAMINER: LazyLock<Examiner> = LazyLock::new(|| {
    let program = std::env::var_os("TISSUEMAPD").expect("TISSUEMAPD names the daemon's program");
    let data = std::env::var_os("TISSUEMAP_TEST_DATA").map_or_else(|| "../shared/data".into(), PathBuf::from);
    let slides = data.join("slides");
    Examiner::new(Path::new(&program), slides.is_dir().then_some(slides.as_path())).expect("a worker starts")
});

static EXAMINED: AtomicU32 = AtomicU32::new(0);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut hash = DefaultHasher::new();
    if let Err(fault) = EXAMINER.examine(bytes) {
        // Numbers differ from one damaged slide to the next; the kind of damage is in the words.
        fault.to_string().chars().filter(|c| !c.is_ascii_digit()).collect::<String>().hash(&mut hash);
    }
    ANSWERS[hash.finish() as usize % ANSWERS.len()].store(1, Ordering::Relaxed);
    if EXAMINED.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
        EXAMINER.is_well().expect("a sound slide is read after damaged ones");
    }
});
