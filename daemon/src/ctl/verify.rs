//! `tissuemapctl verify`: reads results, and the slides they were made from, again and compares hashes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tissuemap::durable::is_kept;
use tissuemap::escape::for_people;
use tissuemap::overlay::{Checked, FileState, RESULT_EXTENSION, Verified, sha256_of, verify};

use super::VerifyArgs;
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;

/// Prints a line for every result: whether its files, its slides and its model are those of its record.
///
/// # Errors
/// A result differs from its record, or there is none.
pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let mut results = BTreeSet::new();
    for place in &args.places {
        find(place.clone(), &mut results).map_err(|error| {
            Exit::Usage.with(Fault::new(format!("{}: {error}", place.display()), "name a folder with results"))
        })?;
    }
    if results.is_empty() {
        let hint = format!("name a .{RESULT_EXTENSION} folder, or one with such folders in it");
        return Err(Exit::Usage.with(Fault::new("there are no results", hint)));
    }
    let model = args.model.as_deref().map(model_sha256).transpose()?;
    let bar = ProgressBar::new_spinner().with_style(style());
    let mut unsound = 0;
    for result in &results {
        bar.set_message(for_people(result).to_string());
        let (lines, json, sound) = match verify(result, !args.outputs_only, &mut |bytes| bar.inc(bytes)) {
            Ok(verified) => told(result, &verified, model.as_deref()),
            Err(error) => {
                let json = json!({ "result": result.to_string_lossy(), "sound": false, "error": error.to_string() });
                (vec![format!("{}: BAD", result.display()), format!("  {error}")], json, false)
            }
        };
        unsound += usize::from(!sound);
        let text = if args.json { exit::json(&json)? } else { exit::lines(lines.into_iter()) };
        bar.suspend(|| exit::print(&text))?;
    }
    bar.finish_and_clear();
    if unsound == 0 {
        return Ok(());
    }
    let reason = format!("{unsound} of {} results are not as recorded", results.len());
    Err(Exit::JobsFailed
        .with(Fault::new(reason, "use nothing of them; move the folder away and submit the slide again")))
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {bytes} read, {bytes_per_sec}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Result folders at or below `place`, links not followed.
fn find(place: PathBuf, results: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    // A list instead of recursion: nobody may end this with a very deep folder.
    let mut folders = vec![place];
    while let Some(folder) = folders.pop() {
        if folder.extension().is_some_and(|extension| extension == RESULT_EXTENSION) && folder.is_dir() {
            results.insert(folder);
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && !is_kept(&entry.path(), RESULT_EXTENSION) {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

fn model_sha256(path: &Path) -> Result<String, Failure> {
    sha256_of(path, &mut |_| {})
        .map(|(_, sha256)| sha256)
        .map_err(|error| Exit::Usage.with(Fault::new(format!("{}: {error}", path.display()), "name the model's file")))
}

/// Lines for people, the object for programs, and whether all is well.
fn told(result: &Path, verified: &Verified, model: Option<&str>) -> (Vec<String>, serde_json::Value, bool) {
    let record = &verified.record;
    let other_model = model.is_some_and(|sha256| sha256 != record.model.sha256);
    let sound = verified.is_sound() && !other_model;
    let mut lines = vec![format!("{}: {}", result.display(), if sound { "OK" } else { "BAD" })];
    let all = verified.outputs.iter().chain(&verified.slides);
    lines.extend(all.filter_map(|checked| Some(format!("  {}: {}", checked.path.display(), words(checked)?))));
    if other_model {
        lines.push(format!("  made with the model {}, not with the one given", record.model.sha256));
    }
    lines.extend(verified.foreign.iter().map(|path| format!("  {}: not of the result", path.display())));
    // JSON holds Unicode only, names of files any bytes.
    let states = |all: &[Checked]| -> Vec<_> {
        all.iter().map(|one| json!({ "path": one.path.to_string_lossy(), "state": one.state })).collect()
    };
    let foreign: Vec<_> = verified.foreign.iter().map(|path| path.to_string_lossy()).collect();
    let json = json!({
        "result": result.to_string_lossy(), "sound": sound, "outputs": states(&verified.outputs),
        "slides": states(&verified.slides), "foreign": foreign, "model": record.model.sha256, "other_model": other_model,
        "software": record.software.version, "finished": record.times.finished,
    });
    (lines, json, sound)
}

/// What is wrong with a file; nothing for one that is as it was.
fn words(checked: &Checked) -> Option<String> {
    match &checked.state {
        FileState::Same => None,
        FileState::Changed => Some("changed since the result was made".into()),
        FileState::Missing => Some("missing".into()),
        FileState::NotRecorded => Some("made by a version that recorded no hash of it".into()),
        FileState::Unreadable(reason) => Some(format!("cannot be read: {reason}")),
    }
}
