//! The folder where models are dropped: which have settled, and what becomes of those that are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tissuemap::durable::rename_new;
use tissuemap::escape::for_people;
use tissuemap::untrusted;

use super::NOT_LOADED;
use super::store::signature_of;
use crate::arrive::members::{Fingerprint, Member, Seen, see};
use crate::arrive::scan::Snapshot;
use crate::arrive::settle::{Event, Settle};
use crate::aside::with_suffix;
use crate::job::Fault;

/// Where refused models go, beside those that arrive.
const REJECTED: &str = "rejected";
/// What lies there beside a model.
const REASON: &str = ".reason.txt";

/// Most bytes of such a file.
const REASON_BYTES: u64 = 64 << 10;
/// More reasons than this are not told.
const REASONS: usize = 16;
/// Nor more names of what is no model.
const MISFITS: usize = 64;
/// File names have at most 255 bytes; `.reason.txt` and a number must fit behind a model's.
const MAX_NAME_BYTES: usize = 200;
/// A look is one directory with a handful of files.
const LOOK_SPACING: Duration = Duration::from_secs(2);

/// What one look found.
#[derive(Debug)]
pub(crate) struct Look {
    snapshot: Snapshot,
    /// What has the name of a model and can be none.
    misfits: BTreeMap<PathBuf, Fault>,
    /// The first lines of the reasons that lie beside refused models.
    reasons: Vec<String>,
}

/// Looks at the model folder. Blocks.
pub(crate) fn look(folder: &Path) -> Result<Look, Fault> {
    let failed = |error: &io::Error| {
        Fault::new(format!("model folder {}: {error}", folder.display()), "create it, or correct `folder` in [models]")
    };
    let (mut snapshot, mut misfits) = (Snapshot::default(), BTreeMap::new());
    for entry in fs::read_dir(folder).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        if !names_a_model(&path) {
            continue;
        }
        match fit(&path).and_then(|()| see_model(&path).map_err(|error| unreadable(&path, &error))) {
            Ok(seen) if !seen.fingerprint.members().is_empty() => drop(snapshot.slides.insert(path, seen)),
            Err(fault) if misfits.len() < MISFITS => drop(misfits.insert(path, fault)),
            // It went between the listing and the look, or there are too many to tell.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(Look { snapshot, misfits, reasons: reasons(&folder.join(REJECTED)) })
}

/// Whether something of this name can be a model at all: what cannot is told, and no proof begins.
fn fit(path: &Path) -> Result<(), Fault> {
    let shown = for_people(path);
    let length = path.file_name().map_or(0, |name| name.as_bytes().len());
    if length > MAX_NAME_BYTES {
        let reason =
            format!("{shown}: the file name has {length} bytes; at most {MAX_NAME_BYTES} leave room for its reason");
        return Err(Fault::new(reason, "rename it").with_id("model.name-too-long"));
    }
    let is = |what: &str| {
        let hint = "move it away, or put the model's file in its place";
        Err(Fault::new(format!("{shown}: is {what}, not a file"), hint).with_id("model.not-a-file"))
    };
    match fs::metadata(path) {
        Ok(what) if what.is_file() => Ok(()),
        Ok(what) if what.is_dir() => is("a folder"),
        Ok(what) if what.file_type().is_fifo() => is("a named pipe"),
        Ok(what) if what.file_type().is_socket() => is("a socket"),
        Ok(_) => is("a device"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(path) {
            Ok(_) => is("a link that leads nowhere"),
            Err(_) => Ok(()),
        },
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::of_io(for_people(path), error, "let the daemon read the file").with_id("model.unreadable")
}

fn names_a_model(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"))
}

/// A model and its signature settle together.
fn see_model(path: &Path) -> io::Result<Seen> {
    let (model, signature) = (see(path, None)?, see(&signature_of(path), None)?);
    let members = [model.fingerprint.members(), signature.fingerprint.members()].concat();
    // A signature without its model is nothing yet.
    let members = if model.fingerprint.members().is_empty() { Vec::new() } else { members };
    let touched = model.touched.max(signature.touched);
    Ok(Seen { fingerprint: Fingerprint::new(members), touched, awaits: None })
}

fn reasons(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(REASON)).collect();
    files.sort();
    let first_line = |path: &PathBuf| match untrusted::read_to_string(path, REASON_BYTES) {
        Ok(text) => text.lines().next().map(str::to_owned),
        // It went meanwhile.
        Err(error) if error.is_not_found() => None,
        Err(error) => Some(Fault::from_error(&error).to_string()),
    };
    files.iter().take(REASONS).filter_map(first_line).collect()
}

/// A model that has settled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dropped {
    pub(super) path: PathBuf,
    fingerprint: Fingerprint,
}

impl Dropped {
    /// In which state it was, for comparison.
    pub(super) fn state(&self) -> String {
        let member = |member: &Member| {
            let modified = member.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            format!("{} bytes of {modified}", member.bytes)
        };
        self.fingerprint.members().iter().map(member).collect::<Vec<_>>().join(", ")
    }

    /// Whether nothing was written since it settled.
    pub(super) fn is_as_it_was(&self) -> bool {
        see_model(&self.path).is_ok_and(|seen| seen.fingerprint == self.fingerprint)
    }

    fn modified(&self) -> SystemTime {
        self.fingerprint.members().iter().map(|member| member.modified).max().unwrap_or(UNIX_EPOCH)
    }

    /// Moves the model to those that were refused, with the reason. It stays where it has changed meanwhile: it will
    /// settle again.
    pub(crate) fn move_aside(&self, fault: &Fault) -> io::Result<()> {
        let (Some(folder), Some(name), true) = (self.path.parent(), self.path.file_name(), self.is_as_it_was()) else {
            return Ok(());
        };
        let folder = folder.join(REJECTED);
        if !fs::symlink_metadata(&folder).is_ok_and(|what| what.is_dir()) {
            fs::create_dir(&folder)?;
        }
        let (target, mut reason) = free_name(&folder, Path::new(name))?;
        write!(reason, "{fault}\nid: {}\n", fault.id().unwrap_or(NOT_LOADED))?;
        let signature = signature_of(&self.path);
        if signature.exists() {
            rename_new(&signature, &signature_of(&target))?;
        }
        rename_new(&self.path, &target)
    }
}

/// A name for a refused model that replaces neither an older one nor anything else there, and its new, empty reason file:
/// `NAME.onnx`, `NAME.1.onnx` and so on.
fn free_name(folder: &Path, name: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0_u32.. {
        let ending = name.extension().unwrap_or_default().to_string_lossy();
        let name = if number == 0 { name.into() } else { name.with_extension(format!("{number}.{ending}")) };
        let target = folder.join(name);
        let reason = with_suffix(&target, REASON);
        if [&target, &signature_of(&target), &reason].iter().any(|path| path.symlink_metadata().is_ok()) {
            continue;
        }
        return Ok((target, File::create_new(reason)?));
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// See the module. Does no input or output itself.
#[derive(Debug)]
pub(super) struct Inbox {
    folder: PathBuf,
    settle: Settle,
    looking: bool,
    last_look: Option<Duration>,
    fault: Option<Fault>,
    reasons: Vec<String>,
    misfits: BTreeMap<PathBuf, Fault>,
    /// Those that no look had found before, by file name.
    news: Vec<(String, Fault)>,
}

impl Inbox {
    pub(super) fn new(folder: PathBuf, quiet: Duration) -> Self {
        let settle = Settle::new(quiet);
        Self {
            folder,
            settle,
            looking: false,
            last_look: None,
            fault: None,
            reasons: Vec::new(),
            misfits: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// When the next look is due; `None` while one is being taken.
    pub(super) fn next_due(&self) -> Option<Duration> {
        (!self.looking).then(|| self.last_look.map_or(Duration::ZERO, |last| last + LOOK_SPACING))
    }

    /// True when a look is due; the caller then takes it and reports with [`Inbox::looked`].
    pub(super) fn begin_look(&mut self, now: Duration) -> bool {
        let due = self.next_due().is_some_and(|due| due <= now);
        self.looking |= due;
        due
    }

    /// Takes in a look that took this time; gives models that have settled, the latest written last, and all that are there.
    pub(super) fn looked(
        &mut self,
        time: Range<Duration>,
        look: Result<Look, Fault>,
    ) -> (Vec<Dropped>, Option<BTreeSet<PathBuf>>) {
        self.looking = false;
        self.last_look = Some(time.end);
        let Look { snapshot, reasons, misfits } = match look {
            Ok(look) => look,
            Err(fault) => {
                self.fault = Some(fault);
                return (Vec::new(), None);
            }
        };
        (self.fault, self.reasons) = (None, reasons);
        self.news.extend(
            misfits.iter().filter(|&(path, _)| !self.misfits.contains_key(path)).map(|(path, fault)| {
                (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), fault.clone())
            }),
        );
        self.misfits = misfits;
        let settled = self.settle.observe(time, &snapshot).into_iter().filter_map(|event| match event {
            Event::Settled { slide, fingerprint } => Some(Dropped { path: slide, fingerprint }),
            Event::Unsettled { .. } => None,
        });
        let mut settled: Vec<Dropped> = settled.collect();
        settled.sort_by_key(Dropped::modified);
        (settled, Some(snapshot.slides.into_keys().collect()))
    }

    /// What has the name of a model and can be none, since it was last asked.
    pub(super) fn take_news(&mut self) -> Vec<(String, Fault)> {
        std::mem::take(&mut self.news)
    }

    /// What needs a person: the folder, and refused models as long as they lie there.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let reasons = self.reasons.iter().map(|reason| format!("model refused: {reason}"));
        let misfits =
            self.misfits.values().map(|fault| format!("no model ({}): {fault}", fault.id().unwrap_or(NOT_LOADED)));
        self.fault.iter().map(ToString::to_string).chain(misfits).chain(reasons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h21_a_refused_model_replaces_nothing_among_the_rejected() {
        let folder = tempfile::tempdir().expect("tempdir");
        let rejected = folder.path().join(REJECTED);
        fs::create_dir(&rejected).expect("writable");
        let theirs = [("a.onnx", "an older one"), ("a.1.onnx.reason.txt", "a note"), ("b.onnx.minisig", "a signature")];
        theirs.iter().for_each(|(name, text)| fs::write(rejected.join(name), text).expect("writable"));
        for name in ["a.onnx", "b.onnx", "c.onnx"] {
            let path = folder.path().join(name);
            fs::write(&path, "refused").expect("writable");
            let fingerprint = see_model(&path).expect("there").fingerprint;
            let dropped = Dropped { path, fingerprint };
            dropped.move_aside(&Fault::new("bad", "export it again")).expect("moved");
        }
        let read = |name: &str| fs::read_to_string(rejected.join(name)).expect("there");
        theirs.iter().for_each(|(name, text)| assert_eq!(read(name), *text));
        for name in ["a.2.onnx", "b.1.onnx", "c.onnx"] {
            assert_eq!(read(name), "refused");
            assert!(read(&format!("{name}{REASON}")).starts_with("bad"), "{name}");
        }
        assert_eq!(fs::read_dir(&rejected).expect("readable").count(), 9);
    }
}
