//! The daemon's memory: what was asked of it, how often it tried, and what became of it (hazards h05, h08).
//!
//! One row a job; a job is one section set of one watch folder. Every change of its state is one transaction, which also
//! adds a line to the history, and is on the disk when the call returns (`synchronous = FULL`).
//!
//! ```text
//!             ┌──────── put back: crash, drain, disk full ─┐
//!             ▼                                            │
//!  ──► Requested ──► Running ──► Done                      │
//!         ▲   ▲         ├──────────────────────────────────┘
//!         │   └─ wait ──┴─► Failed ──► Quarantined (given up)
//!         └── other slides, a person's word, or (where it was not done) another model; from any state
//! ```
//!
//! **Invariant:** the results beside the slides say what is done ([`crate::done`]); the journal says what was tried. So a
//! journal that is lost costs memory of failures and of renamed slides, and no result is made twice.

mod damage;
mod inputs;
mod schema;
mod types;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tissuemap::section_set::SetKey;

use crate::job::{Fault, FaultKind};

use self::damage::Loss;
pub use self::inputs::{Contents, Input, Inputs, contents, inputs};
pub use self::types::{Change, Entry, JobId, JobRow, JobState, JournalError, Past, Reason};

/// The journal file, locked against other processes as long as this value lives.
#[derive(Debug)]
pub struct Journal {
    db: Connection,
    path: PathBuf,
    loss: Option<Loss>,
}

type SqlResult<T> = Result<T, rusqlite::Error>;

impl Journal {
    /// Name of the file in the state folder.
    pub const FILE: &str = "journal.sqlite";

    /// Opens the journal in this folder, or makes both. A journal that cannot be read is moved aside and begun anew. Jobs
    /// that were running when the daemon ended are requested again.
    ///
    /// # Errors
    /// Another process holds it, or the folder cannot be written to.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let trouble = |source| JournalError::Folder { path: folder.into(), source };
        fs::create_dir_all(folder).map_err(trouble)?;
        let path = folder.join(Self::FILE);
        let (db, loss) = damage::open(&path)?;
        let mut journal = Self { db, path, loss };
        journal.write(|change| put_back_all(change, "the daemon ended during the job"))?;
        Ok(journal)
    }

    /// Where the damaged journal lies that this one replaces.
    pub fn moved_aside(&self) -> Option<&Path> {
        match &self.loss {
            Some(Loss::MovedAside(aside)) => Some(aside),
            Some(Loss::Missing { .. }) | None => None,
        }
    }

    /// What an earlier daemon knew and this journal does not, and what a person can do; none where nothing is lost.
    pub fn loss(&self) -> Option<Fault> {
        const FORGOTTEN: &str = "failures, quarantine, cancelled jobs and a pause are forgotten";
        let (reason, hint) = match self.loss.as_ref()? {
            Loss::MovedAside(aside) => (
                format!("journal: damaged, moved to {}, and made anew: {FORGOTTEN}", aside.display()),
                "check the disk",
            ),
            Loss::Missing { trace } => {
                let reason =
                    format!("journal: {} is missing, although there is {}", self.path.display(), trace.display());
                (format!("{reason}; it was made anew: {FORGOTTEN}"), "see who removed it; pause again if it was paused")
            }
        };
        Some(Fault::new(reason, hint))
    }

    /// Asks for a set to be processed as its slides are now. A job that was done, given up or cancelled keeps that state
    /// as long as its slides do not change; any other is requested. Another model is a reason to try again what was given
    /// up; what was done with the one before stays done, unless it is to be `renew`ed.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn request(
        &mut self,
        folder: &Path,
        set: &SetKey,
        model: &str,
        renew: bool,
        now: &Inputs,
    ) -> Result<(JobRow, Contents), JournalError> {
        let folder = folder.to_string_lossy();
        self.write(|tx| {
            let block = set.block.as_deref().unwrap_or_default();
            let known: Option<(i64, String)> = tx
                .prepare("SELECT id, model FROM jobs WHERE folder = ?1 AND case_name = ?2 AND block = ?3")?
                .query_row(params![folder, set.case, block], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, known_model)) = known else {
                tx.execute(
                    "INSERT INTO jobs (folder, case_name, block, state, attempts, model, reason)
                     VALUES (?1, ?2, ?3, 'requested', 0, ?4, '')",
                    params![folder, set.case, block, model],
                )?;
                let id = tx.last_insert_rowid();
                inputs::replace(tx, id, now)?;
                remember(tx, id, None, JobState::Requested, &"".into())?;
                return Ok((row(tx, id)?, Contents::new()));
            };
            let before = inputs::read(tx, id)?;
            let contents = inputs::still_known(&before, now);
            let old = row(tx, id)?;
            let reason = if !inputs::same(&before, now) {
                "its slides changed"
            } else if known_model != model && (renew || !matches!(old.state, JobState::Done | JobState::Cancelled)) {
                "another model"
            } else if old.state == JobState::Gone {
                return come_back(tx, JobId(id)).map(|row| (row, contents));
            } else {
                return Ok((old, contents));
            };
            inputs::replace(tx, id, now)?;
            tx.execute("UPDATE jobs SET model = ?2 WHERE id = ?1", params![id, model])?;
            set_state(tx, JobId(id), JobState::Requested, Some(0), None, &reason.into())?;
            Ok((row(tx, id)?, contents))
        })
    }

    /// Writes down a change of a job's state.
    ///
    /// # Errors
    /// The journal cannot be written; then nothing of the change is.
    pub fn apply(&mut self, job: JobId, change: &Change) -> Result<(), JournalError> {
        self.write(|tx| match change {
            Change::Begun { attempt, model } => {
                // From here on, what lies beside the slides may be of this try.
                inputs::forget_result(tx, job.0)?;
                tx.execute("UPDATE jobs SET model = ?2 WHERE id = ?1", params![job.0, model])?;
                set_state(tx, job, JobState::Running, Some(*attempt), None, &Reason::Words(format!("try {attempt}")))
            }
            Change::PutBack { reason } => put_back(tx, job, reason),
            Change::Done { contents, reason } => {
                inputs::keep_result(tx, job.0, contents)?;
                set_state(tx, job, JobState::Done, None, None, &reason.as_str().into())
            }
            Change::Failed { attempts, not_before, fault } => {
                set_state(tx, job, JobState::Failed, Some(*attempts), Some(*not_before), &fault.clone().into())
            }
            Change::Quarantined { attempts, fault } => {
                set_state(tx, job, JobState::Quarantined, Some(*attempts), None, &fault.clone().into())
            }
            Change::Cancelled { reason } => {
                set_state(tx, job, JobState::Cancelled, None, None, &reason.as_str().into())
            }
            Change::Retried => set_state(tx, job, JobState::Requested, Some(0), None, &"asked for".into()),
        })
    }

    /// Notes which unfinished jobs of a folder miss slides, given all slides that are there.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub fn withdraw_missing(&mut self, folder: &Path, there: &BTreeSet<String>) -> Result<usize, JournalError> {
        let missing: BTreeSet<i64> = {
            let mut query = self.prepare(
                "SELECT job, slide FROM inputs JOIN jobs ON jobs.id = job
                 WHERE folder = ?1 AND state IN ('requested', 'failed', 'quarantined', 'cancelled')",
            )?;
            let rows = query.query_map([folder.to_string_lossy()], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
            let rows: SqlResult<Vec<(i64, String)>> = rows.and_then(Iterator::collect);
            let rows = rows.map_err(|source| self.error(source))?;
            rows.into_iter().filter(|(_, slide)| !there.contains(slide)).map(|(job, _)| job).collect()
        };
        if missing.is_empty() {
            return Ok(0);
        }
        self.write(|tx| {
            for job in &missing {
                set_state(tx, JobId(*job), JobState::Gone, None, None, &"slides of it are gone".into())?;
            }
            Ok(missing.len())
        })
    }

    /// All jobs that are neither done nor gone, by id.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn open_jobs(&self) -> Result<Vec<JobRow>, JournalError> {
        let mut query = self.prepare(&format!("{SELECT_ROW} WHERE state NOT IN ('done', 'gone') ORDER BY id"))?;
        let rows = query.query_map([], read_row).and_then(Iterator::collect);
        rows.map_err(|source| self.error(source))
    }

    /// One job; none of this id is `None`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn job(&self, id: JobId) -> Result<Option<JobRow>, JournalError> {
        row(&self.db, id.0).optional().map_err(|source| self.error(source))
    }

    /// The job of a set.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn job_of(&self, folder: &Path, set: &SetKey) -> Result<Option<JobRow>, JournalError> {
        let sql = format!("{SELECT_ROW} WHERE folder = ?1 AND case_name = ?2 AND block = ?3");
        let block = set.block.as_deref().unwrap_or_default();
        let key = params![folder.to_string_lossy(), set.case, block];
        self.prepare(&sql)?.query_row(key, read_row).optional().map_err(|source| self.error(source))
    }

    /// What happened to a job, oldest first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn history(&self, id: JobId) -> Result<Vec<Entry>, JournalError> {
        let mut query = self.prepare(&format!(
            "SELECT at_ms, from_state, to_state, {REASON} FROM history WHERE job = ?1 ORDER BY rowid"
        ))?;
        let read = |row: &Row| {
            let from = row.get::<_, Option<String>>(1)?.map(|_| state(row, 1)).transpose()?;
            Ok(Entry { at: from_ms(row.get(0)?), from, to: state(row, 2)?, reason: read_reason(row, 3)? })
        };
        query.query_map([id.0], read).and_then(Iterator::collect).map_err(|source| self.error(source))
    }

    /// Work done with this model, or with any, on slides of together so many bytes, newest first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn past(&self, model: Option<&str>, bytes: u64) -> Result<Vec<Past>, JournalError> {
        inputs::past(&self.db, model, bytes).map_err(|source| self.error(source))
    }

    /// Whether a person has paused the daemon.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn paused(&self) -> Result<bool, JournalError> {
        let query = self.db.query_row("SELECT paused FROM daemon", [], |row| row.get(0));
        query.map_err(|source| self.error(source))
    }

    /// Notes that a person has paused the daemon, or let it go on.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn set_paused(&mut self, paused: bool) -> Result<(), JournalError> {
        self.write(|tx| tx.execute("UPDATE daemon SET paused = ?1", [paused]).map(drop))
    }

    fn prepare(&self, sql: &str) -> Result<rusqlite::Statement<'_>, JournalError> {
        self.db.prepare(sql).map_err(|source| self.error(source))
    }

    fn write<T>(&mut self, change: impl FnOnce(&Transaction) -> SqlResult<T>) -> Result<T, JournalError> {
        let begun = self.db.transaction_with_behavior(TransactionBehavior::Immediate);
        let outcome = begun.and_then(|tx| {
            let outcome = change(&tx)?;
            tx.commit()?;
            Ok(outcome)
        });
        outcome.map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> JournalError {
        JournalError::Sqlite { path: self.path.clone(), source }
    }
}

/// The columns that [`read_reason`] reads.
const REASON: &str = "reason, kind, hint, rule";

const SELECT_ROW: &str =
    "SELECT id, folder, case_name, block, state, attempts, not_before_ms, reason, kind, hint, rule FROM jobs";

fn row(db: &Connection, id: i64) -> SqlResult<JobRow> {
    db.prepare(&format!("{SELECT_ROW} WHERE id = ?1"))?.query_row([id], read_row)
}

fn read_row(row: &Row) -> SqlResult<JobRow> {
    Ok(JobRow {
        id: JobId(row.get(0)?),
        folder: row.get(1)?,
        set: set_key(row, 2)?,
        state: state(row, 4)?,
        attempts: row.get(5)?,
        not_before: row.get::<_, Option<i64>>(6)?.map(from_ms),
        reason: read_reason(row, 7)?,
    })
}

/// The columns [`REASON`] from this one on. A reason that is no fault has no kind.
fn read_reason(row: &Row, column: usize) -> SqlResult<Reason> {
    let words: String = row.get(column)?;
    let Some(kind) = row.get::<_, Option<String>>(column + 1)? else { return Ok(Reason::Words(words)) };
    let (hint, rule): (Option<String>, Option<String>) = (row.get(column + 2)?, row.get(column + 3)?);
    let mut fault = Fault::plain(words).with_kind(FaultKind::of_word(&kind));
    fault = hint.map_or(fault.clone(), |hint| fault.or_hint(hint));
    Ok(Reason::Fault(rule.map_or(fault.clone(), |rule| fault.with_id(rule))))
}

/// What is written into the columns [`REASON`].
fn reason_columns(reason: &Reason) -> (&str, Option<&str>, Option<&str>, Option<&str>) {
    match reason {
        Reason::Words(words) => (words, None, None, None),
        Reason::Fault(fault) => (fault.reason(), Some(fault.kind().as_str()), fault.hint(), fault.id()),
    }
}

/// The columns `case_name` and `block`; a set without a block has an empty one, so that it can be part of a key.
fn set_key(row: &Row, column: usize) -> SqlResult<SetKey> {
    let block: String = row.get(column + 1)?;
    Ok(SetKey { case: row.get(column)?, block: Some(block).filter(|block| !block.is_empty()) })
}

fn state(row: &Row, column: usize) -> SqlResult<JobState> {
    let word: String = row.get(column)?;
    let unknown = || rusqlite::Error::InvalidColumnType(column, word.clone(), rusqlite::types::Type::Text);
    JobState::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(unknown)
}

fn set_state(
    tx: &Transaction,
    job: JobId,
    to: JobState,
    attempts: Option<u32>,
    not_before: Option<SystemTime>,
    reason: &Reason,
) -> SqlResult<()> {
    let from = row(tx, job.0)?.state;
    let (words, kind, hint, rule) = reason_columns(reason);
    tx.execute(
        "UPDATE jobs SET state = ?2, attempts = ifnull(?3, attempts), not_before_ms = ?4, reason = ?5, kind = ?6,
             hint = ?7, rule = ?8 WHERE id = ?1",
        params![job.0, to.as_str(), attempts, not_before.map(ms), words, kind, hint, rule],
    )?;
    remember(tx, job.0, Some(from), to, reason)
}

/// Slides that were away (a share that was not mounted, say) are back as they were: a job that was given up or cancelled
/// still is.
fn come_back(tx: &Transaction, job: JobId) -> SqlResult<JobRow> {
    let sql = "SELECT from_state FROM history WHERE job = ?1 AND to_state = 'gone' ORDER BY rowid DESC LIMIT 1";
    let before = tx.query_row(sql, [job.0], |row| state(row, 0))?;
    if matches!(before, JobState::Quarantined | JobState::Cancelled) {
        let sql = format!("SELECT {REASON} FROM history WHERE job = ?1 AND to_state = ?2 ORDER BY rowid DESC LIMIT 1");
        let reason = tx.query_row(&sql, params![job.0, before.as_str()], |row| read_reason(row, 0))?;
        set_state(tx, job, before, None, None, &reason)?;
    } else {
        set_state(tx, job, JobState::Requested, Some(0), None, &"its slides are back".into())?;
    }
    row(tx, job.0)
}

fn put_back(tx: &Transaction, job: JobId, reason: &Reason) -> SqlResult<()> {
    let before = row(tx, job.0)?;
    let uncounted = before.attempts.saturating_sub(u32::from(before.state == JobState::Running));
    set_state(tx, job, JobState::Requested, Some(uncounted), None, reason)
}

fn put_back_all(tx: &Transaction, reason: &str) -> SqlResult<()> {
    let mut query = tx.prepare("SELECT id FROM jobs WHERE state = 'running'")?;
    let running: Vec<i64> = query.query_map([], |row| row.get(0))?.collect::<SqlResult<_>>()?;
    running.into_iter().try_for_each(|job| put_back(tx, JobId(job), &reason.into()))
}

fn remember(tx: &Transaction, job: i64, from: Option<JobState>, to: JobState, reason: &Reason) -> SqlResult<()> {
    let (words, kind, hint, rule) = reason_columns(reason);
    tx.execute(
        "INSERT INTO history (job, at_ms, from_state, to_state, reason, kind, hint, rule)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![job, ms(SystemTime::now()), from.map(JobState::as_str), to.as_str(), words, kind, hint, rule],
    )?;
    Ok(())
}

/// Milliseconds since 1970.
fn ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

fn from_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.max(0) as u64)
}

#[cfg(test)]
mod tests;
