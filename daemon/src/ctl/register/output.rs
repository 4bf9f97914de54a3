//! The folder with the results: whose it may replace, and how it gets its name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use tissuemap::durable::Staging;

use super::summary::{self, Summary};
use crate::exit::{Exit, Failure};
use crate::job::Fault;

/// A place to fill, whose content gets the name `out` at last. What stands there is replaced only by `force`, and only if
/// an earlier registration wrote every file of it.
///
/// # Errors
/// The folder holds something, or cannot be made.
pub(super) fn prepare(out: &Path, force: bool) -> Result<Staging, Failure> {
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
        return Err(usage(reason, "name another folder, or replace an earlier registration there with --force"));
    }
    if let Some(foreign) = present.difference(&summary::files_in(&target)).next() {
        let reason = format!("{} holds {foreign}, which is not of a registration", out.display());
        return Err(usage(reason, "--force replaces a whole folder: name one that holds nothing else"));
    }
    Staging::beside(&target).map_err(|error| {
        Exit::Usage.with(Fault::from_error(&error).or_hint("the folder above must exist and be writable"))
    })
}

/// `registration.json`
pub(super) fn write_summary(folder: &Path, summary: &Summary) -> Result<(), Failure> {
    let path = folder.join(summary::FILE);
    fs::write(&path, summary.json()?).map_err(|error| {
        Exit::JobsFailed.with(Fault::new(format!("{}: {error}", path.display()), "check free space beside --out"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registration_is_replaced_and_only_by_force() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("case7");
        let refused = |force| prepare(&out, force).expect_err("refused").fault.reason().to_owned();
        prepare(&out, false).expect("nothing is there");
        fs::create_dir(&out).expect("writable");
        prepare(&out, false).expect("an empty folder");

        let write = |name: &str, text: &str| fs::write(out.join(name), text).expect("writable");
        write("HE_edges.png", "");
        assert!(refused(false).contains("is not empty"));
        assert!(refused(true).contains("holds HE_edges.png"), "nobody says that it is ours");
        write(summary::FILE, r#"{"files": ["registration.json", "HE_edges.png"]}"#);
        assert!(refused(false).contains("is not empty"));
        prepare(&out, true).expect("an earlier registration");
        write("slide.svs", "");
        assert!(refused(true).contains("holds slide.svs"));
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "no staging folder is left");
    }
}
