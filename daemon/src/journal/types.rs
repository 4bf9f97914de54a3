//! What the journal is asked and what it answers.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::SystemTime;

use rusqlite::ErrorCode;
use serde::{Deserialize, Serialize, Serializer};
use tissuemap::section_set::SetKey;

use super::Contents;
use crate::job::Fault;

/// Names a job as long as its journal lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(pub i64);

impl Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It will be processed.
    Requested,
    Running,
    /// Its results lie beside its slides.
    Done,
    /// It will be tried again after a while.
    Failed,
    /// It failed too often and is left alone until its slides change or a person asks for it.
    Quarantined,
    /// A person does not want it.
    Cancelled,
    /// Slides of it are not there any more.
    Gone,
}

impl JobState {
    pub(super) const ALL: [Self; 7] =
        [Self::Requested, Self::Running, Self::Done, Self::Failed, Self::Quarantined, Self::Cancelled, Self::Gone];

    /// Those of jobs that are neither done nor gone.
    pub const OPEN: [Self; 5] = [Self::Requested, Self::Running, Self::Failed, Self::Quarantined, Self::Cancelled];

    /// The word in the journal and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Cancelled => "cancelled",
            Self::Gone => "gone",
        }
    }
}

impl Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for JobState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why a job is in its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// In plain words; may be empty. What an older version wrote of a fault is such words too.
    Words(String),
    Fault(Fault),
}

impl Reason {
    /// The fault, or one that these words tell.
    pub fn into_fault(self) -> Fault {
        match self {
            Self::Words(words) => Fault::plain(words),
            Self::Fault(fault) => fault,
        }
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => words.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl From<&str> for Reason {
    fn from(words: &str) -> Self {
        Self::Words(words.into())
    }
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// As it is told.
impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the journal knows of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRow {
    pub id: JobId,
    /// The watch folder.
    pub folder: String,
    pub set: SetKey,
    pub state: JobState,
    /// Tries that began with the slides and the model as they are now.
    pub attempts: u32,
    /// When a failed job is tried again.
    pub not_before: Option<SystemTime>,
    /// Why the job is in its state.
    pub reason: Reason,
}

/// One line of a job's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub at: SystemTime,
    /// None for the first.
    pub from: Option<JobState>,
    pub to: JobState,
    pub reason: Reason,
}

/// Finished work that a job may prove to repeat: which slides it was done on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub job: JobId,
    pub set: SetKey,
    /// Stain to path and content of the slide.
    pub slides: BTreeMap<String, (PathBuf, String)>,
}

/// A change of a job's state.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// This try begins, counted from 1, with the model of this hash.
    Begun {
        attempt: u32,
        model: String,
    },
    /// The try does not count; the job waits as before it.
    PutBack {
        reason: Reason,
    },
    /// Results are there, of slides with these contents (where they could be read).
    Done {
        contents: Contents,
        reason: String,
    },
    /// It will be tried again.
    Failed {
        attempts: u32,
        not_before: SystemTime,
        fault: Fault,
    },
    /// It will not be tried again.
    Quarantined {
        attempts: u32,
        fault: Fault,
    },
    Cancelled {
        reason: String,
    },
    /// A person asks for it, whatever happened before.
    Retried,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("state folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("journal {}: in use by another tissuemapd", path.display())]
    InUse { path: PathBuf },
    #[error("journal {}: {source}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("journal {}: damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
}

impl JournalError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Folder { .. } => Some("make it writable for tissuemapd, or set `state_folder`"),
            Self::InUse { .. } => Some("stop that one, or give this one a `state_folder` of its own"),
            Self::Sqlite { .. } | Self::Damaged { .. } => None,
        }
    }

    /// Whether there was no room for the change; it can be repeated.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. } if source.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}
