//! What is done to the daemon while it works.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;

use super::book::Book;
use super::daemon::{Daemon, processes, signal};
use super::models::Models;
use super::site::{LOCK, Site};

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillDaemon,
    StopDaemon,
    KillWorker,
    StopWorker,
    /// The watched folder is empty or missing for a while, then the same as before.
    AwayAndBack,
    /// The watched folder is another one, with the same slides in it.
    MadeAnew,
    FullSlides,
    FullState,
    GoodModel,
    BadModel,
}

/// Each as often as it stands here; for the first half of a soak.
const ALL: [Fault; 14] = [
    Fault::KillDaemon,
    Fault::KillDaemon,
    Fault::StopDaemon,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::StopWorker,
    Fault::AwayAndBack,
    Fault::AwayAndBack,
    Fault::MadeAnew,
    Fault::FullSlides,
    Fault::FullState,
    Fault::GoodModel,
    Fault::BadModel,
];

/// Who is in trouble.
pub(super) struct Troublemaker<'a> {
    pub(super) site: &'a Site,
    pub(super) daemon: &'a Daemon,
    pub(super) book: &'a Book,
    pub(super) models: &'a Models,
    pub(super) rng: ChaCha8Rng,
    /// Of the last model that was dropped.
    pub(super) number: u64,
}

impl Troublemaker<'_> {
    /// Waits a few seconds, then does something. With `spare`, the daemon's own process is left alive: what it holds is
    /// looked at over a long time.
    ///
    /// # Errors
    /// The soak itself cannot go on.
    pub(super) fn strike(&mut self, spare: bool) -> anyhow::Result<()> {
        std::thread::sleep(Duration::from_millis(self.rng.random_range(500..10_000)));
        let fault = ALL.choose(&mut self.rng).copied().unwrap_or(Fault::KillWorker);
        if (spare && fault == Fault::KillDaemon)
            || (!self.site.mounted && matches!(fault, Fault::FullSlides | Fault::FullState))
        {
            return Ok(());
        }
        let told = self.inflict(fault)?;
        self.book.note(told);
        Ok(())
    }

    fn inflict(&mut self, fault: Fault) -> anyhow::Result<String> {
        let seconds = self.rng.random_range(2..6);
        let pause = Duration::from_secs(seconds);
        Ok(match fault {
            Fault::KillDaemon => self.kill_daemon()?,
            Fault::StopDaemon => {
                let process = self.daemon.id().unwrap_or_default();
                signal(process, Signal::STOP);
                std::thread::sleep(pause);
                signal(process, Signal::CONT);
                format!("daemon stopped for {seconds} s")
            }
            Fault::KillWorker => match self.worker() {
                Some(worker) => {
                    let death = [Signal::KILL, Signal::SEGV, Signal::BUS].choose(&mut self.rng).copied();
                    signal(worker, death.unwrap_or(Signal::KILL));
                    format!("worker {worker} killed by {death:?}")
                }
                None => "no worker to kill".into(),
            },
            Fault::StopWorker => match self.worker() {
                // It is for the daemon to find out.
                Some(worker) => {
                    signal(worker, Signal::STOP);
                    format!("worker {worker} stopped for good")
                }
                None => "no worker to stop".into(),
            },
            Fault::AwayAndBack => self.away_and_back(pause)?,
            Fault::MadeAnew => self.made_anew()?,
            Fault::FullSlides => {
                let _alone = self.site.alone();
                self.fill("slides", pause)?
            }
            Fault::FullState => self.fill("system", pause)?,
            Fault::GoodModel => {
                self.number += 1;
                self.models.exchange(self.site, self.book, self.number)?
            }
            Fault::BadModel => {
                self.number += 1;
                self.models.offer_bad(self.site, self.book, self.number, &mut self.rng)?
            }
        })
    }

    fn kill_daemon(&mut self) -> anyhow::Result<String> {
        let before = processes(self.site);
        self.daemon.kill(self.site, Duration::from_millis(self.rng.random_range(0..2000)))?;
        // Workers see that their supervisor is gone.
        std::thread::sleep(Duration::from_secs(2));
        let left: Vec<u32> = processes(self.site).into_iter().filter(|process| before.contains(process)).collect();
        if !left.is_empty() {
            self.book.wrong(format!("ORPHANS: processes {left:?} outlive their daemon"));
        }
        Ok("daemon killed".into())
    }

    fn worker(&mut self) -> Option<u32> {
        let daemon = self.daemon.id();
        let workers: Vec<u32> = processes(self.site).into_iter().filter(|process| Some(*process) != daemon).collect();
        workers.choose(&mut self.rng).copied()
    }

    /// A share that goes away and comes back: its place is empty, or not there at all.
    fn away_and_back(&mut self, pause: Duration) -> anyhow::Result<String> {
        let _alone = self.site.alone();
        let (place, away) = (self.site.path("slides/incoming"), self.site.path("slides/away"));
        let (incoming, gone) = (self.site.incoming(), self.site.path("gone"));
        let empty: bool = self.rng.random();
        if self.site.mounted {
            self.site.unbind();
        } else {
            fs::rename(&place, &away)?;
        }
        // What now lies in its place.
        let bare = if self.site.mounted { incoming } else { place.clone() };
        match (empty, self.site.mounted) {
            (true, true) | (false, false) => {}
            (true, false) => fs::create_dir(&bare)?,
            (false, true) => fs::rename(&bare, &gone)?,
        }
        std::thread::sleep(pause);
        if !empty && self.site.mounted {
            fs::rename(&gone, &bare)?;
        }
        self.nothing_was_written(&bare)?;
        if self.site.mounted {
            anyhow::ensure!(self.site.bind(), "the watched folder cannot be mounted again");
        } else {
            if empty {
                fs::remove_dir_all(&bare)?;
            }
            fs::rename(&away, &place)?;
        }
        Ok(format!("watched folder {} for {} s", if empty { "empty" } else { "missing" }, pause.as_secs()))
    }

    /// Into the place of a folder that is away, where nobody would ever find it, the daemon has written nothing but its lock.
    fn nothing_was_written(&self, bare: &Path) -> anyhow::Result<()> {
        if !bare.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(bare)? {
            let name = entry?.file_name();
            if name != LOCK {
                self.book.wrong(format!("written into the place of a folder that was away: {}", name.display()));
            }
        }
        Ok(())
    }

    /// A technician renames the folder, makes a new one and moves everything there.
    fn made_anew(&mut self) -> anyhow::Result<String> {
        let _alone = self.site.alone();
        let (place, old) = (self.site.path("slides/incoming"), self.site.path("slides/old"));
        if self.site.mounted {
            self.site.unbind();
        }
        fs::rename(&place, &old)?;
        fs::create_dir(&place)?;
        for entry in fs::read_dir(&old)? {
            let entry = entry?;
            fs::rename(entry.path(), place.join(entry.file_name()))?;
        }
        if fs::remove_dir(&old).is_err() {
            // What the daemon was just writing there.
            let left = fs::read_dir(&old)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            self.book.note(format!("left in the old folder: {:?}", left.collect::<Vec<_>>()));
            fs::remove_dir_all(&old)?;
        }
        if self.site.mounted {
            anyhow::ensure!(self.site.bind(), "the watched folder cannot be mounted again");
        }
        Ok("watched folder made anew".into())
    }

    /// Not a byte is free for a while.
    fn fill(&self, disk: &str, pause: Duration) -> anyhow::Result<String> {
        let ballast = self.site.path(disk).join("ballast");
        let mut file = File::create(&ballast)?;
        let mut piece = vec![0; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        std::thread::sleep(pause);
        fs::remove_file(&ballast)?;
        Ok(format!("disk of {disk} full for {} s", pause.as_secs()))
    }
}
