use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support;

/// A longer file is two files: split it along the way of the data.
const LINES_PER_FILE: usize = 600;

/// Not ours, or made by a build or by a fuzzer. `.git` is a file in a worktree.
const LEFT_OUT: [&str; 5] = [".git", ".deps", "target", "corpus", "artifacts"];

/// Every text file of the tree: its path below the root, and its text. Links are not followed.
fn tree() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, files: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(directory).expect("readable directory").map(|entry| entry.expect("entry")) {
            let (kind, path) = (entry.file_type().expect("file type"), entry.path());
            if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                walk(&path, files);
            } else if kind.is_file() {
                // What is not UTF-8 (a model, a picture) has no lines to keep in order.
                if let Ok(text) = std::fs::read_to_string(&path) {
                    files.push((path.strip_prefix(support::root()).expect("below the root").to_owned(), text));
                }
            }
        }
    }
    let mut files = Vec::new();
    walk(support::root(), &mut files);
    assert!(files.iter().any(|(path, _)| path.ends_with("tests/tidy.rs")), "the walk must see this file");
    files
}

fn rust_files() -> Vec<(PathBuf, String)> {
    tree().into_iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The names of all functions that `source` defines.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    source.match_indices("fn ").map(|(at, keyword)| {
        let rest = &source[at + keyword.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

/// What `text` says between `before` and the next backtick, each time.
fn quoted_after<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(before)
        .filter_map(move |(at, _)| text[at + before.len()..].split_once('`').map(|(name, _)| name))
}

/// Whether `text` names a place in somebody's home, or below another machine's root.
fn names_a_private_path(text: &str) -> bool {
    // Written in two parts, so that this file does not offend itself.
    ["home", "root", "Users", "work"].map(|top| format!("/{top}/")).iter().any(|place| {
        text.match_indices(place.as_str()).any(|(at, _)| {
            // Part of a longer path, as in `daemon/work/`, is fine.
            !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*~".contains(c))
        })
    })
}

/// The hazard that a test's name claims (`h05` of `h05_…`), if it claims one.
fn hazard(function: &str) -> Option<&str> {
    let (id, _) = function.split_once('_')?;
    id.strip_prefix('h')
        .is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()) && !number.is_empty())
        .then_some(id)
}

/// The hazards that docs/HAZARDS.md lists: the first column of its table.
fn listed_hazards() -> BTreeSet<String> {
    let text = std::fs::read_to_string(support::root().join("docs/HAZARDS.md")).expect("docs/HAZARDS.md");
    text.lines().filter_map(|line| line.strip_prefix("| h")).map(|rest| format!("h{}", &rest[..2])).collect()
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<_> = rust_files()
        .iter()
        .map(|(path, text)| (text.lines().count(), path.display().to_string()))
        .filter(|(lines, _)| *lines > LINES_PER_FILE)
        .collect();
    assert!(long.is_empty(), "longer than {LINES_PER_FILE} lines: {long:?}");
}

#[test]
fn every_text_file_ends_with_a_newline() {
    let open: Vec<_> = tree()
        .into_iter()
        .filter(|(_, text)| !text.is_empty() && !text.ends_with('\n'))
        .map(|(path, _)| path)
        .collect();
    assert!(open.is_empty(), "no newline at the end of {open:?}");
}

#[test]
fn no_file_names_a_private_path() {
    let named: Vec<_> =
        tree().into_iter().filter(|(_, text)| names_a_private_path(text)).map(|(path, _)| path).collect();
    assert!(named.is_empty(), "absolute paths of one machine in {named:?}");
}

#[test]
fn a_private_path_is_recognised() {
    let absolute = ["", "home", "someone", "slides"].join("/");
    assert!(names_a_private_path(&format!("open(\"{absolute}\")")));
    assert!(!names_a_private_path(&format!("below daemon{absolute}")));
}

#[test]
fn every_hazard_that_a_test_names_is_listed() {
    let listed = listed_hazards();
    assert!(listed.contains("h01"), "the table in docs/HAZARDS.md was not understood");
    let unknown: Vec<_> = rust_files()
        .iter()
        .flat_map(|(path, text)| functions(text).map(move |name| (path.clone(), name.to_owned())))
        .filter(|(_, name)| hazard(name).is_some_and(|id| !listed.contains(id)))
        .collect();
    assert!(unknown.is_empty(), "not in docs/HAZARDS.md: {unknown:?}");
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let sources = rust_files();
    let defined: BTreeSet<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let missing: Vec<_> = tree()
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md"))
        .flat_map(|(path, text)| quoted_after(text, "test `").map(move |name| (path.clone(), name.to_owned())))
        .filter(|(_, name)| !defined.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "documents promise tests that do not exist: {missing:?}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let broken: Vec<_> = tree()
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md"))
        .flat_map(|(path, text)| {
            let folder = support::root().join(path.parent().unwrap_or(Path::new("")));
            let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            links.filter(|link| !link.is_empty() && !link.contains("://")).map(move |link| folder.join(link))
        })
        .filter(|target| !target.exists())
        .collect();
    assert!(broken.is_empty(), "links to nowhere: {broken:?}");
}

/// Where files are written in other ways than by the durable functions, and why that is right.
const OTHER_WRITES: [(&str, &str); 12] = [
    ("pipeline/src/durable", "here they are"),
    ("pipeline/src/removal.rs", "moves what is to be removed"),
    ("pipeline/src/fuzzing.rs", "inputs of fuzz targets in a temporary folder"),
    ("daemon/src/fuzzing.rs", "inputs of fuzz targets in a temporary folder"),
    ("daemon/src/models/fuzzing.rs", "inputs of fuzz targets in a temporary folder"),
    ("daemon/src/worker/fuzzing.rs", "inputs of fuzz targets in a temporary folder"),
    ("daemon/src/worker/child.rs", "a file of the kernel"),
    ("daemon/src/worker/staging.rs", "moves what is to be removed"),
    ("daemon/src/outputs.rs", "tries whether a file can be written"),
    ("daemon/src/claim.rs", "a claim that is not as it was is made anew at the next look"),
    ("daemon/src/status/leds/lamp.rs", "the files of sysfs are switches"),
    ("trainer/src/testing.rs", "fixtures"),
];

#[test]
fn only_durable_replaces_and_renames_files() {
    let ways = ["fs::rename(", "renameat", ".persist(", "fs::write(", "File::create(", "Writer::from_path("];
    let programs = ["daemon/src", "pipeline/src", "trainer/src"];
    let is_test = |path: &Path| {
        path.components().any(|part| part.as_os_str() == "tests")
            || ["tests.rs", "testing.rs"].iter().any(|name| path.ends_with(name))
    };
    let by_hand: Vec<_> = rust_files()
        .iter()
        .filter(|(path, _)| programs.iter().any(|program| path.starts_with(program)) && !is_test(path))
        .filter(|(path, _)| !OTHER_WRITES.iter().any(|(place, _)| path.to_string_lossy().starts_with(place)))
        .flat_map(|(path, text)| {
            let program = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let found = ways.iter().filter(|way| program.contains(**way));
            found.map(|way| format!("{}: {way}", path.display())).collect::<Vec<_>>()
        })
        .collect();
    assert!(by_hand.is_empty(), "use tissuemap::durable instead: {by_hand:?}");
    let gone: Vec<_> = OTHER_WRITES.iter().filter(|(place, _)| !support::root().join(place).exists()).collect();
    assert!(gone.is_empty(), "exceptions for files that are not there: {gone:?}");
}

#[test]
fn readme_says_research_use_only() {
    let readme = std::fs::read_to_string(support::root().join("README.md")).expect("README.md");
    assert!(readme.contains("Research use only"));
}

/// Ways to open a file that wait for a pipe's writer, follow any link, or read without end.
const OPENERS: [&str; 9] = [
    "File::open(",
    "fs::read(",
    "fs::read_to_string(",
    ".from_path(",
    "Reader::from_path(",
    "OpenOptions::new()",
    "File::options()",
    "image::open(",
    "ImageReader::open(",
];

/// Where they are used all the same: file, what stands in the line, why.
const OPENED_ELSEWHERE: [(&str, &str, &str); 16] = [
    ("daemon/src/claim.rs", "|path: &str|", "the kernel's own files"),
    ("daemon/src/check/unit.rs", "read_to_string(", "units, which the administrator writes"),
    ("daemon/src/worker/watch.rs", "\"maps\"", "the kernel's own files"),
    ("pipeline/src/infer/providers.rs", "/sys/", "the kernel's own files"),
    ("pipeline/src/infer/providers.rs", "/proc/cpuinfo", "the kernel's own files"),
    ("daemon/src/lock.rs", "File::options()", "a lock in the state folder, of which nothing is read"),
    ("daemon/src/lock.rs", "/proc/", "the kernel's own files"),
    ("daemon/src/worker/watch.rs", "\"status\"", "the kernel's own files"),
    ("daemon/src/check/machine.rs", "/proc/", "the kernel's own files"),
    ("daemon/src/check/machine.rs", "|path: &str|", "the kernel's own files"),
    ("daemon/src/worker/process.rs", "/proc/", "the kernel's own files"),
    ("pipeline/src/infer/providers.rs", "/proc/driver/", "the driver's own files"),
    ("pipeline/src/infer/providers.rs", "\"information\"", "the driver's own files"),
    ("daemon/src/status/leds/lamp.rs", "brightness\"", "the kernel's own files"),
    ("daemon/src/journal/damage.rs", "File::options()", "the journal, which was found to be a regular file before"),
    ("trainer/src/data/store/mod.rs", "let lock = ", "a folder, to lock it"),
];

/// The source without its tests: they stand last in a file, or in files of their own.
fn without_tests(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code)
}

#[test]
fn h25_foreign_files_are_opened_in_one_way_only() {
    let code = |path: &Path| {
        let inside = ["daemon/src", "pipeline/src", "trainer/src"].iter().any(|folder| path.starts_with(folder));
        let part_of_a_test = |part: std::path::Component| {
            ["tests", "tests.rs", "testing.rs", "fuzzing.rs"].iter().any(|name| part.as_os_str() == *name)
        };
        inside && !path.ends_with("untrusted.rs") && !path.components().any(part_of_a_test)
    };
    let files = rust_files();
    let lines = files.iter().filter(|(path, _)| code(path)).flat_map(|(path, text)| {
        without_tests(text).lines().map(move |line| (path.to_str().expect("UTF-8"), line.trim()))
    });
    // What is flushed was made by us, and is not read.
    let opens = |line: &str| !line.contains("sync_all()") && OPENERS.iter().any(|opener| line.contains(opener));
    let allowed = |path: &str, line: &str| {
        OPENED_ELSEWHERE.iter().any(|&(file, part, why)| file == path && line.contains(part) && !why.is_empty())
    };
    let others: Vec<_> = lines.filter(|(path, line)| opens(line) && !allowed(path, line)).collect();
    assert!(others.is_empty(), "use tissuemap::untrusted, or say in OPENED_ELSEWHERE why not: {others:#?}");
}
