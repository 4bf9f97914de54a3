//! `tissuemapctl status`: the daemon at a glance, once or all the time.

pub(super) mod view;

use std::time::Duration;

use clap::Args;
use console::Term;
use futures_util::{FutureExt, StreamExt};
use zbus::fdo::PropertiesProxy;

use self::view::Report;
use super::bus::{connect, gone, unavailable};
use crate::config::BusKind;
use crate::exit::{self, Exit, Failure};
use crate::status::dbus::{NAME, PATH};

/// `tissuemapctl status`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tissuemapctl status
  tissuemapctl status --watch          redrawn in place; Ctrl-C ends it
  tissuemapctl status --json | jq -r '.problems[]'
  tissuemapctl status --watch --json   one line at every change
")]
pub struct StatusArgs {
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
    /// Show every change, until the daemon ends
    #[arg(long)]
    pub watch: bool,
}

/// Less than the time between two times that the daemon tells changes.
const TOGETHER: Duration = Duration::from_millis(50);

/// Prints the daemon's status, once or at every change.
///
/// # Errors
/// There is no bus or no daemon on it.
pub async fn status(kind: BusKind, args: StatusArgs) -> Result<(), Failure> {
    let daemon = connect(kind).await?;
    // Subscribed before the first look, so that no change falls between.
    let bus = daemon.inner().connection();
    let properties = PropertiesProxy::builder(bus).destination(NAME).path(PATH).build().await.map_err(unavailable)?;
    let mut changes = properties.receive_properties_changed().await.map_err(unavailable)?;
    let mut owner = daemon.inner().receive_owner_changed().await.map_err(unavailable)?;
    let mut screen = Screen::new(args.watch && !args.json);
    loop {
        let report = Report::ask(bus).await.map_err(unavailable)?;
        if args.json {
            exit::print(&exit::json(&report)?)?;
        } else {
            screen.show(&report)?;
        }
        if !args.watch {
            return Ok(());
        }
        tokio::select! {
            change = changes.next() => if change.is_none() { return Err(gone()) },
            _ = owner.next() => return Err(gone()),
        }
        // What changes together is told one by one; one look is enough for all of it.
        tokio::time::sleep(TOGETHER).await;
        while changes.next().now_or_never().flatten().is_some() {}
    }
}

/// Where text goes: to a terminal that is watched over what was there before, else behind it.
struct Screen {
    terminal: Option<Term>,
    /// Lines of the last text.
    lines: usize,
}

impl Screen {
    fn new(watch: bool) -> Self {
        Self { terminal: Some(Term::buffered_stdout()).filter(|terminal| watch && terminal.is_term()), lines: 0 }
    }

    fn show(&mut self, report: &Report) -> Result<(), Failure> {
        let Some(terminal) = &self.terminal else { return exit::print(&report.text(None)) };
        let (rows, columns) = terminal.size();
        let text = report.text(Some((usize::from(rows).saturating_sub(1), usize::from(columns))));
        let drawn = terminal
            .move_cursor_up(self.lines)
            .and_then(|()| terminal.clear_to_end_of_screen())
            .and_then(|()| terminal.write_str(&text))
            .and_then(|()| terminal.flush());
        self.lines = text.lines().count();
        drawn.map_err(|error| Exit::Internal.because(&error))
    }
}
