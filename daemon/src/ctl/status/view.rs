//! What `status` shows, as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use console::truncate_str;
use serde::{Serialize, Serializer};
use tissuemap::escape::for_people;
use zbus::{Connection, DeserializeDict, Type};

use crate::explain::span;
use crate::status::Wait;
use crate::status::dbus::{NAME, PATH};

/// All properties of the daemon at one moment, as the bus gives them and `status --json` prints them.
#[derive(Debug, Clone, Default, DeserializeDict, Type, Serialize)]
#[zbus(signature = "dict", rename_all = "PascalCase")]
pub(super) struct Report {
    state: String,
    version: String,
    paused: bool,
    disk: String,
    model: String,
    provider: String,
    current_job: String,
    current_job_id: i64,
    stage: String,
    progress: f64,
    /// Seconds; null while unknown.
    #[serde(serialize_with = "unless_negative")]
    eta: i64,
    /// What is waited for: in words, since when (seconds since 1970), and for how many seconds at most (0: not limited).
    waits: Vec<(String, u64, u64)>,
    queue_length: u32,
    queue: Vec<String>,
    waiting: Vec<String>,
    arriving: Vec<String>,
    problems: Vec<String>,
    notes: Vec<String>,
    last_error: String,
    /// JSON of its own on the bus, an object here; null before the first result.
    #[serde(serialize_with = "as_json")]
    last_result: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it so.
fn unless_negative<S: Serializer>(seconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    Some(*seconds).filter(|seconds| *seconds >= 0).serialize(serializer)
}

fn as_json<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::from_str::<serde_json::Value>(text).unwrap_or_default().serialize(serializer)
}

/// Entries of a list that are shown before the rest is counted.
const SHOWN: usize = 8;

/// Columns of the progress bar.
const BAR: usize = 24;

impl Report {
    /// All properties in one question, so that they are of one moment.
    pub(super) async fn ask(bus: &Connection) -> zbus::Result<Self> {
        let reply = bus.call_method(Some(NAME), PATH, Some("org.freedesktop.DBus.Properties"), "GetAll", &NAME).await?;
        reply.body().deserialize()
    }

    /// Words for people; for a terminal of so many rows and columns, no more than fits into it.
    pub(super) fn text(&self, size: Option<(usize, usize)>) -> String {
        let lines: Vec<String> = self.lines().iter().map(|line| for_people(line).to_string()).collect();
        let Some((rows, columns)) = size else { return joined(lines.iter().map(String::as_str)) };
        let hidden = if lines.len() > rows { lines.len() + 1 - rows.max(1) } else { 0 };
        let rest = (hidden > 0).then(|| format!("... and {hidden} more lines"));
        let shown = lines[..lines.len() - hidden].iter().chain(&rest);
        joined(shown.map(|line| truncate_str(line, columns, "...")).collect::<Vec<_>>().iter().map(AsRef::as_ref))
    }

    fn lines(&self) -> Vec<String> {
        let paused = if self.paused { ", paused: nothing new is begun" } else { "" };
        let mut lines = vec![format!("tissuemapd {} is {}{paused}", self.version, self.state)];
        if !self.model.is_empty() {
            lines.push(line("model", &format!("{} on {}", short(&self.model), self.provider)));
        }
        if !self.current_job.is_empty() {
            let left = Duration::from_secs(self.eta.max(0) as u64);
            let left = if self.eta < 0 { String::new() } else { format!(", {} left", span(left)) };
            let (bar, percent) = (bar(self.progress), (100.0 * self.progress).floor());
            let place =
                format!("{} (job {})  {} {bar} {percent} %{left}", self.current_job, self.current_job_id, self.stage);
            lines.push(line("working", &place));
        }
        lines.extend(self.waits.iter().map(|wait| line("waits for", &in_words(wait, SystemTime::now()))));
        if self.queue_length > 0 {
            let first: Vec<&str> = self.queue.iter().take(SHOWN).map(String::as_str).collect();
            let more = if self.queue.len() > SHOWN { ", ..." } else { "" };
            lines.push(line("queue", &format!("{}: {}{more}", self.queue_length, first.join(", "))));
        }
        let lists = [("waiting", &self.waiting), ("arriving", &self.arriving), ("problem", &self.problems)];
        for (name, entries) in lists.into_iter().chain([("note", &self.notes)]) {
            lines.extend(entries.iter().take(SHOWN).map(|entry| line(name, entry)));
            if entries.len() > SHOWN {
                lines.push(line(name, &format!("... and {} more: --json shows all", entries.len() - SHOWN)));
            }
        }
        lines
    }
}

/// One of [`Report::waits`], as it is at this time.
pub(in crate::ctl) fn in_words((what, since, limit): &(String, u64, u64), now: SystemTime) -> String {
    let limit = Some(*limit).filter(|limit| *limit > 0).map(Duration::from_secs);
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(*since)).unwrap_or(now);
    Wait { what: what.clone(), since, limit }.in_words(now)
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<9} {text}")
}

/// Twelve digits of each SHA-256 are enough to know a model again.
fn short(model: &str) -> String {
    let mut parts = model.split("sha256:");
    let name = parts.next().unwrap_or_default().to_owned();
    parts.fold(name, |text, part| {
        let digits = part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len());
        text + "sha256:" + &part[..digits.min(12)] + &part[digits..]
    })
}

fn joined<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn bar(progress: f64) -> String {
    let done = (progress.clamp(0.0, 1.0) * BAR as f64) as usize;
    format!("[{}{}]", "#".repeat(done), "-".repeat(BAR - done))
}

#[cfg(test)]
mod tests {
    use console::measure_text_width;

    use super::*;

    fn busy() -> Report {
        Report {
            state: "busy".into(),
            version: "0.1.0".into(),
            model: "mouse.onnx sha256:264bece1a0958584, rat.onnx sha256:ab12".into(),
            provider: "cpu".into(),
            current_job: "case7".into(),
            current_job_id: 17,
            stage: "infer".into(),
            progress: 0.5,
            eta: 150,
            queue_length: 20,
            queue: (0..20).map(|i| format!("case{i}")).collect(),
            waiting: vec!["c2 (CD31 missing)".into()],
            problems: (0..20).map(|i| format!("{i}.svs: damaged; hint: copy it again")).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn one_line_each_and_long_lists_are_counted() {
        let text = busy().text(None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "tissuemapd 0.1.0 is busy",
                "model     mouse.onnx sha256:264bece1a095, rat.onnx sha256:ab12 on cpu",
                "working   case7 (job 17)  infer [############------------] 50 %, 2 min left",
                "queue     20: case0, case1, case2, case3, case4, case5, case6, case7, ...",
            ]
        );
        assert_eq!(lines[4], "waiting   c2 (CD31 missing)");
        assert_eq!(lines.len(), 5 + SHOWN + 1);
        assert_eq!(lines.last(), Some(&"problem   ... and 12 more: --json shows all"));
    }

    #[test]
    fn a_wait_is_a_line_with_its_time_and_limit() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let wait = ("proving model m.onnx (step: golden)".to_owned(), 970, 900);
        assert_eq!(in_words(&wait, now), "proving model m.onnx (step: golden) for 30 s, at most 15 min");
        let text = Report { waits: vec![wait], ..busy() }.text(None);
        assert!(text.contains("waits for proving model m.onnx (step: golden) for "), "{text}");
    }

    #[test]
    fn nothing_is_drawn_beyond_a_terminal_of_any_size() {
        for (rows, columns) in [(1, 1), (3, 10), (5, 40), (14, 80), (40, 200)] {
            let text = busy().text(Some((rows, columns)));
            assert!(text.lines().count() <= rows, "{rows} rows: {text}");
            assert!(text.lines().all(|line| measure_text_width(line) <= columns.max(3)), "{columns} columns: {text}");
        }
        assert!(busy().text(Some((5, 80))).contains("... and 10 more lines"));
    }

    #[test]
    fn json_has_null_for_what_is_not_known() {
        let idle = serde_json::to_value(Report { eta: -1, ..Report::default() }).expect("JSON");
        assert!(idle["eta"].is_null() && idle["last_result"].is_null());
        assert_eq!(serde_json::to_value(busy()).expect("JSON")["eta"], 150);
    }
}
