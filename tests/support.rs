use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tissuemap_daemon::claim;

pub(crate) mod bus;
pub(crate) mod site;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// `TISSUEMAP_TEST_DATA`, else `../shared/data` beside the repository. `None` is announced loudly, with the test's name.
pub(crate) fn data(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("TISSUEMAP_TEST_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: {test}: no test data at {} (set TISSUEMAP_TEST_DATA)", dir.display());
    None
}

/// A program of this workspace, built into the folder above the one that holds this test.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let path = test.ancestors().nth(2).expect("target/release").join(name);
    assert!(path.is_file(), "{} is missing: run cargo build --release --workspace", path.display());
    path
}

/// What must not change of a file.
#[derive(PartialEq)]
pub(crate) struct State {
    pub(crate) content: Vec<u8>,
    modified: SystemTime,
    readonly: bool,
}

/// Every file below `folder`, our own results and the daemon's claim excepted.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, State> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let metadata = fs::symlink_metadata(&path).expect("readable");
        let ours = path.extension().is_some_and(|ending| ending == "tissuemap") || path.ends_with(claim::FILE);
        if ours {
            continue;
        }
        if metadata.is_dir() {
            files.extend(tree(&path));
        } else {
            let content = fs::read(&path).expect("readable");
            let modified = metadata.modified().expect("known");
            files.insert(path, State { content, modified, readonly: metadata.permissions().readonly() });
        }
    }
    files
}
