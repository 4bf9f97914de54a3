//! Why a slide is not done yet, in plain words. Pure: it is told where the slide stands ([`Situation`]) and says it.
//!
//! [`arrival`] finds out where a slide stands until it is ready, [`grouping`] until its set is to be processed; who keeps the
//! queue knows the rest.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tissuemap::section_set::{Namer, NamingError};

use crate::arrive::names::{Ignore, Passed, names_a_slide};
use crate::arrive::{Arrivals, Standing};
use crate::config::Watch;
use crate::job::Fault;
use crate::sets::{Incomplete, Sets, Standing as SetStanding};

/// Where one slide stands between the scanner and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Situation {
    Arriving(Arriving),
    Grouping(Grouping),
    Processing(Processing),
}

/// Not yet ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arriving {
    /// In none of the watch folders.
    Elsewhere { folders: Vec<PathBuf> },
    /// Its watch folder cannot be looked at.
    FolderFault(Fault),
    /// The slide or a folder above it cannot be looked at.
    Unreadable(Fault),
    /// No look has found it; another one begins in so long.
    Unseen { next_look: Duration },
    /// Not the ending of a slide.
    NotASlide,
    /// One of the files of this slide.
    PartOf { slide: PathBuf },
    /// This part of its path is passed over: by a pattern of the list, or else because it is hidden.
    Ignored { part: PathBuf, pattern: Option<String> },
    /// Our own result.
    Output,
    /// Unchanged for less than the settle time.
    Changing { quiet: Duration, settle: Duration, files: usize, bytes: u64 },
    /// Complete but for its marker.
    AwaitsMarker { marker: PathBuf },
    /// It waits to be opened for a test, with so many before it; or is being tested.
    Testing { before: usize },
    /// It could not be read. Perhaps it is tried once more, after this time.
    Rejected { fault: Fault, again: Option<Duration> },
}

/// Ready, but its set is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grouping {
    /// Its name fits none of the patterns.
    Unnamed { patterns: Vec<String> },
    /// Another slide has its place in its set.
    Duplicate { first: PathBuf, set: String, stain: String },
    /// No model serves.
    NoModel { set: String },
    /// The model does not know its stain: it takes no part in the maps of its set.
    UnknownStain { set: String, stain: String, known: Vec<String> },
    /// Its set lacks stains. `left` is the time to the deadline; at its end, `then` happens.
    WaitsForStains { set: String, missing: Vec<String>, left: Duration, then: Incomplete },
    /// Its set was left, because stains did not come in time.
    Skipped { set: String, missing: Vec<String> },
    /// It became ready a moment ago.
    Due,
}

/// Its set is complete, or taken for complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processing {
    /// Processed when its turn comes; 1 is the next.
    Queued {
        set: String,
        number: usize,
    },
    /// The same, but nothing is begun at present, for this reason.
    HeldUp {
        set: String,
        number: usize,
        fault: Fault,
    },
    /// Failed, and tried again in so long.
    Retrying {
        set: String,
        fault: Fault,
        wait: Duration,
    },
    /// Failed, and waits for a person.
    Failed {
        set: String,
        fault: Fault,
    },
    Running {
        set: String,
        stage: &'static str,
        percent: u8,
    },
    /// A person did not want it.
    Cancelled {
        set: String,
    },
    /// Its result is here, unless it could not be registered. `reason` says why nothing had to be done, if so.
    Done {
        set: String,
        result: PathBuf,
        reason: String,
    },
}

/// What a person or a program is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub slide: PathBuf,
    /// One word for programs.
    pub state: &'static str,
    /// For people: what is going on. The slide is its subject.
    pub sentence: String,
    /// What a person can do, where there is anything to do.
    pub hint: Option<String>,
}

impl Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.slide.display(), self.sentence)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; hint: {hint}"))
    }
}

/// Where a slide stands until it is part of a set; `None` once it is. `misfits` are the slides that no set can take,
/// `next_look` is the time until the folder is looked at again.
pub fn arrival(
    slide: &Path,
    watch: &Watch,
    arrivals: &Arrivals,
    (namer, misfits): (&Namer, &[NamingError]),
    now: Duration,
    next_look: Duration,
) -> Option<Situation> {
    let arriving = passed_over(slide, &watch.folder, &watch.ignore).or_else(|| {
        Some(match arrivals.standing(slide) {
            Some(Standing::Settling(settling)) => {
                let (quiet, settle) = (now.saturating_sub(settling.since), watch.settle());
                match settling.awaits {
                    Some(marker) if quiet >= settle => Arriving::AwaitsMarker { marker },
                    _ => {
                        let (files, bytes) = (settling.files, settling.bytes);
                        Arriving::Changing { quiet: quiet.min(settle), settle, files, bytes }
                    }
                }
            }
            Some(Standing::Testing { before }) => Arriving::Testing { before },
            Some(Standing::Rejected { fault, again }) => {
                Arriving::Rejected { fault: fault.clone(), again: again.map(|again| again.saturating_sub(now)) }
            }
            Some(Standing::Unreadable(fault)) => Arriving::Unreadable(fault.clone()),
            Some(Standing::MemberOf(slide)) => Arriving::PartOf { slide: slide.clone() },
            Some(Standing::Ready) => return None,
            None if names_a_slide(slide) => Arriving::Unseen { next_look },
            None => Arriving::NotASlide,
        })
    });
    let misfit = || misfits.iter().find_map(|misfit| misfit_of(slide, misfit, namer)).map(Situation::Grouping);
    arriving.map(Situation::Arriving).or_else(misfit)
}

/// What keeps the set of a ready slide from being processed; `None` where nothing does.
pub fn grouping(slide: &Path, sets: &Sets, now: Duration) -> Option<Grouping> {
    let Some((key, stain)) = sets.place_of(slide) else { return Some(Grouping::Due) };
    let (set, owned) = (key.to_string(), |missing: Vec<&str>| missing.into_iter().map(String::from).collect());
    let known = sets.stains();
    if known.is_empty() {
        return Some(Grouping::NoModel { set });
    }
    if !known.contains(stain) {
        let known = known.into_iter().map(String::from).collect();
        return Some(Grouping::UnknownStain { set, stain: stain.into(), known });
    }
    Some(match sets.standing(key, now)? {
        SetStanding::Waits { missing, left, then } => {
            Grouping::WaitsForStains { set, missing: owned(missing), left, then }
        }
        SetStanding::Skipped { missing } => Grouping::Skipped { set, missing: owned(missing) },
    })
}

fn passed_over(slide: &Path, root: &Path, ignore: &Ignore) -> Option<Arriving> {
    let mut part = root.to_path_buf();
    slide.strip_prefix(root).ok()?.iter().find_map(|name| {
        part.push(name);
        Some(match ignore.reason(&part)? {
            Passed::Output => Arriving::Output,
            Passed::Hidden => Arriving::Ignored { part: part.clone(), pattern: None },
            Passed::Listed(pattern) => Arriving::Ignored { part: part.clone(), pattern: Some(pattern.to_owned()) },
        })
    })
}

fn misfit_of(slide: &Path, misfit: &NamingError, namer: &Namer) -> Option<Grouping> {
    match misfit {
        NamingError::Unmatched(path) if path == slide => {
            Some(Grouping::Unnamed { patterns: namer.patterns().map(String::from).collect() })
        }
        NamingError::Duplicate { path, first, key, stain } if path == slide => {
            Some(Grouping::Duplicate { first: first.clone(), set: key.to_string(), stain: stain.clone() })
        }
        _ => None,
    }
}

/// Says where the slide stands.
pub fn explain(slide: &Path, situation: &Situation) -> Explanation {
    let Said { state, sentence, hint } = match situation {
        Situation::Arriving(arriving) => arriving.say(),
        Situation::Grouping(grouping) => grouping.say(),
        Situation::Processing(processing) => processing.say(),
    };
    Explanation { slide: slide.to_path_buf(), state, sentence, hint }
}

struct Said {
    state: &'static str,
    sentence: String,
    hint: Option<String>,
}

impl Said {
    fn new(state: &'static str, sentence: impl Into<String>) -> Self {
        Self { state, sentence: sentence.into(), hint: None }
    }

    fn hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// `sentence`, the fault's reason, and its hint.
    fn fault(state: &'static str, sentence: &str, fault: &Fault) -> Self {
        Self { state, sentence: format!("{sentence}: {}", fault.reason()), hint: fault.hint().map(String::from) }
    }
}

impl Arriving {
    fn say(&self) -> Said {
        match self {
            Self::Elsewhere { folders } => {
                let folders = list(folders.iter().map(|folder| folder.display()));
                Said::new("elsewhere", format!("is in none of the watched folders ({folders})"))
                    .hint("give its full path, or add a [[watch]] section for its folder")
            }
            Self::FolderFault(fault) => Said::fault("folder-fault", "is in a folder that cannot be looked at", fault),
            Self::Unreadable(fault) => Said::fault("unreadable", "cannot be looked at", fault),
            Self::Unseen { next_look } => {
                Said::new("unseen", format!("has not been seen yet; the next look is in {}", span(*next_look)))
                    .hint("check the name, and that the file is there")
            }
            Self::NotASlide => {
                Said::new("not-a-slide", "does not have the ending of a slide").hint("ask for the slide's own file")
            }
            Self::PartOf { slide } => {
                Said::new("part-of", format!("is part of the slide {}", slide.display())).hint("ask for that slide")
            }
            Self::Ignored { part, pattern: Some(pattern) } => {
                let why = format!("is passed over: {} has a name like {pattern}", part.display());
                Said::new("temporary-name", format!("{why}, as unfinished copies and deleted files have"))
                    .hint("rename it when it is complete, or change `ignore` of its [[watch]] section")
            }
            Self::Ignored { part, pattern: None } => {
                let why = format!("is passed over: {} is hidden, its name begins with a dot", part.display());
                Said::new("hidden", why).hint("rename it when it is complete")
            }
            Self::Output => Said::new("output", "is a result of tissuemap and no slide"),
            Self::Changing { quiet, settle, files, bytes } => {
                let files = format!("{files} {}", if *files == 1 { "file" } else { "files" });
                let unchanged = format!("unchanged for {} of {}", span(*quiet), span(*settle));
                Said::new("changing", format!("may still be copied: {unchanged} ({files}, {})", size(*bytes)))
            }
            Self::AwaitsMarker { marker } => {
                Said::new("awaits-marker", format!("waits for its marker {}", marker.display())).hint(
                    "the scanner's software leaves it; where it does not, take `marker` out of the [[watch]] section",
                )
            }
            Self::Testing { before: 0 } => Said::new("testing", "is complete and is being tested"),
            Self::Testing { before } => {
                Said::new("testing", format!("is complete and waits to be tested after {before} others"))
            }
            Self::Rejected { fault, again: None } => Said::fault("rejected", "cannot be used", fault),
            Self::Rejected { fault, again: Some(again) } => {
                Said::fault("rejected", &format!("cannot be used, and is tried again in {}", span(*again)), fault)
            }
        }
    }
}

impl Grouping {
    fn say(&self) -> Said {
        match self {
            Self::Unnamed { patterns } => {
                let tried = list(patterns);
                Said::new("unnamed", format!("has a name that tells neither case nor stain; patterns tried: {tried}"))
                    .hint("rename it, add a pattern to [naming], or list it in a manifest")
            }
            Self::Duplicate { first, set, stain } => {
                Said::new("duplicate", format!("has stain {stain} of set {set}, as {} has", first.display()))
                    .hint("one of them needs another block or section, or a manifest")
            }
            Self::NoModel { set } => Said::new("no-model", format!("belongs to set {set}, and no model serves"))
                .hint("drop a model into the model folder; `tissuemapctl models list` shows what became of it"),
            Self::UnknownStain { set, stain, known } => {
                let known = list(known);
                Said::new(
                    "unknown-stain",
                    format!("belongs to set {set}, but the model knows no {stain} ({known} only)"),
                )
                .hint("add the spelling to [naming.stains] if it is one of these, or use another model")
            }
            Self::WaitsForStains { set, missing, left, then } => {
                let (missing, left) = (list(missing), span(*left));
                let (until, hint) = match then {
                    Incomplete::Wait => (String::new(), "bring the slides, or set `incomplete = \"run\"` in [group]"),
                    Incomplete::Run => (format!("for {left} more; without it after that"), "bring the slides"),
                    Incomplete::Skip => (format!("for {left} more; left alone after that"), "bring the slides"),
                };
                Said::new(
                    "waits-for-stains",
                    format!("belongs to set {set}, which waits for {missing} {until}").trim_end(),
                )
                .hint(hint)
            }
            Self::Skipped { set, missing } => {
                let missing = list(missing);
                Said::new("skipped", format!("belongs to set {set}, left alone because {missing} did not come in time"))
                    .hint("bring the slides, or set `incomplete = \"run\"` in [group]")
            }
            Self::Due => Said::new("ready", "is complete and about to be put into its set"),
        }
    }
}

impl Processing {
    fn say(&self) -> Said {
        match self {
            Self::Queued { set, number } => {
                Said::new("queued", format!("belongs to set {set}, number {number} in the queue"))
            }
            Self::HeldUp { set, number, fault } => {
                let place = format!("belongs to set {set}, number {number} in the queue, and nothing is begun");
                Said::fault("held-up", &place, fault)
            }
            Self::Retrying { set, fault, wait } => {
                let again = format!("belongs to set {set}, which failed and is tried again in {}", span(*wait));
                Said::fault("retrying", &again, fault)
            }
            Self::Failed { set, fault } => Said::fault("failed", &format!("belongs to set {set}, which failed"), fault),
            Self::Running { set, stage, percent } => {
                Said::new("running", format!("belongs to set {set}, being processed: {stage}, {percent} %"))
            }
            Self::Cancelled { set } => {
                Said::new("cancelled", format!("belongs to set {set}, which was cancelled on request"))
                    .hint("submit it to have it processed after all")
            }
            Self::Done { set, result, reason } => {
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let result = result.display();
                let done = format!(
                    "belongs to set {set}, which is done{why}; its result, if it could be registered: {result}"
                );
                Said::new("done", done)
            }
        }
    }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// `8 s`, `12 min`, `2 h 5 min`.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `17 bytes`, `3.2 MB`, `1.7 GB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
