//! Who may change something, and what the objects on the bus share.

use std::collections::HashMap;

use tokio::sync::watch;
use zbus::message::{Flags, Header};
use zbus::proxy::CacheProperties;
use zbus::{Connection, fdo};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::error::Error;
use crate::audit::Requester;
use crate::command::Commander;
use crate::config::BusKind;
use crate::status::Status;

/// An action that polkit knows by `systemd/org.tissuemap.daemon1.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Submit, cancel and retry.
    ManageJobs,
    /// Pause and resume.
    Pause,
    /// Activate, roll back and verify.
    ManageModels,
}

impl Action {
    /// Polkit's name for it.
    pub fn id(self) -> &'static str {
        match self {
            Self::ManageJobs => "org.tissuemap.daemon1.manage-jobs",
            Self::Pause => "org.tissuemap.daemon1.pause",
            Self::ManageModels => "org.tissuemap.daemon1.manage-models",
        }
    }
}

/// Who decides whether a caller that the bus has let through may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Nobody: the bus has decided.
    Bus,
    /// Polkit; where there is none, the bus has decided.
    Polkit,
}

impl Authority {
    /// A user's own bus has one user only.
    pub fn on(bus: BusKind) -> Self {
        match bus {
            BusKind::System => Self::Polkit,
            BusKind::Session | BusKind::None => Self::Bus,
        }
    }
}

/// What the objects on the bus share.
#[derive(Debug, Clone)]
pub struct Access {
    pub status: watch::Receiver<Status>,
    pub commander: Commander,
    pub authority: Authority,
}

impl Access {
    /// The commander in the caller's name, if the caller may do this. A polkit that cannot tell is no polkit that is absent: then nobody may.
    pub(super) async fn admit(
        &self,
        action: Action,
        header: &Header<'_>,
        bus: &Connection,
    ) -> Result<Commander, Error> {
        const HINT: &str = "see docs/DBUS.md on polkit, or do it as root";
        let allowed = if self.authority == Authority::Bus { Ok(true) } else { ask(action, header, bus).await };
        let admitted = match allowed {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::not_authorized(format!("polkit does not allow {}", action.id()), HINT)),
            Err(zbus::Error::FDO(error)) if is_absent(&error) => Ok(()),
            Err(error) => {
                tracing::warn!(action = action.id(), %error, "Polkit cannot tell; refused");
                Err(Error::not_authorized(format!("polkit cannot tell about {}: {error}", action.id()), HINT))
            }
        };
        admitted?;
        // What is done is written down with who wanted it.
        let user = user(header, bus)
            .await
            .map_err(|error| Error::not_authorized(format!("the bus cannot tell who asks: {error}"), "ask again"))?;
        Ok(self.commander.on_behalf_of(Requester::Uid(user)))
    }
}

/// The number of the caller's user.
async fn user(header: &Header<'_>, bus: &Connection) -> zbus::Result<u32> {
    let sender = header.sender().ok_or(zbus::Error::MissingField)?;
    let daemon = fdo::DBusProxy::new(bus).await?;
    Ok(daemon.get_connection_unix_user(sender.to_owned().into()).await?)
}

async fn ask(action: Action, header: &Header<'_>, bus: &Connection) -> zbus::Result<bool> {
    // The bus wrote the sender's name, and polkit asks the bus who that is.
    let subject = Subject::new_for_message_header(header).map_err(|_| zbus::Error::MissingField)?;
    let interactive = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
    let flags =
        if interactive { CheckAuthorizationFlags::ALLOW_USER_INTERACTION } else { CheckAuthorizationFlags::empty() };
    let polkit = AuthorityProxy::builder(bus).cache_properties(CacheProperties::No).build().await?;
    Ok(polkit.check_authorization(&subject, action.id(), &HashMap::new(), flags, "").await?.is_authorized)
}

fn is_absent(error: &fdo::Error) -> bool {
    matches!(error, fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_))
}
