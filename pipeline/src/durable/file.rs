//! Files that are replaced as a whole, and renames that replace nothing: the only place of the workspace that does either.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// Begins the name of everything that is not whole yet. The leading dot keeps folder watchers (ours too) away.
pub(crate) const UNFINISHED: &str = ".tissuemap-";

/// Ends the name of an unfinished file.
const UNFINISHED_FILE: &str = ".tmp";

/// Writes a file that appears whole or not at all, and is on the disk when this returns. See [`write_file_with`].
///
/// # Errors
/// As [`write_file_with`].
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_file_with(path, |file| file.write_all(bytes))
}

/// Lets `fill` write a file that appears whole or not at all, replacing an older one in one step.
///
/// The bytes go to a new hidden file beside it, which is fsynced, renamed, and its folder fsynced. It gets the permissions
/// of the file that it replaces; otherwise the umask decides. A link of this name is replaced, not followed.
///
/// # Errors
/// `fill` fails, the folder is not writable, or something other than a file has this name. Nothing is left behind, and an
/// older file is as it was.
pub fn write_file_with<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let mut unfinished = beside(path)?;
    let filled = fill(unfinished.as_file_mut())?;
    unfinished.as_file().sync_all()?;
    replace(unfinished, path)?;
    sync_folder(folder_of(path))?;
    Ok(filled)
}

/// As [`write_file_with`], for libraries that write to a path: `fill` gets the path of the unfinished file.
///
/// # Errors
/// As [`write_file_with`].
pub fn write_file_at<T, E: From<io::Error>>(path: &Path, fill: impl FnOnce(&Path) -> Result<T, E>) -> Result<T, E> {
    let unfinished = beside(path)?;
    let filled = fill(unfinished.path())?;
    // The library may have put another file there: what has the name now is flushed.
    File::open(unfinished.path())?.sync_all()?;
    replace(unfinished, path)?;
    sync_folder(folder_of(path))?;
    Ok(filled)
}

/// Replaces a file in one step without waiting for the disk: for figures that are written again after a moment, such as
/// metrics. A reader sees the old ones or the new ones; after a power cut the file may be empty.
///
/// # Errors
/// As [`write_file_with`].
pub fn write_figures(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut unfinished = beside(path)?;
    unfinished.write_all(bytes)?;
    replace(unfinished, path)
}

/// Writes a file that must not be there yet, for a folder that is being filled; flushing is left to whoever publishes it.
///
/// # Errors
/// Something has this name, or the folder is not writable.
pub fn write_new(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    File::create_new(path)?.write_all(bytes.as_ref())
}

/// Removes what writers of this module left in `folder` that were killed. Only for folders that nobody else writes into.
///
/// # Errors
/// The folder cannot be listed, or a file not removed.
pub fn clear_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_unfinished(Path::new(&entry.file_name())) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a file of this name is one that was not finished.
pub fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(UNFINISHED) && name.ends_with(UNFINISHED_FILE)
}

/// Renames a file, folder or link; what already has the new name stays.
///
/// # Errors
/// `AlreadyExists` where something has the name, and whatever the system says. On file systems that cannot rename without
/// replacing (some network shares), a name that appears between look and rename is replaced if it is a file.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rename_with(from, to, RenameFlags::NOREPLACE) {
        Err(errno) if lacks(errno) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        outcome => Ok(outcome?),
    }
}

/// Gives `path` the first free name of those that `name` makes for 1, 2 and so on, and says which.
///
/// # Errors
/// As [`rename_new`].
pub fn move_aside(path: &Path, name: impl Fn(u32) -> PathBuf) -> io::Result<PathBuf> {
    for number in 1.. {
        let aside = name(number);
        match rename_new(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|()| aside),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// `renameat2`.
pub(super) fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    #[cfg(test)]
    if WITHOUT_FLAGS.get() {
        return Err(Errno::INVAL);
    }
    renameat_with(CWD, from, CWD, to, flags)
}

#[cfg(test)]
thread_local! {
    static WITHOUT_FLAGS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Has file systems of this thread know no flags, as some network shares do.
#[cfg(test)]
pub(super) fn without_flags(without: bool) {
    WITHOUT_FLAGS.set(without);
}

/// Whether the file system does not know the flags of a rename.
pub(super) fn lacks(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY)
}

/// Waits until names in a folder are on the disk. File systems that know no such thing (some network shares) are let be.
///
/// # Errors
/// The folder cannot be opened, or the disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.raw_os_error().is_some_and(|code| lacks(Errno::from_raw_os_error(code))) => Ok(()),
        outcome => outcome,
    }
}

/// Where a file or folder lies.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let older = fs::symlink_metadata(path).ok();
    if older.as_ref().is_some_and(|older| !older.is_file() && !older.is_symlink()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no file has this name"));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).suffix(UNFINISHED_FILE).permissions(fs::Permissions::from_mode(0o666));
    let unfinished = builder.tempfile_in(folder_of(path))?;
    if let Some(older) = older.filter(fs::Metadata::is_file) {
        unfinished.as_file().set_permissions(fs::Permissions::from_mode(older.permissions().mode() & 0o777))?;
    }
    Ok(unfinished)
}

fn replace(unfinished: NamedTempFile, path: &Path) -> io::Result<()> {
    unfinished.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_keeps_its_permissions() {
        let dir = folder();
        let path = dir.path().join("models.json");
        write_file(&path, b"one").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
        write_file(&path, b"two").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("whole"), "two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        write_file_at(&path, |unfinished| fs::write(unfinished, "three")).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("whole"), "three");
        write_figures(&path, b"four").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("whole"), "four");
        assert_eq!(names(dir.path()), ["models.json"]);
    }

    #[test]
    fn what_fails_half_way_leaves_the_older_file_and_nothing_else() {
        let dir = folder();
        let path = dir.path().join("models.json");
        write_file(&path, b"one").expect("written");
        let half = |file: &mut File| -> io::Result<()> {
            file.write_all(b"tw")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        let error = write_file_with(&path, half).expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        write_file_at(&path, |_| Err::<(), _>(io::Error::other("no"))).expect_err("refused");
        assert_eq!(fs::read_to_string(&path).expect("whole"), "one");
        assert_eq!(names(dir.path()), ["models.json"]);
    }

    #[test]
    fn a_panic_while_writing_leaves_the_older_file_and_nothing_else() {
        let dir = folder();
        let path = dir.path().join("x");
        write_file(&path, b"one").expect("written");
        let panics = || write_file_with(&path, |_| -> io::Result<()> { panic!("a bug") });
        std::panic::catch_unwind(panics).expect_err("it panics");
        assert_eq!(fs::read_to_string(&path).expect("whole"), "one");
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn a_folder_or_pipe_is_not_replaced_by_a_file() {
        let dir = folder();
        let path = dir.path().join("out");
        fs::create_dir(&path).expect("writable");
        let error = write_file(&path, b"x").expect_err("a folder").to_string();
        assert!(error.contains("no file"), "{error}");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("writable");
        write_file(&pipe, b"x").expect_err("a pipe");
        assert_eq!(names(dir.path()), ["out", "pipe"]);
    }

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_stays() {
        let dir = folder();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "a person's").expect("writable");
        std::os::unix::fs::symlink(&file, &link).expect("writable");
        write_file(&link, b"ours").expect("written");
        assert_eq!(fs::read_to_string(&file).expect("there"), "a person's");
        assert_eq!(fs::read_to_string(&link).expect("there"), "ours");
    }

    #[test]
    fn only_unfinished_files_are_cleared() {
        let dir = folder();
        let left = beside(&dir.path().join("state")).expect("writable").keep().expect("kept").1;
        assert!(is_unfinished(&left));
        for name in ["state", ".tissuemap-x", "x.tmp"] {
            fs::write(dir.path().join(name), "").expect("writable");
        }
        clear_unfinished(dir.path()).expect("cleared");
        assert_eq!(names(dir.path()), [".tissuemap-x", "state", "x.tmp"]);
    }

    #[test]
    fn h21_a_rename_replaces_nothing_and_finds_a_free_name() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        for name in ["mine", "x.1"] {
            fs::write(at(name), name).expect("writable");
        }
        fs::create_dir(at("x.2")).expect("writable");
        std::os::unix::fs::symlink("nowhere", at("x.3")).expect("writable");
        let error = rename_new(&at("mine"), &at("x.1")).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let aside = move_aside(&at("mine"), |number| at(&format!("x.{number}"))).expect("a free name");
        assert_eq!(aside, at("x.4"));
        assert_eq!(fs::read_to_string(at("x.1")).expect("there"), "x.1");
        assert_eq!(fs::read_to_string(aside).expect("there"), "mine");
    }
}
