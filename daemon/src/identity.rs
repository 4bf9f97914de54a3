//! Which object a path leads to, so that it is noticed when it leads to another one: a share that was mounted again, a
//! folder that was renamed and made anew, a link with another target.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The object behind a path, links followed.
///
/// Device and inode alone do not tell a file system that was mounted again from the one before. The mount's number does
/// (Linux 5.8), and since Linux 6.8 no later mount gets the same one; the time of birth helps where numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: (u32, u32),
    inode: u64,
    mount: Option<u64>,
    born: Option<(i64, u32)>,
}

/// `STATX_MNT_ID_UNIQUE` of Linux 6.8: the number of a mount that is never used again. Kernels that do not know it
/// answer the older question.
const MOUNT_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

impl Identity {
    /// The object that `path` leads to now. Blocks on a dead network share.
    ///
    /// # Errors
    /// There is none, or it cannot be asked.
    pub fn of(path: &Path) -> io::Result<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::MNT_ID | MOUNT_UNIQUE;
        let found = statx(CWD, path, AtFlags::empty(), wanted)?;
        let told = |flag: StatxFlags| found.stx_mask & flag.bits() != 0;
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            mount: (told(StatxFlags::MNT_ID) || told(MOUNT_UNIQUE)).then_some(found.stx_mnt_id),
            born: told(StatxFlags::BTIME).then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn h23_a_folder_made_anew_and_a_link_with_another_target_are_other_objects() {
        let place = tempfile::tempdir().expect("tempdir");
        let [folder, aside, link] = ["in", "in-2023", "link"].map(|name| place.path().join(name));
        fs::create_dir(&folder).expect("create");
        symlink(&folder, &link).expect("link");
        let first = Identity::of(&folder).expect("there");
        assert_eq!(Identity::of(&link).expect("there"), first, "a link is what it leads to");
        fs::write(folder.join("a.svs"), "a").expect("write");
        assert_eq!(Identity::of(&folder).expect("there"), first, "what lies in it says nothing");
        fs::rename(&folder, &aside).expect("rename");
        assert!(Identity::of(&folder).is_err());
        fs::create_dir(&folder).expect("create");
        let second = Identity::of(&folder).expect("there");
        assert_ne!(second, first);
        assert_eq!(Identity::of(&aside).expect("there"), first, "another name is no other object");
        fs::remove_file(&link).expect("remove");
        symlink(&aside, &link).expect("link");
        assert_eq!(Identity::of(&link).expect("there"), first);
    }
}
