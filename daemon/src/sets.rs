//! Which section sets are to be processed, and how far each is (hazard h03).
//!
//! A pure state machine, like the settle rule: it is told which slides are ready and what became of jobs.
//!
//! ```text
//!             all stains there, or deadline and policy `run`
//!   Waiting ───────────────────────────────────────────────► Queued ──start──► Running ──finish──► Finished | Failed
//!      └────── deadline and policy `skip` ──► Skipped          ▲                  │
//!                                                              └────put back──────┘
//! ```
//!
//! Whenever the slides of a set change (one more stain, one rewritten), the set begins again at `Waiting`. So a set that
//! was processed without a late stain is processed once more when that stain arrives. A slide that goes away is no such
//! change: a set that is finished stays so, its result included, and when the slide returns as it was, nothing is to be
//! done (hazard h22). What only the records beside the slides can tell, after a restart, is in [`crate::done`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tissuemap::section_set::{SectionSet, SetKey};

use crate::arrive::members::Fingerprint;
use crate::job::Fault;

/// What to do with a set that lacks stains when its deadline is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Incomplete {
    /// Go on waiting.
    #[default]
    Wait,
    /// Process it; the result is labelled as lacking those stains.
    Run,
    /// Leave it, unless the stains come after all.
    Skip,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Queued {
        /// Why the last try failed, if one did.
        last: Option<Fault>,
    },
    Running {
        /// The slides changed under the job; its result will not be the last word.
        outdated: bool,
    },
    Finished,
    Failed(Fault),
    Skipped,
}

/// What keeps a set from being processed.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It lacks stains; at the end of `left`, `then` happens.
    Waits { missing: Vec<&'a str>, left: Duration, then: Incomplete },
    /// Stains did not come in time.
    Skipped { missing: Vec<&'a str> },
}

#[derive(Debug)]
struct Entry {
    set: SectionSet,
    inputs: BTreeMap<PathBuf, Fingerprint>,
    changed: Duration,
    state: State,
    /// The slides of the job that finished it, and in which state they were.
    done: BTreeMap<String, (PathBuf, Option<Fingerprint>)>,
    /// Stains that its results were made with besides, as their records say.
    besides: Vec<String>,
}

/// The section sets of one watch folder.
#[derive(Debug)]
pub struct Sets {
    /// The stains of each model.
    panels: Vec<Vec<String>>,
    wait: Duration,
    incomplete: Incomplete,
    table: BTreeMap<SetKey, Entry>,
}

impl Sets {
    /// A set is complete when it has all stains of a panel; the deadline is `wait` after its last change.
    pub fn new(panels: Vec<Vec<String>>, wait: Duration, incomplete: Incomplete) -> Self {
        Self { panels, wait, incomplete, table: BTreeMap::new() }
    }

    /// Takes in the sets that the ready slides form now, and gives the sets that are to be processed from now on, each
    /// once until it changes. `now` is monotonic, from any origin.
    pub fn update(
        &mut self,
        now: Duration,
        sets: Vec<SectionSet>,
        ready: &BTreeMap<PathBuf, Fingerprint>,
    ) -> Vec<SetKey> {
        let present: BTreeSet<SetKey> = sets.iter().map(|set| set.key.clone()).collect();
        self.table.retain(|key, entry| present.contains(key) || entry.outdate());
        for set in sets {
            let inputs = inputs_of(&set, ready);
            let entry = self.table.get_mut(&set.key);
            let unchanged = |entry: &mut Entry| entry.set.slides == set.slides && entry.inputs == inputs;
            if !entry.is_some_and(|entry| unchanged(entry) || entry.outdate() || entry.goes_on_with(&set, &inputs)) {
                self.table.insert(set.key.clone(), Entry::new(set, inputs, now));
            }
        }
        self.advance(now)
    }

    fn advance(&mut self, now: Duration) -> Vec<SetKey> {
        let mut due = Vec::new();
        for (key, entry) in self.table.iter_mut().filter(|(_, entry)| entry.state == State::Waiting) {
            let Some(panel) = panel(&self.panels, &entry.set) else { continue };
            let complete = missing(panel, &entry.set).next().is_none();
            let overdue = now.saturating_sub(entry.changed) >= self.wait;
            if complete || (overdue && self.incomplete == Incomplete::Run) {
                entry.state = State::Queued { last: None };
                due.push(key.clone());
            } else if overdue && self.incomplete == Incomplete::Skip {
                entry.state = State::Skipped;
                tracing::warn!(set = %key, missing = %list(panel, &entry.set), "Set skipped: its deadline is over");
            }
        }
        due
    }

    /// A set that waits to be started, and in which state its slides are; `None` when it has changed since it was queued.
    pub fn queued(&self, key: &SetKey) -> Option<(&SectionSet, &BTreeMap<PathBuf, Fingerprint>)> {
        let entry = self.table.get(key).filter(|entry| matches!(entry.state, State::Queued { .. }))?;
        Some((&entry.set, &entry.inputs))
    }

    /// Begins the job of a queued set: what to process, and in which state its slides are. `None` when the set has
    /// changed since it was queued.
    pub fn start(&mut self, key: &SetKey) -> Option<(SectionSet, BTreeMap<PathBuf, Fingerprint>)> {
        let (set, inputs) = self.queued(key).map(|(set, inputs)| (set.clone(), inputs.clone()))?;
        self.table.get_mut(key)?.state = State::Running { outdated: false };
        Some((set, inputs))
    }

    /// The job of a set was not brought to an end: it waits again, with the reason if it failed. False when the slides
    /// changed meanwhile; the set is then forgotten, as in [`Sets::finish`].
    pub fn put_back(&mut self, key: &SetKey, last: Option<Fault>) -> bool {
        let Some(entry) = self.table.get_mut(key) else { return false };
        let unchanged = entry.state == State::Running { outdated: false };
        if unchanged {
            entry.state = State::Queued { last };
        } else {
            self.table.remove(key);
        }
        unchanged
    }

    /// Leaves a queued set alone until its slides change, for this reason if it needs a person.
    pub fn leave(&mut self, key: &SetKey, fault: Option<Fault>) {
        if let Some(entry) = self.table.get_mut(key).filter(|entry| matches!(entry.state, State::Queued { .. })) {
            match fault {
                Some(fault) => entry.state = State::Failed(fault),
                None => entry.finish(),
            }
        }
    }

    /// Queues a set as its slides are now, stains missing or not, whatever became of it before. False when it is not
    /// there, or runs.
    pub fn queue(&mut self, key: &SetKey) -> bool {
        let entry = self.table.get_mut(key).filter(|entry| !matches!(entry.state, State::Running { .. }));
        entry.map(|entry| entry.state = State::Queued { last: None }).is_some()
    }

    /// All stains that a model knows.
    pub fn stains(&self) -> BTreeSet<&str> {
        self.panels.iter().flatten().map(String::as_str).collect()
    }

    /// The set that a slide belongs to, and which stain of it the slide is.
    pub fn place_of(&self, slide: &Path) -> Option<(&SetKey, &str)> {
        self.table.iter().find_map(|(key, entry)| {
            let stain = entry.set.slides.iter().find(|(_, path)| path.as_path() == slide);
            stain.map(|(stain, _)| (key, stain.as_str()))
        })
    }

    /// What keeps a set from being processed at `now`; `None` where it is not there, or nothing does.
    pub fn standing(&self, key: &SetKey, now: Duration) -> Option<Standing<'_>> {
        let entry = self.table.get(key)?;
        let missing = missing(panel(&self.panels, &entry.set).unwrap_or_default(), &entry.set).collect();
        match entry.state {
            State::Waiting => {
                let left = (entry.changed + self.wait).saturating_sub(now);
                Some(Standing::Waits { missing, left, then: self.incomplete })
            }
            State::Skipped => Some(Standing::Skipped { missing }),
            _ => None,
        }
    }

    /// The stains of the models from now on.
    pub fn remodel(&mut self, panels: Vec<Vec<String>>) {
        self.panels = panels;
    }

    /// Sets that are done with.
    pub fn finished(&self) -> impl Iterator<Item = (&SectionSet, &BTreeMap<PathBuf, Fingerprint>)> {
        let finished = self.table.values().filter(|entry| entry.state == State::Finished);
        finished.map(|entry| (&entry.set, &entry.inputs))
    }

    /// Deadline and policy from now on.
    pub fn reconfigure(&mut self, wait: Duration, incomplete: Incomplete) {
        (self.wait, self.incomplete) = (wait, incomplete);
    }

    /// Takes in that the results of a set stay as they are, because they were made with stains `besides` that its slides
    /// now lack.
    pub fn keep(&mut self, key: &SetKey, besides: Vec<String>) {
        self.finish(key, Ok(()));
        if let Some(entry) = self.table.get_mut(key).filter(|entry| entry.state == State::Finished) {
            entry.besides = besides;
        }
    }

    /// Finished sets of which slides have gone away since, each with what that means.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.table.values().filter_map(|entry| {
            let absent = entry.absent();
            (entry.state == State::Finished && !absent.is_empty()).then(|| {
                let (key, stains) = (&entry.set.key, absent.join(", "));
                format!(
                    "set {key}: {stains} not there any more; the results that were made with it stay; hint: bring the slide \
                     back, or submit one of the set to have it processed without"
                )
            })
        })
    }

    /// Takes in what became of a job. A set whose slides changed meanwhile is forgotten, so that the next
    /// [`Sets::update`] begins it again.
    pub fn finish(&mut self, key: &SetKey, outcome: Result<(), Fault>) {
        let Some(entry) = self.table.get_mut(key) else { return };
        match (&entry.state, outcome) {
            (State::Running { outdated: false }, Ok(())) => entry.finish(),
            (State::Running { outdated: false }, Err(fault)) => entry.state = State::Failed(fault),
            _ => {
                self.table.remove(key);
            }
        }
    }

    /// Sets that lack stains, as `case7 (CD31, CC10 missing)`.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        let waiting = self.table.iter().filter(|(_, entry)| entry.state == State::Waiting);
        waiting.map(|(key, entry)| match panel(&self.panels, &entry.set) {
            Some(panel) => format!("{key} ({} missing)", list(panel, &entry.set)),
            None => format!("{key} (no model)"),
        })
    }

    /// Sets that failed or were skipped, each with the reason. A set leaves this list when it is tried again or its slides
    /// change.
    pub fn problems(&self) -> impl Iterator<Item = (String, String)> {
        self.table.iter().filter_map(|(key, entry)| match &entry.state {
            State::Failed(fault) | State::Queued { last: Some(fault) } => Some((key.to_string(), fault.to_string())),
            State::Skipped => Some((
                key.to_string(),
                format!(
                    "skipped, because {} did not come in time; hint: bring the slides, or set `incomplete = \"run\"`",
                    list(panel(&self.panels, &entry.set).unwrap_or_default(), &entry.set)
                ),
            )),
            _ => None,
        })
    }

    /// When the next deadline ends, if anything waits for one.
    pub fn next_due(&self) -> Option<Duration> {
        if self.incomplete == Incomplete::Wait {
            return None;
        }
        let waiting = self.table.values().filter(|entry| entry.state == State::Waiting);
        waiting.map(|entry| entry.changed + self.wait).min()
    }
}

impl Entry {
    fn new(set: SectionSet, inputs: BTreeMap<PathBuf, Fingerprint>, changed: Duration) -> Self {
        Self { set, inputs, changed, state: State::Waiting, done: BTreeMap::new(), besides: Vec::new() }
    }

    fn finish(&mut self) {
        self.state = State::Finished;
        let slides = self.set.slides.iter();
        let done = slides.map(|(stain, slide)| (stain.clone(), (slide.clone(), self.inputs.get(slide).cloned())));
        (self.done, self.besides) = (done.collect(), Vec::new());
    }

    /// Takes over the slides of a finished set that are there now, if they are some of those that it was finished with.
    fn goes_on_with(&mut self, set: &SectionSet, inputs: &BTreeMap<PathBuf, Fingerprint>) -> bool {
        let known = |(stain, slide): (&String, &PathBuf)| {
            self.done.get(stain).is_some_and(|(path, seen)| path == slide && seen.as_ref() == inputs.get(slide))
        };
        let goes_on = self.state == State::Finished && set.slides.iter().all(known);
        if goes_on {
            (self.set, self.inputs) = (set.clone(), inputs.clone());
        }
        goes_on
    }

    /// Stains that the results were made with and that are not there.
    fn absent(&self) -> Vec<&str> {
        let gone = self.done.keys().filter(|stain| !self.set.slides.contains_key(*stain));
        gone.chain(&self.besides).map(String::as_str).collect()
    }

    /// Marks a running set as outdated; false when it is not running.
    fn outdate(&mut self) -> bool {
        let running = matches!(self.state, State::Running { .. });
        if running {
            self.state = State::Running { outdated: true };
        }
        running
    }
}

fn inputs_of(set: &SectionSet, ready: &BTreeMap<PathBuf, Fingerprint>) -> BTreeMap<PathBuf, Fingerprint> {
    let known = |slide: &PathBuf| ready.get(slide).map(|fingerprint| (slide.clone(), fingerprint.clone()));
    set.slides.values().filter_map(known).collect()
}

/// Which of several models a set is for, by their stains: of those of which it has every stain the one with most of them,
/// else the one of which it has the largest share; the first of equals. None only where there is none.
pub fn choose<S: AsRef<[String]>>(panels: &[S], slides: &BTreeMap<String, PathBuf>) -> Option<usize> {
    let merit = |index: &usize| {
        let panel = panels[*index].as_ref();
        let has = panel.iter().filter(|stain| slides.contains_key(*stain)).count();
        let share = has as f64 / panel.len().max(1) as f64;
        (share, has)
    };
    let better = |a: &usize, b: &usize| {
        let ((a, has_a), (b, has_b)) = (merit(a), merit(b));
        a.total_cmp(&b).then(has_a.cmp(&has_b))
    };
    // The last of equals is taken, hence from behind.
    (0..panels.len()).rev().max_by(better)
}

/// Whether two models are for the same sets.
pub fn same_stains(one: &[String], other: &[String]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

fn panel<'a>(panels: &'a [Vec<String>], set: &SectionSet) -> Option<&'a [String]> {
    choose(panels, &set.slides).map(|index| panels[index].as_slice())
}

fn missing<'a>(stains: &'a [String], set: &SectionSet) -> impl Iterator<Item = &'a str> {
    stains.iter().map(String::as_str).filter(|stain| !set.slides.contains_key(*stain))
}

fn list(stains: &[String], set: &SectionSet) -> String {
    missing(stains, set).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
