//! Room on the disk (hazard h07).

use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::job::{Fault, FaultKind, Job};

/// Too little room somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortage {
    pub path: PathBuf,
    /// Bytes that an ordinary user may still write; none when the disk was found full by writing.
    pub free: Option<u64>,
    /// Bytes that must be free for work to begin.
    pub needed: u64,
}

impl Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(f, "{}: disk full", self.path.display())?;
        match self.free {
            Some(free) => write!(f, " ({} MiB free, {} needed)", mib(free), mib(self.needed)),
            None => write!(f, " (or its quota)"),
        }
    }
}

impl From<&Shortage> for Fault {
    fn from(shortage: &Shortage) -> Self {
        Self::new(shortage.to_string(), "make room, work then goes on by itself").with_kind(FaultKind::NoSpace)
    }
}

/// The first of `folders` whose file system has less than `needed` bytes free. One that cannot be asked is passed over:
/// whoever writes there will say why. Blocks on a dead network share.
pub fn shortage<'a>(folders: impl IntoIterator<Item = &'a Path>, needed: u64) -> Option<Shortage> {
    folders.into_iter().find_map(|folder| {
        let free = free(folder).ok()?;
        (free < needed).then(|| Shortage { path: folder.into(), free: Some(free), needed })
    })
}

/// Where the results of a job are written.
pub fn outputs(job: &Job) -> impl Iterator<Item = &Path> {
    job.set.slides.values().filter_map(|slide| slide.parent())
}

/// Bytes that an ordinary user may still write there. Blocks on a dead network share.
///
/// # Errors
/// The file system cannot be asked.
pub fn free(folder: &Path) -> io::Result<u64> {
    let state = rustix::fs::statvfs(folder)?;
    Ok(state.f_bavail.saturating_mul(state.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h07_a_shortage_names_the_place_and_what_is_needed() {
        let folder = tempfile::tempdir().expect("tempdir");
        assert_eq!(shortage([folder.path()], 0), None);
        assert_eq!(shortage([Path::new("/nonexistent/share")], u64::MAX), None, "cannot be asked");
        let short = shortage([Path::new("/nonexistent/share"), folder.path()], u64::MAX).expect("nothing is so large");
        assert_eq!((short.path.as_path(), short.needed), (folder.path(), u64::MAX));
        let text = Fault::from(&short).to_string();
        assert!(text.starts_with(folder.path().to_str().expect("UTF-8")) && text.contains("make room"), "{text}");
    }
}
