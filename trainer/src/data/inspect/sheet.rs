//! Contact sheets: some patches of every set, a row per stain, so that a person sees what would be learnt, and whether the
//! stains of a patch show the same place.

use std::path::{Path, PathBuf};

use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_9X18_BOLD};
use image::{Rgb, RgbImage};
use tissuemap::canvas::{Canvas, INK, LINE, MARGIN, text};
use tissuemap::road::Prepared;
use tissuemap::slide::SlideError;

use crate::config::Config;
use crate::data::sampling::{self, Places};
use crate::system::error::TrainError;
use crate::system::files::create_folder;
use crate::system::files::file_error;

/// Patches of a set, side by side.
const COLUMNS: usize = 10;
/// Sets on one sheet: with five stains, as high as pictures can be looked at.
const SETS: usize = 10;
/// Between patches.
const GAP: u32 = 2;
/// Room for the names of stains, in characters of [`FONT_8X13`].
const NAME_CHARS: usize = 12;
const CHAR_PX: u32 = 8;
/// Where the patches begin.
const LEFT: u32 = MARGIN as u32 + CHAR_PX * NAME_CHARS as u32;

/// Some patches of one set.
pub(super) struct Sample {
    name: String,
    /// One after the other, `[3·S, P, P]` each.
    pixels: Vec<u8>,
}

impl Sample {
    /// Patches from all over the tissue, from that to train on where there is some.
    pub(super) fn cut(name: &str, prepared: &Prepared, places: &Places) -> Result<Self, SlideError> {
        let from = if places.train.is_empty() { &places.held_out } else { &places.train };
        let corners: Vec<(i64, i64)> =
            from.iter().copied().step_by(from.len().div_ceil(COLUMNS).max(1)).take(COLUMNS).collect();
        Ok(Self { name: name.to_owned(), pixels: sampling::cut(prepared, &corners)? })
    }
}

/// Sheets as they fill up, `patches-01.png` and so on.
pub(super) struct Sheets {
    folder: PathBuf,
    stains: Vec<String>,
    patch_px: u32,
    page: RgbImage,
    on_page: usize,
    written: usize,
}

impl Sheets {
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

    /// Puts a set on the sheet.
    pub(super) fn add(&mut self, sample: &Sample) -> Result<(), TrainError> {
        let top = MARGIN as u32 + self.on_page as u32 * self.set_height();
        text(&mut Canvas(&mut self.page), MARGIN, top as i32, &sample.name, &FONT_9X18_BOLD, INK);
        let plane = self.patch_px as usize * self.patch_px as usize;
        for (row, stain) in self.stains.iter().enumerate() {
            let y = top + LINE as u32 + row as u32 * (self.patch_px + GAP);
            let middle = (y + self.patch_px / 2) as i32 - LINE / 3;
            let name: String = stain.chars().take(NAME_CHARS - 1).collect();
            text(&mut Canvas(&mut self.page), MARGIN, middle, &name, &FONT_8X13, INK);
            for (column, patch) in sample.pixels.chunks_exact(3 * plane * self.stains.len()).enumerate() {
                let x = LEFT + column as u32 * (self.patch_px + GAP);
                draw(&mut self.page, x, y, self.patch_px, &patch[3 * row * plane..][..3 * plane]);
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

/// Draws three planes of a square patch.
fn draw(page: &mut RgbImage, x: u32, y: u32, side: u32, planes: &[u8]) {
    let plane = planes.len() / 3;
    for i in 0..plane {
        let (dx, dy) = (i as u32 % side, i as u32 / side);
        page.put_pixel(x + dx, y + dy, Rgb([planes[i], planes[plane + i], planes[2 * plane + i]]));
    }
}
