//! What supervisor and worker say to each other: frames of JSON over a pair of sockets, one request at a time.
//!
//! The supervisor believes nothing of what a worker says: frames are limited, and paths that it writes to are its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tissuemap::infer::{ProofStep, Provider};
use tissuemap::road::{Drawn, RoadParams, Stage};
use tissuemap::section_set::SectionSet;
use tissuemap::units::Mpp;

use crate::config::Sandbox;
use crate::job::{Fault, ModelInfo};

/// Raised when a message changes. Both ends are the same program, unless it was replaced while it ran.
pub const VERSION: u32 = 2;

/// A set of a thousand slides with long names fits; a worker that went wild does not fill the supervisor's memory.
const MAX_FRAME: usize = 4 << 20;

/// What a worker may do, told before anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub version: u32,
    pub sandbox: Sandbox,
    /// Files and folders that may be read, beside the system's libraries.
    pub read: Vec<PathBuf>,
    /// Folders that may be written.
    pub write: Vec<PathBuf>,
    /// Whether the graphics cards may be used.
    pub gpu: bool,
    /// Bytes that may be allocated.
    pub memory: u64,
    pub params: RoadParams,
}

/// Supervisor to worker. Every request but [`Request::Cancel`] is answered by one event that is neither
/// [`Event::Stage`], [`Event::Step`] nor [`Event::Log`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    /// The first one; answered by [`Event::Hello`].
    Setup(Box<Setup>),
    /// Answered by [`Event::Loaded`].
    Load {
        model: PathBuf,
        providers: Vec<Provider>,
        /// Where TensorRT keeps its engines.
        engines: PathBuf,
        /// What was measured before: patches per call, by [`tissuemap::infer::batch_key`].
        batches: BTreeMap<String, usize>,
        /// What this machine is called there.
        machine: String,
    },
    /// Answered by [`Event::Probed`].
    Probe { slide: PathBuf, mpp: Option<Mpp> },
    /// Answered by [`Event::Drawn`].
    Process { set: SectionSet, mpp: Option<Mpp>, folder: PathBuf },
    /// Ends a [`Request::Process`] with a fault.
    Cancel,
}

impl Request {
    /// The slides that it is about.
    pub(super) fn slides(&self) -> Vec<&Path> {
        match self {
            Self::Probe { slide, .. } => vec![slide],
            Self::Process { set, .. } => set.slides.values().map(PathBuf::as_path).collect(),
            Self::Setup(_) | Self::Load { .. } | Self::Cancel => vec![],
        }
    }
}

/// Worker to supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Event {
    Hello {
        version: u32,
        /// Parts of the confinement that this kernel does not have, in words.
        lacking: Vec<String>,
    },
    Loaded {
        info: ModelInfo,
        /// Patches per call.
        batch: usize,
    },
    Probed,
    Drawn(Drawn),
    Fault(Fault),
    Stage {
        stage: Stage,
        done: u64,
        total: u64,
    },
    /// What the proof of a model is at.
    Step(ProofStep),
    Log {
        level: Level,
        text: String,
    },
}

/// Severity of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Writes one frame: its length as four bytes, little end first, then JSON.
///
/// # Errors
/// Writing fails, the message does not fit into a frame (`FileTooLarge`), or a path in it is not UTF-8 (`InvalidData`).
pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(too_long(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    to.write_all(&frame)
}

/// Reads one frame.
///
/// # Errors
/// `UnexpectedEof` when the other end is gone; `FileTooLarge` and `InvalidData` for what is no frame or no message.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(too_long(length));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(serde_json::from_slice(&frame)?)
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("a message of {length} bytes is too long, {MAX_FRAME} are allowed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let requests = [Request::Cancel, Request::Probe { slide: "/in/ä b.svs".into(), mpp: Mpp::new(0.25).ok() }];
        let mut wire = Vec::new();
        requests.iter().for_each(|request| send(&mut wire, request).expect("memory"));
        let mut wire = wire.as_slice();
        for request in requests {
            assert_eq!(receive::<Request>(&mut wire).expect("a frame"), request);
        }
        assert_eq!(receive::<Request>(&mut wire).expect_err("the end").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn h04_what_is_no_message_is_refused_before_it_takes_memory() {
        let huge = u32::MAX.to_le_bytes();
        assert_eq!(receive::<Event>(&mut huge.as_slice()).expect_err("huge").kind(), io::ErrorKind::FileTooLarge);
        let mut junk = 3_u32.to_le_bytes().to_vec();
        junk.extend(b"{]}");
        assert!(receive::<Event>(&mut junk.as_slice()).is_err());
        junk.truncate(6);
        assert_eq!(receive::<Event>(&mut junk.as_slice()).expect_err("torn").kind(), io::ErrorKind::UnexpectedEof);
        let long = Event::Log { level: Level::Info, text: "x".repeat(MAX_FRAME) };
        assert!(send(&mut Vec::new(), &long).is_err());
    }
}
