//! `tissuemapctl status` and `wait`: questions to the daemon on D-Bus.

use std::fmt::Write;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use zbus::connection;
use zbus::fdo::PropertiesProxy;
use zbus::proxy::CacheProperties;

use super::{StatusArgs, WaitArgs};
use crate::config::BusKind;
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;
use crate::status::dbus::{self, Daemon1Proxy, NAME, PATH};

/// The daemon's properties, as `status --json` prints them.
#[derive(Debug, Serialize)]
struct Report {
    state: String,
    version: String,
    model: String,
    current_job: String,
    stage: String,
    progress: f64,
    queue: Vec<String>,
    waiting: Vec<String>,
    arriving: Vec<String>,
    problems: Vec<String>,
    last_error: String,
    /// JSON of its own on the bus, an object here; null before the first result.
    last_result: serde_json::Value,
}

/// Prints the daemon's status, once or at every change.
///
/// # Errors
/// There is no bus or no daemon on it.
pub async fn status(kind: BusKind, args: StatusArgs) -> Result<(), Failure> {
    let daemon = connect(kind).await?;
    // Subscribed before the first look, so that no change falls between.
    let properties = PropertiesProxy::builder(daemon.inner().connection()).destination(NAME).path(PATH).build();
    let properties = properties.await.map_err(unavailable)?;
    let mut changes = properties.receive_properties_changed().await.map_err(unavailable)?;
    let mut owner = daemon.inner().receive_owner_changed().await.map_err(unavailable)?;
    loop {
        let report = report(&daemon).await.map_err(unavailable)?;
        let json = || serde_json::to_string(&report).map(|line| line + "\n");
        let text = if args.json { json().map_err(|error| Exit::Internal.because(&error))? } else { report.text() };
        exit::print(&text)?;
        if !args.watch {
            return Ok(());
        }
        tokio::select! {
            change = changes.next() => if change.is_none() { return Err(gone()) },
            _ = owner.next() => return Err(gone()),
        }
    }
}

/// Waits for the next finished set and prints its output directories.
///
/// # Errors
/// The set failed, nothing came in time, or there is no daemon.
pub async fn wait(kind: BusKind, args: WaitArgs) -> Result<(), Failure> {
    let daemon = connect(kind).await?;
    let mut ready = daemon.receive_result_ready().await.map_err(unavailable)?;
    let mut failed = daemon.receive_job_failed().await.map_err(unavailable)?;
    let mut owner = daemon.inner().receive_owner_changed().await.map_err(unavailable)?;
    let timeout = async {
        match args.timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        Some(signal) = ready.next() => {
            let args = signal.args().map_err(unavailable)?;
            exit::print(&exit::lines(args.outputs.iter()))
        }
        Some(signal) = failed.next() => {
            let args = signal.args().map_err(unavailable)?;
            Err(Exit::JobsFailed.with(Fault::new(format!("set {}: {}", args.set, args.reason), "see `tissuemapctl status`")))
        }
        _ = owner.next() => Err(gone()),
        () = timeout => Err(Exit::Unavailable.with(Fault::new("nothing was finished in time", "see `tissuemapctl status`"))),
    }
}

async fn connect(kind: BusKind) -> Result<Daemon1Proxy<'static>, Failure> {
    let bus = dbus::bus(kind).unwrap_or_else(connection::Builder::system);
    let connection = bus.build().await.map_err(unavailable)?;
    // Without the proxy's cache: it is updated by the same signals that wake `status --watch`, in no order with it.
    Daemon1Proxy::builder(&connection).cache_properties(CacheProperties::No).build().await.map_err(unavailable)
}

#[allow(clippy::needless_pass_by_value)] // map_err hands errors over.
fn unavailable(error: zbus::Error) -> Failure {
    let absent = error.to_string().contains("ServiceUnknown");
    let hint = if absent {
        "start tissuemapd, or name its bus: --bus session"
    } else {
        "name the daemon's bus: --bus system or --bus session"
    };
    Exit::Unavailable.with(Fault::from_error(&error).or_hint(hint))
}

fn gone() -> Failure {
    Exit::Unavailable.with(Fault::new("the daemon has ended", "see its log"))
}

async fn report(daemon: &Daemon1Proxy<'_>) -> zbus::Result<Report> {
    Ok(Report {
        state: daemon.state().await?,
        version: daemon.version().await?,
        model: daemon.model().await?,
        current_job: daemon.current_job().await?,
        stage: daemon.stage().await?,
        progress: daemon.progress().await?,
        queue: daemon.queue().await?,
        waiting: daemon.waiting().await?,
        arriving: daemon.arriving().await?,
        problems: daemon.problems().await?,
        last_error: daemon.last_error().await?,
        last_result: serde_json::from_str(&daemon.last_result().await?).unwrap_or_default(),
    })
}

impl Report {
    fn text(&self) -> String {
        let mut out = format!("tissuemapd {} is {}\nmodel     {}\n", self.version, self.state, self.model);
        // Writing to a string cannot fail.
        if !self.current_job.is_empty() {
            let _ = writeln!(out, "job       {} ({} {:.0} %)", self.current_job, self.stage, 100.0 * self.progress);
        }
        let lists = [
            ("queue", &self.queue),
            ("waiting", &self.waiting),
            ("arriving", &self.arriving),
            ("problem", &self.problems),
        ];
        for (name, entries) in lists {
            for entry in entries {
                let _ = writeln!(out, "{name:<9} {entry}");
            }
        }
        out
    }
}
