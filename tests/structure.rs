//! How the sources are laid out: no cycle between the modules of a crate, few entries per folder.

mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use self::modules::Crate;
use crate::support;

/// Crates whose modules are not sorted into folders yet: they may still have cycles and flat folders. The list only gets shorter.
const NOT_YET_SORTED: [&str; 3] = ["daemon", "pipeline", "tests"];

/// Crates of the workspace by folder, with the file of their root module.
const CRATES: [(&str, &str); 6] = [
    ("daemon", "src/lib.rs"),
    ("pipeline", "src/lib.rs"),
    ("tests", "main.rs"),
    ("tests/scanner", "src/lib.rs"),
    ("trainer", "src/lib.rs"),
    ("xtask", "src/lib.rs"),
];

/// A folder of sources with more entries is two folders.
const ENTRIES_PER_FOLDER: usize = 14;

/// A longer file is two files.
const LINES_PER_FILE: usize = 450;

fn is_sorted(path: &str) -> bool {
    // The simulator is a crate of its own below tests/.
    path.starts_with("tests/scanner") || !NOT_YET_SORTED.iter().any(|name| path.split('/').next() == Some(name))
}

#[test]
fn no_module_depends_on_itself_through_others() {
    let cycles: Vec<String> = CRATES
        .iter()
        .filter(|(folder, _)| is_sorted(folder))
        .flat_map(|(folder, root)| Crate::read(&support::root().join(folder).join(root)).cycles())
        .collect();
    assert!(cycles.is_empty(), "cycles between modules:\n{}", cycles.join("\n"));
}

#[test]
fn no_source_folder_has_too_many_entries() {
    let mut full = BTreeMap::new();
    for (folder, root) in CRATES {
        let root = support::root().join(folder).join(root);
        count(root.parent().expect("a root file lies in a folder"), &mut full);
    }
    full.retain(|path, entries| is_sorted(path) && *entries > ENTRIES_PER_FOLDER);
    assert!(full.is_empty(), "more than {ENTRIES_PER_FOLDER} entries: {full:?}");
}

#[test]
fn no_source_file_of_a_sorted_crate_is_too_long() {
    let mut long = Vec::new();
    for (folder, root) in CRATES.iter().filter(|(folder, _)| is_sorted(folder)) {
        let root = support::root().join(folder).join(root);
        files(root.parent().expect("a root file lies in a folder"), &mut |path| {
            let lines = std::fs::read_to_string(path).expect("text").lines().count();
            if lines > LINES_PER_FILE && path.extension().is_some_and(|extension| extension == "rs") {
                long.push((lines, path.to_owned()));
            }
        });
    }
    assert!(long.is_empty(), "longer than {LINES_PER_FILE} lines: {long:?}");
}

/// Calls `each` with every file in `folder` and below it.
fn files(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() { files(&path, each) } else { each(&path) }
    }
}

/// Adds the number of entries of `folder` and of the folders below it, by path below the root.
fn count(folder: &Path, found: &mut BTreeMap<String, usize>) {
    let entries: Vec<_> = std::fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry")).collect();
    let path = folder.strip_prefix(support::root()).expect("below the root").to_string_lossy().into_owned();
    found.insert(path, entries.len());
    for entry in entries.iter().filter(|entry| entry.path().is_dir()) {
        count(&entry.path(), found);
    }
}

/// The cycles of a crate with these files.
fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("folder")).expect("created");
        std::fs::write(path, text).expect("written");
    }
    Crate::read(&folder.path().join("lib.rs")).cycles()
}

#[test]
fn a_cycle_is_found_however_it_is_written() {
    let b = ("b.rs", "pub struct B; fn f() { crate::a::g(); }");
    let ways = [
        "use crate::b::B; pub fn g() {}",
        "use super::b; pub fn g() { let _ = b::B; }",
        "use crate::{b::{B as Other}}; pub fn g() {}",
        "pub fn g() { let _: super::b::B; }",
        "pub fn g() { println!(\"{}\", crate::b::B); }",
        "use super::B; pub fn g() {}",
    ];
    for a in ways {
        let found = cycles_of(&[("lib.rs", "mod a; mod b; pub use b::B;"), ("a.rs", a), b]);
        assert_eq!(found.len(), 1, "{a}: {found:?}");
        assert!(found[0].contains("a → b → a"), "{found:?}");
    }
}

#[test]
fn a_cycle_within_a_folder_or_with_its_front_page_is_found() {
    let found = cycles_of(&[
        ("lib.rs", "mod room;"),
        ("room/mod.rs", "mod x; mod y;"),
        ("room/x.rs", "use super::y::Y;"),
        ("room/y.rs", "pub struct Y; use crate::room::x;  fn f() { x::g() }"),
    ]);
    assert!(found.len() == 1 && found[0].contains("x → y → x"), "{found:?}");
    let found = cycles_of(&[
        ("lib.rs", "mod room;"),
        ("room.rs", "mod x; pub struct Shared; fn f() { x::g() }"),
        ("room/x.rs", "use super::Shared; pub fn g() {}"),
    ]);
    assert!(found.len() == 1 && found[0].ends_with("room → x → room"), "{found:?}");
}

#[test]
fn tests_re_exports_and_one_way_edges_are_no_cycle() {
    let found = cycles_of(&[
        ("lib.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
        ("a.rs", "use crate::B; pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::A; } #[cfg(test)] mod more;"),
        ("b/more.rs", "use crate::a::A;"),
    ]);
    assert!(found.is_empty(), "{found:?}");
}
