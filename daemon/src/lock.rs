//! One daemon for a state folder: a second one would clear the staging folder under the jobs of the first.
//!
//! The lock is the kernel's, on an open file: it ends with the process, however that ends, so that nothing a killed daemon
//! leaves keeps the next one out. What the file says is for people only. Watch folders are claimed otherwise
//! ([`crate::claim`]): an open file would keep a share from being unmounted.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use tissuemap::escape::for_people;

use crate::job::Fault;
use crate::worker::{private_folder, unwritable};

/// Name of the file in the state folder.
pub const FILE: &str = "tissuemapd.lock";

/// Longest text that is read of who holds a lock.
const HOLDER_BYTES: u64 = 300;

/// A state folder that is ours as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _held: File,
}

impl Lock {
    /// Locks this state folder, and makes it where it is not there.
    ///
    /// # Errors
    /// Another daemon has it, or it cannot be written.
    pub fn of(folder: &Path) -> Result<Self, Fault> {
        let failed = |error: &io::Error| unwritable(folder, error);
        private_folder(folder).map_err(|error| failed(&error))?;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut open = File::options();
        let open = open.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags);
        let mut file = open.open(folder.join(FILE)).map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Where it cannot be read, nobody is told who it is.
                let _ = file.take(HOLDER_BYTES).read_to_string(&mut text);
                let holder = for_people(text.trim());
                return Err(Fault::new(
                    format!("state folder {}: in use by another tissuemapd ({holder})", folder.display()),
                    "stop that one, or give this one a `state_folder` and watch folders of its own",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        // On a full disk it is locked all the same.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "pid {} on {}", std::process::id(), host()));
        Ok(Self { _held: file })
    }
}

/// The name of this machine.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::testing;

    #[test]
    fn h24_a_state_folder_has_one_daemon_and_the_second_is_told_of_the_first() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::write(folder.path().join(FILE), "pid 1 on a host that lost its power\n").expect("write");
        let first = Lock::of(folder.path()).expect("nobody holds what was left");
        let fault = Lock::of(folder.path()).expect_err("held").to_string();
        assert!(fault.contains(&format!("another tissuemapd (pid {} on ", std::process::id())), "{fault}");
        drop(first);
        Lock::of(folder.path()).expect("free again");
    }

    /// Holds the lock of the folder that it is told of until it is killed; does nothing by itself.
    #[test]
    #[ignore = "the victim of the next test"]
    fn victim() {
        let Some(folder) = std::env::var_os("TISSUEMAP_LOCKED") else { return };
        let _lock = Lock::of(Path::new(&folder)).expect("free");
        std::thread::sleep(Duration::from_mins(10));
    }

    #[test]
    fn h24_a_killed_daemon_keeps_nobody_out_of_its_state() {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut victim = testing::victim("lock::tests::victim", "TISSUEMAP_LOCKED", folder.path());
        let signed = format!("pid {} on", victim.id());
        for tries in 0.. {
            if fs::read_to_string(folder.path().join(FILE)).is_ok_and(|text| text.contains(&signed)) {
                break;
            }
            assert!(tries < 3000, "the other process locks nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Lock::of(folder.path()).is_err(), "held");
        victim.kill().expect("killed");
        victim.wait().expect("dead");
        Lock::of(folder.path()).expect("free");
    }
}
