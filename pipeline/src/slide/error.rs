use std::path::{Path, PathBuf};

use crate::libs::LibraryError;
use crate::units::ImplausibleMpp;

/// Why a slide cannot be used. Each text names the file and the reason; [`SlideError::hint`] says what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SlideError {
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("{}: no such file", .0.display())]
    NotFound(PathBuf),
    #[error("{reason}")]
    NotAFile { path: PathBuf, reason: String },
    #[error("{}: not a slide format that OpenSlide reads", .0.display())]
    Unsupported(PathBuf),
    #[error("{}: recognised as {vendor}, but damaged or incomplete: {reason}", path.display())]
    Corrupt { path: PathBuf, vendor: String, reason: String },
    #[error("{}: the slide states no resolution (openslide.mpp-x)", .0.display())]
    MissingMpp(PathBuf),
    #[error("{}: the slide's stated resolution is unusable: {reason}", path.display())]
    ImplausibleMpp { path: PathBuf, reason: ImplausibleMpp },
    #[error("{}: pixels are {x} by {y} µm, not square", path.display())]
    AnisotropicMpp { path: PathBuf, x: f64, y: f64 },
    #[error("{}: finest level is {have} µm per pixel, too coarse for {want}", path.display())]
    TooCoarse { path: PathBuf, have: f64, want: f64 },
    #[error("{}: {what} exceeds the limit: {value} > {limit}", path.display())]
    TooLarge { path: PathBuf, what: &'static str, value: u64, limit: u64 },
    #[error("{}: cannot read level {level}: {reason}", path.display())]
    Read { path: PathBuf, level: usize, reason: String },
}

impl SlideError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Library(error) => error.hint(),
            Self::NotFound(_) => "check the path; the file may have been moved while it waited",
            Self::NotAFile { .. } => "move it away, or put the slide's file in its place",
            Self::Unsupported(_) => {
                "supported: svs, ndpi, mrxs, scn, bif, vms, dcm, tiled tiff; convert plain images to pyramidal TIFF"
            }
            Self::Corrupt { .. } | Self::Read { .. } => "copy the slide again from the scanner and compare checksums",
            Self::MissingMpp(_) | Self::ImplausibleMpp { .. } => {
                "give the resolution: `mpp` of the watch folder, or --mpp"
            }
            Self::AnisotropicMpp { .. } => "re-export the slide with square pixels",
            Self::TooCoarse { .. } => "use a model trained at a coarser mpp, or scan at a higher magnification",
            Self::TooLarge { .. } => {
                "raise the limit in the configuration if the slide is genuine; convert large plain images to pyramidal TIFF"
            }
        }
    }

    /// A stable word for logs, metrics and tests.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Library(_) => "slide.library",
            Self::NotFound(_) => "slide.not-found",
            Self::NotAFile { .. } => "slide.not-a-file",
            Self::Unsupported(_) => "slide.unsupported",
            Self::Corrupt { .. } => "slide.corrupt",
            Self::MissingMpp(_) => "slide.missing-mpp",
            Self::ImplausibleMpp { .. } => "slide.implausible-mpp",
            Self::AnisotropicMpp { .. } => "slide.anisotropic-mpp",
            Self::TooCoarse { .. } => "slide.too-coarse",
            Self::TooLarge { .. } => "slide.too-large",
            Self::Read { .. } => "slide.read",
        }
    }

    /// Whether the slide itself is at fault, and not the model or the machine.
    pub fn blames_slide(&self) -> bool {
        !matches!(self, Self::Library(_) | Self::TooCoarse { .. })
    }

    pub(super) fn too_large(path: &Path, what: &'static str, value: u64, limit: u64) -> Self {
        Self::TooLarge { path: path.to_path_buf(), what, value, limit }
    }
}
