//! The tables.

use rusqlite::{Connection, Result, Transaction};

/// Raised with every change of [`TABLES`], together with a step from the version before.
pub(super) const VERSION: u32 = 1;

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

/// Makes the tables where there are none.
pub(super) fn create(tx: &Transaction) -> Result<()> {
    tx.execute_batch(TABLES)?;
    tx.pragma_update(None, "user_version", VERSION)
}

/// How SQLite itself writes down the tables that are there.
pub(super) fn written(db: &Connection) -> Result<String> {
    let mut query = db.prepare("SELECT ifnull(sql, name) FROM sqlite_schema ORDER BY name")?;
    let lines = query.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?;
    Ok(lines.join("\n"))
}

/// What [`written`] gives for an undamaged journal of this version.
pub(super) fn expected() -> Result<String> {
    let mut fresh = Connection::open_in_memory()?;
    let tx = fresh.transaction()?;
    create(&tx)?;
    written(&tx)
}
