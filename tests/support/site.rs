//! Slides for the programs to work on, and what has become of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::SystemTime;

use tempfile::TempDir;

use super::program;

pub(crate) const STAINS: [&str; 3] = ["HE", "CD31", "KI67"];

/// Lines of a configuration with which a set takes a second or two: for tests of what surrounds registration, not of its maps.
pub(crate) const QUICK_ROAD: &str = "[road]\nregister_long_side_px = 400\noverlay_long_side_px = 400\n[road.register]\n\
                                     search_angle_step_deg = 15.0\nsearch_candidates = 2\niterations_per_level = 10\n\
                                     nonrigid_iterations = 5\ncycle_check = false\n";

/// Sections derived from one real HE slide, made once for all tests here: `demo_HE.tif` and so on.
pub(crate) fn scanned() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let derive = || {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut xtask = Command::new(program("xtask"));
        xtask.args(["derive", "--seed", "7", "--stains", &STAINS.join(","), "--out"]).arg(folder.path());
        succeed(xtask);
        folder
    };
    FOLDER.get_or_init(derive).path()
}

pub(crate) fn slide(case: &str, stain: &str) -> String {
    format!("{case}_{stain}.tif")
}

pub(crate) fn succeed(mut command: Command) -> Output {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Name, content and modification time of every file directly in `folder`.
pub(crate) fn originals(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
    let state = |path: PathBuf| {
        let modified = path.metadata().and_then(|m| m.modified()).expect("readable");
        let content = fs::read(&path).expect("readable");
        (path, (content, modified))
    };
    entries.filter(|path| path.is_file()).map(state).collect()
}
