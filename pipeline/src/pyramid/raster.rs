//! The pixels of one tile: cut out, halved into their parent, compressed.

use std::io::{self, Write};

use flate2::{Compression, write::ZlibEncoder};

use crate::units::PixelRect;

/// Zlib's own default; level 9 doubles the time for about 1 % on tissue.
const DEFLATE_LEVEL: u32 = 6;

/// The part of a tile that lies inside its level: row-major, `CHANNELS` interleaved samples a pixel. Three channels are
/// colours, one is a label.
pub(super) struct Raster<const CHANNELS: usize> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) samples: Vec<u8>,
}

impl<const CHANNELS: usize> Raster<CHANNELS> {
    /// All zero.
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { width, height, samples: vec![0; width as usize * height as usize * CHANNELS] }
    }

    /// `rect` of a picture in memory that is `width` pixels wide.
    pub(super) fn cut(picture: &[u8], width: u32, rect: PixelRect) -> Self {
        let line = |row: usize| {
            let start = ((rect.y as usize + row) * width as usize + rect.x as usize) * CHANNELS;
            &picture[start..start + rect.width as usize * CHANNELS]
        };
        let samples = (0..rect.height as usize).flat_map(line).copied().collect();
        Self { width: rect.width, height: rect.height, samples }
    }

    /// Puts `finer`, halved with sides rounded up, at `(x, y)`: colours are averaged, of labels one of the four is taken.
    pub(super) fn put_halved(&mut self, finer: &Self, (x, y): (u32, u32)) {
        let (width, height) = (finer.width as usize, finer.height as usize);
        for row in 0..height.div_ceil(2) {
            // A 2×2 block cut by the border repeats its last row or column, which leaves the average as it is.
            let rows = [2 * row, (2 * row + 1).min(height - 1)].map(|row| row * width);
            let start = ((y as usize + row) * self.width as usize + x as usize) * CHANNELS;
            let line = &mut self.samples[start..start + width.div_ceil(2) * CHANNELS];
            for (col, out) in line.chunks_exact_mut(CHANNELS).enumerate() {
                let cols = [2 * col, (2 * col + 1).min(width - 1)];
                for (channel, out) in out.iter_mut().enumerate() {
                    let at = |r: usize, c: usize| u16::from(finer.samples[(rows[r] + cols[c]) * CHANNELS + channel]);
                    let sum = at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1);
                    *out = if CHANNELS == 1 { at(0, 0) as u8 } else { ((sum + 2) / 4) as u8 };
                }
            }
        }
    }

    /// One channel alone.
    pub(super) fn plane(&self, channel: usize) -> Raster<1> {
        let samples = self.samples.iter().skip(channel).step_by(CHANNELS).copied().collect();
        Raster { width: self.width, height: self.height, samples }
    }

    /// The square tile of `side` pixels, zero beyond the pixels that there are, as zlib data. `predict` stores the
    /// difference to the left neighbour instead of the sample (TIFF 6.0, section 14).
    pub(super) fn compressed(&self, side: u32, predict: bool) -> io::Result<Vec<u8>> {
        let (side, width) = (side as usize, self.width as usize * CHANNELS);
        let mut tile = vec![0; side * side * CHANNELS];
        for (line, samples) in tile.chunks_exact_mut(side * CHANNELS).zip(self.samples.chunks_exact(width)) {
            line[..width].copy_from_slice(samples);
            if predict {
                for i in (CHANNELS..line.len()).rev() {
                    line[i] = line[i].wrapping_sub(line[i - CHANNELS]);
                }
            }
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::new(DEFLATE_LEVEL));
        zlib.write_all(&tile)?;
        zlib.finish()
    }
}
