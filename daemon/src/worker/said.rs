//! What a worker says is bounded before anyone keeps or repeats it (hazard h28): length of a line, lines and messages in a
//! time, characters that drive terminals.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tissuemap::escape::for_people;

use super::protocol::Event;

/// Of a longer line on standard error, the rest is dropped.
const LINE_BYTES: usize = 4000;
/// Of a longer text, the rest is dropped.
const TEXT_CHARS: usize = 2000;

/// Lines for the log at once, and lasting in a second: a model that is loaded says some twenty.
const LINES: (f64, f64) = (400.0, 0.5);
/// Bytes that are read at once, and lasting in a second. Whoever says more has to wait until it is read.
const BYTES: (f64, f64) = (16e6, 4e6);
/// What a message costs beside its bytes: small ones are work, too.
const MESSAGE_COST: usize = 1000;

/// The text in one line that moves no cursor, and not longer than anyone reads.
pub(crate) fn one_line(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_CHARS).map_or(text.len(), |(at, _)| at);
    for_people(&text[..end]).to_string()
}

/// So much at once, and so much a second.
#[derive(Debug)]
struct Bucket {
    level: f64,
    most: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    fn new((most, per_second): (f64, f64)) -> Self {
        Self { level: most, most, per_second, filled: Instant::now() }
    }

    fn fill(&mut self, now: Instant) {
        let added = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        (self.level, self.filled) = ((self.level + added).min(self.most), now);
    }

    /// Takes one where there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let enough = self.level >= 1.0;
        self.level -= if enough { 1.0 } else { 0.0 };
        enough
    }

    /// Takes so much in any case, and tells how long to wait until it would have been there.
    fn borrow(&mut self, amount: usize, now: Instant) -> Duration {
        self.fill(now);
        self.level -= amount as f64;
        Duration::from_secs_f64((-self.level / self.per_second).max(0.0))
    }
}

/// News of work that goes on are handed on no faster.
const NEWS_TICK: Duration = Duration::from_millis(20);

/// Which news of a worker's progress are handed on: all that are the first of their kind, of others now and then one.
#[derive(Debug)]
pub(super) struct News<T> {
    told: Vec<T>,
    next: Option<Instant>,
}

impl<T: PartialEq> News<T> {
    pub(super) fn new() -> Self {
        Self { told: Vec::new(), next: None }
    }

    /// Whether news of this kind, of which there are few, are handed on now.
    pub(super) fn is_due(&mut self, kind: T, now: Instant) -> bool {
        let known = self.told.contains(&kind);
        if known && self.next.is_some_and(|next| now < next) {
            return false;
        }
        if !known {
            self.told.push(kind);
        }
        self.next = Some(now + NEWS_TICK);
        true
    }
}

/// How much a worker may still write into the log; shared by all who repeat what it says.
#[derive(Debug, Clone)]
pub(super) struct LogBudget(Arc<Mutex<(Bucket, u64)>>);

impl LogBudget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((Bucket::new(LINES), 0))))
    }

    /// Whether one more line may be repeated; then also how many were not since the last one that was.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (bucket, suppressed) = &mut *budget;
        if bucket.take(now) {
            return Some(std::mem::take(suppressed));
        }
        *suppressed += 1;
        None
    }
}

/// Makes whoever writes wait when it writes more than [`BYTES`].
#[derive(Debug)]
pub(super) struct Paced<R> {
    from: R,
    bucket: Bucket,
}

impl<R> Paced<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, bucket: Bucket::new(BYTES) }
    }

    /// After every message.
    pub(super) fn message(&mut self) {
        self.wait(MESSAGE_COST);
    }

    fn wait(&mut self, amount: usize) {
        let wait = self.bucket.borrow(amount, Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.wait(read);
        Ok(read)
    }
}

/// Gives every line to `hear`, cut to [`LINE_BYTES`], until the end or an error.
pub(super) fn each_line(from: impl Read, mut hear: impl FnMut(&str)) {
    let mut from = BufReader::new(Paced::new(from));
    let (mut line, mut dropped) = (Vec::new(), 0);
    let mut tell = |line: &mut Vec<u8>, dropped: &mut usize| {
        let text = one_line(&String::from_utf8_lossy(line));
        match *dropped {
            0 => hear(&text),
            dropped => hear(&format!("{text} … ({dropped} bytes more)")),
        }
        *dropped = 0;
        line.clear();
    };
    loop {
        let piece = match from.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if piece.is_empty() {
            if !line.is_empty() {
                tell(&mut line, &mut dropped);
            }
            return;
        }
        let end = piece.iter().position(|&byte| byte == b'\n');
        let part = &piece[..end.unwrap_or(piece.len())];
        let kept = part.len().min(LINE_BYTES - line.len());
        line.extend(&part[..kept]);
        dropped += part.len() - kept;
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            tell(&mut line, &mut dropped);
        }
    }
}

/// The same event, without anything in its texts that should not reach people.
pub(super) fn for_log_and_status(event: Event) -> Event {
    match event {
        Event::Fault(fault) => Event::Fault(fault.told_by_worker()),
        Event::Log { level, text } => Event::Log { level, text: one_line(&text) },
        Event::Hello { version, lacking } => {
            let lacking = lacking.iter().take(8).map(|what| one_line(what)).collect();
            Event::Hello { version, lacking }
        }
        Event::Loaded { mut info, batch } => {
            info.golden = one_line(&info.golden);
            Event::Loaded { info, batch }
        }
        other @ (Event::Probed | Event::Drawn(_) | Event::Stage { .. } | Event::Step(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Fault, FaultKind};

    #[test]
    fn h28_what_a_worker_says_stays_one_line_and_moves_no_cursor() {
        assert_eq!(one_line("a\nERROR forged\u{1b}[2J\u{202e}gnp"), "a\\nERROR forged\\x1b[2J\\u{202e}gnp");
        assert_eq!(one_line(&"x".repeat(5000)).len(), TEXT_CHARS);
    }

    /// Gives so many bytes in all, and says how many it was asked for at once at most.
    struct Endless(usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let given = buffer.len().min(self.0);
            buffer[..given].fill(b'A');
            self.0 -= given;
            Ok(given)
        }
    }

    #[test]
    fn h28_a_line_without_end_is_kept_in_part_and_said_so() {
        let mut heard = Vec::new();
        let text = Endless(10 << 20).chain(&b"\nshort\n\nlast"[..]);
        each_line(text, |line| heard.push(line.to_owned()));
        let rest = (10 << 20) - LINE_BYTES;
        assert_eq!(heard[0], format!("{} … ({rest} bytes more)", "A".repeat(TEXT_CHARS)));
        assert_eq!(heard[1..], ["short", "", "last"]);
    }

    #[test]
    fn h28_a_flood_of_lines_is_suppressed_and_counted() {
        let (budget, begun) = (LogBudget::new(), Instant::now());
        let admitted = (0..100_000).filter(|_| budget.admit(begun).is_some()).count();
        assert_eq!(admitted, LINES.0 as usize);
        let later = begun + Duration::from_secs_f64(1.0 / LINES.1);
        assert_eq!(budget.admit(later), Some(100_000 - admitted as u64), "told once there is room again");
        assert_eq!(budget.admit(later), None);
        assert_eq!(budget.admit(later + Duration::from_hours(1)), Some(1), "quiet workers are heard");
    }

    #[test]
    fn h28_a_flood_of_news_is_handed_on_in_part_and_the_first_of_each_kind_at_once() {
        let (mut news, begun) = (News::new(), Instant::now());
        assert!(news.is_due(1, begun) && news.is_due(2, begun));
        assert!((0..1000).all(|i| !news.is_due(1 + i % 2, begun)));
        assert!(news.is_due(3, begun) && news.is_due(1, begun + NEWS_TICK));
    }

    #[test]
    fn h28_who_says_more_than_is_read_has_to_wait() {
        let mut bucket = Bucket::new(BYTES);
        let now = bucket.filled;
        assert_eq!(bucket.borrow(BYTES.0 as usize, now), Duration::ZERO);
        let wait = bucket.borrow(BYTES.1 as usize, now);
        assert_eq!(wait, Duration::from_secs(1));
        assert_eq!(bucket.borrow(0, now + wait), Duration::ZERO);
    }

    #[test]
    fn h28_a_worker_cannot_say_that_there_is_no_worker() {
        let told = |kind| Fault::new("x", "y").with_kind(kind).told_by_worker().kind();
        // A set is not blamed for that, and would be tried for ever.
        assert_eq!(told(FaultKind::NoWorker), FaultKind::Other);
        assert_eq!(told(FaultKind::Slide), FaultKind::Slide);
    }

    #[test]
    fn h28_a_fault_that_a_worker_tells_has_no_id_but_of_a_slide_a_model_or_a_set() {
        let told = |id: &str| {
            let fault = Fault::new("x\u{1b}[31mFORGED\nsecond", "h\u{7}").with_id(id);
            let Event::Fault(fault) = for_log_and_status(Event::Fault(fault)) else { panic!("a fault stays one") };
            assert_eq!(fault.to_string(), "x\\x1b[31mFORGED\\nsecond; hint: h\\x07");
            fault.id().map(str::to_owned)
        };
        for id in
            ["slide.corrupt", "model.golden-mismatch", "onnx.unknown-field", "contract.stains", "set.unregistered"]
        {
            assert_eq!(told(id).as_deref(), Some(id));
        }
        let long = format!("slide.{}", "x".repeat(60));
        for id in ["worker.not-started", "model.x\nid: y", "slide.", "Slide.x", "", &long] {
            assert_eq!(told(id), None, "{id:?}");
        }
    }
}
