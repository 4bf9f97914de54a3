//! How the two programs end.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use tissuemap::escape::{self, for_people};

use crate::job::Fault;

/// What an exit code means. 64 and 69 are those of `sysexits.h`, 130 is what shells
/// say of a program that Ctrl-C has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The program ran, but slides or sets failed, or registrations are refused, or the daemon refuses what was asked.
    JobsFailed = 1,
    /// A bug, or the operating system refused something ordinary.
    Internal = 2,
    /// The command line or the configuration is wrong.
    Usage = 64,
    /// Something that must be there is not: the bus, the daemon, a library, the model.
    Unavailable = 69,
    /// A signal asked to end, and nothing was left half-done.
    Interrupted = 130,
}

/// The table for `--help`.
pub const HELP: &str = "Exit codes:
  0   done
  1   slides or section sets failed, a registration is refused, or the daemon refuses what was asked
  2   internal error
  64  the command line or the configuration is wrong
  69  something is not there: the bus, the daemon, a library, the model, or news within --timeout
  130 ended by Ctrl-C; nothing half-written is left";

impl Exit {
    /// This ending, for that reason.
    pub fn with(self, fault: Fault) -> Failure {
        Failure { exit: self, fault }
    }

    /// This ending, because of `error` and its causes.
    pub fn because(self, error: &(dyn std::error::Error + 'static)) -> Failure {
        self.with(Fault::from_error(error))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A program's unhappy end: the code, and what to tell.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub fault: Fault,
}

/// Parses the command line; `Err` is the exit code after help or a usage error was printed.
///
/// # Errors
/// See above.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        // Nothing can be done about a closed terminal.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
    })
}

/// Tells a person something on standard error, in one line.
#[allow(clippy::print_stderr)]
pub fn say(words: &str) {
    eprintln!("{}", for_people(words));
}

/// Tells a person what went wrong: the reason, then the hint on a line of its own.
pub fn complain(fault: &Fault) {
    say(&format!("error: {}", fault.reason()));
    if let Some(hint) = fault.hint() {
        say(&format!("hint: {hint}"));
    }
}

/// One line each, whatever is in it.
pub fn lines(items: impl Iterator<Item = impl Display>) -> String {
    items.fold(String::new(), |text, item| text + &for_people(&item.to_string()).to_string() + "\n")
}

/// A value as JSON in one line. What would drive a terminal is escaped, which changes no value.
///
/// # Errors
/// A bug: it is none that JSON can hold.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string(value).map_err(|error| Exit::Internal.because(&error))?;
    Ok(escape::json(&json) + "\n")
}

/// Writes lines of text for people to standard output. Names in them must have gone through [`for_people`] already, or
/// their line ends make lines; all other characters that drive a terminal are escaped here.
///
/// # Errors
/// Standard output cannot be written. A reader that has gone away (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_own(&escape::lines_for_people(text))
}

/// Writes what is the program's own and holds no names.
///
/// # Errors
/// As [`print`].
pub fn print_own(data: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Exit::Internal.because(&error)),
        _ => Ok(()),
    }
}
