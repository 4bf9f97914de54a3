//! Writes tiled pyramidal TIFF: photographs of sections for OpenSlide, label maps for viewers, and registered stacks of
//! sections ([`write_stack`]) for QuPath and Python.
//!
//! Every level halves the one before and rounds up, so no border pixel is lost and pixel `i` of a level covers pixels
//! `[2i, 2i + 2)` of the level below it. How the levels hang together depends on the reader: photographs and label maps
//! are a flat chain of directories, the layout that OpenSlide's "generic-tiff" reader turns into levels; in a stack the
//! smaller levels are `SubIFDs` of their plane, as OME-TIFF wants it.
//!
//! All of them are made by one walk (`tree`) that keeps a bounded number of tiles, however large the picture is.

mod file;
mod ome;
mod raster;
mod tree;

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, BufWriter};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use tiff::TiffError;
use tiff::encoder::{TiffKindBig, TiffKindStandard};

use crate::durable::write_file_with;
use crate::units::Mpp;
pub use ome::{Stack, write_stack};
use raster::Raster;
use tree::Source;

/// Side of a tile in pixels. TIFF wants multiples of 16; 256 is what scanners write and OpenSlide's cache is sized for.
const TILE: u32 = 256;

/// Classic TIFF addresses 4 GiB. Deflate can grow incompressible tiles by a few bytes each, so stay 1/16 below.
const CLASSIC_TIFF_BYTES: u64 = (1 << 32) / 16 * 15;

/// A pyramid was not written; nothing is left at the path then. `E` is what the source of the pixels can fail with.
#[derive(Debug, thiserror::Error)]
#[error("{path} not written: {source}")]
pub struct PyramidError<E: Error + 'static = Infallible> {
    pub path: PathBuf,
    pub source: PyramidProblem<E>,
}

/// Why a pyramid was not written.
#[derive(Debug, thiserror::Error)]
pub enum PyramidProblem<E: Error + 'static = Infallible> {
    /// Width, height or the number of stains is zero.
    #[error("the image has no pixels")]
    Empty,
    /// TIFF's `ImageDescription` holds 7-bit text only; OME-TIFF's is the exception.
    #[error("the description is not plain ASCII text")]
    Description,
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The encoder refused: an offset outgrew the file format.
    #[error(transparent)]
    Encode(TiffError),
    /// The source of the pixels failed.
    #[error(transparent)]
    Source(E),
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl<E: Error> From<TiffError> for PyramidProblem<E> {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::IoError(error) => Self::Io(error),
            error => Self::Encode(error),
        }
    }
}

/// What a pyramid of pictures with `CHANNELS` interleaved samples a pixel looks like.
struct Spec<'a> {
    /// Level 0, in pixels.
    width: u32,
    height: u32,
    /// Resolution of level 0.
    mpp: Mpp,
    /// Pictures of that size that lie on each other.
    pictures: usize,
    /// Whether every channel becomes a plane of its own, with its smaller levels as `SubIFDs`. Otherwise there is one
    /// picture, its channels stay interleaved, and its levels are a chain.
    planar: bool,
    tile_px: u32,
    /// `ImageDescription` of the first directory, without NUL; empty for none.
    description: &'a str,
}

/// Writes `image` as a pyramid of area-averaged RGB levels: 256-pixel tiles, deflate with horizontal prediction.
///
/// `mpp` is the resolution of level 0, stored as pixels per centimetre; OpenSlide 4 and later reports it as
/// `openslide.mpp-x` and `-y`. `description` becomes the `ImageDescription` of level 0; ASCII. The file appears under
/// its name only when it is whole and on disk.
///
/// # Errors
/// [`PyramidError`], which names the path.
pub fn write_rgb(path: &Path, image: &RgbImage, mpp: Mpp, description: &str) -> Result<(), PyramidError> {
    write_picture::<3>(path, image.dimensions(), image.as_raw(), mpp, description)
}

/// Writes a map of labels (0 = background) as a pyramid of nearest-neighbour levels: labels are names, their average
/// means nothing. Otherwise like [`write_rgb`], without the prediction, which only helps smooth pictures.
///
/// # Errors
/// [`PyramidError`], which names the path.
pub fn write_labels(path: &Path, labels: &GrayImage, mpp: Mpp, description: &str) -> Result<(), PyramidError> {
    write_picture::<1>(path, labels.dimensions(), labels.as_raw(), mpp, description)
}

/// Writes one picture that lies in memory, row-major with interleaved channels.
fn write_picture<const CHANNELS: usize>(
    path: &Path,
    (width, height): (u32, u32),
    samples: &[u8],
    mpp: Mpp,
    description: &str,
) -> Result<(), PyramidError> {
    if !description.is_ascii() || description.contains('\0') {
        return Err(PyramidError { path: path.to_owned(), source: PyramidProblem::Description });
    }
    let spec = Spec { width, height, mpp, pictures: 1, planar: false, tile_px: TILE, description };
    let tile = |_, rect| Ok(Raster::<CHANNELS>::cut(samples, width, rect));
    write(path, &spec, &tile, &mut |_, _| ControlFlow::Continue(()))
}

/// Called with the number of tiles written and their total; may ask to stop.
type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

fn write<const CHANNELS: usize, E: Error + Send>(
    path: &Path,
    spec: &Spec<'_>,
    source: &Source<'_, CHANNELS, E>,
    progress: &mut Progress<'_>,
) -> Result<(), PyramidError<E>> {
    write_durably(path, spec, source, progress).map_err(|source| PyramidError { path: path.to_owned(), source })
}

/// The file gets its name when it is whole and on disk.
fn write_durably<const CHANNELS: usize, E: Error + Send>(
    path: &Path,
    spec: &Spec<'_>,
    source: &Source<'_, CHANNELS, E>,
    progress: &mut Progress<'_>,
) -> Result<(), PyramidProblem<E>> {
    if spec.width == 0 || spec.height == 0 || spec.pictures == 0 {
        return Err(PyramidProblem::Empty);
    }
    // All halvings together add a third to level 0.
    let samples = u64::from(spec.width) * u64::from(spec.height) * (spec.pictures * CHANNELS) as u64;
    write_file_with(path, |out| {
        let out = BufWriter::new(out);
        if samples / 3 * 4 < CLASSIC_TIFF_BYTES {
            file::encode::<_, TiffKindStandard, CHANNELS, E>(out, spec, source, progress)
        } else {
            file::encode::<_, TiffKindBig, CHANNELS, E>(out, spec, source, progress)
        }
    })
}

#[cfg(test)]
mod tests;
