//! Contact sheets: some patches of every set, one row per stain. They show the training data, and whether all stains of a patch show the
//! same place.

use std::path::{Path, PathBuf};

use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_9X18_BOLD};
use image::{Rgb, RgbImage};
use tissuemap::canvas::{Canvas, INK, LINE, MARGIN, text};
use tissuemap::road::Prepared;
use tissuemap::slide::SlideError;

use crate::config::Config;
use crate::data::sampling::{self, PatchPositions};
use crate::system::error::TrainError;
use crate::system::files::create_folder;
use crate::system::files::file_error;

/// Patches of a set, side by side.
const COLUMNS: usize = 10;
/// Sets on one sheet. With five stains a sheet is as high as an image viewer can show well.
const SETS: usize = 10;
/// Between patches.
const GAP: u32 = 2;
/// Room for the names of stains, in characters of [`FONT_8X13`].
const NAME_CHARS: usize = 12;
const CHAR_PX: u32 = 8;
/// Where the patches begin.
const LEFT: u32 = MARGIN as u32 + CHAR_PX * NAME_CHARS as u32;

/// Some patches of one set.
pub(super) struct SheetRow {
    name: String,
    /// One after the other, `[3·S, P, P]` each.
    pixels: Vec<u8>,
}

impl SheetRow {
    /// Cuts patches that are spread over the tissue: training patches if there are some, otherwise held-out ones.
    pub(super) fn cut(name: &str, prepared: &Prepared, positions: &PatchPositions) -> Result<Self, SlideError> {
        let from = if positions.train.is_empty() { &positions.held_out } else { &positions.train };
        let corners: Vec<(i64, i64)> =
            from.iter().copied().step_by(from.len().div_ceil(COLUMNS).max(1)).take(COLUMNS).collect();
        Ok(Self { name: name.to_owned(), pixels: sampling::cut(prepared, &corners)? })
    }
}

/// The contact sheets: `patches-01.png` and so on.
pub(super) struct ContactSheets {
    folder: PathBuf,
    stains: Vec<String>,
    patch_px: u32,
    page: RgbImage,
    on_page: usize,
    written: usize,
}

impl ContactSheets {
    pub(super) fn new(folder: &Path, config: &Config) -> Result<Self, TrainError> {
        create_folder(folder)?;
        let stains = config.stains.iter().map(|stain| stain.name.clone()).collect();
        let patch_px = config.patches.patch_px;
        let mut sheets =
            Self { folder: folder.to_owned(), stains, patch_px, page: RgbImage::new(0, 0), on_page: 0, written: 0 };
        sheets.page = sheets.blank();
        Ok(sheets)
    }

    fn blank(&self) -> RgbImage {
        let width = LEFT + COLUMNS as u32 * (self.patch_px + GAP) + MARGIN as u32;
        RgbImage::from_pixel(width, SETS as u32 * self.set_height() + MARGIN as u32, Rgb([255; 3]))
    }

    fn set_height(&self) -> u32 {
        2 * LINE as u32 + self.stains.len() as u32 * (self.patch_px + GAP)
    }

    /// Adds a set to the sheet.
    pub(super) fn add(&mut self, sample: &SheetRow) -> Result<(), TrainError> {
        let top = MARGIN as u32 + self.on_page as u32 * self.set_height();
        text(&mut Canvas(&mut self.page), MARGIN, top as i32, &sample.name, &FONT_9X18_BOLD, INK);
        let channel = self.patch_px as usize * self.patch_px as usize;
        for (row, stain) in self.stains.iter().enumerate() {
            let y = top + LINE as u32 + row as u32 * (self.patch_px + GAP);
            let middle = (y + self.patch_px / 2) as i32 - LINE / 3;
            let name: String = stain.chars().take(NAME_CHARS - 1).collect();
            text(&mut Canvas(&mut self.page), MARGIN, middle, &name, &FONT_8X13, INK);
            for (column, patch) in sample.pixels.chunks_exact(3 * channel * self.stains.len()).enumerate() {
                let x = LEFT + column as u32 * (self.patch_px + GAP);
                draw(&mut self.page, x, y, self.patch_px, &patch[3 * row * channel..][..3 * channel]);
            }
        }
        self.on_page += 1;
        if self.on_page == SETS { self.write() } else { Ok(()) }
    }

    /// Writes the last sheet.
    pub(super) fn finish(mut self) -> Result<(), TrainError> {
        if self.on_page > 0 { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), TrainError> {
        self.written += 1;
        let height = self.on_page as u32 * self.set_height() + MARGIN as u32;
        let blank = self.blank();
        let page = std::mem::replace(&mut self.page, blank);
        self.on_page = 0;
        let path = self.folder.join(format!("patches-{:02}.png", self.written));
        let cropped = image::imageops::crop_imm(&page, 0, 0, page.width(), height).to_image();
        cropped.save(&path).map_err(|e| file_error(&path, std::io::Error::other(e)))
    }
}

/// Draws the three channels of one stain of a square patch.
fn draw(page: &mut RgbImage, x: u32, y: u32, side: u32, channels: &[u8]) {
    let channel = channels.len() / 3;
    for i in 0..channel {
        let (dx, dy) = (i as u32 % side, i as u32 / side);
        page.put_pixel(x + dx, y + dy, Rgb([channels[i], channels[channel + i], channels[2 * channel + i]]));
    }
}
