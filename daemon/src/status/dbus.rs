//! The daemon on D-Bus: `org.tissuemap.Daemon1`, what people may ask of it included, and an object for every open job and every
//! model. docs/DBUS.md shows it by example.

/// Sends the change of each property whose value is another after than before.
macro_rules! tell_changed {
    ($object:ident, $emitter:ident, $before:expr, $after:expr, { $($($field:ident).+ => $tell:ident,)* }) => {
        $(if $before.$($field).+ != $after.$($field).+ { $object.$tell($emitter).await?; })*
    };
}

mod access;
mod error;
mod job;
mod manager;
mod model;
mod objects;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use zbus::fdo::{ObjectManager, RequestNameFlags};
use zbus::{Connection, connection};

pub use self::access::{Access, Action, Authority};
pub use self::error::Error;
pub use self::job::{Job1, Job1Proxy, path as job_path};
pub use self::manager::{Daemon1, Daemon1Proxy, JobEntry};
pub use self::model::{Model1, Model1Proxy, ModelEntry, path as model_path};
pub use self::objects::OBJECTS;
use self::objects::{Objects, jobs};
use super::Status;
use crate::config::BusKind;
use crate::job::Fault;

/// The name the daemon owns on the bus.
pub const NAME: &str = "org.tissuemap.Daemon1";
/// The object for the daemon as a whole; all others are below it.
pub const PATH: &str = "/org/tissuemap/Daemon1";

/// Changes are told at most ten times a second. People read no faster, and thousands of slides that arrive at once do not
/// become thousands of messages.
const BREATH: Duration = Duration::from_millis(100);

/// The daemon's objects on a bus.
#[derive(Debug)]
pub struct Service {
    connection: Connection,
    access: Access,
    jobs: Objects<Job1>,
    models: Objects<Model1>,
    told: Status,
}

impl Service {
    /// Serves the status on a bus. The objects are there before the name is requested, so that whoever sees the name can
    /// use them. Changes are told by [`Service::announce`].
    ///
    /// # Errors
    /// The bus cannot be reached, or the name is taken or not allowed to us.
    pub async fn begin(bus: connection::Builder<'static>, mut access: Access) -> zbus::Result<Self> {
        let told = access.status.borrow_and_update().clone();
        let connection = bus.serve_at(PATH, ObjectManager).serve_at(PATH, Daemon1(access.clone())).build().await?;
        let mut service = Self { connection, access, jobs: Objects::new(), models: Objects::new(), told };
        service.follow().await?;
        // The builder would queue behind another daemon and seem to have the name; the default flags would steal it.
        service.connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await?;
        Ok(service)
    }

    /// Has the objects be what was told last.
    async fn follow(&mut self) -> zbus::Result<()> {
        let (server, told) = (self.connection.object_server(), &self.told);
        self.jobs.follow(server, &self.access, jobs(told).into_values()).await?;
        self.models.follow(server, &self.access, told.models.iter().map(ModelEntry::from)).await
    }

    /// Sends changes and signals until the status has no sender any more (then everything was sent) or the bus is gone.
    ///
    /// # Errors
    /// The bus is gone.
    pub async fn announce(mut self) -> zbus::Result<()> {
        let daemon = self.connection.object_server().interface(PATH).await?;
        loop {
            tokio::select! {
                changed = self.access.status.changed() => if changed.is_err() { return Ok(()) },
                () = self.connection.closed() => return Err(zbus::Error::InputOutput(Arc::new(ErrorKind::ConnectionReset.into()))),
            }
            let now = self.access.status.borrow_and_update().clone();
            manager::tell(&daemon, &self.told, &now).await?;
            self.told = now;
            self.follow().await?;
            tokio::time::sleep(BREATH).await;
        }
    }
}

/// Serves the daemon on the configured bus and tells its changes from now on.
///
/// # Errors
/// The bus cannot be reached, or the name cannot be had.
pub async fn start(kind: BusKind, access: Access) -> Result<Announcer, Fault> {
    let Some(bus) = bus(kind) else { return Ok(Announcer(None)) };
    let service = Service::begin(bus, access).await.map_err(|error| {
        let hint = match &error {
            zbus::Error::NameTaken => "another tissuemapd is running; stop it first",
            zbus::Error::FDO(fdo) if matches!(**fdo, zbus::fdo::Error::AccessDenied(_)) => {
                "install systemd/org.tissuemap.Daemon1.conf, and run as the user it names"
            }
            _ => "start D-Bus, or set `kind` in [bus] to \"session\" or \"none\"",
        };
        Fault::from_error(&error).or_hint(hint)
    })?;
    Ok(Announcer(Some(tokio::spawn(service.announce()))))
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
