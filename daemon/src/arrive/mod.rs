//! From files that appear in a folder to slides that are whole and readable.
//!
//! **Invariant:** the scan is the truth, events are hints. [`watch`] only makes the next [`scan`] come sooner; with
//! every event lost, every slide is still found, at most one scan interval later.
//!
//! A watch folder is looked at with all its subfolders: scanners make one per day, rack or case, and no list of them could
//! be kept up to date.

mod first_looks;
pub mod members;
pub mod names;
pub mod scan;
mod series;
pub mod settle;
pub mod watch;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::first_looks::FirstLooks;
use self::members::Fingerprint;
use self::scan::Snapshot;
use self::settle::{Event, Settle, Settling};
use crate::config::Schedule;
use crate::job::Fault;

/// A settled slide whose readability is to be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub slide: PathBuf,
    pub fingerprint: Fingerprint,
}

/// How far a slide is.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    Settling(Settling),
    /// Waits for its probe behind so many others, or is being probed.
    Testing {
        before: usize,
    },
    /// It could not be read, and is probed once more at that time, or not.
    Rejected {
        fault: &'a Fault,
        again: Option<Duration>,
    },
    /// It or a folder above it could not be looked at.
    Unreadable(&'a Fault),
    /// Not a slide itself, but a file of this one.
    MemberOf(&'a PathBuf),
    Ready,
}

/// A slide that settled but could not be read.
#[derive(Debug)]
struct Rejected {
    fault: Fault,
    fingerprint: Fingerprint,
    /// Probes in a row that failed.
    probes: u32,
    /// Probes in a row that did not come to reading it, because it could not be reached. They count for nothing.
    unreached: u32,
    /// When it is probed once more: not the slide, but its share or the worker may have been broken.
    again: Option<Duration>,
}

/// The slides of one watch folder on their way to being ready: seen, settled, probed. Like [`Settle`], it does no
/// input or output itself.
#[derive(Debug)]
pub struct Arrivals {
    settle: Settle,
    to_probe: FirstLooks,
    ready: BTreeMap<PathBuf, Fingerprint>,
    rejected: BTreeMap<PathBuf, Rejected>,
    unreadable: BTreeMap<PathBuf, Fault>,
}

impl Arrivals {
    /// Slides settle when unchanged for `quiet`.
    pub fn new(quiet: Duration) -> Self {
        Self {
            settle: Settle::new(quiet),
            to_probe: FirstLooks::default(),
            ready: BTreeMap::new(),
            rejected: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// Takes in a scan of the folder that took this time; tells whether a slide settled or is no longer as it was.
    pub fn observe(&mut self, look: Range<Duration>, snapshot: Snapshot) -> bool {
        let events = self.settle.observe(look, &snapshot);
        let changed = !events.is_empty();
        for event in events {
            match event {
                Event::Settled { slide, fingerprint } => self.to_probe.push(Settled { slide, fingerprint }),
                Event::Unsettled { slide } => {
                    self.to_probe.remove(&slide);
                    self.ready.remove(&slide);
                    self.rejected.remove(&slide);
                }
            }
        }
        self.unreadable = snapshot.unreadable;
        changed
    }

    /// When the newest slide was written that waits for its first test.
    pub fn newest_probe(&self) -> Option<SystemTime> {
        self.to_probe.newest()
    }

    /// The next slide to open for its first test, the newest; the caller reports back with [`Arrivals::probed`].
    pub fn next_probe(&mut self) -> Option<Settled> {
        self.to_probe.pop()
    }

    /// The next slide to open once more, because it could not be read.
    pub fn next_reprobe(&mut self, now: Duration) -> Option<Settled> {
        let due = |rejected: &Rejected| rejected.again.is_some_and(|again| again <= now);
        let (slide, rejected) = self.rejected.iter_mut().find(|(_, rejected)| due(rejected))?;
        rejected.again = None;
        Some(Settled { slide: slide.clone(), fingerprint: rejected.fingerprint.clone() })
    }

    /// The folder can be reached again: what could not be reached in it is probed at once.
    pub fn reached_again(&mut self, now: Duration) {
        for rejected in self.rejected.values_mut().filter(|rejected| rejected.fault.is_unreachable()) {
            rejected.again = rejected.again.map(|again| again.min(now));
        }
    }

    /// When a slide that could not be read is to be probed again.
    pub fn next_retry(&self) -> Option<Duration> {
        self.rejected.values().filter_map(|rejected| rejected.again).min()
    }

    /// True while slides wait for their probe.
    pub fn has_probes(&self) -> bool {
        !self.to_probe.is_empty()
    }

    /// Takes in the outcome of a probe. Ignored when the slide has changed meanwhile: it will settle and be probed anew.
    /// A slide that cannot be read is probed as often as a set is tried; one that cannot be reached, ever more rarely but
    /// without end.
    pub fn probed(&mut self, settled: Settled, outcome: Result<(), Fault>, schedule: &Schedule, now: Duration) {
        let Settled { slide, fingerprint } = settled;
        if !self.settle.is_settled(&slide, &fingerprint) {
            return;
        }
        let before = self.rejected.remove(&slide);
        let (before, unreached) = before.map_or((0, 0), |rejected| (rejected.probes, rejected.unreached));
        match outcome {
            Ok(()) => {
                self.ready.insert(slide, fingerprint);
            }
            Err(fault) if fault.is_unreachable() => {
                let (unreached, probes) = (unreached + 1, before);
                let again = Some(now + schedule.retry_wait(unreached));
                self.rejected.insert(slide, Rejected { fault, fingerprint, probes, unreached, again });
            }
            Err(fault) => {
                let probes = before + 1;
                let again = (probes < schedule.tries).then(|| now + schedule.retry_wait(probes));
                self.rejected.insert(slide, Rejected { fault, fingerprint, probes, unreached: 0, again });
            }
        }
    }

    /// Slides that are whole and readable.
    pub fn ready(&self) -> &BTreeMap<PathBuf, Fingerprint> {
        &self.ready
    }

    /// Slides that settled but cannot be read, and what could not even be looked at, with the reason. A slide leaves
    /// this list when it changes, or can be read after all.
    pub fn rejected(&self) -> impl Iterator<Item = &Fault> {
        let unread = self.rejected.values().map(|rejected| &rejected.fault);
        unread.chain(self.unreadable.values())
    }

    /// How far this slide is; `None` when no look has found it.
    pub fn standing(&self, slide: &Path) -> Option<Standing<'_>> {
        if let Some(settling) = self.settle.settling(slide) {
            return Some(Standing::Settling(settling));
        }
        if self.ready.contains_key(slide) {
            return Some(Standing::Ready);
        }
        if let Some(rejected) = self.rejected.get(slide) {
            return Some(Standing::Rejected { fault: &rejected.fault, again: rejected.again });
        }
        if let Some((_, fault)) = self.unreadable.iter().find(|(path, _)| slide.starts_with(path)) {
            return Some(Standing::Unreadable(fault));
        }
        if self.settle.has_settled(slide) {
            return Some(Standing::Testing { before: self.to_probe.before(slide) });
        }
        self.settle.slide_of(slide).map(Standing::MemberOf)
    }

    /// Slides that are still being copied or wait for their probe.
    pub fn pending(&self) -> impl Iterator<Item = &PathBuf> {
        self.settle.pending().chain(self.to_probe.slides())
    }

    /// When a scan could settle the next slide.
    pub fn next_due(&self) -> Option<Duration> {
        self.settle.next_due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(10);

    fn seconds(s: u64) -> Range<Duration> {
        Duration::from_secs(s)..Duration::from_secs(s)
    }

    fn folder(bytes: u64) -> Snapshot {
        let slide = PathBuf::from("case1_HE.svs");
        let member = members::Member { path: slide.clone(), bytes, modified: std::time::SystemTime::UNIX_EPOCH };
        let seen = members::Seen { fingerprint: Fingerprint::new(vec![member]), touched: (0, 0), awaits: None };
        Snapshot { slides: [(slide, seen)].into(), ..Snapshot::default() }
    }

    fn told(arrivals: &Arrivals) -> Vec<String> {
        arrivals.rejected().map(ToString::to_string).collect()
    }

    fn fault() -> Fault {
        Fault::new("case1_HE.svs: damaged", "copy it again")
    }

    #[test]
    fn a_rejected_slide_is_probed_as_often_as_a_set_is_tried_and_then_only_after_it_changed() {
        let mut arrivals = Arrivals::new(QUIET);
        arrivals.observe(seconds(0), folder(1));
        arrivals.observe(seconds(10), folder(1));
        let schedule = Schedule { tries: 2, retry_seconds: 60, ..Schedule::default() };
        let at = Duration::from_secs;
        let settled = arrivals.next_probe().expect("settled");
        arrivals.probed(settled.clone(), Err(fault()), &schedule, at(12));
        let problem = ["case1_HE.svs: damaged; hint: copy it again"];
        assert_eq!(told(&arrivals), problem);
        assert_eq!((arrivals.next_retry(), arrivals.next_reprobe(at(71))), (Some(at(72)), None));
        assert_eq!(arrivals.next_reprobe(at(72)), Some(settled.clone()));
        assert_eq!(arrivals.next_retry(), None, "it is being probed");
        assert_eq!(told(&arrivals), problem, "it stays a problem meanwhile");
        arrivals.probed(settled, Err(fault()), &schedule, at(73));
        arrivals.observe(seconds(100), folder(1));
        assert_eq!((arrivals.next_retry(), arrivals.next_reprobe(at(10_000))), (None, None));

        arrivals.observe(seconds(101), folder(2));
        assert_eq!(arrivals.rejected().count(), 0);
        arrivals.observe(seconds(111), folder(2));
        let settled = arrivals.next_probe().expect("settled again");
        arrivals.probed(settled.clone(), Err(fault()), &schedule, at(112));
        assert_eq!(arrivals.next_retry(), Some(at(172)), "failures of what it was before do not count");
        assert_eq!(arrivals.next_reprobe(at(172)), Some(settled.clone()));
        arrivals.probed(settled, Ok(()), &schedule, at(173));
        assert_eq!((arrivals.ready().len(), arrivals.rejected().count()), (1, 0));
    }

    #[test]
    fn a_probe_of_a_slide_that_changed_meanwhile_counts_for_nothing() {
        let mut arrivals = Arrivals::new(QUIET);
        arrivals.observe(seconds(0), folder(1));
        arrivals.observe(seconds(10), folder(1));
        let (schedule, now) = (Schedule::default(), Duration::from_secs(11));
        let settled = arrivals.next_probe().expect("settled");
        arrivals.observe(seconds(11), folder(2));
        arrivals.probed(settled.clone(), Ok(()), &schedule, now);
        assert!(arrivals.ready().is_empty());
        arrivals.probed(settled, Err(fault()), &schedule, now);
        assert_eq!(arrivals.rejected().count(), 0);
    }

    #[test]
    fn h23_a_slide_that_cannot_be_reached_is_probed_without_end_and_at_once_when_its_folder_is_back() {
        let mut arrivals = Arrivals::new(QUIET);
        arrivals.observe(seconds(0), folder(1));
        arrivals.observe(seconds(10), folder(1));
        let schedule = Schedule { tries: 2, retry_seconds: 60, retry_max_seconds: 3600, ..Schedule::default() };
        let at = Duration::from_secs;
        let away = || Err(Fault::unreachable(Path::new("case1_HE.svs"), &std::io::Error::from_raw_os_error(5)));
        let settled = arrivals.next_probe().expect("settled");
        let mut now = at(10);
        for _ in 0..20 {
            arrivals.probed(settled.clone(), away(), &schedule, now);
            now = arrivals.next_retry().expect("without end");
            assert_eq!(arrivals.next_reprobe(now), Some(settled.clone()));
        }
        arrivals.probed(settled.clone(), away(), &schedule, now);
        assert_eq!(arrivals.next_retry(), Some(now + at(3600)), "ever more rarely");
        arrivals.reached_again(now);
        assert_eq!(arrivals.next_reprobe(now), Some(settled.clone()), "at once");
        arrivals.probed(settled.clone(), Err(fault()), &schedule, now);
        assert_eq!(arrivals.next_retry(), Some(now + at(60)), "the first that counts");
    }
}
