//! How the journal recognises slides: as they were seen, and by their content.
//!
//! *Seen* is what a look at the folder tells without reading: paths, sizes and times of all members. As long as that is
//! the same, nothing was written. When it is not, *content* tells a slide that was touched or renamed from one that was
//! scanned again.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rusqlite::{Connection, Result, Row, Transaction, params};
use sha2::{Digest, Sha256};

use super::{JobId, Past, set_key};
use tissuemap::hex::hex;
use tissuemap::untrusted;

use crate::arrive::members::Fingerprint;
use crate::job::Job;

/// One slide of a job. Paths that are no UTF-8 are kept with replacement characters: they are compared, never opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub slide: String,
    /// Of all members.
    pub bytes: u64,
    /// Hash of paths, sizes and times of all members.
    pub seen: String,
    /// See [`contents`]; none where it was never needed.
    pub content: Option<String>,
}

/// Stain to slide.
pub type Inputs = BTreeMap<String, Input>;

/// Stain to a hash of the slide's content.
pub type Contents = BTreeMap<String, String>;

/// The slides of a set as they were seen.
pub fn inputs(job: &Job) -> Inputs {
    let input = |slide: &PathBuf| {
        let fingerprint = job.inputs.get(slide).cloned().unwrap_or_default();
        Input {
            slide: slide.to_string_lossy().into_owned(),
            bytes: fingerprint.members().iter().map(|member| member.bytes).sum(),
            seen: seen(&fingerprint),
            content: None,
        }
    };
    job.set.slides.iter().map(|(stain, slide)| (stain.clone(), input(slide))).collect()
}

fn seen(fingerprint: &Fingerprint) -> String {
    let mut hash = Sha256::new();
    for member in fingerprint.members() {
        let modified = member.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        hash.update(member.path.as_os_str().as_bytes());
        hash.update([0]);
        hash.update(member.bytes.to_le_bytes());
        hash.update(modified.to_le_bytes());
    }
    short(hash)
}

/// Files up to this size are hashed whole.
const WHOLE: u64 = SAMPLES * SAMPLE;
/// Of larger files, so many samples are hashed, the first at the head and the last at the tail.
const SAMPLES: u64 = 16;
/// Bytes.
const SAMPLE: u64 = 64 << 10;

/// Hashes of the content of every slide that can be read; those in `known` are not looked at again.
///
/// A slide is hashed by the sizes of its members and by at most 1 MiB of each: head, tail and fourteen places between.
/// Two scans of the same glass differ in nearly every compressed byte, and nearly always in size; so this tells them
/// apart as surely as reading gigabytes would, and an archive that was copied without its times is recognised in
/// minutes, not days. It would miss a few bytes changed in place between the samples, which is no scanner's work.
pub fn contents(job: &Job, known: &Contents) -> Contents {
    let content = |(stain, slide): (&String, &PathBuf)| {
        let found = match known.get(stain) {
            Some(known) => known.clone(),
            None => content(job.inputs.get(slide)?)
                .inspect_err(|error| tracing::debug!(slide = %slide.display(), %error, "Content is not known"))
                .ok()?,
        };
        Some((stain.clone(), found))
    };
    job.set.slides.iter().filter_map(content).collect()
}

fn content(fingerprint: &Fingerprint) -> io::Result<String> {
    let mut hash = Sha256::new();
    // Names are left out: a renamed slide has the same content.
    for member in fingerprint.members() {
        hash.update(member.bytes.to_le_bytes());
        sample(&member.path, member.bytes, &mut hash)?;
    }
    Ok(short(hash))
}

fn sample(path: &Path, bytes: u64, hash: &mut Sha256) -> io::Result<()> {
    let file = untrusted::open_large(path)?;
    let mut buffer = vec![0; SAMPLE as usize];
    for index in 0..SAMPLES {
        let (at, length) = if bytes <= WHOLE {
            let at = index * SAMPLE;
            (at, bytes.saturating_sub(at).min(SAMPLE))
        } else {
            ((bytes - SAMPLE) * index / (SAMPLES - 1), SAMPLE)
        };
        let part = &mut buffer[..length as usize];
        file.read_exact_at(part, at)?;
        hash.update(part);
    }
    Ok(())
}

/// 128 bits, in hexadecimal digits: enough for equality among what one daemon sees.
fn short(hash: Sha256) -> String {
    hex(&hash.finalize()[..16])
}

/// Whether these are the same slides in the same state.
pub(super) fn same(before: &Inputs, now: &Inputs) -> bool {
    before.len() == now.len()
        && now.iter().all(|(stain, input)| before.get(stain).is_some_and(|before| before.seen == input.seen))
}

/// The contents of slides that were not written since these were found.
pub(super) fn still_known(before: &Inputs, now: &Inputs) -> Contents {
    let known = |(stain, input): (&String, &Input)| {
        let before = before.get(stain).filter(|before| before.seen == input.seen)?;
        Some((stain.clone(), before.content.clone()?))
    };
    now.iter().filter_map(known).collect()
}

pub(super) fn read(tx: &Transaction, job: i64) -> Result<Inputs> {
    let read = |row: &Row| {
        let input = Input { slide: row.get(1)?, bytes: row.get(2)?, seen: row.get(3)?, content: row.get(4)? };
        Ok((row.get(0)?, input))
    };
    tx.prepare("SELECT stain, slide, bytes, seen, content FROM inputs WHERE job = ?1")?
        .query_map([job], read)?
        .collect()
}

pub(super) fn replace(tx: &Transaction, job: i64, inputs: &Inputs) -> Result<()> {
    tx.execute("DELETE FROM inputs WHERE job = ?1", [job])?;
    for (stain, input) in inputs {
        tx.execute(
            "INSERT INTO inputs (job, stain, slide, bytes, seen, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![job, stain, input.slide, input.bytes, input.seen, input.content],
        )?;
    }
    Ok(())
}

pub(super) fn forget_result(tx: &Transaction, job: i64) -> Result<()> {
    tx.execute("DELETE FROM results WHERE job = ?1", [job]).map(drop)
}

/// Remembers that the job's slides, with these contents, have results. Where a content is not known, the work cannot be
/// recognised later, and no older work may be taken for it.
pub(super) fn keep_result(tx: &Transaction, job: i64, contents: &Contents) -> Result<()> {
    forget_result(tx, job)?;
    for (stain, content) in contents {
        tx.execute("UPDATE inputs SET content = ?3 WHERE job = ?1 AND stain = ?2", params![job, stain, content])?;
    }
    let inputs = read(tx, job)?;
    if !inputs.keys().eq(contents.keys()) {
        return Ok(());
    }
    let bytes: u64 = inputs.values().map(|input| input.bytes).sum();
    tx.execute(
        "INSERT INTO results (job, model, bytes) SELECT id, model, ?2 FROM jobs WHERE id = ?1",
        params![job, bytes],
    )?;
    tx.execute("INSERT INTO result_inputs SELECT job, stain, slide, content FROM inputs WHERE job = ?1", [job])?;
    Ok(())
}

/// More sets of the same size than this do not happen; a folder full of equal files must not cost a look at each.
const PAST_MAX: u32 = 8;

pub(super) fn past(db: &Connection, model: Option<&str>, bytes: u64) -> Result<Vec<Past>> {
    let mut query = db.prepare(
        "SELECT jobs.id, case_name, block FROM results JOIN jobs ON jobs.id = results.job
         WHERE results.bytes = ?1 AND results.model = ifnull(?2, results.model) ORDER BY jobs.id DESC LIMIT ?3",
    )?;
    let found = query.query_map(params![bytes, model, PAST_MAX], |row| Ok((row.get(0)?, set_key(row, 1)?)))?;
    let with_slides = |found: Result<(i64, _)>| {
        let (job, set) = found?;
        let mut query = db.prepare("SELECT stain, slide, content FROM result_inputs WHERE job = ?1")?;
        let slides = query.query_map([job], |row| {
            let slide: String = row.get(1)?;
            Ok((row.get(0)?, (PathBuf::from(slide), row.get(2)?)))
        })?;
        Ok(Past { job: JobId(job), set, slides: slides.collect::<Result<_>>()? })
    };
    found.map(with_slides).collect()
}
