//! What is found out about a job before it begins, on a blocking thread.

use std::path::Path;

use crate::disk::{self, Shortage};
use crate::done::{self, Maker};
use crate::job::{Job, ModelInfo};
use crate::journal::{Contents, Past, contents};

/// What to do with a job.
#[derive(Debug)]
pub(super) enum Finding {
    /// Its results are there.
    Before(Contents),
    /// It must wait for room.
    Short(Shortage, Contents),
    /// It can begin.
    Fit(Contents),
}

/// Looks for results of the same slides, touched or renamed ones included, then for room beside the slides and in the
/// state folder.
pub(super) fn examine(
    job: &Job,
    known: &Contents,
    past: &[Past],
    (model, maker): (&ModelInfo, Maker),
    state: &Path,
    min_free: u64,
) -> Finding {
    let contents = contents(job, known);
    let taken_over = |past| done::take_over(job, &contents, past, model, maker);
    if done::is_done(job, model, maker) || past.iter().any(taken_over) {
        return Finding::Before(contents);
    }
    match disk::shortage(disk::outputs(job).chain([state]), min_free) {
        Some(shortage) => Finding::Short(shortage, contents),
        None => Finding::Fit(contents),
    }
}
