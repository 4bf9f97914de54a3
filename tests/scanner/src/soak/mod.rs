//! A real daemon for hours, with people and faults at it: nothing may grow, nothing be lost, nothing be done twice.
//!
//! ```text
//!  sets (bring ─► await ─► disturb ─► verify ─► put away), several at a time ─┐
//!  faults (kills, stops, folders that go, full disks, models), one at a time ─┼─► book, samples ─► report
//!  sampler (memory, descriptors, threads, files), every ten seconds ──────────┘
//! ```
//!
//! In the second half the daemon's own process is not killed any more, only its workers: growth shows in one process.

mod book;
mod daemon;
mod faults;
mod models;
mod sampler;
mod sets;
mod site;
mod tissue;
mod trend;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::book::Book;
use self::daemon::{Daemon, processes};
use self::faults::Troublemaker;
use self::models::Models;
use self::sampler::Sample;
use self::sets::World;
use self::site::{LOCK, Site};

pub(crate) use self::tissue::section;

/// Between two looks at what the daemon holds.
const SAMPLE: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    pub time: Duration,
    pub seed: u64,
    /// Sets at a time.
    pub parallel: u64,
    /// The program `tissuemapd`.
    pub program: PathBuf,
    /// A new or empty folder for everything, the report among it.
    pub folder: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// Empty is what is wanted.
    pub wrong: Vec<String>,
}

/// Lets a daemon work for so long, and leaves `samples.csv`, `events.txt` and `summary.txt` in the folder. It mounts file
/// systems there, where it may.
///
/// # Errors
/// The soak could not be carried out. What the daemon did wrong is in the report.
pub fn soak(wish: &Wish) -> anyhow::Result<Report> {
    let site = Site::new(&wish.folder, &wish.program)?;
    let book = Book::new(&site.state().join("audit.jsonl"));
    if !site.mounted {
        book.note("SKIPPED: full disks and mounts: this user may not mount");
    }
    let models = Models::default();
    models.drop_good(&site, 0)?;
    let daemon = Daemon::start(&site)?;
    let samples = work(wish, &site, &daemon, &book, &models)?;
    finish(&site, &daemon, &book);
    report(wish, &book, &samples)
}

/// Sets, faults and looks, until the time is over.
fn work(wish: &Wish, site: &Site, daemon: &Daemon, book: &Book, models: &Models) -> anyhow::Result<Vec<Sample>> {
    let (end, over, next) = (Instant::now() + wish.time, AtomicBool::new(false), AtomicU64::new(1));
    let samples = Mutex::new(Vec::new());
    let world = World { site, book, models, seed: wish.seed, over: &over };
    let live = || {
        while Instant::now() < end && !over.load(Ordering::Relaxed) {
            world.live(next.fetch_add(1, Ordering::Relaxed))?;
        }
        anyhow::Ok(())
    };
    let look = || {
        let mut at = Instant::now();
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            daemon.revive(site)?;
            if at.elapsed() >= SAMPLE {
                at = Instant::now();
                samples.lock().unwrap_or_else(PoisonError::into_inner).extend(Sample::take(site, daemon, book));
            }
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let lives: Vec<_> = (0..wish.parallel.max(1)).map(|_| scope.spawn(live)).collect();
        let look = scope.spawn(look);
        let rng = ChaCha8Rng::seed_from_u64(wish.seed);
        let mut trouble = Troublemaker { site, daemon, book, models, rng, number: 0 };
        let alive = || !lives.iter().all(std::thread::ScopedJoinHandle::is_finished);
        let mut outcome = Ok(());
        while outcome.is_ok() && Instant::now() < end && alive() {
            let spare = Instant::now() + wish.time / 2 > end;
            outcome = trouble.strike(spare);
        }
        if outcome.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        // The last sets are not disturbed.
        while alive() {
            std::thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        for life in lives {
            life.join().map_err(|_| anyhow!("a set panicked"))??;
        }
        look.join().map_err(|_| anyhow!("the sampler panicked"))??;
        outcome
    })?;
    Ok(samples.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The daemon ends as it is asked to, and nothing of it is left.
fn finish(site: &Site, daemon: &Daemon, book: &Book) {
    std::thread::sleep(Duration::from_secs(3));
    match daemon.stop() {
        Ok(status) if status.success() => {}
        Ok(status) => book.wrong(format!("after SIGTERM the daemon ended with {status}")),
        Err(error) => book.wrong(error.to_string()),
    }
    for status in daemon.unexpected() {
        book.wrong(format!("the daemon ended by itself: {status}"));
    }
    let orphans = processes(site);
    if !orphans.is_empty() {
        book.wrong(format!("ORPHANS: processes {orphans:?} outlive their daemon"));
    }
    let left: Vec<String> = fs::read_dir(site.incoming())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != LOCK)
        .collect();
    if !left.is_empty() {
        book.wrong(format!("left in the watched folder, after every set was put away: {left:?}"));
    }
    let log = fs::read(site.path("daemon.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let bugs: Vec<&str> =
        log.lines().filter(|line| line.contains("panicked") || line.contains("internal error")).collect();
    for line in bugs.iter().take(20) {
        book.wrong(format!("in the log: {line}"));
    }
}

fn report(wish: &Wish, book: &Book, samples: &[Sample]) -> anyhow::Result<Report> {
    let growth = sampler::judge(samples, book);
    let stories = book.stories();
    let lines = |title: &str, items: &mut dyn Iterator<Item = String>| {
        let items: Vec<String> = items.map(|item| format!("  {item}\n")).collect();
        format!("{title}: {}\n{}", items.len(), items.concat())
    };
    let events = book.events();
    let faults = count(events.iter().map(|(_, event)| kind(event)));
    let wrong = book.all_wrong();
    let text = format!(
        "soak of {:.0} s, seed {}, {} sets at a time: {} sets\n{}{}{}{}",
        book.seconds(),
        wish.seed,
        wish.parallel,
        stories.values().sum::<u64>(),
        lines("kinds of sets", &mut stories.iter().map(|(story, times)| format!("{story}: {times}"))),
        lines("kinds of faults", &mut faults.iter().map(|(kind, times)| format!("{kind}: {times}"))),
        lines("figures", &mut growth.into_iter()),
        lines("WRONG", &mut wrong.iter().cloned()),
    );
    let write = |name: &str, content: &str| {
        let path = wish.folder.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())
    };
    write("summary.txt", &text)?;
    write("events.txt", &events.iter().map(|(at, event)| format!("{at:8.1} {event}\n")).collect::<Vec<_>>().concat())?;
    sampler::write(&wish.folder.join("samples.csv"), samples)?;
    Ok(Report { text, wrong })
}

/// An event without its numbers.
fn kind(event: &str) -> String {
    let words = event.split(' ').filter(|word| !word.chars().any(|c| c.is_ascii_digit()));
    let all = words.collect::<Vec<_>>().join(" ");
    if all.starts_with("WRONG") { "WRONG".into() } else { all }
}

fn count(kinds: impl Iterator<Item = String>) -> std::collections::BTreeMap<String, u64> {
    let mut counted = std::collections::BTreeMap::new();
    kinds.filter(|kind| kind != "WRONG").for_each(|kind| *counted.entry(kind).or_default() += 1);
    counted
}

/// The daemon's program beside this one.
///
/// # Errors
/// This program does not know its own path.
pub fn program_beside() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().unwrap_or(Path::new(".")).join("tissuemapd"))
}
