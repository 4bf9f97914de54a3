//! One daemon for a watch folder (hazard h24): two on the same slides would do everything twice and replace each other's
//! results.
//!
//! A hidden file in the folder says which daemon it belongs to, so that daemons on other machines see it too, on shares
//! with and without locks. No file is kept open: that would keep a share from being unmounted. The owner renews the file
//! while it looks into the folder. Another daemon takes it over
//! - at once, when the owner ran on the same system and that process is gone, or the machine was started anew since;
//! - else when the file has not been renewed for [`STALE`] as the other daemon itself has seen, whatever clocks say.
//!
//! A folder that cannot be written cannot be claimed, nor can it get results.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tissuemap::escape::for_people;
use tissuemap::untrusted;

use crate::job::Fault;
use crate::lock::host;

/// Hidden, so that nobody takes it for a slide; it goes with the daemon.
pub const FILE: &str = ".tissuemap-lock";

/// Time after which a claim that is not renewed is void, where nothing else tells.
pub const STALE: Duration = Duration::from_mins(5);
/// A claim is renewed at the first look after this time.
const RENEWAL: Duration = Duration::from_secs(30);
/// How many times a claim must have been due for renewal before it is void.
const MISSED: u32 = 3;
/// What is read of a claim.
const MOST_BYTES: u64 = 4096;
/// Two daemons that take over in one moment: the later one wins, and both see that after this time.
const SETTLE: Duration = Duration::from_millis(100);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    /// Of this daemon and no other.
    token: String,
    pid: i32,
    host: String,
    /// Of this start of the system.
    boot: String,
    machine: String,
    /// In which its pid is one.
    pids: String,
    /// Longest time between two renewals, seconds.
    every: u64,
    renewals: u64,
}

/// The claim of one daemon on one watch folder.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    me: Owner,
    renewed: Option<Instant>,
    /// Another's claim, and since when it has been like this.
    seen: Option<(Owner, Instant)>,
}

/// Who has a folder.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    Mine,
    /// Nobody's, and it cannot be written.
    Unclaimed,
}

impl Claim {
    /// A claim that is not made yet, by a daemon that looks at the folder at least so often.
    pub fn new(folder: &Path, every: Duration) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let pid = std::process::id();
        let boot = read("/proc/sys/kernel/random/boot_id");
        // The kernel makes a new one at each reading.
        let token = read("/proc/sys/kernel/random/uuid");
        let pids = fs::read_link("/proc/self/ns/pid").unwrap_or_default().display().to_string();
        let me = Owner {
            token,
            pid: pid.cast_signed(),
            host: host(),
            boot,
            machine: read("/etc/machine-id"),
            pids,
            every: every.max(RENEWAL).as_secs(),
            renewals: 0,
        };
        Self { folder: folder.into(), me, renewed: None, seen: None }
    }

    /// Makes or renews the claim. Blocks on a dead share.
    ///
    /// # Errors
    /// Another daemon has this folder or one above it.
    pub fn renew(&mut self) -> Result<Held, Fault> {
        if self.renewed.is_some_and(|renewed| renewed.elapsed() < RENEWAL) && self.is_mine() {
            return Ok(Held::Mine);
        }
        if let Some(owner) = self.owner_above() {
            return Err(owner);
        }
        match read(&self.folder) {
            None => match self.write(true) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(_) => return Ok(Held::Unclaimed),
            },
            Some(owner) if owner.token == self.me.token => {
                self.me.renewals += 1;
                // Without room it is renewed later.
                let _ = self.write(false);
            }
            Some(owner) if self.is_void(&owner) => {
                tracing::info!(folder = %self.folder.display(), of = %owner.in_words(), "Taking over what a daemon left");
                if self.write(false).is_err() {
                    return Ok(Held::Unclaimed);
                }
                std::thread::sleep(SETTLE);
            }
            Some(_) => {}
        }
        match read(&self.folder) {
            Some(owner) if owner.token == self.me.token => {
                (self.renewed, self.seen) = (Some(Instant::now()), None);
                Ok(Held::Mine)
            }
            Some(owner) => Err(owner.fault(&self.folder)),
            None => Ok(Held::Unclaimed),
        }
    }

    fn is_mine(&self) -> bool {
        read(&self.folder).is_some_and(|owner| owner.token == self.me.token)
    }

    /// Whether the owner is gone, as far as can be told now.
    fn is_void(&mut self, owner: &Owner) -> bool {
        if owner.is_gone(&self.me) {
            return true;
        }
        let since = match &self.seen {
            Some((seen, since)) if seen == owner => *since,
            _ => {
                self.seen = Some((owner.clone(), Instant::now()));
                return false;
            }
        };
        since.elapsed() >= owner.stale_after()
    }

    /// Who watches a folder above this one.
    fn owner_above(&self) -> Option<Fault> {
        let real = self.folder.canonicalize().ok()?;
        real.ancestors().skip(1).find_map(|above| claimed(above, &self.me))
    }

    fn write(&self, new: bool) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".tissuemap-").tempfile_in(&self.folder)?;
        serde_json::to_writer(&mut file, &self.me)?;
        file.flush()?;
        let path = self.folder.join(FILE);
        // Other users' daemons read it.
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        // Whole or not at all; and a new one by one daemon only.
        let made = if new { file.persist_noclobber(path) } else { file.persist(path) };
        made.map(drop).map_err(|error| error.error)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The folder of a dead share must not hold up the end of the daemon.
        let (folder, token) = (self.folder.clone(), self.me.token.clone());
        if self.renewed.is_none() {
            return;
        }
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let removed = std::thread::Builder::new().name("claim removal".into()).spawn(move || {
            if read(&folder).is_some_and(|owner| owner.token == token) {
                // What stays is void, because its process is gone.
                let _ = fs::remove_file(folder.join(FILE));
            }
            drop(done);
        });
        if removed.is_ok() {
            let _ = is_done.recv_timeout(Duration::from_secs(1));
        }
    }
}

impl Owner {
    /// Whether the owner's process is gone for sure.
    fn is_gone(&self, me: &Self) -> bool {
        if self.boot == me.boot {
            // Another process may have its number by now: one that is there says nothing.
            let there = |pid: Pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM));
            return self.pids == me.pids && !Pid::from_raw(self.pid).is_some_and(there);
        }
        !self.machine.is_empty() && self.machine == me.machine && self.host == me.host
    }

    fn stale_after(&self) -> Duration {
        STALE.max(Duration::from_secs(self.every.min(24 * 3600)) * MISSED)
    }

    fn in_words(&self) -> String {
        format!("pid {} on {}", self.pid, for_people(&self.host))
    }

    fn fault(&self, folder: &Path) -> Fault {
        Fault::new(
            format!("watch folder {}: another tissuemapd ({}) watches it", folder.display(), self.in_words()),
            format!(
                "stop that one, or give each folders of its own; one that is gone without a trace is replaced after {} minutes",
                self.stale_after().as_secs().div_ceil(60)
            ),
        )
    }
}

/// What is said of a folder below a watch folder that another daemon watches, as far as one look can tell.
pub fn claimed_by_other(folder: &Path) -> Option<Fault> {
    claimed(folder, &Claim::new(folder, Duration::ZERO).me)
}

fn claimed(folder: &Path, me: &Owner) -> Option<Fault> {
    let owner = read(folder).filter(|owner| (owner.pid, &owner.boot, &owner.pids) != (me.pid, &me.boot, &me.pids))?;
    let written = fs::metadata(folder.join(FILE)).and_then(|file| file.modified()).ok()?;
    let old = written.elapsed().is_ok_and(|age| age > owner.stale_after());
    (!old && !owner.is_gone(me)).then(|| owner.fault(folder))
}

/// Who a folder belongs to. What is no claim is nobody's.
fn read(folder: &Path) -> Option<Owner> {
    let text = untrusted::read(&folder.join(FILE), MOST_BYTES).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests;
