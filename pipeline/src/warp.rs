//! A section drawn in the frame of another one.

use image::{Rgb, RgbImage};
use rayon::prelude::*;

use crate::carry::Carry;
use crate::slide::{Resampled, SlideError};
use crate::units::{Mpp, PixelRect, UmPoint};

/// Side of the tiles in which a whole picture is drawn. Small ones keep what a rotated tile reads small.
const TILE: u32 = 256;

/// Pixels laid over a section.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Where pixel (0, 0) begins on the section's canvas.
    pub origin: UmPoint,
    pub mpp: Mpp,
}

impl Frame {
    /// The pixels of a canvas from its origin.
    pub fn of_canvas(mpp: Mpp) -> Self {
        Self { origin: UmPoint { x: 0.0, y: 0.0 }, mpp }
    }

    /// Centre of a pixel on the section's canvas.
    fn centre(&self, x: i64, y: i64) -> UmPoint {
        let UmPoint { x, y } = UmPoint::from_pixels(x as f64 + 0.5, y as f64 + 0.5, self.mpp);
        UmPoint { x: self.origin.x + x, y: self.origin.y + y }
    }
}

/// Bilinear samples of `moving`, whose pixels begin at its canvas origin, where `map` sends the pixel centres of `rect` of
/// `frame`: a [`crate::deformation::SectionMap`] draws a section in the frame of the reference, [`crate::carry::Back`] the other way round.
/// `moving` may have another resolution than the frame. What lies beyond the slide, or nowhere, is its background.
///
/// Calls nothing of rayon, so it may be called by rayon's threads while others wait for a tile of `moving`.
///
/// # Errors
/// Whatever reading the slide gives.
pub fn warp_rect(moving: &Resampled, map: &impl Carry, frame: Frame, rect: PixelRect) -> Result<RgbImage, SlideError> {
    let PixelRect { width, height, .. } = rect;
    // In pixels of the moving section, centres at integers: edge-based continuous minus a half.
    let positions: Vec<Option<(f64, f64)>> = (0..i64::from(height))
        .flat_map(|row| (0..i64::from(width)).map(move |col| (rect.x + col, rect.y + row)))
        .map(|(x, y)| {
            let (x, y) = map.carry(frame.centre(x, y))?.to_pixels(moving.mpp());
            Some((x - 0.5, y - 0.5))
        })
        .collect();
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let (low, high) = positions
            .iter()
            .flatten()
            .map(pick)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        // One more than the last pixel: bilinear samples have a right and a lower neighbour.
        (low.floor() as i64, (high.floor() - low.floor()) as u32 + 2)
    };
    let mut out = RgbImage::from_pixel(width, height, Rgb(moving.slide().info().background));
    if positions.iter().all(Option::is_none) {
        return Ok(out);
    }
    let ((x0, columns), (y0, rows)) = (range(|p| p.0), range(|p| p.1));
    let block = moving.read(PixelRect { x: x0, y: y0, width: columns, height: rows })?;
    let (source, stride) = (block.as_raw(), columns as usize * 3);
    for (pixel, position) in out.pixels_mut().zip(&positions) {
        let Some((x, y)) = position else { continue };
        // Floor before subtracting the block's origin: the other way round -1e-15 would round up to a whole pixel.
        let (left, top) = (x.floor(), y.floor());
        let (a, b) = ((x - left) as f32, (y - top) as f32);
        let i = (top as i64 - y0) as usize * stride + (left as i64 - x0) as usize * 3;
        for (channel, value) in pixel.0.iter_mut().enumerate() {
            let at = |offset: usize| f32::from(source[i + offset + channel]);
            let upper = at(0) + a * (at(3) - at(0));
            let lower = at(stride) + a * (at(stride + 3) - at(stride));
            *value = (upper + b * (lower - upper) + 0.5) as u8;
        }
    }
    Ok(out)
}

/// The `width` × `height` pixels of `frame` from (0, 0) on, tiles in parallel.
///
/// # Errors
/// As [`warp_rect`].
pub fn warp_picture(
    moving: &Resampled,
    map: &impl Carry,
    frame: Frame,
    width: u32,
    height: u32,
) -> Result<RgbImage, SlideError> {
    let corners: Vec<(u32, u32)> = (0..height)
        .step_by(TILE as usize)
        .flat_map(|top| (0..width).step_by(TILE as usize).map(move |left| (left, top)))
        .collect();
    let tiles = corners
        .par_iter()
        .map(|&(left, top)| {
            let (width, height) = (TILE.min(width - left), TILE.min(height - top));
            warp_rect(moving, map, frame, PixelRect { x: i64::from(left), y: i64::from(top), width, height })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = RgbImage::new(width, height);
    for ((left, top), tile) in corners.into_iter().zip(&tiles) {
        image::imageops::replace(&mut out, tile, i64::from(left), i64::from(top));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::carry::Back;
    use crate::deformation::SectionMap;
    use crate::patches::{PatchSource, PatchSpec, StainPixels};
    use crate::slide::{SlideSource, SyntheticSlide};
    use crate::units::Affine;

    fn mpp(um: f64) -> Mpp {
        Mpp::new(um).expect("plausible")
    }

    fn section(um: f64) -> Resampled {
        let image = RgbImage::from_fn(600, 500, |x, y| Rgb([(x / 3) as u8, (y / 2) as u8, ((x * y) / 1200) as u8]));
        let slide: Arc<dyn SlideSource> = Arc::new(SyntheticSlide::new(image, mpp(0.5)));
        Resampled::new(slide, mpp(um)).expect("fine enough")
    }

    fn turned() -> SectionMap {
        Affine([[0.98, 0.17, 8.3], [-0.17, 0.99, 41.7]]).into()
    }

    #[test]
    fn a_warped_rectangle_is_what_the_patches_are_cut_from() {
        let spec = PatchSpec { mpp: mpp(0.5), patch_px: 64, stride_px: 64 };
        let patches =
            PatchSource::new(spec, vec![StainPixels::Section { pixels: section(0.5), map: Some(Box::new(turned())) }]);
        let mut planes = vec![0; patches.tensor_len()];
        patches.tensor_at(130, 90, &mut planes).expect("readable");
        let frame = Frame::of_canvas(mpp(0.5));
        let rect = PixelRect { x: 130, y: 90, width: 64, height: 64 };
        let picture = warp_rect(&section(0.5), &turned(), frame, rect).expect("readable");
        for (i, pixel) in picture.pixels().enumerate() {
            assert_eq!(pixel.0, [0, 1, 2].map(|channel| planes[channel * 64 * 64 + i]));
        }
    }

    #[test]
    fn tiles_make_the_same_picture_and_the_outside_is_background() {
        let frame = Frame { origin: UmPoint { x: 20.25, y: -3.0 }, mpp: mpp(0.7) };
        let moving = section(0.6);
        let whole = warp_picture(&moving, &turned(), frame, 460, 390).expect("readable");
        let rect = PixelRect { x: 0, y: 0, width: 460, height: 390 };
        assert_eq!(whole, warp_rect(&moving, &turned(), frame, rect).expect("readable"));
        assert_eq!(whole.get_pixel(459, 389), &Rgb([255; 3]));
    }

    #[test]
    fn a_picture_carried_there_and_back_is_the_picture() {
        let moving = section(0.5);
        let frame = Frame::of_canvas(mpp(0.5));
        let there = warp_picture(&moving, &turned(), frame, 600, 500).expect("readable");
        let there: Arc<dyn SlideSource> = Arc::new(SyntheticSlide::single_level(there, mpp(0.5)));
        let there = Resampled::new(there, mpp(0.5)).expect("fine enough");
        let rect = PixelRect { x: 250, y: 220, width: 60, height: 50 };
        let back = warp_rect(&there, &Back(&turned()), frame, rect).expect("readable");
        let original = moving.read(rect).expect("readable");
        for (a, b) in back.pixels().zip(original.pixels()) {
            // Two interpolations of a soft picture; red and green step by 1, blue repeats after 256.
            assert!((0..2).all(|c| a.0[c].abs_diff(b.0[c]) <= 2), "{a:?} for {b:?}");
        }
    }
}
