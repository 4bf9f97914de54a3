//! The error type of the trainer: one line for each error, with a hint where something can be done.

use std::any::Any;
use std::path::PathBuf;

use tissuemap::contract::Precision;
use tissuemap::infer::ModelError;
use tissuemap::libs::LibraryError;
use tissuemap::section_set::NamingError;
use tissuemap::untrusted::UntrustedError;

use crate::system::precision::PrecisionAgreement;

/// Reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration cannot be used.
    #[error("configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// Naming rules or a manifest cannot be used.
    #[error(transparent)]
    Naming(#[from] NamingError),
    /// A library for reading slides is missing or cannot be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The section sets contain no training patches.
    #[error("no training data: {0}")]
    NoData(String),
    /// A file of vectors or of their labels cannot be used.
    #[error("{}: {reason}", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The requested device cannot be used.
    #[error("device {name}: {reason}")]
    Device {
        /// The name given on the command line.
        name: String,
        /// The reason.
        reason: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// The clustering is useless.
    #[error("the clustering collapsed: {0}; no model is written")]
    Collapsed(String),
    /// The loss is NaN or infinite.
    #[error("the loss became {value} in epoch {epoch} of phase {phase}; no model is written")]
    Diverged {
        /// The value of the loss.
        value: f64,
        /// Name of the phase.
        phase: &'static str,
        /// Epoch within the phase, from 1.
        epoch: u32,
    },
    /// The user interrupted the command.
    #[error("interrupted{}", checkpoint.as_ref().map(|p| format!("; the state is saved in {}", p.display())).unwrap_or_default())]
    Interrupted {
        /// The checkpoint from which the same command continues.
        checkpoint: Option<PathBuf>,
    },
    /// The user interrupted a benchmark that saves nothing.
    #[error("interrupted; nothing is saved")]
    Stopped,
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file that the command reads cannot be used.
    #[error(transparent)]
    Untrusted(#[from] UntrustedError),
    /// The model fails the checks of the scanner's computer. Nothing is written.
    #[error("the model is refused")]
    Model(#[from] ModelError),
    /// A model of lower precision assigns too many patches to other clusters. Nothing is written.
    #[error("the {precision} model is refused: {agreement}; at least {:.0} % is required", 100.0 * least)]
    Rounded {
        /// Its precision.
        precision: Precision,
        /// Its agreement with float32.
        agreement: PrecisionAgreement,
        /// The required fraction of equal labels.
        least: f64,
    },
    /// The patches are not those of the finished fit.
    #[error("{}: the fit used different patches than the present ones", path.display())]
    OtherPatches {
        /// The file of weights.
        path: PathBuf,
    },
    /// A file or folder given by the user cannot be used: cluster names, annotations, labelled images, earlier results.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// The fault, with the line number if there is one.
        reason: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// An image of the report cannot be encoded.
    #[error("an image of the report cannot be encoded: {0}")]
    Picture(#[from] image::ImageError),
    /// An operation of libtorch failed. The text is the first line of its message.
    #[error("libtorch: {0}")]
    Torch(String),
}

impl From<tch::TchError> for TrainError {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(first_line(&error.to_string()))
    }
}

impl TrainError {
    /// What the user can do, if known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config { .. } => Some("`tissuemap-train config` prints every key with its default"),
            Self::NoData(_) => {
                Some("check [[sets]], [[stains]] and --data; the warnings above say why slides were left out")
            }
            Self::Device { remedy, .. } | Self::Unusable { remedy, .. } => Some(remedy),
            Self::Rounded { .. } => {
                Some("use a higher precision; more held-out patches make the estimate more accurate")
            }
            Self::Collapsed(_) => Some(
                "for nearly uniform predictions use more epochs or a larger imsat.lambda; for one large cluster use another --seed, fewer --clusters or a larger imsat.mu; more patches help in both cases",
            ),
            Self::Diverged { .. } => Some("lower the learning rate of that phase"),
            Self::OtherPatches { .. } => Some(
                "use the same slides and configuration as for the fit, or give the folder of its patches with --patches",
            ),
            Self::Interrupted { .. } => Some("run the same command again to continue"),
            Self::Stopped => Some("use --each FILE: then the same command continues after an interruption"),
            Self::Naming(error) => Some(error.hint()),
            Self::Library(error) => Some(error.hint()),
            Self::Untrusted(error) => Some(error.hint()),
            Self::Model(error) => Some(error.hint()),
            Self::Vectors { .. } | Self::File { .. } | Self::Picture(_) | Self::Torch(_) => None,
        }
    }

    /// The error behind a panic: usually a failure of libtorch, wrapped by tch.
    pub fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Torch(first_line(text.unwrap_or("unknown failure")))
    }

    /// The process exit code: 64 if the caller must change something, 130 if interrupted, 2 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. }
            | Self::Naming(_)
            | Self::NoData(_)
            | Self::Vectors { .. }
            | Self::Device { .. }
            | Self::Unusable { .. }
            | Self::OtherPatches { .. } => 64,
            Self::Interrupted { .. } | Self::Stopped => 130,
            Self::Library(_)
            | Self::Untrusted(_)
            | Self::Collapsed(_)
            | Self::Diverged { .. }
            | Self::File { .. }
            | Self::Model(_)
            | Self::Rounded { .. }
            | Self::Picture(_)
            | Self::Torch(_) => 2,
        }
    }
}

/// libtorch appends a C++ stack trace, tch writes line breaks as `\n` in its panics.
fn first_line(text: &str) -> String {
    text.split("\\n").next().unwrap_or(text).lines().next().unwrap_or(text).to_owned()
}
