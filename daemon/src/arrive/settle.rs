//! Decides when a slide is complete on disk, from nothing but repeated looks at the folder (hazards h01, h02).
//!
//! A pure state machine: no clock, no file system. Looks may be missing, repeated or irregular; the only assumption is
//! that a later look has a later time. Because both ends of the quiet time are looks of our own, the verdict never
//! depends on the scanner's clock agreeing with ours.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::members::{Fingerprint, Seen};
use super::scan::Snapshot;

/// What a look at the folder changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All members were equal in every look for the settle time. Reported once per fingerprint.
    Settled { slide: PathBuf, fingerprint: Fingerprint },
    /// A slide that was reported settled is being written again, or is gone.
    Unsettled { slide: PathBuf },
}

/// How a slide was seen, and since when it is so.
#[derive(Debug)]
struct Track {
    seen: Seen,
    since: Duration,
}

/// The settle rule of one watch folder.
#[derive(Debug)]
pub struct Settle {
    quiet: Duration,
    /// Few, and asked for at every turn of the loop.
    settling: BTreeMap<PathBuf, Track>,
    /// Those that were reported, and how they were then: all that a folder has gathered in a year.
    settled: BTreeMap<PathBuf, Seen>,
}

/// How far a slide is that has not settled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settling {
    /// The end of the look that found it as it is.
    pub since: Duration,
    /// The done-marker that it waits for.
    pub awaits: Option<PathBuf>,
    /// How many files it has, and how large they are together.
    pub files: usize,
    pub bytes: u64,
}

impl Settle {
    /// A slide must be unchanged for `quiet`.
    pub fn new(quiet: Duration) -> Self {
        Self { quiet, settling: BTreeMap::new(), settled: BTreeMap::new() }
    }

    /// Takes in one look at the folder, which took this time on a monotonic clock of any origin. A file was looked at
    /// some time in between, so the quiet time counts from the end of one look to the beginning of another. A slide in
    /// a subfolder that could not be read is where it was: not seen is not gone.
    pub fn observe(&mut self, look: Range<Duration>, snapshot: &Snapshot) -> Vec<Event> {
        let mut events = Vec::new();
        let unchanged = |slide: &PathBuf, before: &Seen| match snapshot.slides.get(slide) {
            Some(seen) => before.fingerprint == seen.fingerprint && before.touched == seen.touched,
            None => snapshot.hides(slide),
        };
        self.settling.retain(|slide, track| unchanged(slide, &track.seen));
        self.settled.retain(|slide, seen| {
            let unchanged = unchanged(slide, seen);
            if !unchanged {
                events.push(Event::Unsettled { slide: slide.clone() });
            }
            unchanged
        });
        for (slide, seen) in &snapshot.slides {
            // A marker that is removed after it has told what it had to tell changes nothing.
            if self.settled.contains_key(slide) {
                continue;
            }
            let since = self.settling.get(slide).map_or(look.end, |track| track.since);
            if seen.awaits.is_none() && look.start.saturating_sub(since) >= self.quiet {
                self.settling.remove(slide);
                self.settled.insert(slide.clone(), seen.clone());
                events.push(Event::Settled { slide: slide.clone(), fingerprint: seen.fingerprint.clone() });
            } else {
                self.settling.insert(slide.clone(), Track { seen: seen.clone(), since });
            }
        }
        events
    }

    /// True while `slide` is settled in exactly this state.
    pub fn is_settled(&self, slide: &Path, fingerprint: &Fingerprint) -> bool {
        self.settled.get(slide).is_some_and(|seen| seen.fingerprint == *fingerprint)
    }

    /// True while `slide` is settled, in whatever state.
    pub fn has_settled(&self, slide: &Path) -> bool {
        self.settled.contains_key(slide)
    }

    /// When a look must begin to settle the next slide; `None` while nothing is settling. Nobody knows when a marker
    /// comes: it is found like any other file.
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.settling.values().filter(|track| track.seen.awaits.is_none());
        due.map(|track| track.since + self.quiet).min()
    }

    /// The slide that this file is a member of, its naming file excepted.
    pub fn slide_of(&self, member: &Path) -> Option<&PathBuf> {
        let has = |seen: &Seen| seen.fingerprint.members().iter().any(|m| m.path == member);
        let settling = self.settling.iter().map(|(slide, track)| (slide, &track.seen));
        settling.chain(&self.settled).find(|(slide, seen)| *slide != member && has(seen)).map(|(slide, _)| slide)
    }

    /// Slides seen but not yet settled.
    pub fn pending(&self) -> impl Iterator<Item = &PathBuf> {
        self.settling.keys()
    }

    /// How far this slide is; `None` when it has settled or was never seen.
    pub fn settling(&self, slide: &Path) -> Option<Settling> {
        let track = self.settling.get(slide)?;
        let members = track.seen.fingerprint.members();
        Some(Settling {
            since: track.since,
            awaits: track.seen.awaits.clone(),
            files: members.len(),
            bytes: members.iter().map(|member| member.bytes).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::super::members::Member;
    use super::*;
    use crate::job::Fault;

    const QUIET: u64 = 10;

    /// The moments at which one slide's members are written. The slide exists from the first on.
    type Writes = Vec<u64>;

    /// When a look began and ended, and how far into it (0 to 1) each slide was looked at.
    type Look = (Range<u64>, [f64; 5]);

    fn slide(index: usize) -> PathBuf {
        PathBuf::from(format!("case{index}_HE.svs"))
    }

    /// Slide `index` as it is at `now`; one write grows the file by one byte.
    fn slide_at(now: u64, index: usize, writes: &Writes) -> Option<(PathBuf, Seen)> {
        let bytes = writes.iter().filter(|&&at| at <= now).count() as u64;
        let member = Member { path: slide(index), bytes, modified: SystemTime::UNIX_EPOCH };
        let seen = Seen { fingerprint: Fingerprint::new(vec![member]), touched: (0, 0), awaits: None };
        (bytes > 0).then_some((slide(index), seen))
    }

    fn folder((time, moments): &Look, slides: &[Writes]) -> Snapshot {
        let at = |index: usize| time.start + ((time.end - time.start) as f64 * moments[index]) as u64;
        let seen = slides.iter().enumerate().filter_map(|(index, writes)| slide_at(at(index), index, writes));
        Snapshot { slides: seen.collect(), ..Snapshot::default() }
    }

    fn seconds(time: &Range<u64>) -> Range<Duration> {
        Duration::from_secs(time.start)..Duration::from_secs(time.end)
    }

    /// A look that takes no time.
    fn glance(now: u64) -> Look {
        (now..now, [0.0; 5])
    }

    /// Runs the rule over these looks; gives each event with the beginning of its look.
    fn run(looks: &[Look], slides: &[Writes]) -> Vec<(u64, Event)> {
        let mut settle = Settle::new(Duration::from_secs(QUIET));
        let mut log = Vec::new();
        for look in looks {
            let events = settle.observe(seconds(&look.0), &folder(look, slides));
            log.extend(events.into_iter().map(|event| (look.0.start, event)));
        }
        log
    }

    /// Growth with stalls from none to three times the settle time, for a handful of slides.
    fn slides() -> impl Strategy<Value = Vec<Writes>> {
        let writes = (0u64..40, prop::collection::vec(1u64..3 * QUIET, 0..8)).prop_map(|(start, stalls)| {
            let mut writes = vec![start];
            writes.extend(stalls.iter().scan(start, |at, stall| {
                *at += stall;
                Some(*at)
            }));
            writes
        });
        prop::collection::vec(writes, 1..5)
    }

    /// Looks at irregular moments (events lost, or doubled where the gap is zero), some slow; then enough to settle
    /// whatever is there.
    fn looks() -> impl Strategy<Value = Vec<Look>> {
        let look = (0u64..2 * QUIET, 0u64..QUIET, prop::array::uniform5(0.0..1.0));
        prop::collection::vec(look, 0..40).prop_map(|gaps| {
            let mut now = 0;
            let mut looks = Vec::new();
            for (gap, length, moments) in gaps {
                looks.push((now + gap..now + gap + length, moments));
                now += gap + length;
            }
            // The last write is before 40 + 8 * 30.
            let end = now.max(400);
            looks.extend([end, end + QUIET, end + QUIET + 1].map(glance));
            looks
        })
    }

    proptest! {
        #[test]
        fn h01_nothing_settles_within_the_settle_time_of_a_write((slides, looks) in (slides(), looks())) {
            for (now, event) in run(&looks, &slides) {
                if let Event::Settled { slide: name, .. } = event {
                    let writes = slides.iter().enumerate().find(|(i, _)| slide(*i) == name).expect("known").1;
                    let recent = writes.iter().find(|&&at| at <= now && at + QUIET > now);
                    prop_assert!(recent.is_none(), "settled at {} although written at {:?}", now, recent);
                }
            }
        }

        #[test]
        fn h02_every_final_slide_is_reported_exactly_once_whatever_looks_were_lost((slides, looks) in (slides(), looks())) {
            let log = run(&looks, &slides);
            for (name, seen) in folder(&glance(u64::MAX), &slides).slides {
                let last = Event::Settled { slide: name, fingerprint: seen.fingerprint };
                prop_assert_eq!(log.iter().filter(|(_, event)| *event == last).count(), 1);
            }
        }

        #[test]
        fn settled_and_unsettled_alternate((slides, looks) in (slides(), looks())) {
            let log = run(&looks, &slides);
            for index in 0..slides.len() {
                let mut settled = false;
                for (_, event) in &log {
                    match event {
                        Event::Settled { slide: s, .. } if *s == slide(index) => {
                            prop_assert!(!settled);
                            settled = true;
                        }
                        Event::Unsettled { slide: s } if *s == slide(index) => {
                            prop_assert!(settled);
                            settled = false;
                        }
                        _ => {}
                    }
                }
                prop_assert!(settled, "slide {} ends settled", index);
            }
        }
    }

    #[test]
    fn h01_stalls_just_short_of_the_settle_time_never_settle() {
        let writes: Writes = (0..20).map(|i| i * (QUIET - 1)).collect();
        let looks: Vec<Look> = (0..20 * (QUIET - 1)).map(glance).collect();
        assert_eq!(run(&looks, &[writes]), []);
    }

    #[test]
    fn h01_a_slow_look_does_not_count_as_quiet_time() {
        // Seen at the end of a look of eight seconds, written three seconds before the second look.
        let looks = [(0..8, [1.0; 5]), glance(QUIET)];
        assert_eq!(run(&looks, &[vec![7]]), []);
    }

    #[test]
    fn a_slide_that_vanishes_and_returns_waits_again() {
        let mut settle = Settle::new(Duration::from_secs(QUIET));
        let there = folder(&glance(0), &[vec![0]]);
        let mut look = |now, snapshot: &Snapshot| settle.observe(seconds(&(now..now)), snapshot);
        look(0, &there);
        assert_eq!(look(QUIET, &there).len(), 1);
        assert_eq!(look(11, &Snapshot::default()), [Event::Unsettled { slide: slide(0) }]);
        assert_eq!(look(12, &there), []);
        assert_eq!(look(12 + QUIET, &there).len(), 1);
    }

    #[test]
    fn next_due_tells_when_to_look_again() {
        let mut settle = Settle::new(Duration::from_secs(QUIET));
        let there = folder(&glance(0), &[vec![0]]);
        assert_eq!(settle.next_due(), None);
        settle.observe(seconds(&(3..4)), &there);
        assert_eq!(settle.next_due(), Some(Duration::from_secs(4 + QUIET)));
        settle.observe(seconds(&(4 + QUIET..4 + QUIET)), &there);
        assert_eq!(settle.next_due(), None);
    }

    #[test]
    fn h01_a_write_that_leaves_size_and_modification_time_as_they_were_is_a_write() {
        let mut settle = Settle::new(Duration::from_secs(QUIET));
        let touched = |at| {
            let mut there = folder(&glance(0), &[vec![0]]);
            there.slides.values_mut().for_each(|seen| seen.touched = (at, 0));
            there
        };
        for now in 0..3 * QUIET {
            assert_eq!(settle.observe(seconds(&(now..now)), &touched(now as i64)), []);
        }
        assert_eq!(settle.observe(seconds(&(99..99)), &touched(3 * QUIET as i64 - 1)).len(), 1);
    }

    #[test]
    fn a_marker_is_waited_for_and_not_missed_afterwards() {
        let mut settle = Settle::new(Duration::from_secs(QUIET));
        let marked = |marker: Option<&str>| {
            let mut there = folder(&glance(0), &[vec![0]]);
            there.slides.values_mut().for_each(|seen| seen.awaits = marker.map(PathBuf::from));
            there
        };
        let mut look = |now, marker| {
            let events = settle.observe(seconds(&(now..now)), &marked(marker));
            (events.len(), settle.next_due(), settle.settling(&slide(0)).and_then(|settling| settling.awaits))
        };
        for now in 0..3 * QUIET {
            assert_eq!(look(now, Some("case0_HE.done")), (0, None, Some("case0_HE.done".into())));
        }
        assert_eq!(look(3 * QUIET, None), (1, None, None), "quiet for long enough already");
        assert_eq!(look(4 * QUIET, Some("case0_HE.done")), (0, None, None));
    }

    #[test]
    fn a_slide_in_a_folder_that_cannot_be_read_for_a_while_is_not_gone() {
        let mut settle = Settle::new(Duration::from_secs(QUIET));
        let there = folder(&glance(0), &[vec![0]]);
        let stale = Fault::new("Stale file handle", "mount it again");
        let hidden = Snapshot { unreadable: [(slide(0), stale)].into(), ..Snapshot::default() };
        let mut look = |now, snapshot: &Snapshot| settle.observe(seconds(&(now..now)), snapshot);
        look(0, &there);
        assert_eq!(look(QUIET, &there).len(), 1);
        assert_eq!(look(QUIET + 1, &hidden), []);
        assert_eq!(look(QUIET + 2, &there), [], "settled before and after");
    }
}
