//! Systemd's journal, by its own protocol: a datagram an entry, with every field by its name (`journalctl CASE=case7`).
//!
//! The message repeats the fields, because `journalctl` shows nothing else unless asked; that is what the crates for this
//! leave out.

use std::fmt::{Debug, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tissuemap::escape::for_people;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const SOCKET: &str = "/run/systemd/journal/socket";

/// A datagram holds some hundred KiB; no value that anyone reads comes near.
const LONGEST: usize = 8 << 10;

/// The journal as a layer of the log.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal, where systemd has connected standard error to it.
    pub(super) fn behind_stderr() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = fs::metadata("/proc/self/fd/2").ok()?;
        let ours = stream == format!("{}:{}", stderr.dev(), stderr.ino());
        ours.then(|| Self::at(SOCKET.into()).ok()).flatten()
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        fs::metadata(&path)?;
        Ok(Self { socket: UnixDatagram::unbound()?, path })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // Errors, warnings and so on, by the numbers of syslog.
        let priority = match *event.metadata().level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut entry = Vec::new();
        put(&mut entry, "MESSAGE", &fields.message());
        put(&mut entry, "PRIORITY", priority);
        put(&mut entry, "SYSLOG_IDENTIFIER", "tissuemapd");
        for (name, value) in &fields.others {
            put(&mut entry, &name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"), value);
        }
        // By name each time: the journal may have been restarted.
        if self.socket.send_to(&entry, &self.path).is_err() {
            // It leads to the journal by another way, or to nobody.
            let _ = writeln!(io::stderr(), "{}", fields.message());
        }
    }
}

/// `NAME=value`: no value has several lines.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(LONGEST)];
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'=');
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    /// The message, then `name=value` for every field.
    fn message(&self) -> String {
        self.others.iter().fold(self.message.clone(), |mut text, (name, value)| {
            // Writing to a string cannot fail.
            let _ = write!(text, " {name}={value}");
            text
        })
    }

    /// Every value is escaped here, so that no caller can forget it.
    fn put(&mut self, field: &Field, value: &str) {
        let value = for_people(value).to_string();
        match field.name() {
            "message" => self.message = value,
            name => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn an_entry_has_its_fields_and_a_message_that_repeats_them() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("bound");
        let layer = Journal::at(path).expect("there");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(case = "c7", slide = %"a\nPRIORITY=0", job = 5, "Slide done");
        });
        let mut entry = [0; 1000];
        let length = journal.recv(&mut entry).expect("an entry");
        let wanted = "MESSAGE=Slide done case=c7 slide=a\\nPRIORITY=0 job=5\nPRIORITY=4\nSYSLOG_IDENTIFIER=tissuemapd\n\
                      CASE=c7\nSLIDE=a\\nPRIORITY=0\nJOB=5\n";
        assert_eq!(String::from_utf8_lossy(&entry[..length]), wanted);
    }
}
