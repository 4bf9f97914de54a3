//! What several tests need: results as a run leaves them, without a run, and processes to be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tissuemap::durable::{Published, Staging, publish_all, write_record};
use tissuemap::overlay::{RECORD, result_folder};

use crate::arrive::members::fingerprint;

/// Folders in which a look waits, as on a share whose host is gone.
pub(crate) fn silent() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static SILENT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    SILENT.lock().expect("not poisoned")
}

pub(crate) fn wait_while_silent(folder: &Path) {
    while silent().contains(folder) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A named pipe that nobody fills.
pub(crate) fn pipe(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, FileType::Fifo, mode, 0).expect("a pipe");
}

/// A `result.json` for the slide of `stain` in a set of these slides as they are now, of which CD31 was placed so.
pub(crate) fn record(slides: &BTreeMap<String, PathBuf>, stain: &str, cd31: &str, run: &str, model: &str) -> Value {
    let input = |(stain, slide): (&String, &PathBuf)| {
        let now = fingerprint(slide).expect("readable");
        let naming = now.members().iter().find(|member| member.path == *slide).expect("itself");
        let nanoseconds = naming.modified.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        json!({ "stain": stain, "file": slide.file_name().expect("a file").to_string_lossy(), "bytes": naming.bytes,
                "modified_unix_ns": nanoseconds as u64, "sha256": "" })
    };
    json!({
        "format": 1, "notice": "", "software": { "name": "", "version": "", "openslide": "" }, "run_id": run,
        "set": { "case": "c1", "block": null },
        "slide": { "file": "", "stain": stain, "vendor": "", "mpp": 1.0, "width": 1, "height": 1,
                   "bounds": { "x": 0, "y": 0, "width": 1, "height": 1 } },
        "model": { "sha256": model, "contract_version": 1, "stains": [], "patch_px": 64, "stride_px": 64, "mpp": 1.0 },
        "inputs": slides.iter().map(input).collect::<Vec<Value>>(), "warnings": [],
        "sections": [{ "stain": "CD31", "placement": cd31 }], "tissue": null,
        "map": { "cols": 1, "rows": 1, "cell_um": 64.0, "origin_level0": [0.0, 0.0], "overlay_mpp": 1.0,
                 "tissue_cells": 1, "median_confidence": null },
        "clusters": [], "parameters": null,
        "times": { "started": "2026-11-23T07:00:00Z", "finished": "2026-11-23T07:01:00Z" },
    })
}

/// Publishes a result beside every slide as the road does, each with so many bytes beside its record.
pub(crate) fn publish(
    slides: &BTreeMap<String, PathBuf>,
    run: &str,
    model: &str,
    bytes: usize,
) -> Result<Vec<Published>, Box<dyn std::error::Error>> {
    let stage = |(stain, slide): (&String, &PathBuf)| -> Result<Staging, Box<dyn std::error::Error>> {
        let staging = Staging::beside(&result_folder(slide))?;
        fs::write(staging.path().join("overlay.png"), vec![7; bytes])?;
        write_record(staging.path(), "result.json", &record(slides, stain, "registered", run, model))?;
        Ok(staging)
    };
    let staged = slides.iter().map(stage).collect::<Result<_, _>>()?;
    Ok(publish_all(staged, RECORD)?)
}

/// Sets when a file was written, as copying programs and `touch` do.
pub(crate) fn touch(file: &Path, seconds_after_1970: u64) {
    let time = UNIX_EPOCH + std::time::Duration::from_secs(seconds_after_1970);
    fs::File::options().write(true).open(file).and_then(|file| file.set_modified(time)).expect("touched");
}

/// This test program with one of its ignored tests only, which finds its `place` in the environment under `variable`.
pub(crate) fn victim(test: &str, variable: &str, place: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored"])
        .env(variable, place)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs")
}
