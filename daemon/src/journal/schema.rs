//! The tables.

use rusqlite::{Connection, Result, Transaction};

/// How the tables came to be: each step leads from the version before to the next, the first from nothing.
const STEPS: [&str; 2] = [TABLES, FAULTS];

/// Of the tables after the last step.
pub(super) const VERSION: u32 = STEPS.len() as u32;

/// Checks are part of the tables because they find damage: SQLite's own check evaluates them for every row.
const TABLES: &str = "
CREATE TABLE daemon (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  paused INTEGER NOT NULL CHECK (paused IN (0, 1))
) STRICT;
INSERT INTO daemon VALUES (1, 0);

CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  folder TEXT NOT NULL,
  case_name TEXT NOT NULL,
  block TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('requested', 'running', 'done', 'failed', 'quarantined', 'cancelled', 'gone')),
  attempts INTEGER NOT NULL CHECK (attempts BETWEEN 0 AND 4294967295),
  not_before_ms INTEGER CHECK (not_before_ms IS NULL OR state = 'failed'),
  model TEXT NOT NULL,
  reason TEXT NOT NULL,
  UNIQUE (folder, case_name, block)
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state) WHERE state NOT IN ('done', 'gone');

CREATE TABLE inputs (
  job INTEGER NOT NULL REFERENCES jobs (id),
  stain TEXT NOT NULL,
  slide TEXT NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  seen TEXT NOT NULL,
  content TEXT,
  PRIMARY KEY (job, stain)
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
  job INTEGER PRIMARY KEY REFERENCES jobs (id),
  model TEXT NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;
CREATE INDEX results_by_size ON results (bytes);

CREATE TABLE result_inputs (
  job INTEGER NOT NULL REFERENCES results (job) ON DELETE CASCADE,
  stain TEXT NOT NULL,
  slide TEXT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (job, stain)
) STRICT, WITHOUT ROWID;

CREATE TABLE history (
  job INTEGER NOT NULL REFERENCES jobs (id),
  at_ms INTEGER NOT NULL,
  from_state TEXT CHECK (from_state IN ('requested', 'running', 'done', 'failed', 'quarantined', 'cancelled', 'gone')),
  to_state TEXT NOT NULL CHECK (to_state IN ('requested', 'running', 'done', 'failed', 'quarantined', 'cancelled', 'gone')),
  reason TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_job ON history (job);
";

/// What is known of a reason that is a fault; `kind` is null for any other reason.
const FAULTS: &str = "
ALTER TABLE jobs ADD COLUMN kind TEXT;
ALTER TABLE jobs ADD COLUMN hint TEXT;
ALTER TABLE jobs ADD COLUMN rule TEXT;
ALTER TABLE history ADD COLUMN kind TEXT;
ALTER TABLE history ADD COLUMN hint TEXT;
ALTER TABLE history ADD COLUMN rule TEXT;
";

/// Brings the tables from `version` (0: there are none) to [`VERSION`].
pub(super) fn upgrade(tx: &Transaction, version: u32) -> Result<()> {
    make(tx, version, VERSION)
}

/// The tables as the first version made them.
#[cfg(test)]
pub(super) fn first(tx: &Transaction) -> Result<()> {
    make(tx, 0, 1)
}

fn make(tx: &Transaction, from: u32, to: u32) -> Result<()> {
    STEPS[from as usize..to as usize].iter().try_for_each(|step| tx.execute_batch(step))?;
    tx.pragma_update(None, "user_version", to)
}

/// How SQLite itself writes down the tables that are there.
pub(super) fn written(db: &Connection) -> Result<String> {
    let mut query = db.prepare("SELECT ifnull(sql, name) FROM sqlite_schema ORDER BY name")?;
    let lines = query.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?;
    Ok(lines.join("\n"))
}

/// What [`written`] gives for an undamaged journal of this version, 1 to [`VERSION`].
pub(super) fn expected(version: u32) -> Result<String> {
    let mut fresh = Connection::open_in_memory()?;
    let tx = fresh.transaction()?;
    make(&tx, 0, version)?;
    written(&tx)
}
