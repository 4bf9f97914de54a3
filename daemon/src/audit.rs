//! Who asked for what, and what became of every job: one JSON object a line, only ever added to.
//!
//! Every line carries the hash of the one before it, and its own. So a line that was changed, removed or put in between is
//! found by [`verify`], unless everything after it was written anew; against that, note down the last hash from time to
//! time somewhere else.

mod chain;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::chain::{Broken, Verified, verify};
use self::chain::{Link, Tail};
use tissuemap::untrusted;

use crate::aside::move_aside;
use crate::journal::JobId;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Requester {
    /// Somebody on the bus, by the number that the system gives users.
    Uid(u32),
    /// Whoever pushes the button on the machine.
    Button,
    /// Whoever may send signals to the daemon.
    Signal,
    /// The daemon itself, or a part of it.
    Daemon,
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The daemon began to serve.
    Started { version: String, model: String },
    /// The daemon ended as it was asked to.
    Ended,
    /// Somebody asked for something.
    Asked {
        by: Requester,
        action: String,
        /// What it concerns: a slide, a job, a model; may be empty.
        subject: String,
        /// Why it was not granted; none when it was, or when a model must prove itself first.
        refused: Option<String>,
    },
    /// A model has proved itself and serves, was refused, or was given up.
    Model {
        name: String,
        /// SHA-256; none where it was refused before that was known. (`sha256` in a line is that of the line.)
        model: Option<String>,
        /// `serves`, `refused` or `given-up`.
        outcome: String,
        reason: String,
    },
    /// A try came to its end.
    Job(Box<JobEnd>),
    /// The last line was not whole when the daemon started, as after a loss of power, and was removed.
    TornLine { bytes: u64, text: String },
    /// The log before this one could not be gone on with.
    MovedAside { file: PathBuf, reason: String },
}

/// What became of one try of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobEnd {
    pub job: JobId,
    pub set: String,
    /// `done`, `failed`, `quarantined` or `cancelled`.
    pub outcome: String,
    pub reason: String,
    /// SHA-256.
    pub model: String,
    /// Stain to slide and a hash of its content, where it was read.
    pub inputs: BTreeMap<String, (PathBuf, Option<String>)>,
    pub outputs: Vec<PathBuf>,
    pub seconds: f64,
}

/// Why the audit log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("audit log {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl AuditError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        "make its folder writable for tissuemapd, or set `file` in [audit]"
    }
}

/// Entries that wait for room on the disk; beyond that, the oldest are lost, which the gap in the numbers shows.
const UNWRITTEN: usize = 10_000;

/// The log, open at its end.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    last: Link,
    unwritten: VecDeque<(jiff::Timestamp, Event)>,
}

impl Audit {
    /// Its usual name in the state folder.
    pub const FILE: &str = "audit.jsonl";

    /// Opens the log to go on with it, or makes it. A last line that is not whole is removed and noted; a log whose last
    /// line is not ours is moved aside.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |source| AuditError { path: path.into(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let (tail, aside) = match chain::tail(path).map_err(failed)? {
            Ok(tail) => (tail, None),
            Err(broken) => {
                let aside = move_aside(path).map_err(failed)?;
                let reason = broken.to_string();
                tracing::error!(file = %path.display(), moved_to = %aside.display(), reason, "Audit log begun anew");
                (Tail::default(), Some(Event::MovedAside { file: aside, reason }))
            }
        };
        let file = untrusted::append(path).map_err(|error| failed(error.into()))?;
        file.set_len(tail.length).map_err(failed)?;
        let mut audit =
            Self { path: path.into(), file, length: tail.length, last: tail.last, unwritten: VecDeque::new() };
        if !tail.torn.is_empty() {
            let (bytes, text) = (tail.torn.len() as u64, String::from_utf8_lossy(&tail.torn).into_owned());
            tracing::warn!(file = %path.display(), bytes, "The last line of the audit log was not whole");
            audit.add(Event::TornLine { bytes, text });
        }
        aside.into_iter().for_each(|event| audit.add(event));
        Ok(audit)
    }

    /// Adds an entry; it is on the disk when this returns, unless there is no room. Then it is written before the next.
    pub fn add(&mut self, event: Event) {
        let waited = !self.unwritten.is_empty();
        self.unwritten.push_back((jiff::Timestamp::now(), event));
        if self.unwritten.len() > UNWRITTEN {
            self.unwritten.pop_front();
            self.last.number += 1;
        }
        match self.write() {
            Err(error) if !waited => {
                tracing::error!(file = %self.path.display(), reason = %error, "Audit log not written; it waits");
            }
            Ok(()) if waited => tracing::info!(file = %self.path.display(), "Audit log written again"),
            _ => {}
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while let Some((at, event)) = self.unwritten.front() {
            let (line, link) = self.last.next(*at, event)?;
            let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
            if let Err(error) = written {
                // Half a line must not be gone on with.
                self.file.set_len(self.length)?;
                return Err(error);
            }
            self.length += line.len() as u64;
            self.last = link;
            self.unwritten.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
