//! A slide is rarely just a file: which files belong to it, and how their state is remembered.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tissuemap::untrusted::{self, Bounded};

use super::names::{ending_in, is_dicom};
use super::series::series;

/// What one member looked like when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: SystemTime,
}

impl Member {
    pub(crate) fn new(path: PathBuf, metadata: &Metadata) -> Self {
        // A file system without modification times still has sizes; growth is then what settles.
        Self { path, bytes: metadata.len(), modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH) }
    }
}

/// Sizes and modification times of all members of a slide, sorted by path. Two equal fingerprints mean: nothing was
/// written in between (as far as a file system tells without reading the files).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<Member>);

impl Fingerprint {
    /// The fingerprint of these members, in any order.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.sort();
        members.dedup();
        Self(members)
    }

    /// The members, sorted by path.
    pub fn members(&self) -> &[Member] {
        &self.0
    }
}

/// A slide as one look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub fingerprint: Fingerprint,
    /// When the file system last noted any change to a member, seconds and nanoseconds by the file system's own clock.
    /// Copying programs set modification times back, some after every write; this time they cannot set. It tells that
    /// something was done to a file, not what, so it counts for settling only and is no part of the fingerprint.
    pub touched: (i64, i64),
    /// The slide's done-marker, as long as it is not there.
    pub awaits: Option<PathBuf>,
}

/// The fingerprint of the slide that `path` names, with all its members as they are now:
///
/// | slide | members |
/// |---|---|
/// | `case.mrxs` | it and every file in the sibling directory `case/` |
/// | `case.vms`, `case.vmu` | it and the files its key file names |
/// | `x.dcm` | the files of the directory that are of its DICOM series, and those that are of none: unfinished ones |
/// | any other | the file |
///
/// Temporary names count as members inside a directory that belongs to the slide: a growing `Data0007.dat.part` means
/// that the copy goes on.
///
/// # Errors
/// A member cannot be looked at; one that has just vanished is left out instead.
pub fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    see(path, path.parent().filter(|_| is_dicom(path)).map(|folder| Beside { folder, strangers: true }))
        .map(|seen| seen.fingerprint)
}

/// Where the other files of a DICOM series lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub(crate) folder: &'a Path,
    /// Whether files of no series belong to every slide of the folder. Directly in a watch folder, they do not.
    pub(crate) strangers: bool,
}

/// Looks at all members of a slide, with those of its series `beside` it if it is DICOM.
pub(crate) fn see(path: &Path, beside: Option<Beside>) -> io::Result<Seen> {
    let mut found = Found::default();
    found.file(path.to_path_buf())?;
    if ending_in(path, &["mrxs"]) {
        found.directory(&path.with_extension(""))?;
    } else if ending_in(path, &["vms", "vmu"]) {
        for file in key_file_members(path)? {
            found.file(file)?;
        }
    } else if let Some(Beside { folder, strangers }) = beside {
        let own = series(path);
        found.directory_where(folder, |file| match series(file) {
            None => strangers,
            uid => uid == own,
        })?;
    }
    Ok(Seen { fingerprint: Fingerprint::new(found.members), touched: found.touched, awaits: None })
}

#[derive(Default)]
struct Found {
    members: Vec<Member>,
    touched: (i64, i64),
}

impl Found {
    fn file(&mut self, path: PathBuf) -> io::Result<()> {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                self.touched = self.touched.max((metadata.ctime(), metadata.ctime_nsec()));
                self.members.push(Member::new(path, &metadata));
            }
            // What OpenSlide would wait for, or read without end.
            Ok(metadata) if !metadata.is_dir() => untrusted::check(&path)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn directory(&mut self, directory: &Path) -> io::Result<()> {
        self.directory_where(directory, |_| true)
    }

    fn directory_where(&mut self, directory: &Path, belongs: impl Fn(&Path) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // The index of a MIRAX slide often arrives before its data.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if belongs(&path) {
                self.file(path)?;
            }
        }
        Ok(())
    }
}

/// The files that a Hamamatsu VMS or VMU key file names, beside it.
fn key_file_members(path: &Path) -> io::Result<Vec<PathBuf>> {
    // Real key files have some 60 lines; what is longer is not one.
    const MAX_BYTES: u64 = 1 << 20;
    const KEYS: &[&str] = &["ImageFile", "MapFile", "MacroImage", "OptimisationFile"];

    let text = match untrusted::open_named(path, MAX_BYTES).and_then(Bounded::bytes) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| KEYS.iter().any(|known| key.trim().starts_with(known)))
        .map(|(_, value)| value.trim())
        // Only names: a key file must not make us look elsewhere.
        .filter(|value| Path::new(value).file_name() == Some(OsStr::new(value)))
        .map(|value| directory.join(value))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::dicom;
    use super::*;

    fn write(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("create");
            fs::write(path, name).expect("write");
        }
    }

    fn members_of(folder: &Path, slide: &str) -> Vec<String> {
        let found = fingerprint(&folder.join(slide)).expect("readable");
        let relative = |m: &Member| m.path.strip_prefix(folder).expect("inside").display().to_string();
        found.members().iter().map(relative).collect()
    }

    #[test]
    fn a_plain_slide_is_its_file() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(folder.path(), &["a_HE.svs", "a_HE.xml", "b_HE.svs"]);
        assert_eq!(members_of(folder.path(), "a_HE.svs"), ["a_HE.svs"]);
    }

    #[test]
    fn mirax_members_are_the_index_and_its_directory_even_unfinished_ones() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(
            folder.path(),
            &["a.mrxs", "b.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "a/Data0001.dat.part", "b/Index.dat"],
        );
        assert_eq!(
            members_of(folder.path(), "a.mrxs"),
            ["a/Data0000.dat", "a/Data0001.dat.part", "a/Slidedat.ini", "a.mrxs"]
        );
    }

    #[test]
    fn mirax_index_without_its_data_yet_is_alone() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(folder.path(), &["a.mrxs"]);
        assert_eq!(members_of(folder.path(), "a.mrxs"), ["a.mrxs"]);
    }

    #[test]
    fn dicom_members_are_the_whole_series_directory() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(folder.path(), &["s/1.dcm", "s/2.dcm", "s/3.dcm.part", "t/1.dcm"]);
        assert_eq!(members_of(folder.path(), "s/1.dcm"), ["s/1.dcm", "s/2.dcm", "s/3.dcm.part"]);
    }

    #[test]
    fn dicom_members_are_those_of_one_series_and_unfinished_files() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(folder.path(), &["s/5.dcm.part"]);
        for (name, uid) in [("1", "1.1"), ("2", "1.2"), ("3", "1.1"), ("4", "1.2")] {
            fs::write(folder.path().join(format!("s/{name}.dcm")), dicom(uid)).expect("write");
        }
        assert_eq!(members_of(folder.path(), "s/1.dcm"), ["s/1.dcm", "s/3.dcm", "s/5.dcm.part"]);
        assert_eq!(members_of(folder.path(), "s/4.dcm"), ["s/2.dcm", "s/4.dcm", "s/5.dcm.part"]);
    }

    #[test]
    fn vms_members_are_the_files_its_key_file_names_and_never_elsewhere() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(folder.path(), &["a.jpg", "a(1,0).jpg", "a_macro.jpg", "a.opt", "other.jpg", "sub/x.jpg"]);
        let keys = "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nImageFile(1,0)=a(1,0).jpg\n\
                    MacroImage=a_macro.jpg\nOptimisationFile=a.opt\nMapFile=missing.jpg\nImageFile(2,0)=sub/x.jpg\n";
        fs::write(folder.path().join("a.vms"), keys).expect("write");
        assert_eq!(members_of(folder.path(), "a.vms"), ["a(1,0).jpg", "a.jpg", "a.opt", "a.vms", "a_macro.jpg"]);
    }

    #[test]
    fn growth_of_any_member_changes_the_fingerprint() {
        let folder = tempfile::tempdir().expect("tempdir");
        write(folder.path(), &["a.mrxs", "a/Data0000.dat"]);
        let slide = folder.path().join("a.mrxs");
        let before = fingerprint(&slide).expect("readable");
        fs::write(folder.path().join("a/Data0000.dat"), "longer than it was").expect("write");
        assert_ne!(fingerprint(&slide).expect("readable"), before);
    }
}
