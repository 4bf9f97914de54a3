//! Slides: one trait for reading pixels of a pyramid, real slides through OpenSlide behind it, plain
//! images (`plain`), and a synthetic source.
//!
//! **Invariant:** slides are opened read-only; label and macro images are never read (they may show patient data).

mod error;
mod limits;
mod openslide;
mod openslide_ffi;
mod plain;
mod resample;
mod synthetic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;

use crate::units::{Level0Rect, Mpp, PixelRect, UmPoint};

pub use error::SlideError;
pub use limits::Limits;
pub use openslide::version as openslide_version;
pub use openslide_ffi::load as load_openslide;
pub use plain::open_slide_or_image;
pub use resample::{Resampled, thumbnail};
pub use synthetic::SyntheticSlide;

/// One level of a slide's pyramid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Pixels of this level.
    pub width: u32,
    /// Pixels of this level.
    pub height: u32,
    /// How many level-0 pixels one pixel of this level spans; 1 at level 0.
    pub downsample: f64,
}

/// What is known about a slide without reading its pixels.
#[derive(Debug, Clone)]
pub struct SlideInfo {
    /// The file that names the slide.
    pub path: PathBuf,
    /// OpenSlide's vendor name, e.g. `aperio`, `generic-tiff`, `dicom`.
    pub vendor: String,
    /// Resolution of level 0.
    pub mpp: Mpp,
    /// Finest first; never empty.
    pub levels: Vec<Level>,
    /// The part of the canvas that was scanned: `openslide.bounds-*`, else the whole canvas.
    pub bounds: Level0Rect,
    /// Colour of what was not scanned.
    pub background: [u8; 3],
    /// All properties the library reports, under OpenSlide's names.
    pub properties: BTreeMap<String, String>,
}

impl SlideInfo {
    /// Resolution of `level`.
    pub fn level_mpp(&self, level: usize) -> f64 {
        self.mpp.get() * self.levels[level].downsample
    }

    /// The coarsest level that is still at least as fine as `mpp`, else level 0: resampling then only ever discards.
    pub fn best_level(&self, mpp: Mpp) -> usize {
        // One in a thousand: 0.2498 serves a request for 0.25 without going a level down.
        (0..self.levels.len()).rev().find(|&level| self.level_mpp(level) <= mpp.get() * 1.001).unwrap_or(0)
    }

    /// Where the scanned part begins, in micrometres from the canvas origin.
    pub fn bounds_origin(&self) -> UmPoint {
        self.bounds.origin().to_um(self.mpp)
    }

    /// Width and height of the scanned part in micrometres.
    pub fn bounds_um(&self) -> (f64, f64) {
        (f64::from(self.bounds.width) * self.mpp.get(), f64::from(self.bounds.height) * self.mpp.get())
    }

    /// File name without its extension, the `<stem>` of `<stem>.tissuemap/`.
    pub fn stem(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A slide whose pixels can be read by several threads at once.
pub trait SlideSource: Send + Sync {
    /// Geometry, resolution, properties.
    fn info(&self) -> &SlideInfo;

    /// Reads `rect`, in pixels of `level`. The rectangle may reach beyond the level; what lies outside is background.
    ///
    /// # Errors
    /// [`SlideError::Read`] when pixels cannot be decoded, [`SlideError::TooLarge`] when the block is beyond [`Limits`].
    fn read_level(&self, level: usize, rect: PixelRect) -> Result<RgbImage, SlideError>;
}

/// How to open a slide.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Used where the slide itself states no resolution, or an implausible one.
    pub mpp: Option<Mpp>,
    /// What is refused before a pixel is read.
    pub limits: Limits,
}

/// Opens a slide with OpenSlide, read-only.
///
/// # Errors
/// [`SlideError`]: every variant names the file, the reason and what to do.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn SlideSource>, SlideError> {
    Ok(Arc::new(openslide::OpenSlideSource::open(path, options)?))
}

/// Decodes the first and the last tile of every level: a slide that is still being copied fails here.
///
/// # Errors
/// [`SlideError::Read`] naming the level.
pub fn probe(slide: &dyn SlideSource) -> Result<(), SlideError> {
    const PROBE: u32 = 64;
    for (index, level) in slide.info().levels.iter().enumerate() {
        let (width, height) = (level.width.min(PROBE), level.height.min(PROBE));
        for (x, y) in [(0, 0), (i64::from(level.width - width), i64::from(level.height - height))] {
            slide.read_level(index, PixelRect { x, y, width, height })?;
        }
    }
    Ok(())
}
