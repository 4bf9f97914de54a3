//! Objects that come and go: their interfaces, and which jobs have any.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;
use zbus::ObjectServer;
use zbus::object_server::{Interface, InterfaceRef};

use super::access::Access;
use super::job::JobView;
use crate::journal::JobId;
use crate::status::Status;

/// More jobs than this have no objects: after a burst of thousands, whoever asks for all objects would be sent megabytes,
/// and so would everybody be who listens. `ListJobs` tells them all, and the methods of the daemon take their numbers.
pub const OBJECTS: usize = 256;

/// An interface whose objects show what they were last given: properties and change signals agree.
pub(super) trait Shown: Interface + Sized {
    /// What an object shows.
    type View: Clone + PartialEq + Send + Sync;

    fn new(view: watch::Receiver<Self::View>, access: Access) -> Self;

    fn path(view: &Self::View) -> String;

    /// Sends what is different now.
    fn tell(
        interface: &InterfaceRef<Self>,
        old: &Self::View,
        new: &Self::View,
    ) -> impl Future<Output = zbus::Result<()>> + Send;
}

/// The objects of one interface, by path, each with where it takes what it shows.
#[derive(Debug)]
pub(super) struct Objects<I: Shown>(BTreeMap<String, watch::Sender<I::View>>);

impl<I: Shown> Objects<I> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds and removes objects and tells changes, so that they are these.
    pub(super) async fn follow(
        &mut self,
        server: &ObjectServer,
        access: &Access,
        views: impl IntoIterator<Item = I::View>,
    ) -> zbus::Result<()> {
        let views: BTreeMap<String, I::View> = views.into_iter().map(|view| (I::path(&view), view)).collect();
        let gone: Vec<String> = self.0.keys().filter(|path| !views.contains_key(*path)).cloned().collect();
        for path in gone {
            self.0.remove(&path);
            server.remove::<I, _>(path).await?;
        }
        for (path, view) in views {
            if let Some(shown) = self.0.get(&path) {
                let old = shown.send_replace(view.clone());
                if old != view {
                    I::tell(&server.interface(path).await?, &old, &view).await?;
                }
            } else {
                let (sender, receiver) = watch::channel(view);
                server.at(path.clone(), I::new(receiver, access.clone())).await?;
                self.0.insert(path, sender);
            }
        }
        Ok(())
    }
}

/// Of the open jobs at most [`OBJECTS`]: the running one, half of them for what comes next, the rest for the newest of all
/// others.
pub(super) fn jobs(status: &Status) -> BTreeMap<JobId, JobView> {
    let current = status.job.as_ref();
    let queued: BTreeSet<JobId> = status.queued.iter().copied().collect();
    let others = status.jobs.iter().rev().map(|row| row.id).filter(|id| !queued.contains(id));
    let running = current.map(|job| job.id);
    let first = running.into_iter().chain(status.queued.iter().copied().take(OBJECTS / 2)).chain(others);
    let mut views = BTreeMap::new();
    for id in first.chain(status.queued.iter().copied().skip(OBJECTS / 2)) {
        if views.len() == OBJECTS {
            break;
        }
        if let Some(row) = status.row(id) {
            views.entry(id).or_insert_with(|| JobView::new(row, current));
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tissuemap::section_set::SetKey;

    use super::*;
    use crate::journal::{JobRow, JobState};
    use crate::status::CurrentJob;

    /// Jobs 1 to `jobs`, of which the odd ones are queued, the newest first.
    fn status(jobs: i64) -> Status {
        let row = |id: i64| JobRow {
            id: JobId(id),
            folder: "/slides".into(),
            set: SetKey { case: format!("c{id}"), block: None },
            state: if id % 2 == 1 { JobState::Requested } else { JobState::Quarantined },
            attempts: 0,
            not_before: None,
            reason: "".into(),
        };
        Status {
            jobs: Arc::new((1..=jobs).map(row).collect()),
            queued: Arc::new((1..=jobs).rev().filter(|id| id % 2 == 1).map(JobId).collect()),
            job: Some(CurrentJob { id: JobId(2), set: "c2".into(), stage: "infer", progress: 0.5, left: None }),
            ..Status::default()
        }
    }

    #[test]
    fn few_jobs_all_have_objects_and_of_many_the_ones_that_matter() {
        assert_eq!(jobs(&status(100)).len(), 100);
        let many = jobs(&status(10_000));
        assert_eq!(many.len(), OBJECTS);
        assert!(many.contains_key(&JobId(2)), "the running one");
        assert!(many.contains_key(&JobId(9999)) && many.contains_key(&JobId(9745)), "the next 128");
        assert!(!many.contains_key(&JobId(9743)));
        assert!(many.contains_key(&JobId(10_000)) && !many.contains_key(&JobId(4)), "the newest of the others");
    }

    #[test]
    fn a_queue_without_anything_else_fills_all_places() {
        let mut status = status(10_000);
        status.jobs = Arc::new(status.jobs.iter().filter(|row| row.id.0 % 2 == 1).cloned().collect());
        assert_eq!(jobs(&status).len(), OBJECTS);
        // A job that is done may be queued, to be looked at again: it is no open job.
        status.jobs = Arc::default();
        assert_eq!(jobs(&status).len(), 0);
    }
}
