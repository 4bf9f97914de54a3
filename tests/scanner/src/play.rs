//! Carries out a plan, many copies at a time, and writes down what really happened.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};

use crate::ledger::{Entry, seconds};
use crate::plan::Copy;
use crate::script::Step;
use crate::template::digest;

/// Brings all these slides, so many at a time, in their order. Gives an entry for each, in the order of the plan.
///
/// # Errors
/// The file system refused something.
pub fn play(copies: &[Copy], parallel: usize) -> anyhow::Result<Vec<Entry>> {
    let queue: Mutex<VecDeque<(usize, &Copy)>> = Mutex::new(copies.iter().enumerate().collect());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut entries = Vec::new();
        while let Some((number, copy)) = next() {
            entries.push((number, bring(copy)?));
        }
        anyhow::Ok(entries)
    };
    let mut entries = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel.clamp(1, copies.len().max(1))).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<_>| thread.join().map_err(|_| anyhow!("a copy panicked"))?;
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?
    .concat();
    entries.sort_by_key(|(number, _)| *number);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// Brings one slide.
fn bring(copy: &Copy) -> anyhow::Result<Entry> {
    let files = copy.template.placed(Path::new(""), "");
    let contents: Vec<&[u8]> = files.iter().map(|(_, content)| *content).collect();
    let begun = SystemTime::now();
    // The longest time in which nothing may have been seen to change: from the beginning of one step to the end of
    // the next, because nobody knows when in between a step shows.
    let (mut longest, mut touched, mut last) = (Duration::ZERO, begun, None::<Instant>);
    // Under a name that is passed over, nothing is there to be seen.
    let alone = copy.paths.len() == 1 && copy.style.hides();
    let shows = |step: &Step| step.path().is_some_and(|path| !alone || copy.paths.iter().any(|own| path == own));
    for step in &copy.steps {
        let (instant, time) = (Instant::now(), SystemTime::now());
        step.run(&contents).with_context(|| format!("{}: {step:?}", copy.slide.display()))?;
        if shows(step) {
            longest = longest.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
            (last, touched) = (Some(instant), time);
        }
    }
    let mut complete = touched;
    if let Some((marker, after)) = &copy.marker {
        std::thread::sleep(*after);
        complete = SystemTime::now();
        std::fs::write(marker, "").with_context(|| marker.display().to_string())?;
    }
    let paths = copy.paths.iter().map(PathBuf::as_path);
    Ok(Entry {
        slide: copy.slide.clone(),
        set: copy.set.clone(),
        stain: copy.stain.clone(),
        style: format!("{:?}", copy.style).to_lowercase(),
        kind: format!("{:?}", copy.template.kind).to_lowercase(),
        bytes: copy.template.bytes(),
        sha256: digest(paths.zip(contents)),
        begun: seconds(begun),
        touched: seconds(touched),
        complete: seconds(complete),
        longest_pause: longest.as_secs_f64(),
    })
}
