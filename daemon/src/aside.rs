//! Where damaged state goes, so that it can be looked at later.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A name beside `path` that is free: its own, with `.corrupt-` and the seconds since 1970.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut aside = with_suffix(path, &format!(".corrupt-{seconds}"));
    while aside.exists() {
        aside = with_suffix(&aside, "+");
    }
    aside
}

/// The path with this at its end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
