//! Everything that must be right for the daemon to serve, tried one after the other: the doctor behind
//! `tissuemapctl check`.
//!
//! Nothing is asked of a running daemon and nothing of it is touched: the model is proved in a worker process of its own,
//! with a state folder of its own.

mod folders;
mod machine;
mod model;
mod service;
mod unit;

use std::path::Path;

use serde::Serialize;

use crate::config::{BusKind, Config};
use crate::job::Fault;
use crate::status::dbus;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Grade {
    Ok,
    /// The daemon serves, but not as well as it could.
    Warn,
    /// The daemon does not start, or cannot do its work.
    Fail,
}

impl Grade {
    /// The word that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked: `openslide`, `events /slides`.
    pub check: String,
    pub grade: Grade,
    pub detail: String,
    /// What a person can do; none where all is well.
    pub hint: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check: check.into(), grade: Grade::Ok, detail: detail.into(), hint: None }
    }

    fn of(check: impl Into<String>, grade: Grade, fault: &Fault) -> Self {
        let hint = fault.hint().map(str::to_owned);
        Self { check: check.into(), grade, detail: fault.reason().into(), hint }
    }

    fn warn(check: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::of(check, Grade::Warn, &Fault::new(detail, hint))
    }

    fn fail(check: impl Into<String>, fault: &Fault) -> Self {
        Self::of(check, Grade::Fail, fault)
    }
}

/// Checks all that the configuration at `path` needs and tells each finding as soon as it is there. `program` is
/// `tissuemapd`, which the model is proved by. Blocks; takes seconds.
pub fn run(path: &Path, program: &Path, tell: &mut dyn FnMut(Finding)) {
    machine::libraries(tell);
    tell(machine::kernel());
    let config = match Config::read(path) {
        Ok(read) => {
            tell(Finding::ok("configuration", path.display().to_string()));
            read
        }
        Err(error) => {
            let fault = Fault::from_error(&error).or_hint("`tissuemapd config` prints a commented configuration");
            return tell(Finding::fail("configuration", &fault));
        }
    };
    tell(folders::state(&config));
    for watch in &config.watch {
        folders::watched(watch, config.schedule.min_free(), tell);
    }
    service::seen(path, &config, tell);
    tell(machine::watches(&config.watch));
    tell(machine::memory(&config.worker));
    tell(machine::graphics(&config.worker));
    machine::lights(&config.leds, tell);
    model::proved(&config, program, tell);
    tell(bus(config.bus.kind));
}

/// Is there a bus, and does a daemon serve on it?
fn bus(kind: BusKind) -> Finding {
    const CHECK: &str = "bus";
    let Some(bus) = dbus::bus(kind) else {
        return Finding::ok(CHECK, "none is wanted (`kind = \"none\"`): nobody can ask the daemon");
    };
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(zbus::Error::from);
    let owner = asked.and_then(|runtime| {
        runtime.block_on(async {
            let connection = bus.build().await?;
            let names = zbus::fdo::DBusProxy::new(&connection).await?;
            Ok(names.name_has_owner(zbus::names::BusName::try_from(dbus::NAME)?).await?)
        })
    });
    match owner {
        Ok(true) => Finding::ok(CHECK, format!("a daemon serves {}", dbus::NAME)),
        Ok(false) => Finding::warn(CHECK, format!("nobody serves {}", dbus::NAME), "start tissuemapd"),
        Err(error) => {
            let hint = "start D-Bus, or set `kind` in [bus] to \"session\" or \"none\"";
            Finding::fail(CHECK, &Fault::from_error(&error).or_hint(hint))
        }
    }
}
