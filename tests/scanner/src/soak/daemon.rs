//! The daemon under test, and all processes that belong to it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::site::Site;

/// A daemon that is started again when it was killed.
pub(super) struct Daemon {
    child: Mutex<Option<Child>>,
    /// How often it ended although nobody had killed it.
    unexpected: Mutex<Vec<String>>,
}

impl Daemon {
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(site: &Site) -> anyhow::Result<Self> {
        Ok(Self { child: Mutex::new(Some(spawn(site)?)), unexpected: Mutex::default() })
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None while it is being started again.
    pub(super) fn id(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Kills it with a signal that it cannot see, and starts it again after a while.
    ///
    /// # Errors
    /// It cannot be started again.
    pub(super) fn kill(&self, site: &Site, pause: Duration) -> anyhow::Result<()> {
        let mut child = self.child();
        if let Some(mut killed) = child.take() {
            killed.kill()?;
            killed.wait()?;
        }
        std::thread::sleep(pause);
        *child = Some(spawn(site)?);
        Ok(())
    }

    /// Starts it again, as a service manager would, if it has ended by itself, and notes that.
    ///
    /// # Errors
    /// It cannot be started again.
    pub(super) fn revive(&self, site: &Site) -> anyhow::Result<()> {
        let mut child = self.child();
        if let Some(status) = child.as_mut().and_then(|child| child.try_wait().transpose()).transpose()? {
            self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).push(status.to_string());
            std::thread::sleep(Duration::from_secs(1));
            *child = Some(spawn(site)?);
        }
        Ok(())
    }

    /// How it ended each time that nobody had killed it.
    pub(super) fn unexpected(&self) -> Vec<String> {
        self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to end, as a service manager does.
    ///
    /// # Errors
    /// It does not end within a minute; then it is killed.
    pub(super) fn stop(&self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child().take().context("it does not run")?;
        signal(child.id(), Signal::TERM);
        let end = Instant::now() + Duration::from_mins(1);
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        anyhow::bail!("it did not end within a minute after SIGTERM")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(site: &Site) -> anyhow::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).open(site.path("daemon.log"))?;
    let mut command = Command::new(site.program());
    command.args(["run", "--config"]).arg(site.path("tissuemapd.toml")).stderr(log).env("RUST_LOG", "info");
    command.spawn().with_context(|| site.program().display().to_string())
}

/// Sends a signal; a process that has gone meanwhile is no error.
pub(super) fn signal(process: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(process as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// All living processes that run the program of this site.
pub(super) fn processes(site: &Site) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| runs(*id, &site.program())).collect()
}

fn runs(process: u32, program: &Path) -> bool {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let zombie = fs::read_to_string(folder.join("stat")).map_or(true, |stat| {
        stat.rsplit_once(')').is_none_or(|(_, rest)| matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X')))
    });
    !zombie && fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == program)
}
