//! What is written down during a soak: what was done, what was found wrong, and how often each set was processed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// The record of a soak; all its threads write into it.
pub(super) struct Book {
    begun: Instant,
    /// Seconds since the beginning, and what happened then.
    events: Mutex<Vec<(f64, String)>>,
    wrong: Mutex<Vec<String>>,
    stories: Mutex<BTreeMap<String, u64>>,
    /// Sets whose life came to its end.
    pub(super) sets: AtomicU64,
    audit: Mutex<Audit>,
}

/// The daemon's audit log as far as it was read.
struct Audit {
    path: PathBuf,
    read: u64,
    /// Set to how often it was processed to its end.
    done: BTreeMap<String, u64>,
}

impl Book {
    pub(super) fn new(audit: &Path) -> Self {
        let audit = Audit { path: audit.into(), read: 0, done: BTreeMap::new() };
        Self {
            begun: Instant::now(),
            events: Mutex::default(),
            wrong: Mutex::default(),
            stories: Mutex::default(),
            sets: AtomicU64::new(0),
            audit: Mutex::new(audit),
        }
    }

    /// Since the beginning.
    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Something was done to the daemon.
    pub(super) fn note(&self, event: impl Into<String>) {
        lock(&self.events).push((self.seconds(), event.into()));
    }

    /// The daemon did something wrong.
    pub(super) fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("WRONG: {what}"));
        lock(&self.wrong).push(format!("{:.0} s: {what}", self.seconds()));
    }

    /// A set came to the end of its life.
    pub(super) fn lived(&self, story: &str) {
        *lock(&self.stories).entry(story.to_owned()).or_default() += 1;
        self.sets.fetch_add(1, Ordering::Relaxed);
    }

    /// How many sets had each kind of life.
    pub(super) fn stories(&self) -> BTreeMap<String, u64> {
        lock(&self.stories).clone()
    }

    pub(super) fn events(&self) -> Vec<(f64, String)> {
        lock(&self.events).clone()
    }

    pub(super) fn all_wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    /// How often the daemon says that it has processed this set; then it is forgotten.
    pub(super) fn times_done(&self, set: &str) -> u64 {
        let mut audit = lock(&self.audit);
        // What cannot be read now is read the next time.
        let _ = audit.read_on();
        audit.done.remove(set).unwrap_or_default()
    }
}

impl Audit {
    fn read_on(&mut self) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            if let (Some("job"), Some("done"), Some(set)) =
                (line["event"].as_str(), line["outcome"].as_str(), line["set"].as_str())
            {
                *self.done.entry(set.to_owned()).or_default() += 1;
            }
        }
        self.read += whole as u64;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_run_of_a_set_is_counted_once_and_only_from_whole_lines() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("audit.jsonl");
        let book = Book::new(&path);
        assert_eq!(book.times_done("set1"), 0, "no log yet");
        let line =
            |set: &str, outcome: &str| format!("{{\"event\":\"job\",\"set\":\"{set}\",\"outcome\":\"{outcome}\"}}\n");
        let text = [line("set1", "done"), line("set1", "failed"), line("set2", "done"), line("set1", "done")].concat();
        fs::write(&path, &text[..text.len() - 5]).expect("written");
        assert_eq!(book.times_done("set2"), 1);
        fs::write(&path, &text).expect("written");
        assert_eq!(book.times_done("set1"), 2);
        assert_eq!(book.times_done("set1"), 0, "told once");
    }
}
