//! What is found out about a job before it begins, on a blocking thread.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::disk::{self, Shortage};
use crate::done::{self, Maker};
use crate::job::{Fault, Job, ModelInfo};
use crate::journal::{Contents, Past, contents};
use crate::outputs;

/// What to do with a job.
#[derive(Debug)]
pub(super) enum Finding {
    /// Its results are there.
    Before(Contents),
    /// Its results stay, because they were made with these stains besides, which are not there now.
    Poorer(Vec<String>, Contents),
    /// It must wait for room.
    Short(Shortage, Contents),
    /// Its results could not be written in this folder.
    Unwritable(PathBuf, Fault),
    /// It can begin.
    Fit(Contents),
}

/// What keeps a set that has no results yet from being worked on: that they could not be written. Comes first, because a
/// share that is away keeps everything else waiting.
pub(super) fn first_look(
    job: &Job,
    known: &Contents,
    (model, maker): (&ModelInfo, Maker),
    min_free: u64,
) -> Option<Finding> {
    if done::is_done(job, model, maker) {
        return None;
    }
    outputs::folders(job.set.slides.values()).into_iter().find_map(|folder| {
        let error = outputs::try_to_write(&folder).err()?;
        Some(match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Finding::Short(Shortage { path: folder, free: None, needed: min_free }, known.clone())
            }
            _ => {
                let fault = outputs::unwritable(&folder, &error);
                Finding::Unwritable(folder, fault)
            }
        })
    })
}

/// Looks for results of the same slides, touched or renamed ones included, then (unless a person has `asked` for this job)
/// for results that were made with more stains, then for room beside the slides and in the
/// state folder.
pub(super) fn examine(
    job: &Job,
    known: &Contents,
    past: &[Past],
    (model, maker): (&ModelInfo, Maker),
    asked: bool,
    state: &Path,
    min_free: u64,
) -> Finding {
    let contents = contents(job, known);
    let taken_over = |past| done::take_over(job, &contents, past, model, maker);
    if done::is_done(job, model, maker) || past.iter().any(taken_over) {
        return Finding::Before(contents);
    }
    let lost = if asked { BTreeSet::new() } else { done::would_lose(job, model) };
    if !lost.is_empty() {
        return Finding::Poorer(lost.into_iter().collect(), contents);
    }
    match disk::shortage(disk::outputs(job).chain([state]), min_free) {
        Some(shortage) => Finding::Short(shortage, contents),
        None => Finding::Fit(contents),
    }
}
