//! The way to the daemon, and what went wrong on it.

use std::time::Duration;

use futures_util::StreamExt;
use zbus::proxy::CacheProperties;
use zbus::{DBusError, connection, fdo};

use super::WaitArgs;
use crate::config::BusKind;
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;
use crate::status::dbus::{self, Daemon1Proxy, Error};

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

pub(super) async fn connect(kind: BusKind) -> Result<Daemon1Proxy<'static>, Failure> {
    let bus = dbus::bus(kind).unwrap_or_else(connection::Builder::system);
    let connection = bus.build().await.map_err(unavailable)?;
    // Without the proxy's cache: it is updated by the same signals that wake `status --watch`, in no order with it.
    Daemon1Proxy::builder(&connection).cache_properties(CacheProperties::No).build().await.map_err(unavailable)
}

/// Nothing got through to the daemon, or nothing came back.
#[allow(clippy::needless_pass_by_value)] // map_err hands errors over.
pub(super) fn unavailable(error: zbus::Error) -> Failure {
    let hint = match &error {
        zbus::Error::FDO(error) if matches!(**error, fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_)) => {
            "start tissuemapd, or name its bus: --bus session"
        }
        _ => "name the daemon's bus: --bus system or --bus session",
    };
    Exit::Unavailable.with(Fault::from_error(&error).or_hint(hint))
}

/// The daemon's own no, or the bus's.
pub(super) fn refused(error: Error) -> Failure {
    const OPERATORS: &str =
        "changes are for root and the group tissuemap: sudo usermod --append --groups tissuemap \"$USER\"";
    match error {
        Error::Bus(zbus::Error::FDO(error)) if matches!(*error, fdo::Error::AccessDenied(_)) => {
            Exit::JobsFailed.with(Fault::new("you may not change anything about tissuemapd", OPERATORS))
        }
        Error::Bus(error) => unavailable(error),
        refusal => Exit::JobsFailed.with(Fault::plain(refusal.description().unwrap_or_default())),
    }
}

pub(super) fn gone() -> Failure {
    Exit::Unavailable.with(Fault::new("the daemon has ended", "see its log"))
}
