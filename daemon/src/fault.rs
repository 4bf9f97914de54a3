//! Why something could not be done: reason, remedy, the id of the rule and what kind of fault it is, kept apart from where
//! it happens to where it is told. Nothing is decided by its text.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::iter::successors;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tissuemap::contract::{ContractError, PreflightError};
use tissuemap::escape::for_people;
use tissuemap::infer::ModelError;
use tissuemap::landmarks::LandmarkError;
use tissuemap::libs::LibraryError;
use tissuemap::road::RoadError;
use tissuemap::section_set::NamingError;
use tissuemap::slide::SlideError;
use tissuemap::transform::TransformError;
use tissuemap::untrusted::UntrustedError;

use crate::audit::AuditError;
use crate::journal::JournalError;
use crate::worker::{UNTELLABLE, one_line};

/// What follows from a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The disk or a quota is full: nothing is wrong with the job, it can be repeated when there is room.
    NoSpace,
    /// No worker starts: nobody has looked at the job.
    NoWorker,
    /// The folder, share or disk does not answer or does not let us in: nothing is known of the file.
    Unreachable,
    /// Somebody asked to end.
    Cancelled,
    /// The slides themselves are at fault, whatever the model.
    Slide,
    /// Any other, or one that another version knows.
    #[default]
    #[serde(other)]
    Other,
}

impl FaultKind {
    /// What an error of the operating system means.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => return Self::NoSpace,
            ErrorKind::PermissionDenied
            | ErrorKind::TimedOut
            | ErrorKind::NotConnected
            | ErrorKind::StaleNetworkFileHandle
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown => return Self::Unreachable,
            _ => {}
        }
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // Again: somebody holds a lease on the file, as a file server does for its clients.
            Some(Errno::AGAIN | Errno::IO | Errno::HOSTDOWN | Errno::NOLINK | Errno::REMOTEIO | Errno::SHUTDOWN) => {
                Self::Unreachable
            }
            _ => Self::Other,
        }
    }

    /// What an error is, by the first of it and its causes that tells.
    fn of(error: &(dyn Error + 'static)) -> Self {
        let told = chain(error).map(|error| {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Self::of_io(error);
            }
            if let Some(error) = error.downcast_ref::<SlideError>() {
                return if error.blames_slide() { Self::Slide } else { Self::Other };
            }
            match error.downcast_ref::<RoadError>() {
                Some(RoadError::Slide(error)) if error.blames_slide() => return Self::Slide,
                Some(RoadError::Refused { .. }) => return Self::Slide,
                Some(RoadError::Cancelled) => return Self::Cancelled,
                _ => {}
            }
            match error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
                Some(rusqlite::ErrorCode::DiskFull) => Self::NoSpace,
                _ => Self::Other,
            }
        });
        told.into_iter().find(|&kind| kind != Self::Other).unwrap_or_default()
    }

    /// The word in the journal.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "no-space",
            Self::NoWorker => "no-worker",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
            Self::Slide => "slide",
            Self::Other => "other",
        }
    }

    /// The kind of a word in the journal; an unknown one is of another version.
    pub(crate) fn of_word(word: &str) -> Self {
        const ALL: [FaultKind; 5] =
            [FaultKind::NoSpace, FaultKind::NoWorker, FaultKind::Unreachable, FaultKind::Cancelled, FaultKind::Slide];
        ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or_default()
    }
}

/// Why something could not be done, as it is shown to the operator: the file and the reason, then what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub struct Fault {
    reason: String,
    hint: Option<String>,
    /// The stable id of the broken rule, where the rule has one.
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    kind: FaultKind,
}

impl Fault {
    /// `reason` names the file and says what is wrong, `hint` what a person can do.
    pub fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..Self::plain(reason) }
    }

    /// A fault that nothing can be advised about.
    pub fn plain(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None, id: None, kind: FaultKind::Other }
    }

    /// What the operating system says of `subject`, most often a path; a file that is not opened says it better itself.
    pub fn of_io(subject: impl Display, error: &io::Error, hint: impl Into<String>) -> Self {
        if matches!(error.get_ref(), Some(inner) if inner.is::<UntrustedError>()) {
            return Self::from_error(error).or_hint(hint);
        }
        Self::new(format!("{subject}: {error}"), hint).with_kind(FaultKind::of_io(error))
    }

    /// What an error and its causes say, outermost first, with the first hint that one of them has.
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut reason = String::new();
        for error in chain(error) {
            let text = error.to_string();
            // Errors that are transparent about their cause would say everything twice.
            if reason.is_empty() {
                reason = text;
            } else if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
        }
        Self { hint: chain(error).find_map(hint), kind: FaultKind::of(error), ..Self::plain(reason) }
    }

    /// A file or folder that cannot be reached: nothing is known of what is in it.
    pub fn unreachable(path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => {
                "let the daemon's user read it; links must not lead out of the watched folders"
            }
            ErrorKind::NotFound => "create or mount it; work then goes on by itself",
            _ => "see whether its disk or the share's host is up; work goes on by itself once it answers",
        };
        Self::of_io(for_people(path), error, hint).with_kind(FaultKind::Unreachable)
    }

    /// A folder that does not answer, as that of a share whose host is gone.
    pub fn silent(folder: &Path) -> Self {
        Self::new(
            format!("{}: does not answer", for_people(folder)),
            "see whether its disk or the share's host is up; work goes on by itself once it answers",
        )
        .with_kind(FaultKind::Unreachable)
    }

    /// The same fault with this hint, unless it has one.
    #[must_use]
    pub fn or_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: self.hint.or_else(|| Some(hint.into())), ..self }
    }

    /// The same fault as a breach of the rule with this id, such as `slide.corrupt`.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The same fault, of this kind.
    #[must_use]
    pub fn with_kind(self, kind: FaultKind) -> Self {
        Self { kind, ..self }
    }

    /// The same fault, with what it happened to or how it was met before its reason.
    #[must_use]
    pub fn within(self, context: impl Display) -> Self {
        Self { reason: format!("{context}: {}", self.reason), ..self }
    }

    /// The same fault as that of a worker, which may have been taken over: texts that people can read without harm, no id but
    /// of what is wrong with a slide, a model or a set, and not that there is no worker.
    #[must_use]
    pub(crate) fn told_by_worker(self) -> Self {
        const OF_WORKERS: [&str; 5] = ["slide.", "model.", "onnx.", "contract.", "set."];
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c);
        let known = |id: &String| {
            let of_workers =
                OF_WORKERS.iter().any(|prefix| id.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
            id == UNTELLABLE || (of_workers && id.len() <= 64 && id.bytes().all(plain))
        };
        Self {
            reason: one_line(&self.reason),
            hint: self.hint.map(|hint| one_line(&hint)),
            id: self.id.filter(known),
            kind: if self.kind == FaultKind::NoWorker { FaultKind::Other } else { self.kind },
        }
    }

    /// What is wrong, and with what.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The stable id of the broken rule, where the rule has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What follows from it.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// See [`FaultKind::Slide`].
    pub fn blames_slide(&self) -> bool {
        self.kind == FaultKind::Slide
    }

    /// See [`FaultKind::NoSpace`].
    pub fn is_no_space(&self) -> bool {
        self.kind == FaultKind::NoSpace
    }

    /// See [`FaultKind::Unreachable`].
    pub fn is_unreachable(&self) -> bool {
        self.kind == FaultKind::Unreachable
    }

    /// See [`FaultKind::NoWorker`].
    pub fn is_without_worker(&self) -> bool {
        self.kind == FaultKind::NoWorker
    }
}

/// An error and its causes, outermost first. What an [`io::Error`] was made of is a cause of it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// The remedy of an error that knows one.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    macro_rules! first_of {
        ($($kind:ty),*) => {
            None$(.or_else(|| error.downcast_ref::<$kind>().map(|error| error.hint().to_owned())))*
        };
    }
    let known: Option<String> = first_of!(
        RoadError,
        SlideError,
        ModelError,
        ContractError,
        PreflightError,
        LibraryError,
        NamingError,
        LandmarkError,
        TransformError,
        UntrustedError,
        AuditError
    );
    known
        .or_else(|| error.downcast_ref::<JournalError>()?.hint().map(str::to_owned))
        .or_else(|| error.downcast_ref::<Box<NamingError>>().map(|error| error.hint().to_owned()))
        .or_else(|| error.downcast_ref::<Fault>()?.hint.clone())
}

/// Id of the fault that sections of a set do not fit each other.
pub(crate) const UNREGISTERED: &str = "set.unregistered";

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; hint: {hint}"))
    }
}

impl From<SlideError> for Fault {
    fn from(error: SlideError) -> Self {
        Self::from_error(&error).with_id(error.id())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_full_disk_is_told_by_its_type_and_never_by_a_name() {
        let full = io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        assert!(Fault::from_error(&full).is_no_space());
        assert!(Fault::of_io("/slides", &full, "make room").is_no_space());
        // A cause of a cause.
        assert!(Fault::from_error(&io::Error::other(full)).is_no_space());
        let named = io::Error::other("case (os error 28)_HE.svs: damaged; hint: (os error 28)");
        let fault = Fault::from_error(&named);
        assert!(!fault.is_no_space());
        assert_eq!(fault.hint(), None, "a file's name gives no advice");
        let slide = SlideError::Unsupported(Path::new("a (os error 28); hint: x.svs").into());
        let fault = Fault::from(slide.clone());
        assert_eq!((fault.hint(), fault.blames_slide()), (Some(slide.hint()), true));
    }

    #[test]
    fn a_share_that_is_away_is_unreachable_and_no_other_error_is() {
        for errno in [Errno::ACCESS, Errno::IO, Errno::STALE, Errno::NOTCONN, Errno::HOSTDOWN, Errno::TIMEDOUT] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(FaultKind::of_io(&error), FaultKind::Unreachable, "{error}");
        }
        for errno in [Errno::NOENT, Errno::ISDIR, Errno::INVAL] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(FaultKind::of_io(&error), FaultKind::Other, "{error}");
        }
    }

    #[test]
    fn a_fault_of_another_version_is_read() {
        let old: Fault = serde_json::from_str(r#"{"reason":"no tissue","hint":null}"#).expect("readable");
        assert_eq!(old, Fault::plain("no tissue"));
        let newer: Fault = serde_json::from_str(r#"{"reason":"r","hint":"h","kind":"unheard-of"}"#).expect("readable");
        assert_eq!(newer.kind(), FaultKind::Other);
        for kind in ["no-space", "no-worker", "unreachable", "cancelled", "slide", "other"] {
            let read: FaultKind = serde_json::from_value(kind.into()).expect("a kind");
            assert_eq!((read.as_str(), FaultKind::of_word(kind)), (kind, read));
        }
    }
}
