//! Tiles and directories of a pyramid as a TIFF file.

use std::borrow::Cow;
use std::error::Error;
use std::io::{Seek, Write};

use tiff::TiffError;
use tiff::encoder::{DirectoryEncoder, Rational, TiffEncoder, TiffKind, TiffValue};
use tiff::tags::{CompressionMethod, PhotometricInterpretation, Predictor, ResolutionUnit, Tag, Type};

use super::tree::{self, Source, level_sizes, tile_counts};
use super::{Progress, PyramidProblem, Spec};

/// Where the tiles of one level of one plane lie in the file; row-major.
#[derive(Clone)]
struct Level {
    width: u32,
    height: u32,
    /// Level-0 pixels a pixel.
    scale: f64,
    offsets: Vec<u64>,
    sizes: Vec<u64>,
}

/// The whole file: first all tiles as they come, then the directories that know where they lie.
pub(super) fn encode<W: Write + Seek, K: TiffKind, const CHANNELS: usize, E: Error + Send>(
    mut out: W,
    spec: &Spec<'_>,
    source: &Source<'_, CHANNELS, E>,
    progress: &mut Progress<'_>,
) -> Result<(), PyramidProblem<E>> {
    let levels = level_sizes(spec.width, spec.height).into_iter().zip(0..).map(|((width, height), level)| {
        let (cols, rows) = tile_counts((width, height), spec.tile_px);
        let tiles = vec![0; cols as usize * rows as usize];
        Level { width, height, scale: f64::from(1u32 << level), offsets: tiles.clone(), sizes: tiles }
    });
    let mut planes = vec![levels.collect::<Vec<_>>(); spec.pictures * if spec.planar { CHANNELS } else { 1 }];
    let total = planes.iter().flatten().map(|level| level.offsets.len() as u64).sum();
    let mut done = 0;

    let mut encoder = TiffEncoder::<_, K>::new_generic(&mut out)?;
    // The crate writes data through directories only. This one stays empty, and nothing in the file refers to it.
    let mut data = encoder.extra_directory()?;
    let mut report = |done| if progress(done, total).is_break() { Err(PyramidProblem::Cancelled) } else { Ok(()) };
    report(0)?;
    tree::walk(spec, source, &mut |tiles| {
        done += tiles.len() as u64;
        for tile in tiles {
            let level = &mut planes[tile.plane][tile.level];
            level.offsets[tile.index] = data.write_data(tile.bytes.as_slice())?;
            level.sizes[tile.index] = tile.bytes.len() as u64;
        }
        report(done)
    })?;
    data.finish()?;

    for (plane, levels) in planes.iter().enumerate() {
        let (full, reduced) = levels.split_first().expect("a pyramid has a level 0");
        let mut sub_ifds = Vec::new();
        for level in reduced.iter().filter(|_| spec.planar) {
            let mut directory = encoder.extra_directory()?;
            level.describe::<_, _, CHANNELS>(spec, &mut directory)?;
            sub_ifds.push(directory.finish_with_offsets()?.offset);
        }
        let mut directory = encoder.image_directory()?;
        full.describe::<_, _, CHANNELS>(spec, &mut directory)?;
        if !sub_ifds.is_empty() {
            directory.write_tag(Tag::SubIfd, K::convert_slice(&sub_ifds))?;
        }
        if plane == 0 && !spec.description.is_empty() {
            directory.write_tag(Tag::ImageDescription, Text(spec.description))?;
        }
        directory.finish()?;
        for level in reduced.iter().filter(|_| !spec.planar) {
            let mut directory = encoder.image_directory()?;
            level.describe::<_, _, CHANNELS>(spec, &mut directory)?;
            directory.finish()?;
        }
    }
    Ok(out.flush()?)
}

impl Level {
    /// Writes the tags that every level has.
    fn describe<W: Write + Seek, K: TiffKind, const CHANNELS: usize>(
        &self,
        spec: &Spec<'_>,
        directory: &mut DirectoryEncoder<'_, W, K>,
    ) -> Result<(), TiffError> {
        let offsets = |values: &[u64]| values.iter().map(|&v| K::convert_offset(v)).collect::<Result<Vec<_>, _>>();
        let interleaved = if spec.planar { 1 } else { CHANNELS };
        let photometric =
            if interleaved == 1 { PhotometricInterpretation::BlackIsZero } else { PhotometricInterpretation::RGB };
        let resolution = pixels_per_cm(spec.mpp.get() * self.scale);
        if self.scale > 1.0 {
            // Bit 0 of NewSubfileType (TIFF 6.0, page 36): a reduced-resolution version of another image in this file.
            directory.write_tag(Tag::NewSubfileType, 1u32)?;
        }
        directory.write_tag(Tag::ImageWidth, self.width)?;
        directory.write_tag(Tag::ImageLength, self.height)?;
        directory.write_tag(Tag::BitsPerSample, &vec![8u16; interleaved][..])?;
        directory.write_tag(Tag::SamplesPerPixel, interleaved as u16)?;
        directory.write_tag(Tag::Compression, CompressionMethod::Deflate)?;
        directory.write_tag(Tag::PhotometricInterpretation, photometric)?;
        directory.write_tag(Tag::Predictor, if CHANNELS == 1 { Predictor::None } else { Predictor::Horizontal })?;
        directory.write_tag(Tag::TileWidth, spec.tile_px)?;
        directory.write_tag(Tag::TileLength, spec.tile_px)?;
        directory.write_tag(Tag::TileOffsets, K::convert_slice(&offsets(&self.offsets)?))?;
        directory.write_tag(Tag::TileByteCounts, K::convert_slice(&offsets(&self.sizes)?))?;
        directory.write_tag(Tag::XResolution, resolution.clone())?;
        directory.write_tag(Tag::YResolution, resolution)?;
        directory.write_tag(Tag::ResolutionUnit, ResolutionUnit::Centimeter)
    }
}

/// Text as it is. The crate's own text is 7-bit as TIFF wants it, but that of OME-TIFF is UTF-8.
struct Text<'a>(&'a str);

impl TiffValue for Text<'_> {
    const BYTE_LEN: u8 = 1;
    const FIELD_TYPE: Type = Type::ASCII;

    fn count(&self) -> usize {
        self.0.len() + 1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        [self.0.as_bytes(), &[0]].concat().into()
    }
}

/// 10 000 µm make a centimetre. With 4000 as denominator the numerator fits 32 bits for every plausible mpp and has at
/// least six digits at the coarse end; levels coarser than that saturate nothing, they only lose digits.
pub(super) fn pixels_per_cm(mpp: f64) -> Rational {
    const DENOMINATOR: u32 = 4000;
    Rational { n: (10_000.0 / mpp * f64::from(DENOMINATOR)).round() as u32, d: DENOMINATOR }
}
