//! The lines of an audit log, and how they hang together.
//!
//! A line is `{"n":7,"at":"…","prev":"…",…,"sha256":"…"}`: its hash is that of all bytes before `,"sha256"`, and `prev` is
//! the hash of the line before it.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tissuemap::hex::hex;
use tissuemap::untrusted;

use super::Event;

/// What the next line hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Of the last line, from 1; 0 before the first.
    pub(super) number: u64,
    sha256: String,
}

impl Default for Link {
    fn default() -> Self {
        Self { number: 0, sha256: "0".repeat(64) }
    }
}

#[derive(Serialize)]
struct Unsigned<'a> {
    n: u64,
    at: Timestamp,
    prev: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Line {
    n: u64,
    prev: String,
    sha256: String,
}

/// What lies between a line and its hash.
const HASH: &str = ",\"sha256\":\"";

impl Link {
    /// The line for an event, with its end, and what hangs on it.
    pub(super) fn next(&self, at: Timestamp, event: &Event) -> io::Result<(String, Self)> {
        let number = self.number + 1;
        let text = serde_json::to_string(&Unsigned { n: number, at, prev: &self.sha256, event })?;
        let body = text.strip_suffix('}').unwrap_or(&text);
        let sha256 = hash(body.as_bytes());
        Ok((format!("{body}{HASH}{sha256}\"}}\n"), Self { number, sha256 }))
    }

    /// The link that a line is, if it is whole; and the hash of the line that it hangs on.
    fn read(text: &str) -> Result<(Self, String), &'static str> {
        let line: Line = serde_json::from_str(text).map_err(|_| "is no entry")?;
        let (body, _) = text.rsplit_once(HASH).ok_or("has no hash")?;
        if hash(body.as_bytes()) != line.sha256 {
            return Err("was changed");
        }
        Ok((Self { number: line.n, sha256: line.sha256 }, line.prev))
    }
}

fn hash(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// Why a log does not hang together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {what}")]
pub struct Broken {
    /// From 1; 0 where only the end was looked at.
    pub line: u64,
    what: &'static str,
}

/// The end of a log.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) last: Link,
    /// Bytes of whole lines.
    pub(super) length: u64,
    /// What comes after the last end of a line.
    pub(super) torn: Vec<u8>,
}

/// Looks at the end of a log; one that is not there is empty.
pub(super) fn tail(path: &Path) -> io::Result<Result<Tail, Broken>> {
    let mut file = match untrusted::open_large(path) {
        Err(error) if error.is_not_found() => return Ok(Ok(Tail::default())),
        file => file?,
    };
    let all = file.metadata()?.len();
    let mut window = 1 << 16;
    // Until the window holds the last whole line.
    let end = loop {
        let begin = all.saturating_sub(window);
        file.seek(SeekFrom::Start(begin))?;
        let mut end = Vec::new();
        file.by_ref().take(all - begin).read_to_end(&mut end)?;
        if begin == 0 || end.split(|&byte| byte == b'\n').count() >= 3 {
            break end;
        }
        window *= 4;
    };
    let whole = end.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let (lines, torn) = end.split_at(whole);
    let tail = |last| Tail { last, length: all - torn.len() as u64, torn: torn.to_vec() };
    let Some(lines) = lines.strip_suffix(b"\n") else { return Ok(Ok(tail(Link::default()))) };
    let begin = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |before| before + 1);
    let line = std::str::from_utf8(&lines[begin..]).map_err(|_| "is no text").and_then(Link::read);
    Ok(line.map(|(link, _)| tail(link)).map_err(|what| Broken { line: 0, what }))
}

/// A log that hangs together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub entries: u64,
    /// Entries that there was no room for in time; the numbers leave them out.
    pub lost: u64,
    /// The hash of the last one, to be noted down somewhere else.
    pub last: String,
    /// Bytes of a last line that is not whole; the daemon notes and removes it when it starts.
    pub torn_bytes: u64,
}

/// Reads a log from its first line to its last.
///
/// # Errors
/// It cannot be read; or, within, the first line that does not hang on the one before it.
pub fn verify(path: &Path) -> io::Result<Result<Verified, Broken>> {
    let mut file = BufReader::new(untrusted::open_large(path)?);
    let (mut last, mut entries, mut bytes) = (Link::default(), 0, Vec::new());
    for line in 1.. {
        bytes.clear();
        file.read_until(b'\n', &mut bytes)?;
        let Some(text) = bytes.strip_suffix(b"\n") else { break };
        let read = std::str::from_utf8(text).map_err(|_| "is no text").and_then(Link::read);
        let hangs = read.and_then(|(link, prev)| match prev == last.sha256 {
            true if link.number > last.number => Ok(link),
            true => Err("has a number that was there before"),
            false => Err("does not follow the line before it: one was removed, or put in between"),
        });
        match hangs {
            Ok(link) => (last, entries) = (link, line),
            Err(what) => return Ok(Err(Broken { line, what })),
        }
    }
    Ok(Ok(Verified { entries, lost: last.number - entries, last: last.sha256, torn_bytes: bytes.len() as u64 }))
}
