//! The one way to open files that somebody else may have written (hazard h25).
//!
//! A name in a shared folder may stand for a pipe that nobody fills, a device, a socket, a link to what only we may read,
//! or more bytes than there is memory. So: opening never waits, only regular files are opened, and no more is read than
//! the caller allows, even when the file grows meanwhile.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::escape::for_people;

/// Most bytes of a file that people write by hand: configuration, manifest, landmarks, a reason.
pub const SMALL: u64 = 16 << 20;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum UntrustedError {
    #[error("{}: is {what}, not a regular file", for_people(path))]
    NotRegular { path: PathBuf, what: &'static str },
    #[error("{}: is a link, which is not followed here", for_people(path))]
    Link { path: PathBuf },
    #[error("{}: has more than {limit} bytes", for_people(path))]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{}: is no UTF-8 text", for_people(path))]
    NotText { path: PathBuf },
    #[error("{}: {source}", for_people(path))]
    Io { path: PathBuf, source: io::Error },
}

impl UntrustedError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotRegular { .. } => "move it away, or put a regular file in its place",
            Self::Link { .. } => "put the file itself in the link's place",
            Self::TooLarge { .. } => "move it away: no genuine file of this kind is so large",
            Self::NotText { .. } => "save it as UTF-8 text",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "check the path",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "let the program read the file"
            }
            Self::Io { .. } => "see whether its disk or share answers",
        }
    }

    /// Whether there is nothing of this name.
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// The operating system's error, or what comes nearest.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NotRegular { .. } | Self::Link { .. } => io::ErrorKind::InvalidInput,
            Self::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            Self::NotText { .. } => io::ErrorKind::InvalidData,
            Self::Io { source, .. } => source.kind(),
        }
    }
}

impl From<UntrustedError> for io::Error {
    fn from(error: UntrustedError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// A regular file that gives at most so many bytes; reading more is an error, never a short file.
#[derive(Debug)]
pub struct Bounded {
    file: File,
    path: PathBuf,
    limit: u64,
    left: u64,
}

impl Bounded {
    /// The open file, for its metadata.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Everything from here on.
    ///
    /// # Errors
    /// More than the limit, or the file cannot be read.
    pub fn bytes(mut self) -> Result<Vec<u8>, UntrustedError> {
        let mut bytes = Vec::new();
        match self.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(UntrustedError::TooLarge { path: self.path, limit: self.limit })
            }
            Err(source) => Err(UntrustedError::Io { path: self.path, source }),
        }
    }

    /// As [`Bounded::bytes`], as text.
    ///
    /// # Errors
    /// As [`Bounded::bytes`], or it is no UTF-8.
    pub fn text(self) -> Result<String, UntrustedError> {
        let path = self.path.clone();
        String::from_utf8(self.bytes()?).map_err(|_| UntrustedError::NotText { path })
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // One byte more than allowed tells a file that ends here from one that grew.
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read(&mut buffer[..most])?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            let grown = UntrustedError::TooLarge { path: self.path.clone(), limit: self.limit };
            io::Error::from(grown)
        })?;
        Ok(got)
    }
}

/// Opens a regular file of at most `limit` bytes. A link is refused.
///
/// # Errors
/// It is something else, larger, or cannot be opened.
pub fn open(path: &Path, limit: u64) -> Result<Bounded, UntrustedError> {
    open_at(CWD, path, limit)
}

/// As [`open`], of a name in an open folder.
///
/// # Errors
/// As [`open`].
pub fn open_at(folder: impl AsFd, name: &Path, limit: u64) -> Result<Bounded, UntrustedError> {
    bounded(folder.as_fd(), name, Links::Refuse, limit)
}

/// As [`open`], of a path that a person has named (on the command line or in the configuration): links are followed.
///
/// # Errors
/// As [`open`].
pub fn open_named(path: &Path, limit: u64) -> Result<Bounded, UntrustedError> {
    bounded(CWD, path, Links::Follow, limit)
}

/// Opens a regular file of any size, such as a slide, following links; the caller reads no more than it can hold.
///
/// # Errors
/// It is no regular file, or cannot be opened.
pub fn open_large(path: &Path) -> Result<File, UntrustedError> {
    regular(CWD, path, Links::Follow).map(|(file, _)| file)
}

/// Makes sure that there is a regular file for a library that opens it by name itself. Links are followed.
///
/// # Errors
/// It is something else, or cannot be looked at.
pub fn check(path: &Path) -> Result<(), UntrustedError> {
    let what = statat(CWD, path, AtFlags::empty());
    judge(path, &what.map_err(|errno| UntrustedError::Io { path: path.into(), source: errno.into() })?)
}

/// Decodes a picture, within the decoder's own limits of memory.
///
/// # Errors
/// It is no regular file, or no picture.
pub fn image(path: &Path) -> image::ImageResult<image::DynamicImage> {
    let file = open_large(path).map_err(io::Error::from)?;
    image::ImageReader::new(BufReader::new(file)).with_guessed_format()?.decode()
}

/// Opens a regular file to write at its end, and makes it, readable for the group, where there is none.
///
/// # Errors
/// It is something else, or cannot be opened.
pub fn append(path: &Path) -> Result<File, UntrustedError> {
    writable(path, OFlags::APPEND, Mode::RUSR | Mode::WUSR | Mode::RGRP)
}

/// Opens a regular file to write anywhere in it, and makes it where there is none; what it holds stays.
///
/// # Errors
/// It is something else, or cannot be opened.
pub fn update(path: &Path) -> Result<File, UntrustedError> {
    writable(path, OFlags::empty(), Mode::from_raw_mode(0o666))
}

fn writable(path: &Path, how: OFlags, mode: Mode) -> Result<File, UntrustedError> {
    let trouble = |errno: Errno| UntrustedError::Io { path: path.into(), source: errno.into() };
    match check(path) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let way = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | how;
    let file = openat(CWD, path, way, mode).map_err(trouble)?;
    judge(path, &fstat(&file).map_err(trouble)?)?;
    Ok(File::from(file))
}

/// All bytes of a file that [`open`] opens.
///
/// # Errors
/// As [`open`] and [`Bounded::bytes`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, UntrustedError> {
    open(path, limit)?.bytes()
}

/// All text of a file that [`open`] opens.
///
/// # Errors
/// As [`open`] and [`Bounded::text`].
pub fn read_to_string(path: &Path, limit: u64) -> Result<String, UntrustedError> {
    open(path, limit)?.text()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Follow,
    Refuse,
}

fn bounded(folder: BorrowedFd, path: &Path, links: Links, limit: u64) -> Result<Bounded, UntrustedError> {
    let (file, size) = regular(folder, path, links)?;
    if size > limit {
        return Err(UntrustedError::TooLarge { path: path.into(), limit });
    }
    Ok(Bounded { file, path: path.into(), limit, left: limit })
}

/// Opens a regular file and gives its size.
fn regular(folder: BorrowedFd, path: &Path, links: Links) -> Result<(File, u64), UntrustedError> {
    let trouble = |errno: Errno| UntrustedError::Io { path: path.into(), source: errno.into() };
    let (at, follow) = match links {
        Links::Follow => (AtFlags::empty(), OFlags::empty()),
        Links::Refuse => (AtFlags::SYMLINK_NOFOLLOW, OFlags::NOFOLLOW),
    };
    // Looked at before it is opened, because opening a device may already do something, and once more after it, because
    // it may have been replaced in between.
    judge(path, &statat(folder, path, at).map_err(trouble)?)?;
    let way = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | follow;
    let file = match openat(folder, path, way, Mode::empty()) {
        Err(Errno::LOOP) if links == Links::Refuse => return Err(UntrustedError::Link { path: path.into() }),
        opened => opened.map_err(trouble)?,
    };
    let what = fstat(&file).map_err(trouble)?;
    judge(path, &what)?;
    Ok((File::from(file), what.st_size.max(0) as u64))
}

fn judge(path: &Path, what: &Stat) -> Result<(), UntrustedError> {
    match FileType::from_raw_mode(what.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(UntrustedError::Link { path: path.into() }),
        other => Err(UntrustedError::NotRegular { path: path.into(), what: in_words(other) }),
    }
}

fn in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a folder",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary folder")
    }

    fn pipe(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("writable");
    }

    #[test]
    fn h25_what_is_no_regular_file_is_refused_without_waiting() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        pipe(&at("pipe"));
        fs::create_dir(at("folder")).expect("writable");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        symlink("/dev/zero", at("zero")).expect("writable");
        symlink(at("pipe"), at("to-pipe")).expect("writable");
        symlink(at("loop"), at("loop")).expect("writable");
        for (name, what) in [("pipe", "a named pipe"), ("folder", "a folder"), ("socket", "a socket")] {
            for opened in
                [open(&at(name), 10).map(drop), open_named(&at(name), 10).map(drop), open_large(&at(name)).map(drop)]
            {
                let error = opened.expect_err(name);
                assert!(matches!(&error, UntrustedError::NotRegular { what: found, .. } if *found == what), "{error}");
            }
        }
        for (name, what) in [("zero", "a device"), ("to-pipe", "a named pipe")] {
            assert!(matches!(open(&at(name), 10), Err(UntrustedError::Link { .. })), "{name}");
            let followed = open_named(&at(name), 10).map(drop).expect_err(name);
            assert!(
                matches!(&followed, UntrustedError::NotRegular { what: found, .. } if *found == what),
                "{followed}"
            );
        }
        for name in ["pipe", "zero", "folder"] {
            assert!(matches!(check(&at(name)), Err(UntrustedError::NotRegular { .. })), "{name}");
            assert!(matches!(append(&at(name)), Err(UntrustedError::NotRegular { .. })), "{name}");
        }
        append(&at("new")).expect("made");
        append(&at("new")).expect("there");
        assert!(matches!(open_named(&at("loop"), 10), Err(UntrustedError::Io { .. })));
        assert!(open(&at("absent"), 10).expect_err("nothing there").is_not_found());
    }

    #[test]
    fn h25_no_more_is_read_than_allowed() {
        let dir = folder();
        let path = dir.path().join("file");
        fs::write(&path, "ten bytes.").expect("writable");
        assert_eq!(read_to_string(&path, 10).expect("ten bytes"), "ten bytes.");
        assert!(matches!(read(&path, 9), Err(UntrustedError::TooLarge { limit: 9, .. })));
        let sparse = dir.path().join("sparse");
        fs::File::create(&sparse).and_then(|file| file.set_len(3 << 30)).expect("writable");
        assert!(matches!(read(&sparse, SMALL), Err(UntrustedError::TooLarge { .. })));
        let link = dir.path().join("link");
        symlink(&path, &link).expect("writable");
        assert!(matches!(read(&link, 10), Err(UntrustedError::Link { .. })));
        assert_eq!(open_named(&link, 10).and_then(Bounded::bytes).expect("followed"), b"ten bytes.");
    }

    #[test]
    fn h25_a_file_that_grows_after_it_was_opened_is_refused() {
        let dir = folder();
        let path = dir.path().join("file");
        fs::write(&path, "short").expect("writable");
        let opened = open(&path, 10).expect("small enough");
        let mut writer = fs::File::options().append(true).open(&path).expect("writable");
        writer.write_all(&vec![b'x'; 100_000]).expect("written");
        assert!(matches!(opened.bytes(), Err(UntrustedError::TooLarge { limit: 10, .. })));
    }

    #[test]
    fn an_error_keeps_the_system_s_number_behind_it() {
        let error = io::Error::from(open(Path::new("/proc/self/mem/x"), 1).expect_err("no folder"));
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(Errno::NOTDIR.raw_os_error()));
    }
}
