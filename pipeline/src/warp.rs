//! A section's pixels in the frame of the reference.

use image::RgbImage;

use crate::deformation::SectionMap;
use crate::slide::{Resampled, SlideError};
use crate::units::{Mpp, PixelRect, UmPoint};

/// Bilinear samples of `section` where `map` sends each pixel centre of `rect`: a rectangle of the reference's canvas in
/// pixels of `mpp`, the resolution of `section`. Beyond the section there is its background.
///
/// # Errors
/// Whatever reading the slide gives.
pub fn warp_rect(section: &Resampled, map: &SectionMap, mpp: Mpp, rect: PixelRect) -> Result<RgbImage, SlideError> {
    let (width, height) = (rect.width as usize, rect.height as usize);
    // In pixels of the section, centres at integers: edge-based continuous minus a half.
    let positions: Vec<(f64, f64)> = (0..width * height)
        .map(|i| {
            let (col, row) = ((i % width) as f64, (i / width) as f64);
            let on_reference = UmPoint::from_pixels(rect.x as f64 + col + 0.5, rect.y as f64 + row + 0.5, mpp);
            let (x, y) = map.apply(on_reference).to_pixels(mpp);
            (x - 0.5, y - 0.5)
        })
        .collect();
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        positions.iter().map(pick).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((left, right), (top, bottom)) = (bounds(|p| p.0), bounds(|p| p.1));
    let (x0, y0) = (left.floor() as i64, top.floor() as i64);
    let block_width = (right.floor() as i64 + 2 - x0) as u32;
    let block_height = (bottom.floor() as i64 + 2 - y0) as u32;
    let block = section.read(PixelRect { x: x0, y: y0, width: block_width, height: block_height })?;
    let source = block.as_raw();
    let stride = block_width as usize * 3;
    let mut warped = RgbImage::new(rect.width, rect.height);
    for (pixel, (x, y)) in warped.pixels_mut().zip(&positions) {
        // Floor before subtracting the block's origin: the other way round -1e-15 would round up to a whole pixel.
        let (column, row) = (x.floor(), y.floor());
        let (ax, ay) = ((x - column) as f32, (y - row) as f32);
        let i = (row as i64 - y0) as usize * stride + (column as i64 - x0) as usize * 3;
        for (channel, out) in pixel.0.iter_mut().enumerate() {
            let p = |offset: usize| f32::from(source[i + offset + channel]);
            let upper = p(0) + ax * (p(3) - p(0));
            let lower = p(stride) + ax * (p(stride + 3) - p(stride));
            *out = (upper + ay * (lower - upper) + 0.5) as u8;
        }
    }
    Ok(warped)
}
