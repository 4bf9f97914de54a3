use std::path::{Path, PathBuf};

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
