//! One watch folder with everything that is known about its slides and section sets. Does no input or output itself:
//! [`look`] and the job runner do, and report here.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tissuemap::section_set::{Manifest, Namer, NamingError, SectionSet, SetKey, group};

use crate::arrive::members::Fingerprint;
use crate::arrive::scan::{Snapshot, scan};
use crate::arrive::{Arrivals, Settled};
use crate::claim::Claim;
use crate::config::{Group, Schedule, Watch};
use crate::explain::{Arriving, Situation, arrival, grouping};
use crate::identity::Identity;
use crate::job::{Fault, Job};
use crate::sets::Sets;

/// Looks that hints ask for are at least so far apart: a slide being copied raises thousands of events, and no look
/// before the settle time is over can change the verdict.
const HINT_SPACING: Duration = Duration::from_secs(1);

/// While slides are being tested, they are grouped at most so often: thousands may be waiting, and every grouping reads
/// the names of all.
const GROUP_SPACING: Duration = Duration::from_secs(1);

/// A look that takes longer than this is told as a problem: a share whose host is gone does not answer, and says nothing.
const SLOW_LOOK: Duration = Duration::from_mins(2);

/// Slides that cannot be read and are told one by one: thousands would hide every other problem, and cost time at every
/// change of the status.
const SLIDES_TOLD: usize = 100;

/// What one look at a watch folder found.
#[derive(Debug)]
pub struct Look {
    pub snapshot: Snapshot,
    /// Which folder it was: another one may lie under the same path since.
    pub identity: Identity,
    manifest: Option<Manifest>,
}

/// Looks at a watch folder, and claims it. Blocks, on a dead network share for long.
///
/// # Errors
/// The folder or its manifest cannot be read, or another daemon watches it.
pub fn look(watch: &Watch, claim: &Mutex<Claim>) -> Result<Look, Fault> {
    let unreadable = |error: io::Error| {
        Fault::new(
            format!("watch folder {}: {error}", watch.folder.display()),
            "create or mount it, or correct `watch.folder`; its slides wait until it can be read",
        )
    };
    #[cfg(test)]
    crate::testing::wait_while_silent(&watch.folder);
    let identity = Identity::of(&watch.folder).map_err(unreadable)?;
    claim.lock().unwrap_or_else(PoisonError::into_inner).renew()?;
    let snapshot = scan(&watch.folder, &watch.ignore, watch.marker.as_ref()).map_err(unreadable)?;
    let manifest = watch.manifest.as_deref().map(Manifest::read).transpose();
    Ok(Look { snapshot, identity, manifest: manifest.map_err(|error| Fault::from_error(&error))? })
}

/// See the module.
#[derive(Debug)]
pub struct Folder {
    watch: Watch,
    namer: Namer,
    arrivals: Arrivals,
    sets: Sets,
    manifest: Option<Manifest>,
    /// Slides that no set can take, with the reason.
    misfits: Vec<NamingError>,
    /// Why the last look failed.
    fault: Option<Fault>,
    /// Keeps other daemons out.
    claim: Arc<Mutex<Claim>>,
    last_look: Option<Duration>,
    looking_since: Option<Duration>,
    hinted: bool,
    /// The ready slides as they were grouped last, and when that was.
    grouped: Vec<SectionSet>,
    grouped_at: Option<Duration>,
    stale: Stale,
}

/// What is behind the slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    /// The sets have to hear of the slides again.
    Sets,
    /// Slides became ready, or are not any more: they have to be grouped anew besides.
    Groups,
}

impl Folder {
    /// A folder not yet looked at. `panels` are the stains that make a set complete, for each model.
    pub fn new(watch: Watch, namer: Namer, panels: Vec<Vec<String>>, group: &Group) -> Self {
        let claim = Arc::new(Mutex::new(Claim::new(&watch.folder, watch.scan_interval())));
        Self {
            arrivals: Arrivals::new(watch.settle()),
            sets: Sets::new(panels, Duration::from_secs(group.wait_seconds), group.incomplete),
            watch,
            namer,
            manifest: None,
            misfits: Vec::new(),
            fault: None,
            claim,
            last_look: None,
            looking_since: None,
            hinted: false,
            grouped: Vec::new(),
            grouped_at: None,
            stale: Stale::Nothing,
        }
    }

    /// The configuration.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The claim on the folder, for a look.
    pub fn claim(&self) -> Arc<Mutex<Claim>> {
        Arc::clone(&self.claim)
    }

    /// Something may have changed in the folder.
    pub fn hint(&mut self) {
        self.hinted = true;
    }

    /// What is to be told of a look that does not end.
    pub fn unanswered(&self, now: Duration) -> Option<String> {
        let since = self.looking_since?;
        (now.saturating_sub(since) > SLOW_LOOK).then(|| {
            let folder = self.watch.folder.display();
            format!("watch folder {folder}: does not answer; hint: see whether its disk or the share's host is up")
        })
    }

    /// When something is to be done here if nothing happens before: a look, or the end of a set's deadline.
    pub fn next_due(&self) -> Option<Duration> {
        let group = (self.stale > Stale::Nothing).then(|| self.next_group());
        [self.next_look(), self.sets.next_due(), group].into_iter().flatten().min()
    }

    fn next_look(&self) -> Option<Duration> {
        if self.looking_since.is_some() {
            return None;
        }
        let Some(last) = self.last_look else { return Some(Duration::ZERO) };
        let hint = self.hinted.then_some(last + HINT_SPACING);
        let settle = self.arrivals.next_due().map(|due| due.max(last + HINT_SPACING));
        [Some(last + self.watch.scan_interval()), hint, settle].into_iter().flatten().min()
    }

    fn next_group(&self) -> Duration {
        let spacing = if self.arrivals.has_probes() { GROUP_SPACING } else { Duration::ZERO };
        self.grouped_at.map_or(Duration::ZERO, |last| last + spacing)
    }

    /// True when a look is due; the caller then takes it and reports with [`Folder::looked`].
    pub fn begin_look(&mut self, now: Duration) -> bool {
        let due = self.next_look().is_some_and(|due| due <= now);
        if due {
            (self.looking_since, self.hinted) = (Some(now), false);
        }
        due
    }

    /// Takes in a look that took this time. A failed one changes nothing that is known: a share that is away for a
    /// minute has not lost its slides.
    pub fn looked(&mut self, time: Range<Duration>, look: Result<Look, Fault>) {
        self.looking_since = None;
        self.last_look = Some(time.end);
        match look {
            Ok(Look { snapshot, manifest, .. }) => {
                let changed = self.arrivals.observe(time, snapshot);
                // To read ten thousand names again takes longer than the look; a manifest may say something else each time.
                if changed || manifest.is_some() || self.manifest.is_some() {
                    self.stale = Stale::Groups;
                }
                self.manifest = manifest;
                if self.fault.take().is_some() {
                    self.arrivals.reached_again(self.last_look.unwrap_or_default());
                }
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    /// Whether the folder can be read, as far as its last look told: what lies in it is left alone until it can.
    pub fn is_reachable(&self, now: Duration) -> bool {
        self.fault.is_none() && self.unanswered(now).is_none()
    }

    /// When the newest slide was written that waits for its first test.
    pub fn newest_probe(&self, now: Duration) -> Option<SystemTime> {
        self.arrivals.newest_probe().filter(|_| self.is_reachable(now))
    }

    /// The next slide to test for the first time.
    pub fn next_probe(&mut self) -> Option<Settled> {
        self.arrivals.next_probe()
    }

    /// The next slide to test once more.
    pub fn next_reprobe(&mut self, now: Duration) -> Option<Settled> {
        if self.is_reachable(now) { self.arrivals.next_reprobe(now) } else { None }
    }

    /// When a slide that could not be read is to be probed again.
    pub fn next_retry(&self) -> Option<Duration> {
        self.arrivals.next_retry().filter(|_| self.fault.is_none() && self.looking_since.is_none())
    }

    /// Takes in the outcome of a probe.
    pub fn probed(&mut self, settled: Settled, outcome: Result<(), Fault>, schedule: &Schedule, now: Duration) {
        // The folder itself may be away; a look tells.
        self.hinted |= outcome.as_ref().is_err_and(Fault::is_unreachable);
        self.arrivals.probed(settled, outcome, schedule, now);
        self.stale = Stale::Groups;
    }

    /// Groups the ready slides where anything has changed, and gives the sets that are to be processed from now on.
    pub fn group(&mut self, now: Duration) -> Vec<SetKey> {
        let due = (self.stale > Stale::Nothing && self.next_group() <= now)
            || self.sets.next_due().is_some_and(|due| due <= now);
        if !due {
            return Vec::new();
        }
        let stale = std::mem::replace(&mut self.stale, Stale::Nothing);
        let ready = self.arrivals.ready();
        if stale == Stale::Groups {
            self.grouped_at = Some(now);
            let slides: Vec<PathBuf> = ready.keys().cloned().collect();
            let grouped = group(&slides, &self.namer, self.manifest.as_ref());
            (self.grouped, self.misfits) = (grouped.sets, grouped.errors);
        }
        self.sets.update(now, self.grouped.clone(), ready)
    }

    /// What a queued set's job would be; `None` when it is no longer as it was when it was queued.
    pub fn queued(&self, key: &SetKey) -> Option<Job> {
        let (set, inputs) = self.sets.queued(key)?;
        Some(Job { set: set.clone(), inputs: inputs.clone(), mpp: self.watch.mpp })
    }

    /// Begins a queued set's job; `None` when it is no longer as it was when it was queued.
    pub fn start(&mut self, key: &SetKey) -> Option<Job> {
        let (set, inputs) = self.sets.start(key)?;
        Some(Job { set, inputs, mpp: self.watch.mpp })
    }

    /// Takes in what became of a job.
    pub fn finish(&mut self, key: &SetKey, outcome: Result<(), Fault>) {
        self.sets.finish(key, outcome);
        self.stale = self.stale.max(Stale::Sets);
    }

    /// Takes in that the results of a set stay, because they were made with stains that are not there now.
    pub fn keep(&mut self, key: &SetKey, besides: Vec<String>) {
        self.sets.keep(key, besides);
        self.stale = self.stale.max(Stale::Sets);
    }

    /// A job that did not come to an end waits again; false when its slides changed meanwhile.
    pub fn put_back(&mut self, key: &SetKey, last: Option<Fault>) -> bool {
        self.stale = self.stale.max(Stale::Sets);
        self.sets.put_back(key, last)
    }

    /// Leaves a queued set alone, for this reason if it needs a person.
    pub fn leave(&mut self, key: &SetKey, fault: Option<Fault>) {
        self.sets.leave(key, fault);
    }

    /// Queues a set as its slides are now; false when it is not there, or runs.
    pub fn queue(&mut self, key: &SetKey) -> bool {
        self.sets.queue(key)
    }

    /// The set that a slide belongs to.
    pub fn set_of(&self, slide: &Path) -> Option<&SetKey> {
        self.sets.place_of(slide).map(|(key, _)| key)
    }

    /// Sets that are done with, and in which state their slides were.
    pub fn finished(&self) -> impl Iterator<Item = (&SectionSet, &BTreeMap<PathBuf, Fingerprint>)> {
        self.sets.finished()
    }

    /// Other models serve from now on. Sets that are queued or done with stay so.
    pub fn remodel(&mut self, namer: Namer, panels: Vec<Vec<String>>) {
        self.namer = namer;
        self.sets.remodel(panels);
        self.stale = Stale::Groups;
    }

    /// Takes over what may change while the daemon runs.
    pub fn reconfigure(&mut self, group: &Group) {
        self.sets.reconfigure(Duration::from_secs(group.wait_seconds), group.incomplete);
        self.stale = self.stale.max(Stale::Sets);
    }

    /// Where a slide of this folder stands until its set is to be processed; `None` once it is.
    pub fn situation(&self, slide: &Path, now: Duration) -> Option<Situation> {
        if let Some(fault) = &self.fault {
            return Some(Situation::Arriving(Arriving::FolderFault(fault.clone())));
        }
        let next_look = self.next_look().unwrap_or(now).saturating_sub(now);
        arrival(slide, &self.watch, &self.arrivals, (&self.namer, &self.misfits), now, next_look)
            .or_else(|| grouping(slide, &self.sets, now).map(Situation::Grouping))
    }

    /// Slides that are being copied or tested.
    pub fn arriving(&self) -> impl Iterator<Item = String> {
        self.arrivals.pending().map(|slide| slide.display().to_string())
    }

    /// Sets that lack stains.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        self.sets.waiting()
    }

    /// What people should know, and need do nothing about.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.sets.notes()
    }

    /// What needs a person.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let folder = self.fault.iter().map(ToString::to_string);
        // While the folder is away, each of its slides would say the same.
        let told = move |fault: &&Fault| self.fault.is_none() || !fault.is_unreachable();
        let more = self.arrivals.rejected().filter(told).count().saturating_sub(SLIDES_TOLD);
        let more = (more > 0).then(|| {
            let folder = self.watch.folder.display();
            format!(
                "watch folder {folder}: {more} more slides cannot be read; hint: `tissuemapctl explain` tells of each"
            )
        });
        let sets = self.sets.problems().map(|(set, reason)| format!("set {set}: {reason}"));
        let slides = self.arrivals.rejected().filter(told).take(SLIDES_TOLD).map(ToString::to_string).chain(more);
        folder.chain(slides).chain(self.misfits.iter().map(|misfit| Fault::from_error(misfit).to_string())).chain(sets)
    }
}
