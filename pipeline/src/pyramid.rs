//! Writes tiled pyramidal TIFF: photographs of sections for OpenSlide, label maps for viewers.
//!
//! The levels are a flat chain of directories, the layout that OpenSlide's "generic-tiff" reader turns into levels:
//! the first directory is level 0, the others carry the reduced-resolution bit. Every level halves the one before and
//! rounds up, so no border pixel is lost and pixel `i` of a level covers pixels `[2i, 2i + 2)` of the level below it.

use std::borrow::Cow;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::ZlibEncoder};
use image::{GrayImage, RgbImage};
use rayon::prelude::*;
use tiff::TiffError;
use tiff::encoder::{DirectoryEncoder, Rational, TiffEncoder, TiffKind, TiffKindBig, TiffKindStandard};
use tiff::tags::{CompressionMethod, PhotometricInterpretation, Predictor, ResolutionUnit, Tag};

use crate::units::Mpp;

/// Side of a tile in pixels. TIFF wants multiples of 16; 256 is what scanners write and OpenSlide's cache is sized for.
const TILE: u32 = 256;

/// Halving ends with the first level whose long side is below this: it then fits a viewer's overview in a few tiles.
const SMALLEST_LEVEL: u32 = 512;

/// Classic TIFF addresses 4 GiB. Deflate can grow incompressible tiles by a few bytes each, so stay 1/16 below.
const CLASSIC_TIFF_BYTES: u64 = (1 << 32) / 16 * 15;

/// Zlib's own default; level 9 doubles the time for about 1 % on tissue.
const DEFLATE_LEVEL: u32 = 6;

/// Why a pyramid was not written. Nothing is left at the path then.
#[derive(Debug, thiserror::Error)]
pub enum PyramidError {
    /// Width or height is zero.
    #[error("{path} not written: the image has no pixels")]
    Empty { path: PathBuf },
    /// TIFF's `ImageDescription` holds 7-bit text only.
    #[error("{path} not written: the description is not plain ASCII text; hint: in XML use character references")]
    Description { path: PathBuf },
    /// The file system refused.
    #[error("{path} not written: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// The encoder refused, or the file system underneath it.
    #[error("{path} not written: {source}")]
    Encode { path: PathBuf, source: TiffError },
}

/// Writes `image` as a pyramid of area-averaged RGB levels: 256-pixel tiles, deflate with horizontal prediction.
///
/// `mpp` is the resolution of level 0, stored as pixels per centimetre; OpenSlide 4 and later reports it as
/// `openslide.mpp-x` and `-y`. `description` becomes the `ImageDescription` of level 0; ASCII. The file appears under
/// its name only when it is whole and on disk.
///
/// # Errors
/// [`PyramidError`]; every variant names the path.
pub fn write_rgb(path: &Path, image: &RgbImage, mpp: Mpp, description: &str) -> Result<(), PyramidError> {
    let base = Raster { width: image.width(), height: image.height(), samples: image.as_raw().into() };
    write::<3>(path, base, mpp, description)
}

/// Writes a map of labels (0 = background) as a pyramid of nearest-neighbour levels: labels are names, their average
/// means nothing. Otherwise like [`write_rgb`], without the prediction, which only helps smooth pictures.
///
/// # Errors
/// [`PyramidError`]; every variant names the path.
pub fn write_labels(path: &Path, labels: &GrayImage, mpp: Mpp, description: &str) -> Result<(), PyramidError> {
    let base = Raster { width: labels.width(), height: labels.height(), samples: labels.as_raw().into() };
    write::<1>(path, base, mpp, description)
}

/// One level: row-major, `CHANNELS` interleaved samples a pixel. Three channels are colours, one is a label.
struct Raster<'a, const CHANNELS: usize> {
    width: u32,
    height: u32,
    samples: Cow<'a, [u8]>,
}

impl<const CHANNELS: usize> Raster<'_, CHANNELS> {
    /// The next level, sides rounded up. Border pixels average what exists of their 2×2 block.
    fn halved(&self) -> Raster<'static, CHANNELS> {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut samples = vec![0; width as usize * height as usize * CHANNELS];
        samples.par_chunks_mut(width as usize * CHANNELS).enumerate().for_each(|(row, out)| {
            let rows = [2 * row, (2 * row + 1).min(self.height as usize - 1)];
            for (col, out) in out.chunks_exact_mut(CHANNELS).enumerate() {
                let cols = [2 * col, (2 * col + 1).min(self.width as usize - 1)];
                for (channel, out) in out.iter_mut().enumerate() {
                    let at = |r: usize, c: usize| {
                        u16::from(self.samples[(rows[r] * self.width as usize + cols[c]) * CHANNELS + channel])
                    };
                    // A block cut by the border repeats its last row or column, which leaves the average as it is.
                    let sum = at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1);
                    *out = if CHANNELS == 1 { at(0, 0) as u8 } else { ((sum + 2) / 4) as u8 };
                }
            }
        });
        Raster { width, height, samples: samples.into() }
    }

    /// One tile, zero beyond the image's border, compressed.
    fn tile(&self, tile_col: u32, tile_row: u32) -> io::Result<Vec<u8>> {
        const SIDE: usize = TILE as usize;
        let (left, top) = (tile_col as usize * SIDE, tile_row as usize * SIDE);
        let width = SIDE.min(self.width as usize - left) * CHANNELS;
        let mut tile = vec![0; SIDE * SIDE * CHANNELS];
        for (y, line) in tile.chunks_exact_mut(SIDE * CHANNELS).take(self.height as usize - top).enumerate() {
            let start = ((top + y) * self.width as usize + left) * CHANNELS;
            line[..width].copy_from_slice(&self.samples[start..start + width]);
            if CHANNELS > 1 {
                for i in (CHANNELS..line.len()).rev() {
                    line[i] = line[i].wrapping_sub(line[i - CHANNELS]);
                }
            }
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::new(DEFLATE_LEVEL));
        zlib.write_all(&tile)?;
        zlib.finish()
    }

    /// Writes tiles and tags of this level into its directory.
    fn encode<W: Write + Seek, K: TiffKind>(
        &self,
        directory: &mut DirectoryEncoder<'_, W, K>,
    ) -> Result<(), TiffError> {
        let (cols, rows) = (self.width.div_ceil(TILE), self.height.div_ceil(TILE));
        let (mut offsets, mut sizes) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let tiles: Vec<Vec<u8>> =
                (0..cols).into_par_iter().map(|col| self.tile(col, row)).collect::<Result<_, _>>()?;
            for tile in tiles {
                offsets.push(K::convert_offset(directory.write_data(tile.as_slice())?)?);
                sizes.push(K::convert_offset(tile.len() as u64)?);
            }
        }
        let (photometric, predictor) = if CHANNELS == 1 {
            (PhotometricInterpretation::BlackIsZero, Predictor::None)
        } else {
            (PhotometricInterpretation::RGB, Predictor::Horizontal)
        };
        directory.write_tag(Tag::ImageWidth, self.width)?;
        directory.write_tag(Tag::ImageLength, self.height)?;
        directory.write_tag(Tag::BitsPerSample, [8u16; CHANNELS])?;
        directory.write_tag(Tag::SamplesPerPixel, CHANNELS as u16)?;
        directory.write_tag(Tag::Compression, CompressionMethod::Deflate)?;
        directory.write_tag(Tag::PhotometricInterpretation, photometric)?;
        directory.write_tag(Tag::Predictor, predictor)?;
        directory.write_tag(Tag::TileWidth, TILE)?;
        directory.write_tag(Tag::TileLength, TILE)?;
        directory.write_tag(Tag::TileOffsets, K::convert_slice(&offsets))?;
        directory.write_tag(Tag::TileByteCounts, K::convert_slice(&sizes))
    }
}

fn write<const CHANNELS: usize>(
    path: &Path,
    base: Raster<'_, CHANNELS>,
    mpp: Mpp,
    description: &str,
) -> Result<(), PyramidError> {
    if base.samples.is_empty() {
        return Err(PyramidError::Empty { path: path.to_owned() });
    }
    if !description.is_ascii() || description.contains('\0') {
        return Err(PyramidError::Description { path: path.to_owned() });
    }
    let io_error = |source| PyramidError::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The leading dot keeps folder watchers (ours too) away until the rename; 0o666 lets the umask decide.
    let mut builder = tempfile::Builder::new();
    builder.prefix(".pyramid-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(io_error)?;
    // All halvings together add a third to level 0.
    let raw_bytes = base.samples.len() as u64 / 3 * 4;
    let out = BufWriter::new(temporary.as_file_mut());
    if raw_bytes < CLASSIC_TIFF_BYTES {
        encode::<_, TiffKindStandard, CHANNELS>(out, base, mpp, description)
    } else {
        encode::<_, TiffKindBig, CHANNELS>(out, base, mpp, description)
    }
    .map_err(|source| PyramidError::Encode { path: path.to_owned(), source })?;
    temporary.as_file().sync_all().map_err(io_error)?;
    temporary.persist(path).map_err(|e| io_error(e.error))?;
    // The rename itself is only durable once the folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)
}

/// The whole file: all levels, finest first.
fn encode<W: Write + Seek, K: TiffKind, const CHANNELS: usize>(
    mut out: W,
    base: Raster<'_, CHANNELS>,
    mpp: Mpp,
    description: &str,
) -> Result<(), TiffError> {
    let mut encoder = TiffEncoder::<_, K>::new_generic(&mut out)?;
    let mut raster = base;
    let mut scale = 1.0;
    loop {
        let mut directory = encoder.image_directory()?;
        raster.encode(&mut directory)?;
        let resolution = pixels_per_cm(mpp.get() * scale);
        directory.write_tag(Tag::XResolution, resolution.clone())?;
        directory.write_tag(Tag::YResolution, resolution)?;
        directory.write_tag(Tag::ResolutionUnit, ResolutionUnit::Centimeter)?;
        if scale > 1.0 {
            // Bit 0 of NewSubfileType (TIFF 6.0, page 36): a reduced-resolution version of another image in this file.
            directory.write_tag(Tag::NewSubfileType, 1u32)?;
        } else if !description.is_empty() {
            directory.write_tag(Tag::ImageDescription, description)?;
        }
        directory.finish()?;
        if raster.width.max(raster.height) < SMALLEST_LEVEL {
            break;
        }
        raster = raster.halved();
        scale *= 2.0;
    }
    Ok(out.flush()?)
}

/// 10 000 µm make a centimetre. With 4000 as denominator the numerator fits 32 bits for every plausible mpp and has at
/// least six digits at the coarse end; levels coarser than that saturate nothing, they only lose digits.
fn pixels_per_cm(mpp: f64) -> Rational {
    const DENOMINATOR: u32 = 4000;
    Rational { n: (10_000.0 / mpp * f64::from(DENOMINATOR)).round() as u32, d: DENOMINATOR }
}

#[cfg(test)]
mod tests;
