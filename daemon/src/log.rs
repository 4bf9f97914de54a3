//! The log: to systemd's journal with its fields where standard error leads there, as text on standard error elsewhere.

mod journal;

use std::io::{IsTerminal, stderr};

use tissuemap::escape::for_people;
use tracing::Subscriber;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Format, debug_fn};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use self::journal::Journal;

/// What is logged: as `RUST_LOG` says, else what an operator wants to know.
pub fn filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,ort=warn"))
}

/// Begins to log.
pub fn start() {
    let registry = tracing_subscriber::registry().with(filter());
    match Journal::behind_stderr() {
        Some(journal) => registry.with(journal).init(),
        None => registry.with(text(stderr).with_ansi(stderr().is_terminal())).init(),
    }
}

/// The log as lines of text. Every value is escaped here, so that no caller can forget it: a name that holds a line end
/// or a terminal's controls forges no line.
fn text<S, W>(writer: W) -> fmt::Layer<S, impl for<'a> FormatFields<'a> + 'static, Format, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    let fields = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{}", for_people(&format!("{value:?}"))),
        // What the crate `log` brings along is in the line already.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={}", for_people(&format!("{value:?}"))),
    });
    fmt::layer().fmt_fields(fields.delimited(" ")).with_writer(writer)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn h26_a_name_in_the_log_makes_no_line_and_drives_no_terminal() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = text(move || writer.clone()).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let name = "a\n2026 ERROR forged\u{1b}[2J\u{202e}\u{9b}1m.svs";
            tracing::warn!(slide = %name, text = name, list = ?[name], "Set {name} failed");
        });
        let log = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert_eq!(log.lines().count(), 1, "{log}");
        let line = log.trim_end_matches('\n');
        assert_eq!(for_people(line).to_string(), line);
        assert!(line.contains("WARN") && line.contains("slide=a\\n2026 ERROR forged\\x1b[2J\\u{202e}"), "{line}");
    }
}
