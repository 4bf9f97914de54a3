//! What can go wrong in a fit, in one line each, with a remedy where there is one.

use std::any::Any;
use std::path::PathBuf;

use tissuemap::contract::Precision;
use tissuemap::infer::ModelError;
use tissuemap::libs::LibraryError;
use tissuemap::section_set::NamingError;

use crate::system::precision::PrecisionAgreement;

/// Why a fit or an export failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration cannot be used.
    #[error("configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Naming rules or a manifest cannot be used.
    #[error(transparent)]
    Naming(#[from] NamingError),
    /// A library that slides are read with is missing or cannot be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The section sets give no training patches.
    #[error("no training data: {0}")]
    NoData(String),
    /// A file of vectors or of their labels cannot be used.
    #[error("{}: {reason}", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The device that was asked for cannot be used.
    #[error("device {name}: {reason}")]
    Device {
        /// As given on the command line.
        name: String,
        /// What is missing.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The clusterer found a useless optimum.
    #[error("the clustering collapsed: {0}; no model is written")]
    Collapsed(String),
    /// The loss is no number any more.
    #[error("the loss became {value} in epoch {epoch} of phase {phase}; no model is written")]
    Diverged {
        /// NaN or infinite.
        value: f64,
        /// Name of the phase.
        phase: &'static str,
        /// Epoch within the phase, from 1.
        epoch: u32,
    },
    /// The user asked to stop.
    #[error("interrupted{}", checkpoint.as_ref().map(|p| format!("; the state is kept in {}", p.display())).unwrap_or_default())]
    Interrupted {
        /// The checkpoint from which the same command goes on.
        checkpoint: Option<PathBuf>,
    },
    /// The user asked to stop a benchmark that keeps nothing.
    #[error("interrupted; nothing is kept")]
    Stopped,
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A model does not stand up to the checks that the scanner's computer makes; nothing is written.
    #[error("the model is refused")]
    Model(#[from] ModelError),
    /// A model of lower precision puts too many patches into other clusters; nothing is written.
    #[error("the {precision} model is refused: {agreement}; at least {:.0} % is wanted", 100.0 * least)]
    Rounded {
        /// What it computes in.
        precision: Precision,
        /// How far it is from float32.
        agreement: PrecisionAgreement,
        /// The share of equal labels that it had to reach.
        least: f64,
    },
    /// A finished fit, and other patches than it was made of.
    #[error("{}: the fit was made of other patches than those of now", path.display())]
    OtherPatches {
        /// The fit's weights.
        path: PathBuf,
    },
    /// A file or folder that was named cannot be used: cluster names, annotations, labelled images, figures to go on from.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, with its line where it has one.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A picture of the report cannot be encoded.
    #[error("a picture of the report: {0}")]
    Picture(#[from] image::ImageError),
    /// libtorch refused an operation; the first line of what it says.
    #[error("libtorch: {0}")]
    Torch(String),
}

impl From<tch::TchError> for TrainError {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(first_line(&error.to_string()))
    }
}

impl TrainError {
    /// What the user can do, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config { .. } => Some("`tissuemap-train config` prints every key with its default"),
            Self::NoData(_) => {
                Some("check [[sets]], [[stains]] and --data; the warnings above say why slides were left out")
            }
            Self::Device { remedy, .. } | Self::Unusable { remedy, .. } => Some(remedy),
            Self::Rounded { .. } => Some("use a higher precision; more held-out patches make the figure surer"),
            Self::Collapsed(_) => Some(
                "near uniform: more epochs or a larger imsat.lambda; one cluster: another --seed, fewer --clusters or a larger imsat.mu; always: more patches",
            ),
            Self::Diverged { .. } => Some("lower the learning rate of that phase"),
            Self::OtherPatches { .. } => Some(
                "patches are drawn again where they were not kept: give slides and configuration as they were, or the folder with --patches",
            ),
            Self::Interrupted { .. } => Some("run the same command again to go on"),
            Self::Stopped => Some("with --each FILE the same command would go on where it was"),
            Self::Naming(_)
            | Self::Library(_)
            | Self::Vectors { .. }
            | Self::File { .. }
            | Self::Model(_)
            | Self::Picture(_)
            | Self::Torch(_) => None,
        }
    }

    /// What stands behind a panic, most often libtorch's own failure wrapped by tch.
    pub fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Torch(first_line(text.unwrap_or("unknown failure")))
    }

    /// The process exit code: 64 for what the caller must change, 130 when interrupted, 2 otherwise.
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
