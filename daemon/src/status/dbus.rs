//! The status on D-Bus: `org.tissuemap.Daemon1`, read-only. `systemd/org.tissuemap.Daemon1.xml` describes it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tissuemap::register::Verdict;
use tissuemap::road::StainVerdict;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zbus::fdo::RequestNameFlags;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, connection, interface};

use super::{Outcome, Product, Status};
use crate::config::BusKind;
use crate::job::Fault;

/// The name the daemon owns on the bus.
pub const NAME: &str = "org.tissuemap.Daemon1";
/// Its one object.
pub const PATH: &str = "/org/tissuemap/Daemon1";

/// The status as the properties of the interface show it.
struct Properties {
    state: &'static str,
    queue: Vec<String>,
    current_job: String,
    stage: &'static str,
    progress: f64,
    last_result: String,
    last_error: String,
    problems: Vec<String>,
    waiting: Vec<String>,
    arriving: Vec<String>,
    model: String,
}

impl From<&Status> for Properties {
    fn from(status: &Status) -> Self {
        let job = status.job.as_ref();
        Self {
            state: status.state.as_str(),
            queue: status.queue.clone(),
            current_job: job.map(|job| job.set.clone()).unwrap_or_default(),
            stage: job.map(|job| job.stage).unwrap_or_default(),
            progress: job.map(|job| job.progress).unwrap_or_default(),
            last_result: status.last_result().map(result_json).unwrap_or_default(),
            last_error: status.last_error.clone(),
            problems: status.problems.clone(),
            waiting: status.waiting.clone(),
            arriving: status.arriving.clone(),
            model: status.model.clone(),
        }
    }
}

/// The object behind [`PATH`]. Each property is read from the status value at the moment it is asked for.
#[derive(Debug)]
pub struct Daemon1 {
    status: watch::Receiver<Status>,
}

impl Daemon1 {
    fn properties(&self) -> Properties {
        Properties::from(&*self.status.borrow())
    }
}

#[interface(
    name = "org.tissuemap.Daemon1",
    proxy(default_service = "org.tissuemap.Daemon1", default_path = "/org/tissuemap/Daemon1", visibility = "pub")
)]
impl Daemon1 {
    /// `starting`, `idle`, `busy` or `draining`.
    #[zbus(property)]
    fn state(&self) -> String {
        self.properties().state.to_owned()
    }

    /// Section sets that will be processed, next first.
    #[zbus(property)]
    fn queue(&self) -> Vec<String> {
        self.properties().queue
    }

    /// The section set that is being processed, or empty.
    #[zbus(property)]
    fn current_job(&self) -> String {
        self.properties().current_job
    }

    /// What is being done with it: `open`, `register`, `tissue`, `refine`, `infer` or `overlay`; empty without a job.
    #[zbus(property)]
    fn stage(&self) -> String {
        self.properties().stage.to_owned()
    }

    /// How far the stage is, 0 to 1.
    #[zbus(property)]
    fn progress(&self) -> f64 {
        self.properties().progress
    }

    /// The latest successful job as JSON, or empty: `{"set": "case7", "outputs": ["/slides/case7_HE.tissuemap"],
    /// "registration": [{"stain": "CD31", "verdict": "good", "estimated_error_um": 6.5, "reasons": []}]}`.
    #[zbus(property)]
    fn last_result(&self) -> String {
        self.properties().last_result
    }

    /// The latest problem, with its remedy; it stays after the problem is gone.
    #[zbus(property)]
    fn last_error(&self) -> String {
        self.properties().last_error
    }

    /// Folders, slides and sets that need a person now, each `what: reason; hint: remedy`.
    #[zbus(property)]
    fn problems(&self) -> Vec<String> {
        self.properties().problems
    }

    /// Section sets that lack stains, as `case7 (CD31 missing)`.
    #[zbus(property)]
    fn waiting(&self) -> Vec<String> {
        self.properties().waiting
    }

    /// Slides that are still being copied or tested.
    #[zbus(property)]
    fn arriving(&self) -> Vec<String> {
        self.properties().arriving
    }

    /// Path and SHA-256 of the model in use; empty while starting.
    #[zbus(property)]
    fn model(&self) -> String {
        self.properties().model
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
}

/// Serves the status on a bus. The object is there before the name is requested, so that whoever sees the name can use
/// it. Changes are told by [`announce`].
///
/// # Errors
/// The bus cannot be reached, or the name is taken or not allowed to us.
pub async fn serve(bus: connection::Builder<'static>, status: watch::Receiver<Status>) -> zbus::Result<Connection> {
    let connection = bus.serve_at(PATH, Daemon1 { status }).build().await?;
    // The builder would queue behind another daemon and seem to have the name; the default flags would steal it.
    connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await?;
    Ok(connection)
}

/// Serves the status on the configured bus and tells its changes from now on.
///
/// # Errors
/// The bus cannot be reached, or the name cannot be had.
pub async fn start(kind: BusKind, status: watch::Receiver<Status>) -> Result<Announcer, Fault> {
    let Some(bus) = bus(kind) else { return Ok(Announcer(None)) };
    let connection = serve(bus, status.clone()).await.map_err(|error| {
        let hint = match &error {
            zbus::Error::NameTaken => "another tissuemapd is running; stop it first",
            _ => "start D-Bus, or set `kind` in [bus] to \"session\" or \"none\"",
        };
        Fault::from_error(&error).or_hint(hint)
    })?;
    Ok(Announcer(Some(tokio::spawn(announce(connection, status)))))
}

/// How to reach a bus; `None` when none is wanted.
pub fn bus(kind: BusKind) -> Option<connection::Builder<'static>> {
    match kind {
        BusKind::System => Some(connection::Builder::system()),
        BusKind::Session => Some(connection::Builder::session()),
        BusKind::None => None,
    }
}

/// The task that tells the bus; none without a bus.
#[derive(Debug)]
pub struct Announcer(Option<JoinHandle<zbus::Result<()>>>);

impl Announcer {
    /// Waits until the bus is lost, and tells why; for ever without a bus.
    pub async fn lost(&mut self) -> Fault {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let reason = match task.await {
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(())) => "the status has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        self.0 = None;
        Fault::new(
            format!("D-Bus: {reason}"),
            "see why the bus ended; a daemon that nobody can ask is restarted instead",
        )
    }

    /// Waits until the last changes are sent. The status must have lost its sender.
    pub async fn finish(self) {
        // The bus is local; what it has not taken within a second it will not take.
        if let Some(task) = self.0 {
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
    }
}

/// Sends property changes and signals until the status has no sender any more (then everything was sent) or the bus is
/// gone.
///
/// # Errors
/// The bus is gone.
pub async fn announce(connection: Connection, mut status: watch::Receiver<Status>) -> zbus::Result<()> {
    let interface = connection.object_server().interface(PATH).await?;
    let mut told = status.borrow_and_update().clone();
    loop {
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = connection.closed() => return Err(zbus::Error::InputOutput(Arc::new(ErrorKind::ConnectionReset.into()))),
        }
        let now = status.borrow_and_update().clone();
        tell(&interface, &told, &now).await?;
        told = now;
    }
}

#[allow(clippy::float_cmp)] // Any other number is a change that was not told.
async fn tell(interface: &InterfaceRef<Daemon1>, old: &Status, new: &Status) -> zbus::Result<()> {
    let emitter = interface.signal_emitter();
    let daemon = interface.get().await;
    let (before, after) = (Properties::from(old), Properties::from(new));
    macro_rules! tell_changed {
        ($($property:ident $tell:ident,)*) => { $(if before.$property != after.$property { daemon.$tell(emitter).await?; })* };
    }
    tell_changed! {
        state state_changed, queue queue_changed, current_job current_job_changed, stage stage_changed,
        progress progress_changed, last_result last_result_changed, last_error last_error_changed,
        problems problems_changed, waiting waiting_changed, arriving arriving_changed, model model_changed,
    }
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
    Ok(())
}

fn outputs(product: &Product) -> Vec<String> {
    product.outputs.iter().map(|path| path.display().to_string()).collect()
}

fn result_json(outcome: &Outcome) -> String {
    let product = outcome.result.clone().unwrap_or_default();
    json!({ "set": outcome.set, "outputs": outputs(&product), "registration": product.registration }).to_string()
}
