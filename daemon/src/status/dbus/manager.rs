//! `org.tissuemap.Daemon1`: the daemon as a whole. `systemd/org.tissuemap.Daemon1.xml` describes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tissuemap::escape::for_people;
use tissuemap::register::Verdict;
use tissuemap::road::StainVerdict;
use zbus::message::Header;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, Type, interface};

use super::access::{Access, Action};
use super::error::Error;
use super::job::unix_seconds;
use super::model::ModelEntry;
use crate::disk::Shortage;
use crate::journal::JobId;
use crate::models::Rejection;
use crate::status::{Outcome, Product, Status, Wait, listed};

/// One line of `ListJobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct JobEntry {
    pub id: i64,
    pub set: String,
    pub folder: String,
    pub state: String,
    pub attempts: u32,
    /// Seconds since 1970; 0 unless the job waits to be tried again.
    pub not_before: u64,
    /// 1 is processed next; 0 is not in the queue.
    pub place: u32,
    pub reason: String,
}

/// The status as the properties of the interface show it. It borrows: with thousands of slides, the lists are long.
struct Properties<'a> {
    state: &'static str,
    paused: bool,
    disk: Option<&'a Shortage>,
    waits: &'a [Wait],
    queue: &'a [String],
    queue_length: u32,
    current_job: &'a str,
    current_job_id: i64,
    stage: &'static str,
    progress: f64,
    eta: i64,
    last_result: Option<&'a Outcome>,
    last_error: &'a str,
    problems: &'a [String],
    notes: &'a [String],
    waiting: &'a [String],
    arriving: &'a [String],
    model: &'a str,
    provider: &'a str,
}

impl<'a> From<&'a Status> for Properties<'a> {
    fn from(status: &'a Status) -> Self {
        let job = status.job.as_ref();
        Self {
            state: status.state.as_str(),
            paused: status.paused,
            disk: status.disk.as_ref(),
            waits: &status.waits,
            queue: &status.queue,
            queue_length: status.queue.len() as u32,
            current_job: job.map_or("", |job| &job.set),
            current_job_id: job.map_or(0, |job| job.id.0),
            stage: job.map_or("", |job| job.stage),
            progress: job.map_or(0.0, |job| job.progress),
            eta: job.and_then(|job| job.left).map_or(-1, |left| left.as_secs() as i64),
            last_result: status.last_result(),
            last_error: &status.last_error,
            problems: &status.problems,
            notes: &status.notes,
            waiting: &status.waiting,
            arriving: &status.arriving,
            model: &status.model,
            provider: &status.provider,
        }
    }
}

/// The object behind [`super::PATH`]. Each property is read from the status value at the moment it is asked for.
#[derive(Debug)]
pub struct Daemon1(pub(super) Access);

impl Daemon1 {
    fn show<T>(&self, property: impl FnOnce(Properties) -> T) -> T {
        property(Properties::from(&*self.0.status.borrow()))
    }
}

#[interface(
    name = "org.tissuemap.Daemon1",
    proxy(default_service = "org.tissuemap.Daemon1", default_path = "/org/tissuemap/Daemon1", visibility = "pub")
)]
impl Daemon1 {
    /// Process the set of this slide (an absolute path) as it is now, also if stains are missing or it was given up.
    #[zbus(out_args("job"), proxy(allow_interactive_auth))]
    async fn submit(
        &self,
        slide: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<i64, Error> {
        let commander = self.0.admit(Action::ManageJobs, &header, bus).await?;
        Ok(commander.submit(slide.into()).await?.0)
    }

    /// Do not process this job, or stop it.
    #[zbus(proxy(allow_interactive_auth))]
    async fn cancel(
        &self,
        job: i64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.0.admit(Action::ManageJobs, &header, bus).await?;
        Ok(commander.cancel(JobId(job)).await?)
    }

    /// Process a job that failed, was given up or cancelled.
    #[zbus(proxy(allow_interactive_auth))]
    async fn retry(
        &self,
        job: i64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.0.admit(Action::ManageJobs, &header, bus).await?;
        Ok(commander.retry(JobId(job)).await?)
    }

    /// Begin nothing new, also after a restart. A running job goes on.
    #[zbus(proxy(allow_interactive_auth))]
    async fn pause(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.0.admit(Action::Pause, &header, bus).await?;
        Ok(commander.pause().await?)
    }

    /// End a pause.
    #[zbus(proxy(allow_interactive_auth))]
    async fn resume(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), Error> {
        let commander = self.0.admit(Action::Pause, &header, bus).await?;
        Ok(commander.resume().await?)
    }

    /// Have this model (its file name, or at least four digits of its SHA-256) serve from the next job on. Answered once it
    /// has proved itself on this machine, which may take minutes; with its SHA-256.
    #[zbus(out_args("sha256"), proxy(allow_interactive_auth))]
    async fn activate_model(
        &self,
        model: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<String, Error> {
        let commander = self.0.admit(Action::ManageModels, &header, bus).await?;
        Ok(commander.activate(model.to_owned()).await?.sha256)
    }

    /// Have the model serve again that was replaced last. Answered once it has proved itself; with its SHA-256.
    #[zbus(out_args("sha256"), proxy(allow_interactive_auth))]
    async fn rollback(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<String, Error> {
        let commander = self.0.admit(Action::ManageModels, &header, bus).await?;
        Ok(commander.rollback().await?.sha256)
    }

    /// Have this model repeat its golden patches in a process of its own; what serves stays as it is. With what it computed
    /// on, and how they came out.
    #[zbus(out_args("sha256", "name", "provider", "golden"), proxy(allow_interactive_auth))]
    async fn verify_model(
        &self,
        model: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(String, String, String, String), Error> {
        let commander = self.0.admit(Action::ManageModels, &header, bus).await?;
        let told = commander.verify(model.to_owned()).await?;
        Ok((told.sha256, told.name, told.provider.to_string(), told.golden))
    }

    /// Where a slide (an absolute path) stands: one word for programs, a sentence that begins with a verb, and what to do
    /// (may be empty). Anybody may ask.
    #[zbus(out_args("state", "sentence", "hint"))]
    async fn explain(&self, slide: &str) -> Result<(String, String, String), Error> {
        let told = self.0.commander.explain(slide.into()).await?;
        Ok((told.state.to_owned(), told.sentence, told.hint.unwrap_or_default()))
    }

    /// All jobs that are neither done nor gone: the running one, the queue in its order, then the others by number. Of each:
    /// number, set, watch folder, state, tries, when it is tried again (seconds since 1970, or 0), place in the queue (from
    /// 1; 0 is not queued) and why it is in its state. No more than ten thousand. Anybody may ask.
    #[zbus(out_args("jobs"))]
    fn list_jobs(&self) -> Vec<JobEntry> {
        entries(&self.0.status.borrow())
    }

    /// All models that are remembered, in the order they came: SHA-256, file name, state (`active`, `standby`, `rejected`),
    /// since when (seconds since 1970) and why, stains, revision (or -1), what it was proved on and how its golden patches
    /// came out, whether it is on trial, jobs done and failed with it. Anybody may ask.
    #[zbus(out_args("models"))]
    fn list_models(&self) -> Vec<ModelEntry> {
        self.0.status.borrow().models.iter().map(ModelEntry::from).collect()
    }

    /// `starting`, `idle`, `busy` or `draining`.
    #[zbus(property)]
    fn state(&self) -> String {
        self.show(|now| now.state.to_owned())
    }

    /// Nothing new is begun because somebody wants that.
    #[zbus(property)]
    fn paused(&self) -> bool {
        self.show(|now| now.paused)
    }

    /// Why nothing is begun for want of room, or empty.
    #[zbus(property)]
    fn disk(&self) -> String {
        self.show(|now| now.disk.map(ToString::to_string).unwrap_or_default())
    }

    /// What is waited for: in words, since when (seconds since 1970) and for how many seconds at most (0: that is not limited).
    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn waits(&self) -> Vec<(String, u64, u64)> {
        let limit = |wait: &Wait| wait.limit.map_or(0, |limit| limit.as_secs());
        let told = |wait: &Wait| (wait.what.clone(), unix_seconds(Some(wait.since)), limit(wait));
        self.show(|now| now.waits.iter().map(told).collect())
    }

    /// Section sets that will be processed, next first. Of this and the other lists, no more than a thousand entries are told,
    /// and in one more how many there are besides.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn queue(&self) -> Vec<String> {
        self.show(|now| listed(now.queue))
    }

    /// How many they are.
    #[zbus(property)]
    fn queue_length(&self) -> u32 {
        self.show(|now| now.queue_length)
    }

    /// The section set that is being processed, or empty.
    #[zbus(property)]
    fn current_job(&self) -> String {
        self.show(|now| now.current_job.to_owned())
    }

    /// The number of its job, or 0.
    #[zbus(property)]
    fn current_job_id(&self) -> i64 {
        self.show(|now| now.current_job_id)
    }

    /// What is being done with it: `open`, `register`, `tissue`, `refine`, `infer` or `overlay`; empty without a job.
    #[zbus(property)]
    fn stage(&self) -> String {
        self.show(|now| now.stage.to_owned())
    }

    /// How far the stage is, 0 to 1.
    #[zbus(property)]
    fn progress(&self) -> f64 {
        self.show(|now| now.progress)
    }

    /// Seconds that the rest of the stage takes, as was known at its last step; -1 while that cannot be told.
    #[zbus(property)]
    fn eta(&self) -> i64 {
        self.show(|now| now.eta)
    }

    /// The latest successful job as JSON, or empty: `{"set": "case7", "outputs": ["/slides/case7_HE.tissuemap"],
    /// "registration": [{"stain": "CD31", "verdict": "good", "estimated_error_um": 6.5, "reasons": []}]}`.
    #[zbus(property)]
    fn last_result(&self) -> String {
        self.show(|now| now.last_result.map(result_json).unwrap_or_default())
    }

    /// The latest problem, with its remedy; it stays after the problem is gone.
    #[zbus(property)]
    fn last_error(&self) -> String {
        self.show(|now| now.last_error.to_owned())
    }

    /// Folders, slides and sets that need a person now, each `what: reason; hint: remedy`.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn problems(&self) -> Vec<String> {
        self.show(|now| listed(now.problems))
    }

    /// What people should know, and need do nothing about: slides that went away while the results made with them stay, and
    /// what became of files of people in the places of the latest results.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn notes(&self) -> Vec<String> {
        self.show(|now| now.notes.to_vec())
    }

    /// Section sets that lack stains, as `case7 (CD31 missing)`.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn waiting(&self) -> Vec<String> {
        self.show(|now| listed(now.waiting))
    }

    /// Slides that are still being copied or tested.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    fn arriving(&self) -> Vec<String> {
        self.show(|now| listed(now.arriving))
    }

    /// File name and SHA-256 of the model that serves, of each where there are several; empty while starting and without
    /// one.
    #[zbus(property)]
    fn model(&self) -> String {
        self.show(|now| now.model.to_owned())
    }

    /// What it computes on: `tensorrt`, `cuda` or `cpu`, of each where they differ; empty like `Model`.
    #[zbus(property)]
    fn provider(&self) -> String {
        self.show(|now| now.provider.to_owned())
    }

    /// Version of the daemon.
    #[zbus(property(emits_changed_signal = "const"))]
    #[allow(clippy::unused_self)] // The interface macro calls it on an object.
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    /// A set was processed; `outputs` are its output directories.
    #[zbus(signal)]
    async fn result_ready(emitter: &SignalEmitter<'_>, set: &str, outputs: Vec<String>) -> zbus::Result<()>;

    /// The registration of a stain is to be looked at (`review`: it was used) or was not used (`refused`), and why.
    #[zbus(signal)]
    async fn registration_review(
        emitter: &SignalEmitter<'_>,
        set: &str,
        stain: &str,
        verdict: &str,
        reasons: Vec<String>,
    ) -> zbus::Result<()>;

    /// A set could not be processed.
    #[zbus(signal)]
    async fn job_failed(emitter: &SignalEmitter<'_>, set: &str, reason: &str) -> zbus::Result<()>;

    /// A model was refused or rolled back: its file name, the id of the broken rule, and what is wrong.
    #[zbus(signal)]
    async fn model_rejected(emitter: &SignalEmitter<'_>, name: &str, id: &str, reason: &str) -> zbus::Result<()>;
}

/// Sends what is different now. Of the long lists it is told only that they are: after a burst of thousands of slides,
/// each change would send them whole.
pub(super) async fn tell(interface: &InterfaceRef<Daemon1>, old: &Status, new: &Status) -> zbus::Result<()> {
    let emitter = interface.signal_emitter();
    let daemon = interface.get().await;
    let (before, after) = (Properties::from(old), Properties::from(new));
    tell_changed!(daemon, emitter, before, after, {
        state => state_changed, paused => paused_changed, waits => waits_invalidate, disk => disk_changed, queue => queue_invalidate,
        queue_length => queue_length_changed, current_job => current_job_changed, current_job_id => current_job_id_changed,
        stage => stage_changed, progress => progress_changed, eta => eta_changed, last_result => last_result_changed,
        last_error => last_error_changed, problems => problems_invalidate, waiting => waiting_invalidate,
        arriving => arriving_invalidate, notes => notes_invalidate, model => model_changed, provider => provider_changed,
    });
    let last = old.outcomes.back().map_or(0, |outcome| outcome.number);
    for outcome in new.outcomes.iter().filter(|outcome| outcome.number > last) {
        match &outcome.result {
            Ok(product) => {
                emitter.result_ready(&outcome.set, outputs(product)).await?;
                for StainVerdict { stain, verdict, reasons, .. } in &product.registration {
                    if *verdict != Verdict::Good {
                        let (verdict, reasons) = (verdict.to_string(), reasons.clone());
                        emitter.registration_review(&outcome.set, stain, &verdict, reasons).await?;
                    }
                }
            }
            Err(reason) => emitter.job_failed(&outcome.set, reason).await?,
        }
    }
    let last = old.rejections.back().map_or(0, |rejection| rejection.number);
    for Rejection { name, id, reason, .. } in new.rejections.iter().filter(|rejection| rejection.number > last) {
        emitter.model_rejected(name, id, reason).await?;
    }
    Ok(())
}

/// So many jobs are told: three megabytes of the 128 that a message may have.
const JOBS: usize = 10_000;

fn entries(status: &Status) -> Vec<JobEntry> {
    let places: BTreeMap<JobId, u32> = status.queued.iter().copied().zip(1..).collect();
    let running = status.job.as_ref().map(|job| job.id);
    let mut entries: Vec<JobEntry> = status
        .jobs
        .iter()
        .map(|row| JobEntry {
            id: row.id.0,
            set: row.set.to_string(),
            folder: row.folder.clone(),
            state: row.state.to_string(),
            attempts: row.attempts,
            not_before: unix_seconds(row.not_before),
            place: places.get(&row.id).copied().unwrap_or_default(),
            reason: for_people(&row.reason.to_string()).to_string(),
        })
        .collect();
    entries.sort_by_key(|entry| (running != Some(JobId(entry.id)), entry.place == 0, entry.place, entry.id));
    entries.truncate(JOBS);
    entries
}

fn outputs(product: &Product) -> Vec<String> {
    product.outputs.iter().map(|path| path.display().to_string()).collect()
}

fn result_json(outcome: &Outcome) -> String {
    let product = outcome.result.clone().unwrap_or_default();
    json!({ "set": outcome.set, "outputs": outputs(&product), "registration": product.registration }).to_string()
}
