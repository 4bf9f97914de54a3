//! Removes a folder that somebody less trusted has filled (hazard h27): folders may lie in each other deeper than there is
//! stack, descriptors or length of a path, and no link may lead out.
//!
//! What is not empty is moved up, out of its folder into the one that is emptied, so that a few descriptors are all it takes.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Files and folders in one call: more than anyone means to leave there. Somebody may be filling the folder meanwhile.
const MOST: u32 = 4_000_000;

/// Names that are read at a time.
const NAMES: usize = 256;

/// Removes `folder` with all that is in it.
///
/// # Errors
/// It is a link, something in it cannot be removed, or there are more than four million files and folders; the rest is then
/// still there.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    empty_folder(folder)?;
    Ok(unlinkat(CWD, folder, AtFlags::REMOVEDIR)?)
}

/// Removes all that is in `folder`.
///
/// # Errors
/// As [`remove_tree`].
pub fn empty_folder(folder: &Path) -> io::Result<()> {
    let top = open_folder(CWD, folder)?;
    let mut removal = Removal { top: top.as_fd(), left: MOST, moved: 0 };
    loop {
        let names = names(&top)?;
        if names.is_empty() {
            return Ok(());
        }
        names.iter().try_for_each(|name| removal.remove_below_top(name))?;
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// How much more may be removed.
    left: u32,
    /// Folders that were moved up, for their new names.
    moved: u32,
}

impl Removal<'_> {
    fn remove_below_top(&mut self, name: &CStr) -> io::Result<()> {
        if self.remove_single(self.top, name)? {
            return Ok(());
        }
        let folder = open_folder(self.top, name)?;
        loop {
            let names = names(&folder)?;
            if names.is_empty() {
                return Ok(unlinkat(self.top, name, AtFlags::REMOVEDIR)?);
            }
            for inner in names {
                if !self.remove_single(folder.as_fd(), &inner)? {
                    self.move_up(folder.as_fd(), &inner)?;
                }
            }
        }
    }

    /// Removes what is no folder, or an empty one; false for a folder with something in it.
    fn remove_single(&mut self, folder: BorrowedFd, name: &CStr) -> io::Result<bool> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("too many files and folders"))?;
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn move_up(&mut self, folder: BorrowedFd, name: &CStr) -> io::Result<()> {
        // A folder that gets another parent must be writable itself.
        drop(open_folder(folder, name)?);
        loop {
            self.moved += 1;
            let place = format!(".moved-{}", self.moved);
            match renameat_with(folder, name, self.top, place, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                outcome => return Ok(outcome?),
            }
        }
    }
}

/// Opens a folder that is no link, and takes the rights to empty it where it is ours.
fn open_folder(at: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let way = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(at, name, way | OFlags::PATH, Mode::empty())?;
    let mode = fstat(&found)?.st_mode & 0o7777;
    if mode & 0o700 != 0o700 {
        let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
        fs::set_permissions(itself, fs::Permissions::from_mode(mode | 0o700))?;
    }
    Ok(openat(&found, c".", way | OFlags::RDONLY, Mode::empty())?)
}

/// The first names in a folder.
fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let entries = Dir::read_from(folder)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let named = entries.filter(|name| !matches!(name, Ok(name) if matches!(name.to_bytes(), b"." | b"..")));
    Ok(named.take(NAMES).collect::<Result<_, Errno>>()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    /// Folders in folders, with a file in the innermost.
    fn nest(folder: &Path, depth: usize) {
        let mut inner = open_folder(CWD, folder).expect("a folder");
        for _ in 0..depth {
            mkdirat(&inner, c"deeper", Mode::RWXU).expect("writable");
            inner = open_folder(&inner, c"deeper").expect("a folder");
        }
        drop(openat(&inner, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("writable"));
    }

    #[test]
    fn h27_folders_nested_deeper_than_descriptors_and_stack_reach_are_removed() {
        let parent = tempfile::tempdir().expect("tempdir");
        let folder = parent.path().join("staging");
        fs::create_dir(&folder).expect("writable");
        nest(&folder, 6000);
        let limit = getrlimit(Resource::Nofile);
        // Other tests of this process have files open, too.
        setrlimit(Resource::Nofile, Rlimit { current: Some(1000), ..limit }).expect("lower");
        let removed = std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(64 << 10);
            small.spawn_scoped(scope, || remove_tree(&folder)).expect("a thread").join().expect("no panic")
        });
        setrlimit(Resource::Nofile, limit).expect("as before");
        removed.expect("removed");
        assert!(!folder.exists());
    }

    #[test]
    fn h27_links_are_removed_and_what_they_lead_to_stays() {
        let parent = tempfile::tempdir().expect("tempdir");
        let (folder, kept) = (parent.path().join("staging"), parent.path().join("kept"));
        fs::create_dir_all(folder.join("a/b")).expect("writable");
        fs::create_dir(&kept).expect("writable");
        fs::write(kept.join("slide"), "pixels").expect("writable");
        for link in ["link", "a/link", "a/b/link"] {
            symlink(&kept, folder.join(link)).expect("writable");
        }
        // As a moved folder is called.
        fs::create_dir_all(folder.join("c/.moved-1/d")).expect("writable");
        fs::create_dir_all(folder.join(".moved-1/e")).expect("writable");
        // Nobody may enter or change these.
        fs::set_permissions(folder.join("a/b"), fs::Permissions::from_mode(0o000)).expect("ours");
        fs::set_permissions(folder.join("a"), fs::Permissions::from_mode(0o500)).expect("ours");
        let through = parent.path().join("through");
        symlink(&folder, &through).expect("writable");
        assert!(empty_folder(&through).is_err(), "a link is no folder to be emptied");
        empty_folder(&folder).expect("emptied");
        assert_eq!(fs::read_dir(&folder).expect("readable").count(), 0);
        remove_tree(&folder).expect("removed");
        assert_eq!(fs::read_to_string(kept.join("slide")).expect("there"), "pixels");
    }
}
