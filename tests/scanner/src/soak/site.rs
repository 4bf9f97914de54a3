//! Where a soak takes place: folders, the daemon's configuration, and file systems that can be filled and taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, ensure};

/// The disk of slides and results, and that of the daemon's state: small, so that filling them takes no time.
const DISK: &str = "256m";

/// What the daemon leaves in a watched folder to tell another daemon of itself.
pub(super) const LOCK: &str = ".tissuemap-lock";

/// Seconds that a file must lie still.
pub(super) const SETTLE: u64 = 1;

/// Seconds that a set waits for its next stain.
pub(super) const WAIT_FOR_STAINS: u64 = 8;

/// All places of a soak.
pub(super) struct Site {
    root: PathBuf,
    /// Whether disks of our own could be mounted.
    pub(super) mounted: bool,
    /// Held for reading by whoever touches the watched folder, for writing by whoever takes it away.
    presence: RwLock<()>,
}

impl Site {
    /// Lays everything out in an empty or new folder. `program` is the daemon's.
    ///
    /// # Errors
    /// The folder is not empty, or something cannot be written.
    pub(super) fn new(root: &Path, program: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| root.display().to_string())?;
        let root = fs::canonicalize(root)?;
        ensure!(fs::read_dir(&root)?.next().is_none(), "{}: not empty; give a new folder", root.display());
        let mut site = Self { root, mounted: false, presence: RwLock::default() };
        for name in ["slides", "system", "incoming", "away", "models"] {
            fs::create_dir(site.path(name)).with_context(|| name.to_owned())?;
        }
        site.mounted = ["slides", "system"].iter().all(|name| {
            let size = format!("size={DISK}");
            mount(&["-t", "tmpfs", "-o", &size, "tissuemap-soak"], &site.path(name))
        });
        fs::create_dir(site.path("slides/incoming"))?;
        fs::create_dir(site.path("system/state"))?;
        if site.mounted {
            ensure!(site.bind(), "{}: cannot mount", site.incoming().display());
        } else {
            fs::remove_dir(site.incoming())?;
            std::os::unix::fs::symlink("slides/incoming", site.incoming())?;
        }
        // A link of its own tells our processes from those of other daemons.
        let own = site.program();
        fs::hard_link(program, &own)
            .or_else(|_| fs::copy(program, &own).map(drop))
            .with_context(|| own.display().to_string())?;
        fs::write(site.path("tissuemapd.toml"), configuration())?;
        Ok(site)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The watched folder.
    pub(super) fn incoming(&self) -> PathBuf {
        self.path("incoming")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path("system/state")
    }

    pub(super) fn models(&self) -> PathBuf {
        self.path("models")
    }

    /// The daemon's.
    pub(super) fn program(&self) -> PathBuf {
        self.path("tissuemapd")
    }

    /// The watched folder stays where it is as long as this is held.
    pub(super) fn stay(&self) -> RwLockReadGuard<'_, ()> {
        self.presence.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is in the watched folder as long as this is held.
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.presence.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mounts the watched folder.
    pub(super) fn bind(&self) -> bool {
        mount(&["--bind", &self.path("slides/incoming").to_string_lossy()], &self.incoming())
    }

    /// Takes the mount of the watched folder away, whoever has files open in it.
    pub(super) fn unbind(&self) -> bool {
        Command::new("umount").arg("--lazy").arg(self.incoming()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.mounted {
            self.unbind();
            for name in ["slides", "system"] {
                let _ = Command::new("umount").arg("--lazy").arg(self.path(name)).status();
            }
        }
    }
}

fn mount(arguments: &[&str], place: &Path) -> bool {
    Command::new("mount").args(arguments).arg(place).status().is_ok_and(|status| status.success())
}

/// Registration is as quick as it can be: what is tried is what surrounds it. A set must survive more kills than a person
/// would allow it, and a disk of a few hundred megabytes must do.
fn configuration() -> String {
    format!(
        r#"state_folder = "system/state"
drain_seconds = 10
[[watch]]
folder = "incoming"
settle_seconds = {SETTLE}
scan_seconds = 1
[group]
wait_seconds = {WAIT_FOR_STAINS}
incomplete = "run"
[schedule]
tries = 6
retry_seconds = 1
retry_max_seconds = 4
min_free_mib = 4
[models]
folder = "models"
settle_seconds = 1
[worker]
providers = ["cpu"]
stall_seconds = 10
[bus]
kind = "none"
[road]
register_long_side_px = 160
overlay_long_side_px = 200
[road.register]
search_long_side_px = 48
search_angle_step_deg = 30.0
search_candidates = 2
finest_factor = 1
iterations_per_level = 10
nonrigid_iterations = 4
cycle_check = false
"#
    )
}
