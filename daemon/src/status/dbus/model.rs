//! `org.tissuemap.Model1`: one model that is remembered. `systemd/org.tissuemap.Model1.xml` describes it.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::InterfaceRef;
use zbus::{Connection, Type, interface};

use super::access::{Access, Action};
use super::error::Error;
use super::job::unix_seconds;
use super::objects::Shown;
use crate::models::ModelRow;

/// One line of `ListModels`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct ModelEntry {
    pub sha256: String,
    pub name: String,
    pub state: String,
    /// Seconds since 1970.
    pub since: u64,
    pub reason: String,
    pub stains: Vec<String>,
    /// -1 without one.
    pub revision: i64,
    pub provider: String,
    pub golden: String,
    pub on_trial: bool,
    pub jobs_done: u64,
    pub jobs_failed: u64,
}

impl From<&ModelRow> for ModelEntry {
    fn from(row: &ModelRow) -> Self {
        Self {
            sha256: row.sha256.clone(),
            name: row.name.clone(),
            state: row.state.as_str().to_owned(),
            since: unix_seconds(Some(row.since)),
            reason: row.reason.clone(),
            stains: row.stains.clone(),
            revision: row.revision.map_or(-1, |revision| revision as i64),
            provider: row.provider.map(|provider| provider.to_string()).unwrap_or_default(),
            golden: row.golden.clone(),
            on_trial: row.on_trial,
            jobs_done: row.jobs_done,
            jobs_failed: row.jobs_failed,
        }
    }
}

/// The object path of a model: sixteen digits of its SHA-256 tell all models of the world apart.
pub fn path(sha256: &str) -> String {
    format!("{}/model/{}", super::PATH, sha256.get(..16).unwrap_or(sha256))
}

/// The object behind [`path`].
#[derive(Debug)]
pub struct Model1 {
    view: watch::Receiver<ModelEntry>,
    access: Access,
}

impl Model1 {
    fn show<T>(&self, part: impl FnOnce(&ModelEntry) -> T) -> T {
        part(&self.view.borrow())
    }
}

#[interface(
    name = "org.tissuemap.Model1",
    proxy(
        default_service = "org.tissuemap.Daemon1",
        default_path = "/org/tissuemap/Daemon1/model/0",
        visibility = "pub"
    )
)]
impl Model1 {
    /// As `ActivateModel` of `org.tissuemap.Daemon1`.
    #[zbus(proxy(allow_interactive_auth))]
    async fn activate(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.access.admit(Action::ManageModels, &header, bus).await?;
        let sha256 = self.show(|model| model.sha256.clone());
        Ok(commander.activate(sha256).await.map(drop)?)
    }

    /// As `VerifyModel` of `org.tissuemap.Daemon1`.
    #[zbus(out_args("provider", "golden"), proxy(allow_interactive_auth))]
    async fn verify(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(String, String), Error> {
        let commander = self.access.admit(Action::ManageModels, &header, bus).await?;
        let sha256 = self.show(|model| model.sha256.clone());
        let verified = commander.verify(sha256).await?;
        Ok((verified.provider.to_string(), verified.golden))
    }

    /// Of its file: its identity in results.
    #[zbus(property(emits_changed_signal = "const"))]
    fn sha256(&self) -> String {
        self.show(|model| model.sha256.clone())
    }

    /// The file name that it came under.
    #[zbus(property)]
    fn name(&self) -> String {
        self.show(|model| model.name.clone())
    }

    /// `active` (serves), `standby` (could) or `rejected` (may not).
    #[zbus(property)]
    fn state(&self) -> String {
        self.show(|model| model.state.clone())
    }

    /// Since when, in seconds since 1970.
    #[zbus(property)]
    fn since(&self) -> u64 {
        self.show(|model| model.since)
    }

    /// Why it has this state; may be empty.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.show(|model| model.reason.clone())
    }

    /// In the order of its input; empty where it was refused before that was known.
    #[zbus(property)]
    fn stains(&self) -> Vec<String> {
        self.show(|model| model.stains.clone())
    }

    /// What its maker calls this state of it, or -1: a later one has a greater number.
    #[zbus(property)]
    fn revision(&self) -> i64 {
        self.show(|model| model.revision)
    }

    /// What it was proved on; empty where it was not.
    #[zbus(property)]
    fn provider(&self) -> String {
        self.show(|model| model.provider.clone())
    }

    /// How its golden patches came out, in words.
    #[zbus(property)]
    fn golden(&self) -> String {
        self.show(|model| model.golden.clone())
    }

    /// It serves, no job has succeeded with it yet, and failures roll it back.
    #[zbus(property)]
    fn on_trial(&self) -> bool {
        self.show(|model| model.on_trial)
    }

    /// Jobs that succeeded with it.
    #[zbus(property)]
    fn jobs_done(&self) -> u64 {
        self.show(|model| model.jobs_done)
    }

    /// Jobs that failed with it.
    #[zbus(property)]
    fn jobs_failed(&self) -> u64 {
        self.show(|model| model.jobs_failed)
    }
}

impl Shown for Model1 {
    type View = ModelEntry;

    fn new(view: watch::Receiver<ModelEntry>, access: Access) -> Self {
        Self { view, access }
    }

    fn path(view: &ModelEntry) -> String {
        path(&view.sha256)
    }

    async fn tell(interface: &InterfaceRef<Self>, old: &ModelEntry, new: &ModelEntry) -> zbus::Result<()> {
        let (model, emitter) = (interface.get().await, interface.signal_emitter());
        tell_changed!(model, emitter, old, new, {
            name => name_changed, state => state_changed, since => since_changed, reason => reason_changed, stains => stains_changed,
            revision => revision_changed, provider => provider_changed, golden => golden_changed, on_trial => on_trial_changed,
            jobs_done => jobs_done_changed, jobs_failed => jobs_failed_changed,
        });
        Ok(())
    }
}
