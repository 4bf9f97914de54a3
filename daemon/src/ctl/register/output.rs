//! The folder with the results: whose it may replace, and how it gets its name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use tissuemap::durable::{self, RecordKind, Staging};
use tissuemap::untrusted;

use crate::exit::{self, Exit, Failure};
use crate::job::Fault;

/// A place to fill, whose content gets the name `out` at last. What stands there is replaced only by `force`, and only if
/// an earlier run of the same command wrote every file of it: its `record` lists them under `files`.
///
/// # Errors
/// The folder holds something, or cannot be made.
pub(in crate::ctl) fn prepare(out: &Path, force: bool, record: &str) -> Result<Staging, Failure> {
    let usage = |reason: String, hint: &str| Exit::Usage.with(Fault::new(reason, hint));
    // A link is followed here, because publishing would replace the link itself.
    let target = fs::canonicalize(out).or_else(|_| std::path::absolute(out));
    let target =
        target.map_err(|error| usage(format!("{}: {error}", out.display()), "name a folder for the results"))?;
    let unusable = |error: io::Error| usage(format!("{}: {error}", out.display()), "name another folder with --out");
    let present = match fs::read_dir(&target) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    };
    let present: BTreeSet<String> = present.map_err(unusable)?;
    if !present.is_empty() && !force {
        let reason = format!("{} is not empty", out.display());
        return Err(usage(reason, "name another folder, or replace earlier results there with --force"));
    }
    if let Some(foreign) = present.difference(&files_in(&target, record)).next() {
        let reason = format!("{} holds {foreign}, which is not in a {record} there", out.display());
        return Err(usage(reason, "--force replaces a whole folder: name one that holds nothing else"));
    }
    Staging::beside(&target).map_err(|error| {
        Exit::Usage.with(Fault::from_error(&error).or_hint("the folder above must exist and be writable"))
    })
}

/// The files that an earlier run has left in `folder`, as its record says itself; none where there is no record.
fn files_in(folder: &Path, record: &str) -> BTreeSet<String> {
    let text = untrusted::read(&folder.join(record), untrusted::SMALL).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let files = json["files"].as_array().into_iter().flatten();
    files.filter_map(|file| file.as_str().map(str::to_owned)).collect()
}

/// Writes the record of a folder that is being filled: `content`, and the sizes and hashes of all files.
pub(in crate::ctl) fn write_record(folder: &Path, name: &str, content: &impl Serialize) -> Result<(), Failure> {
    durable::write_record(folder, name, content).map_err(|error| {
        let path = folder.join(name);
        Exit::JobsFailed.with(Fault::new(format!("{}: {error}", path.display()), "check free space beside --out"))
    })
}

/// Gives the folder its name, and says what became of files that a person has changed.
pub(in crate::ctl) fn publish(staging: Staging, record: &'static str) -> Result<(), Failure> {
    let kind = RecordKind { name: record, is_of_older_version: |_| false, with_warnings: |_, _| None };
    let published = staging.publish(kind).map_err(|error| Exit::JobsFailed.because(&error))?;
    published.warnings.iter().for_each(|warning| exit::say(&format!("warning: {warning}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::register::summary;

    #[test]
    fn only_a_registration_is_replaced_and_only_by_force() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("case7");
        let refused = |force| prepare(&out, force, summary::FILE).expect_err("refused").fault.reason().to_owned();
        prepare(&out, false, summary::FILE).expect("nothing is there");
        fs::create_dir(&out).expect("writable");
        prepare(&out, false, summary::FILE).expect("an empty folder");

        let write = |name: &str, text: &str| fs::write(out.join(name), text).expect("writable");
        write("HE_edges.png", "");
        assert!(refused(false).contains("is not empty"));
        assert!(refused(true).contains("holds HE_edges.png"), "nobody says that it is ours");
        write(summary::FILE, r#"{"files": ["registration.json", "HE_edges.png"]}"#);
        assert!(refused(false).contains("is not empty"));
        prepare(&out, true, summary::FILE).expect("an earlier registration");
        write("slide.svs", "");
        assert!(refused(true).contains("holds slide.svs"));
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "no staging folder is left");
    }
}
