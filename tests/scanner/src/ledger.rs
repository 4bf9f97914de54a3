//! What really happened: one line a slide, as CSV.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One slide that was brought. Times are seconds since 1970 and were taken before the step that they speak of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its naming file.
    pub slide: PathBuf,
    pub set: String,
    pub stain: String,
    pub style: String,
    pub kind: String,
    pub bytes: usize,
    /// Of all its files, see [`crate::template::digest`].
    pub sha256: String,
    pub begun: f64,
    /// The last change to one of its files.
    pub touched: f64,
    /// From then on it may be taken: the last change, or its marker.
    pub complete: f64,
    /// The longest time in seconds in which nothing could be seen to change before it was complete.
    pub longest_pause: f64,
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_path(path).with_context(|| path.display().to_string())?;
    entries.iter().try_for_each(|entry| writer.serialize(entry))?;
    writer.flush().with_context(|| path.display().to_string())
}

/// # Errors
/// The file cannot be read, or is no ledger.
pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    reader.deserialize().collect::<Result<_, _>>().with_context(|| path.display().to_string())
}
