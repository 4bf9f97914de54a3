//! What holds of any bytes in the file that remembers models; see [`crate::fuzzing`].

#![allow(clippy::missing_panics_doc, reason = "panicking is how they tell")]

use std::fs;

use super::registry::Registry;
use crate::journal::JobId;

/// A `models.json`: it is read or moved aside, everything can be asked of it and done with it, and it reads back as itself.
pub fn memory(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("models.json");
    fs::write(&path, bytes).expect("writable");
    let whole = Registry::peek(&path).is_ok();
    let (mut registry, aside) = Registry::read(&path).expect("a damaged file is moved aside");
    assert_eq!(aside.is_none(), whole);
    if let Some(aside) = aside {
        assert_eq!(fs::read(aside).expect("what was moved aside is there"), bytes);
    }
    let rows = registry.rows().to_vec();
    for row in &rows {
        assert!(registry.find(&row.name).is_ok_and(|found| found.name == row.name || found.sha256 == row.name));
        assert!(registry.before(&row.sha256).iter().all(|before| before.sha256 != row.sha256));
        let _ = registry.active(&row.stains);
        registry.job_failed(&row.sha256, JobId(1), true);
        registry.job_done(&row.sha256);
        registry.set_aside(&row.sha256, "given up");
    }
    registry.reject("ab", "bad.onnx", "refused");
    registry.write(&path).expect("writable");
    let again = Registry::peek(&path).expect("it was written");
    let text = |registry: &Registry| serde_json::to_string(registry).expect("JSON");
    assert_eq!(text(&again), text(&registry));
}
