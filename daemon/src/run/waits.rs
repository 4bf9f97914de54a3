//! What the daemon waits for (hazard h29): nothing that takes long is silent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Daemon;
use crate::explain::{Arriving, Grouping, Processing, Situation};
use crate::status::Wait;

/// What ends sooner is not told: every look at a folder would be.
const SOON: Duration = Duration::from_secs(3);

/// What may be waited for; one of each at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Awaited {
    /// That a model proves itself.
    Proof,
    /// That a cancelled job notices.
    Cancellation,
    /// That a drained job ends.
    Drain,
    /// That a slide is tested.
    FirstLook,
    /// What lies beside the slides of a set.
    Examination,
    ModelFolder,
    /// The watch folder of this index.
    Folder(usize),
}

#[derive(Debug)]
struct Begun {
    what: String,
    at: Instant,
    since: SystemTime,
    limit: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<Awaited, Begun>);

impl Waits {
    /// Something is waited for from now on, at most so long where that is known.
    pub(super) fn begin(&mut self, awaited: Awaited, what: String, limit: Option<Duration>) {
        self.0.insert(awaited, Begun { what, at: Instant::now(), since: SystemTime::now(), limit });
    }

    /// It is called otherwise, and goes on.
    pub(super) fn rename(&mut self, awaited: Awaited, what: String) {
        if let Some(begun) = self.0.get_mut(&awaited) {
            begun.what = what;
        }
    }

    /// It has come.
    pub(super) fn end(&mut self, awaited: Awaited) {
        self.0.remove(&awaited);
    }

    /// What is worth telling now.
    pub(super) fn told(&self) -> Vec<Wait> {
        self.0.keys().filter_map(|&awaited| self.of(awaited)).collect()
    }

    fn of(&self, awaited: Awaited) -> Option<Wait> {
        let begun = self.0.get(&awaited)?;
        let at_once = matches!(awaited, Awaited::Proof | Awaited::Cancellation | Awaited::Drain);
        (at_once || begun.at.elapsed() >= SOON).then(|| Wait {
            what: begun.what.clone(),
            since: begun.since,
            limit: begun.limit,
        })
    }
}

impl Daemon {
    /// What keeps a slide in its situation, if that is waited for.
    pub(super) fn awaited_by(&self, situation: &Situation, folder: Option<usize>) -> Option<Wait> {
        let awaited = match situation {
            Situation::Arriving(Arriving::Testing { .. }) => Awaited::FirstLook,
            Situation::Arriving(Arriving::FolderFault(_) | Arriving::Unseen { .. }) => Awaited::Folder(folder?),
            Situation::Grouping(Grouping::NoModel { .. }) => Awaited::Proof,
            Situation::Processing(Processing::Queued { .. }) if !self.has_models() => Awaited::Proof,
            Situation::Processing(Processing::Queued { .. }) => Awaited::Examination,
            Situation::Processing(Processing::Running { .. }) => Awaited::Cancellation,
            _ => return None,
        };
        self.waits.of(awaited)
    }
}
