// A property of a fuzz target, tried without a fuzzer: on every committed input, and on damaged copies of them. Included by
// the tests of each crate.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// The committed inputs of a fuzz target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: no inputs", folder.display());
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// An input of the corpus of which some pieces were removed, repeated elsewhere or replaced by random bytes.
fn damaged(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change =
        (any::<Index>(), 0..8_usize, any::<Index>(), 0..16_usize, proptest::collection::vec(any::<u8>(), 0..4));
    (proptest::sample::select(corpus), proptest::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (at, removed, from, repeated, inserted) in changes {
            if bytes.is_empty() {
                break;
            }
            let from = from.index(bytes.len());
            let piece = bytes[from..(from + repeated).min(bytes.len())].to_vec();
            let at = at.index(bytes.len());
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, piece.into_iter().chain(inserted));
        }
        bytes
    })
}

/// Panics where the property does not hold, with the smallest input found.
pub(crate) fn hold(target: &str, cases: u32, property: impl Fn(&[u8])) {
    let corpus = corpus(target);
    corpus.iter().for_each(|input| property(input));
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let outcome = TestRunner::new(config).run(&damaged(corpus), |bytes| {
        property(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{target}: {failure}"));
}
