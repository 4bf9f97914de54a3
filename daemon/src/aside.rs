//! Where damaged state goes, so that it can be looked at later.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tissuemap::durable;

/// A name beside `path` that is free: its own, with `.corrupt-` and the seconds since 1970.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut aside = named(path, 1);
    while aside.symlink_metadata().is_ok() {
        aside = with_suffix(&aside, "+");
    }
    aside
}

/// Renames damaged state to a free name beside it, as [`aside`] makes it, and says which.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = durable::move_aside(path, |number| named(path, number))?;
    path.parent().map_or(Ok(()), durable::sync_folder)?;
    Ok(aside)
}

fn named(path: &Path, number: u32) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    with_suffix(path, &format!(".corrupt-{seconds}{}", "+".repeat(number.saturating_sub(1) as usize)))
}

/// The path with this at its end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
