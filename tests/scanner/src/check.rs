//! The ledger against what was made of the slides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use tissuemap::overlay::{read_record, result_folder};

use crate::ledger::Entry;
use crate::recorder::{Act, Sighting};

/// What the comparison found. Empty lists are what is wanted.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    pub slides: usize,
    /// Slides that were looked into before they were complete, or before the settle time after their last change was
    /// over; with the reason.
    pub early: Vec<String>,
    /// What was looked into under a name that no slide of the ledger has: an unfinished copy.
    pub strange: BTreeSet<PathBuf>,
    /// Slides that were never processed.
    pub missed: Vec<PathBuf>,
    /// Slides that were processed more than once, and how often.
    pub repeated: Vec<(PathBuf, usize)>,
    /// Slides whose own copy stalled as long as the settle time, because the machine was busy: whoever took them early
    /// was right. They count for `missed`, not for `early`, nor their sets for `repeated`.
    pub overslept: Vec<PathBuf>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.early.is_empty() && self.strange.is_empty() && self.missed.is_empty() && self.repeated.is_empty()
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slides, early, strange, missed, repeated, overslept } = self;
        writeln!(
            f,
            "{slides} slides: {} early starts, {} missed, {} done twice; {} whose copy overslept are not judged",
            early.len() + strange.len(),
            missed.len(),
            repeated.len(),
            overslept.len()
        )?;
        early.iter().try_for_each(|slide| writeln!(f, "early: {slide}"))?;
        strange.iter().try_for_each(|path| writeln!(f, "early: {}: not its final name", path.display()))?;
        missed.iter().try_for_each(|slide| writeln!(f, "missed: {}", slide.display()))?;
        repeated.iter().try_for_each(|(slide, times)| writeln!(f, "done {times} times: {}", slide.display()))
    }
}

/// Compares. `settle` is the settle time in seconds that the daemon was configured with.
pub fn check(ledger: &[Entry], sightings: &[Sighting], settle: f64) -> Verdict {
    let mut verdict = Verdict { slides: ledger.len(), ..Verdict::default() };
    let mut seen: BTreeMap<&Path, Vec<&Sighting>> = BTreeMap::new();
    sightings.iter().for_each(|sighting| seen.entry(&sighting.slide).or_default().push(sighting));
    let known: BTreeSet<&Path> = ledger.iter().map(|entry| entry.slide.as_path()).collect();
    verdict.strange = sightings
        .iter()
        .map(|sighting| &sighting.slide)
        .filter(|path| !known.contains(path.as_path()))
        .cloned()
        .collect();
    let overslept: BTreeSet<&str> =
        ledger.iter().filter(|entry| entry.longest_pause >= settle).map(|entry| entry.set.as_str()).collect();
    for entry in ledger {
        let sightings = seen.get(entry.slide.as_path()).map(Vec::as_slice).unwrap_or_default();
        let times = sightings.iter().filter(|sighting| sighting.act == Act::Process).count();
        if times == 0 {
            verdict.missed.push(entry.slide.clone());
        }
        if entry.longest_pause >= settle {
            verdict.overslept.push(entry.slide.clone());
        } else if let Some(reason) = sightings.iter().find_map(|sighting| too_early(entry, sighting, settle)) {
            verdict.early.push(format!("{} ({}): {reason}", entry.slide.display(), entry.style));
        }
        if times > 1 && !overslept.contains(entry.set.as_str()) {
            verdict.repeated.push((entry.slide.clone(), times));
        }
    }
    verdict
}

fn too_early(entry: &Entry, sighting: &Sighting, settle: f64) -> Option<String> {
    if !sighting.sha256.is_empty() && sighting.sha256 != entry.sha256 {
        return Some("it was not whole".into());
    }
    let (before, quiet) = (entry.complete - sighting.time, sighting.time - entry.touched);
    if before > 0.0 {
        return Some(format!("{before:.3} s before it was complete"));
    }
    (quiet < settle).then(|| format!("{quiet:.3} s after it was written to"))
}

/// What a daemon left beside the slides of the ledger, as sightings: one for each result. That something was done twice
/// shows only in `log`, the text of its log, where every set that is processed has one line.
pub fn results(ledger: &[Entry], log: Option<&str>) -> Vec<Sighting> {
    let mut processed: BTreeMap<&str, usize> = BTreeMap::new();
    for line in log.unwrap_or_default().lines().filter(|line| line.contains("Set processed")) {
        let set = line.split_once("set=").map_or("", |(_, rest)| rest.split(' ').next().unwrap_or_default());
        *processed.entry(set.trim_matches('"')).or_default() += 1;
    }
    let sighting = |entry: &Entry| {
        let record = read_record(&result_folder(&entry.slide))?;
        Some(Sighting {
            time: record.times.started.as_nanosecond() as f64 / 1e9,
            act: Act::Process,
            slide: entry.slide.clone(),
            set: entry.set.clone(),
            sha256: String::new(),
        })
    };
    let times = |entry: &Entry| processed.get(entry.set.as_str()).copied().unwrap_or(1);
    ledger
        .iter()
        .filter_map(|entry| Some((sighting(entry)?, times(entry))))
        .flat_map(|(sighting, times)| std::iter::repeat_n(sighting, times))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slide: &str) -> Entry {
        Entry {
            slide: slide.into(),
            set: "c1".into(),
            stain: "HE".into(),
            style: "append".into(),
            kind: "plain".into(),
            bytes: 3,
            sha256: "ab".into(),
            begun: 90.0,
            touched: 100.0,
            complete: 103.0,
            longest_pause: 0.9,
        }
    }

    fn sighting(act: Act, time: f64, sha256: &str) -> Sighting {
        Sighting { time, act, slide: "a".into(), set: "c1".into(), sha256: sha256.into() }
    }

    #[test]
    fn whole_slides_taken_once_in_time_are_good() {
        let seen = [sighting(Act::Probe, 103.5, "ab"), sighting(Act::Process, 104.0, "ab")];
        assert!(check(&[entry("a")], &seen, 1.0).is_good());
    }

    #[test]
    fn what_is_early_missed_or_repeated_is_told() {
        let good = || sighting(Act::Process, 104.0, "ab");
        let early = |seen: &[Sighting], settle| check(&[entry("a")], seen, settle).early;
        assert!(early(&[sighting(Act::Probe, 103.5, "cd"), good()], 1.0)[0].contains("not whole"));
        assert!(early(&[sighting(Act::Probe, 102.5, "ab"), good()], 1.0)[0].contains("before it was complete"));
        let late = Entry { longest_pause: 9.0, ..entry("a") };
        assert!(check(std::slice::from_ref(&late), &[good()], 10.0).early[0].contains("after it was written to"));
        assert_eq!(check(&[late], &[good()], 9.0).overslept, [PathBuf::from("a")]);
        assert_eq!(check(&[entry("a"), entry("b")], &[good()], 1.0).missed, [PathBuf::from("b")]);
        assert_eq!(check(&[entry("a")], &[good(), good()], 1.0).repeated, [(PathBuf::from("a"), 2)]);
        assert_eq!(
            check(&[entry("a")], &[good(), Sighting { slide: "a.part".into(), ..good() }], 1.0).strange.len(),
            1
        );
        let text = check(&[entry("b"), entry("a")], &[good()], 1.0).to_string();
        assert_eq!(
            text.lines().next(),
            Some("2 slides: 0 early starts, 1 missed, 0 done twice; 0 whose copy overslept are not judged")
        );
    }
}
