//! What callers are told when something is refused: `org.tissuemap.Daemon1.Error.…`, with `reason; hint: remedy` as its text.

use zbus::DBusError;

use tissuemap::escape::for_people;

use crate::command::{Refusal, RefusalKind};
use crate::job::Fault;

/// An error of the interface. The names are part of it.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.tissuemap.Daemon1.Error")]
pub enum Error {
    /// For the caller: the question did not get through, or the bus refused it.
    #[zbus(error)]
    Bus(zbus::Error),
    /// [`RefusalKind::NotWatched`].
    NotWatched(String),
    /// [`RefusalKind::NotReady`].
    NotReady(String),
    /// [`RefusalKind::NoSuchJob`].
    NoSuchJob(String),
    /// [`RefusalKind::NoSuchModel`].
    NoSuchModel(String),
    /// [`RefusalKind::ModelRefused`].
    ModelRefused(String),
    /// [`RefusalKind::WrongState`].
    WrongState(String),
    /// [`RefusalKind::Failed`].
    Failed(String),
    /// [`RefusalKind::Ending`].
    Ending(String),
    /// Polkit does not let the caller do that.
    NotAuthorized(String),
}

impl Error {
    /// [`Error::NotAuthorized`], for this reason.
    pub(super) fn not_authorized(reason: impl Into<String>, hint: &str) -> Self {
        Self::NotAuthorized(Fault::new(reason, hint).to_string())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let named = match refusal.kind {
            RefusalKind::NotWatched => Self::NotWatched,
            RefusalKind::NotReady => Self::NotReady,
            RefusalKind::NoSuchJob => Self::NoSuchJob,
            RefusalKind::NoSuchModel => Self::NoSuchModel,
            RefusalKind::ModelRefused => Self::ModelRefused,
            RefusalKind::WrongState => Self::WrongState,
            RefusalKind::Failed => Self::Failed,
            RefusalKind::Ending => Self::Ending,
        };
        named(for_people(&refusal.to_string()).to_string())
    }
}
