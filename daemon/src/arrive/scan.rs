//! The truth: what is in a watch folder right now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::members::{Beside, Seen, see};
use super::names::{Ignore, Marker, is_dicom, names_a_slide};
use super::series::series;
use crate::claim;
use crate::job::Fault;

/// Scanners make a folder per day, rack, case and slide, which is four. What is deeper than this is no scanner's work, and
/// a file system that shows a folder inside itself must not keep a look from ending.
const MAX_DEPTH: usize = 16;

const NEEDS_TO_READ: &str = "let the daemon's user read it, and check the file system";

/// All slides of a folder and its subfolders at one moment, each with the state of all its members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Naming file of each slide.
    pub slides: BTreeMap<PathBuf, Seen>,
    /// Subfolders and files that could not be looked at.
    pub unreadable: BTreeMap<PathBuf, Fault>,
}

impl Snapshot {
    /// True when the look could not tell whether this slide is there.
    pub fn hides(&self, slide: &Path) -> bool {
        self.unreadable.keys().any(|path| slide.starts_with(path))
    }
}

/// Looks at every file below `root` whose name is not ignored. Links to files are followed. Links to folders are not: a
/// folder below `root` is looked at anyway, and one elsewhere may not be written to, so it is told instead.
///
/// # Errors
/// `root` itself cannot be read. Then nothing is known, which is not the same as an empty folder.
pub fn scan(root: &Path, ignore: &Ignore, marker: Option<&Marker>) -> io::Result<Snapshot> {
    let mut look = Look { root, ignore, marker, snapshot: Snapshot::default(), folders: vec![(root.to_path_buf(), 0)] };
    while let Some((folder, depth)) = look.folders.pop() {
        match look.list(&folder, depth) {
            Err(error) if depth == 0 => return Err(error),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                look.unlooked(folder, &error);
            }
            _ => {}
        }
    }
    Ok(look.snapshot)
}

struct Look<'a> {
    root: &'a Path,
    ignore: &'a Ignore,
    marker: Option<&'a Marker>,
    snapshot: Snapshot,
    /// Still to be listed, with how far each is below the root.
    folders: Vec<(PathBuf, usize)>,
}

impl Look<'_> {
    fn unreadable(&mut self, path: PathBuf, reason: impl Display, hint: &str) {
        let fault = Fault::new(format!("{}: {reason}", path.display()), hint);
        self.snapshot.unreadable.insert(path, fault);
    }

    fn unlooked(&mut self, path: PathBuf, error: &io::Error) {
        let fault = Fault::of_io(path.display(), error, NEEDS_TO_READ);
        self.snapshot.unreadable.insert(path, fault);
    }

    fn list(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let mut slides = Vec::new();
        let entries: Vec<fs::DirEntry> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
        let claimed = || depth > 0 && entries.iter().any(|entry| entry.file_name() == claim::FILE);
        if let Some(fault) = claimed().then(|| claim::claimed_by_other(folder)).flatten() {
            self.snapshot.unreadable.insert(folder.to_path_buf(), fault);
            return Ok(());
        }
        for entry in entries {
            let path = entry.path();
            if self.ignore.ignores(&path) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.descend(path, depth + 1);
            } else if kind.is_symlink() && path.is_dir() {
                self.linked(path);
            } else if names_a_slide(&path) {
                slides.push(path);
            }
        }
        keep_one_of_each_series(&mut slides, depth > 0);
        let beside = Beside { folder, strangers: depth > 0 };
        slides.into_iter().for_each(|slide| self.slide(slide, beside));
        Ok(())
    }

    fn descend(&mut self, folder: PathBuf, depth: usize) {
        if depth <= MAX_DEPTH {
            self.folders.push((folder, depth));
        } else {
            let reason = format!("more than {MAX_DEPTH} folders deep");
            self.unreadable(folder, reason, "watch a folder nearer to it, or move it up");
        }
    }

    fn linked(&mut self, link: PathBuf) {
        let inside = |target: &Path| fs::canonicalize(self.root).is_ok_and(|root| target.starts_with(root));
        match fs::canonicalize(&link) {
            Ok(target) if !inside(&target) => {
                let reason = format!("a link to {}, outside the watch folder", target.display());
                self.unreadable(link, reason, "add a [[watch]] section for that folder");
            }
            // Inside, it is looked at by its own name. Broken links lead to no slide.
            _ => {}
        }
    }

    fn slide(&mut self, slide: PathBuf, beside: Beside) {
        // One that is of no series belongs to nothing directly in the watch folder.
        let beside = Some(beside).filter(|beside| is_dicom(&slide) && (beside.strangers || series(&slide).is_some()));
        match see(&slide, beside) {
            // It went between the listing and the look.
            Ok(seen) if seen.fingerprint.members().iter().all(|m| m.path != slide) => {}
            Ok(seen) => {
                let marker = self.marker.map(|marker| marker.of(&slide, self.root));
                let awaits = marker.filter(|marker| !marker.exists());
                self.snapshot.slides.insert(slide, Seen { awaits, ..seen });
            }
            Err(error) => self.unlooked(slide, &error),
        }
    }
}

/// The DICOM files of one series are one slide, named by the first of them: OpenSlide finds the rest itself. Files of no series
/// are one slide together where a directory holds them together (`together`), so that they are told if nothing comes of them;
/// directly in the watch folder, each is a slide.
fn keep_one_of_each_series(slides: &mut Vec<PathBuf>, together: bool) {
    slides.sort();
    let mut seen = BTreeSet::new();
    slides.retain(|path| {
        if !is_dicom(path) {
            return true;
        }
        let uid = series(path);
        (uid.is_none() && !together) || seen.insert(uid)
    });
}

#[cfg(test)]
mod tests;
