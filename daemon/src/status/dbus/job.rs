//! `org.tissuemap.Job1`: one job that is neither done nor gone. `systemd/org.tissuemap.Job1.xml` describes it.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::InterfaceRef;
use zbus::{Connection, interface};

use tissuemap::escape::for_people;

use super::access::{Access, Action};
use super::error::Error;
use super::objects::Shown;
use crate::journal::{JobId, JobRow};
use crate::status::CurrentJob;

/// A job as its object shows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JobView {
    row: JobRow,
    /// Empty and 0 unless the job is running.
    stage: &'static str,
    progress: f64,
}

impl JobView {
    /// `current` is the job that is being processed, if one is.
    pub(super) fn new(row: &JobRow, current: Option<&CurrentJob>) -> Self {
        let current = current.filter(|current| current.id == row.id);
        let (stage, progress) = current.map_or(("", 0.0), |current| (current.stage, current.progress));
        Self { row: row.clone(), stage, progress }
    }
}

/// The object path of a job.
pub fn path(id: JobId) -> String {
    format!("{}/job/{id}", super::PATH)
}

/// The object behind [`path`].
#[derive(Debug)]
pub struct Job1 {
    view: watch::Receiver<JobView>,
    access: Access,
}

impl Job1 {
    fn show<T>(&self, part: impl FnOnce(&JobView) -> T) -> T {
        part(&self.view.borrow())
    }

    fn job(&self) -> JobId {
        self.show(|view| view.row.id)
    }
}

#[interface(
    name = "org.tissuemap.Job1",
    proxy(
        default_service = "org.tissuemap.Daemon1",
        default_path = "/org/tissuemap/Daemon1/job/1",
        visibility = "pub"
    )
)]
impl Job1 {
    /// Do not process this job, or stop it.
    #[zbus(proxy(allow_interactive_auth))]
    async fn cancel(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.access.admit(Action::ManageJobs, &header, bus).await?;
        Ok(commander.cancel(self.job()).await?)
    }

    /// Process this job, which failed, was given up or cancelled.
    #[zbus(proxy(allow_interactive_auth))]
    async fn retry(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.access.admit(Action::ManageJobs, &header, bus).await?;
        Ok(commander.retry(self.job()).await?)
    }

    /// The number of the job, the last part of its path.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> i64 {
        self.job().0
    }

    /// The section set.
    #[zbus(property(emits_changed_signal = "const"))]
    fn set(&self) -> String {
        self.show(|view| view.row.set.to_string())
    }

    /// The watch folder.
    #[zbus(property(emits_changed_signal = "const"))]
    fn folder(&self) -> String {
        self.show(|view| view.row.folder.clone())
    }

    /// `requested`, `running`, `failed` (tried again later), `quarantined` (left alone) or `cancelled`.
    #[zbus(property)]
    fn state(&self) -> String {
        self.show(|view| view.row.state.to_string())
    }

    /// Tries that began.
    #[zbus(property)]
    fn attempts(&self) -> u32 {
        self.show(|view| view.row.attempts)
    }

    /// Why the job is in its state, often with a remedy; may be empty.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.show(|view| for_people(&view.row.reason.to_string()).to_string())
    }

    /// When a failed job is tried again, in seconds since 1970; 0 for other jobs.
    #[zbus(property)]
    fn not_before(&self) -> u64 {
        self.show(|view| unix_seconds(view.row.not_before))
    }

    /// What is being done, as in the property of the same name of `org.tissuemap.Daemon1`; empty unless running.
    #[zbus(property)]
    fn stage(&self) -> String {
        self.show(|view| view.stage.to_owned())
    }

    /// How far the stage is, 0 to 1.
    #[zbus(property)]
    fn progress(&self) -> f64 {
        self.show(|view| view.progress)
    }
}

impl Shown for Job1 {
    type View = JobView;

    fn new(view: watch::Receiver<JobView>, access: Access) -> Self {
        Self { view, access }
    }

    fn path(view: &JobView) -> String {
        path(view.row.id)
    }

    async fn tell(interface: &InterfaceRef<Self>, old: &JobView, new: &JobView) -> zbus::Result<()> {
        let (job, emitter) = (interface.get().await, interface.signal_emitter());
        tell_changed!(job, emitter, old, new, {
            row.state => state_changed, row.attempts => attempts_changed, row.reason => reason_changed,
            row.not_before => not_before_changed, stage => stage_changed, progress => progress_changed,
        });
        Ok(())
    }
}

/// D-Bus knows neither times nor nothing.
pub(super) fn unix_seconds(time: Option<SystemTime>) -> u64 {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs()
}
