//! Opening a journal that may be damaged (hazard h08).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi};
use tissuemap::durable::{rename_new, sync_folder};

use tissuemap::untrusted::{self, UntrustedError};

use super::JournalError;
use super::schema;
use crate::aside::{aside, with_suffix};

/// How long another daemon that is just ending may still hold the journal.
const PATIENCE: Duration = Duration::from_secs(2);

/// What SQLite keeps beside the file.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What lies in the state folder of a daemon that has run before, beside the journal.
const TRACES: [&str; 2] = [crate::models::FILE, crate::audit::Audit::FILE];

/// What became of the memory of an earlier daemon that this journal does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// It was damaged, and lies there now.
    MovedAside(PathBuf),
    /// It is gone, although a daemon has run with this state folder: here is what it left.
    Missing { trace: PathBuf },
}

/// Opens or makes the journal; also tells what is lost.
pub(super) fn open(path: &Path) -> Result<(Connection, Option<Loss>), JournalError> {
    let size = path.metadata().map(|what| what.len());
    // SQLite takes a file without bytes for a new one, and its log for a stranger's.
    let opened = match size {
        Ok(0) => Err(JournalError::Damaged { path: path.into(), reason: "the file is empty".into() }),
        _ => connect(path, size.is_ok()),
    };
    let reason = match opened {
        Err(JournalError::Damaged { reason, .. }) => reason,
        outcome => {
            let trace = size.is_err().then(|| trace_beside(path)).flatten();
            if let Some(trace) = &trace {
                tracing::error!(
                    journal = %path.display(), trace = %trace.display(),
                    "JOURNAL MISSING, although a daemon has run here before; a new one is made from what lies beside the \
                     slides. Failures, quarantine, cancelled jobs and a pause are forgotten; hint: see who removed it"
                );
            }
            return outcome.map(|db| (db, trace.map(|trace| Loss::Missing { trace })));
        }
    };
    let aside = move_aside(path).map_err(|source| JournalError::Folder { path: path.into(), source })?;
    tracing::error!(
        journal = %path.display(), reason, moved_to = %aside.display(),
        "JOURNAL DAMAGED and moved aside; a new one is made from what lies beside the slides. Failures, quarantine, \
         cancelled jobs and a pause are forgotten; hint: check the disk (`dmesg`, `smartctl`)"
    );
    connect(path, false).map(|db| (db, Some(Loss::MovedAside(aside))))
}

fn trace_beside(journal: &Path) -> Option<PathBuf> {
    TRACES.iter().map(|name| journal.with_file_name(name)).find(|trace| trace.exists())
}

/// Opens the journal and makes sure that it is whole, which takes milliseconds for thousands of jobs. One that was there
/// before has its tables.
fn connect(path: &Path, was_there: bool) -> Result<Connection, JournalError> {
    let damaged = |reason| JournalError::Damaged { path: path.into(), reason };
    let judge = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => JournalError::InUse { path: path.into() },
        // Not the content's fault: another file in its place would fare no better.
        Some(ErrorCode::DiskFull) => JournalError::Sqlite { path: path.into(), source },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) if !is_writable(path) => {
            JournalError::Sqlite { path: path.into(), source }
        }
        _ => damaged(source.to_string()),
    };
    if let Err(error @ UntrustedError::NotRegular { .. }) = untrusted::check(path) {
        return Err(damaged(error.to_string()));
    }
    let mut db = Connection::open(path).map_err(judge)?;
    let problem = prepare(&mut db, was_there).map_err(judge)?;
    if db.is_readonly("main").map_err(judge)? {
        // The format has a mark for this, which a single bit sets.
        return Err(judge(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None)));
    }
    problem.map_or(Ok(db), |reason| Err(damaged(reason)))
}

fn is_writable(path: &Path) -> bool {
    File::options().read(true).write(true).open(path).is_ok()
}

/// Gives what is wrong with the content, if anything is.
fn prepare(db: &mut Connection, was_there: bool) -> rusqlite::Result<Option<String>> {
    db.busy_timeout(PATIENCE)?;
    // One daemon, one journal: the lock is taken with the first read and kept, and no shared memory is needed.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let version: u32 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let empty: bool = tx.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && empty && was_there {
        return Ok(Some("it has no tables".into()));
    }
    if version == 0 && empty {
        schema::upgrade(&tx, version)?;
        tx.commit()?;
        return Ok(None);
    }
    if !(1..=schema::VERSION).contains(&version) {
        return Ok(Some(format!("version {version} of the tables, this program knows {}", schema::VERSION)));
    }
    if schema::written(&tx)? != schema::expected(version)? {
        return Ok(Some("the tables are not those of this version".into()));
    }
    let check: String = tx.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    if check != "ok" {
        return Ok(Some(check.replace('\n', ", ")));
    }
    let strangers: i64 = tx.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))?;
    if strangers > 0 {
        return Ok(Some(format!("{strangers} rows belong to no job")));
    }
    // Text that is no UTF-8 passes the checks above, and would be met only when it is read.
    for table in ["daemon", "jobs", "inputs", "results", "result_inputs", "history"] {
        let mut query = tx.prepare(&format!("SELECT * FROM {table}"))?;
        let columns = query.column_count();
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                row.get::<_, rusqlite::types::Value>(column)?;
            }
        }
    }
    let paused_known: bool = tx.query_row("SELECT count(*) = 1 FROM daemon", [], |row| row.get(0))?;
    if !paused_known {
        return Ok(Some("the daemon's own row is missing".into()));
    }
    schema::upgrade(&tx, version)?;
    tx.commit()?;
    Ok(None)
}

/// Renames the journal and what belongs to it, so that it can be looked at later.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = aside(path);
    for suffix in COMPANIONS.iter().copied().chain([""]) {
        match rename_new(&with_suffix(path, suffix), &with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    path.parent().map_or(Ok(()), sync_folder)?;
    Ok(aside)
}
