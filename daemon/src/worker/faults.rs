//! What is said of a worker that had to be given up, and of folders that it cannot reach.

use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tissuemap::road::Stage;

use super::process::in_words;
use super::protocol::Event;
use super::said::one_line;
use crate::job::{Fault, FaultKind};
use crate::status::stage_name;

/// What a request is about, and how long it may take.
pub(super) struct Bounds<'a> {
    pub(super) subject: &'a str,
    pub(super) limit: Duration,
    /// The configuration's key for it.
    pub(super) key: Option<&'static str>,
    /// Whether its worker tells of progress all the time.
    pub(super) tells: bool,
}

pub(super) const MODEL_HINT: &str = "the model asks for more memory (`memory_mib` in [worker]) or time (`load_seconds`) than it may have, or is hostile; the log \
     says more";

pub(super) const MEMORY_HINT: &str =
    "raise `memory_mib` in [worker] if the slides are genuine and the machine has the memory";

/// A worker that ended by itself, having said these words last; it was allowed `memory` bytes.
pub(super) fn ended(
    subject: &str,
    status: Option<ExitStatus>,
    words: &str,
    memory: u64,
    stage: Option<Stage>,
) -> Fault {
    let most = memory >> 20;
    let words = if words.is_empty() { String::new() } else { format!(" ({words})") };
    let how = in_words(status);
    if ["memory allocation of", "failed to allocate", "bad_alloc"].iter().any(|sign| words.contains(sign)) {
        let reason = format!("{subject}: the worker ran into its memory cap of {most} MiB{}{words}", during(stage));
        return Fault::new(reason, MEMORY_HINT);
    }
    Fault::new(
        format!("{subject}: the worker {how}{}{words}", during(stage)),
        "the slide may be damaged: copy it again and compare checksums; if it is sound, report this with the log",
    )
}

pub(super) fn stands_still(subject: &str, stall: Duration, stage: Option<Stage>) -> Fault {
    let reason = format!("{subject}: no progress for more than {} seconds{}", stall.as_secs(), during(stage));
    Fault::new(
        reason,
        "see whether the disk or share answers; raise `stall_seconds` in [worker] if the machine is slow",
    )
}

pub(super) fn too_slow(bounds: &Bounds, stage: Option<Stage>) -> Fault {
    let Bounds { subject, limit, key, .. } = bounds;
    let reason = format!("{subject}: not done after {} seconds{}", limit.as_secs(), during(stage));
    let hint = key.map_or_else(
        || "the machine is overloaded, or a driver hangs".to_owned(),
        |key| format!("raise `{key}` in [worker] if the slides are genuine"),
    );
    Fault::new(reason, hint)
}

pub(super) fn not_cancelled(bounds: &Bounds) -> Fault {
    let reason = format!("{}: cancelled, and killed because it did not end by itself", bounds.subject);
    Fault::new(reason, "nothing was published; submit the set again").with_kind(FaultKind::Cancelled)
}

pub(super) fn during(stage: Option<Stage>) -> String {
    stage.map_or_else(String::new, |stage| format!(" in stage {}", stage_name(stage)))
}

pub(super) fn unexpected(answer: Event) -> Fault {
    match answer {
        Event::Fault(fault) => fault,
        other => {
            let reason = one_line(&format!("the worker gave an answer that was not asked for: {other:?}"));
            Fault::new(reason, "this is a bug; report it with the log")
        }
    }
}

/// A granted folder that leads nowhere, with the reason if there was an answer.
pub(super) fn away(folder: &Path, why: Option<&io::Error>) -> Fault {
    match why {
        Some(error) => Fault::unreachable(folder, error),
        None => Fault::silent(folder),
    }
}
