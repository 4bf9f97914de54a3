//! A slide at exactly the resolution that is asked for.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{Rgb, RgbImage};
use lru::LruCache;
use rayon::prelude::*;

use super::{SlideError, SlideSource};
use crate::units::{Mpp, PixelRect, UmPoint};

/// Side of a tile in resampled pixels. A block of 8 × 8 patches of 64 px touches 1 to 4 of them.
const TILE: u32 = 512;
/// A tile reads at most this many level pixels on a side; for strong reduction the tile is made smaller instead.
const MAX_SOURCE_SIDE: f64 = 4096.0;
/// Tiles kept per slide: 24 × 768 KiB = 18 MiB. What matters is that one block of cells fits, not the slide.
const CACHED_TILES: NonZeroUsize = NonZeroUsize::new(24).unwrap();

type Tile = Arc<OnceLock<Result<RgbImage, SlideError>>>;

/// A slide resampled to one resolution, read in blocks of any rectangle by several threads.
///
/// Pixels are computed per fixed tile of the resampled canvas, so **a pixel's value does not depend on which rectangle
/// it was asked for in**: trainer and daemon get the same bits however each walks over the slide. Filter: triangle,
/// widened by the reduction factor (no aliasing), in the fixed-point arithmetic of `fast_image_resize`.
pub struct Resampled {
    slide: Arc<dyn SlideSource>,
    mpp: Mpp,
    level: usize,
    /// Level pixels per resampled pixel.
    factor: f64,
    /// Where resampled pixel (0, 0) begins, in level pixels.
    origin: (f64, f64),
    tile: u32,
    tiles: Mutex<LruCache<(i64, i64), Tile>>,
}

impl Resampled {
    /// # Errors
    /// [`SlideError::TooCoarse`] when the finest level is more than a tenth coarser than `mpp`: resampling would invent
    /// detail that the model takes for structure.
    pub fn new(slide: Arc<dyn SlideSource>, mpp: Mpp) -> Result<Self, SlideError> {
        Self::with_origin(slide, mpp, UmPoint { x: 0.0, y: 0.0 })
    }

    /// The same with pixel (0, 0) beginning at `origin` instead of the canvas origin.
    ///
    /// # Errors
    /// As [`Resampled::new`].
    pub fn with_origin(slide: Arc<dyn SlideSource>, mpp: Mpp, origin: UmPoint) -> Result<Self, SlideError> {
        let info = slide.info();
        let level = info.best_level(mpp);
        let level_mpp = info.level_mpp(level);
        let factor = mpp.get() / level_mpp;
        if factor < 1.0 / 1.1 {
            return Err(SlideError::TooCoarse { path: info.path.clone(), have: info.mpp.get(), want: mpp.get() });
        }
        let tile = TILE.min((MAX_SOURCE_SIDE / factor) as u32).max(1);
        let origin = (origin.x / level_mpp, origin.y / level_mpp);
        Ok(Self { slide, mpp, level, factor, origin, tile, tiles: Mutex::new(LruCache::new(CACHED_TILES)) })
    }

    /// The slide behind.
    pub fn slide(&self) -> &Arc<dyn SlideSource> {
        &self.slide
    }

    /// The resolution of the pixels that [`Resampled::read`] returns.
    pub fn mpp(&self) -> Mpp {
        self.mpp
    }

    /// Pixels of `rect`; outside the slide is background.
    ///
    /// # Errors
    /// Whatever reading the slide gives.
    pub fn read(&self, rect: PixelRect) -> Result<RgbImage, SlideError> {
        let mut out = RgbImage::new(rect.width, rect.height);
        let side = i64::from(self.tile);
        let (x1, y1) = (rect.x + i64::from(rect.width), rect.y + i64::from(rect.height));
        for ty in rect.y.div_euclid(side)..=(y1 - 1).div_euclid(side) {
            for tx in rect.x.div_euclid(side)..=(x1 - 1).div_euclid(side) {
                let tile = self.tile(tx, ty);
                let pixels = tile.get_or_init(|| self.render(tx, ty)).as_ref().map_err(Clone::clone)?;
                let (left, top) = (rect.x.max(tx * side), rect.y.max(ty * side));
                let (right, bottom) = (x1.min((tx + 1) * side), y1.min((ty + 1) * side));
                copy_rows(
                    pixels,
                    (left - tx * side, top - ty * side),
                    &mut out,
                    (left - rect.x, top - rect.y),
                    (right - left, bottom - top),
                );
            }
        }
        Ok(out)
    }

    fn tile(&self, tx: i64, ty: i64) -> Tile {
        let mut tiles = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tiles.get_or_insert((tx, ty), Tile::default))
    }

    fn render(&self, tx: i64, ty: i64) -> Result<RgbImage, SlideError> {
        let side = i64::from(self.tile);
        let (left, top) =
            ((tx * side) as f64 * self.factor + self.origin.0, (ty * side) as f64 * self.factor + self.origin.1);
        let whole = |v: f64| (v - v.round()).abs() < 1e-6;
        if (self.factor - 1.0).abs() < 1e-9 && whole(left) && whole(top) {
            let (x, y) = (left.round() as i64, top.round() as i64);
            return self.slide.read_level(self.level, PixelRect { x, y, width: self.tile, height: self.tile });
        }
        // The triangle reaches `factor` level pixels to either side of the tile.
        let margin = self.factor.ceil() + 1.0;
        let span = f64::from(self.tile) * self.factor;
        let (x, y) = ((left - margin).floor(), (top - margin).floor());
        let (width, height) = ((left + span + margin - x).ceil() as u32, (top + span + margin - y).ceil() as u32);
        let block = self.slide.read_level(self.level, PixelRect { x: x as i64, y: y as i64, width, height })?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
            left - x,
            top - y,
            span,
            span,
        );
        let read_error =
            |reason: String| SlideError::Read { path: self.slide.info().path.clone(), level: self.level, reason };
        let source =
            ImageRef::new(width, height, block.as_raw(), PixelType::U8x3).map_err(|e| read_error(e.to_string()))?;
        let mut target = Image::new(self.tile, self.tile, PixelType::U8x3);
        Resizer::new().resize(&source, &mut target, &options).map_err(|e| read_error(e.to_string()))?;
        RgbImage::from_raw(self.tile, self.tile, target.into_vec())
            .ok_or_else(|| read_error("tile of the wrong size".into()))
    }
}

/// Copies a `(width, height)` block from `from_xy` in `from` to `to_xy` in `to`.
fn copy_rows(from: &RgbImage, from_xy: (i64, i64), to: &mut RgbImage, to_xy: (i64, i64), (width, height): (i64, i64)) {
    let (from_stride, to_stride) = (from.width() as usize * 3, to.width() as usize * 3);
    let bytes = width as usize * 3;
    let source = from.as_raw();
    let target = to.as_flat_samples_mut().samples;
    for row in 0..height {
        let s = (from_xy.1 + row) as usize * from_stride + from_xy.0 as usize * 3;
        let t = (to_xy.1 + row) as usize * to_stride + to_xy.0 as usize * 3;
        target[t..t + bytes].copy_from_slice(&source[s..s + bytes]);
    }
}

/// The scanned part (the slide's bounds) at `mpp`, strips in parallel. Pixel (0, 0) begins exactly at the bounds origin.
///
/// # Errors
/// As [`Resampled::new`] and reading.
pub fn thumbnail(slide: &Arc<dyn SlideSource>, mpp: Mpp) -> Result<RgbImage, SlideError> {
    let info = slide.info();
    let resampled = Resampled::with_origin(Arc::clone(slide), mpp, info.bounds_origin())?;
    let (width_um, height_um) = info.bounds_um();
    // A thousandth of a pixel is rounding, not tissue.
    let pixels = |um: f64| (um / mpp.get() - 1e-3).ceil().max(1.0) as u32;
    let (width, height) = (pixels(width_um), pixels(height_um));
    let strip = resampled.tile;
    let strips: Vec<RgbImage> = (0..height.div_ceil(strip))
        .into_par_iter()
        .map(|i| {
            let rows = strip.min(height - i * strip);
            resampled.read(PixelRect { x: 0, y: i64::from(i * strip), width, height: rows })
        })
        .collect::<Result<_, _>>()?;
    let mut out = RgbImage::from_pixel(width, height, Rgb(info.background));
    let mut top = 0;
    for part in strips {
        copy_rows(&part, (0, 0), &mut out, (0, top), (i64::from(part.width()), i64::from(part.height())));
        top += i64::from(part.height());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slide::SyntheticSlide;
    use proptest::prelude::*;

    fn slide() -> Arc<dyn SlideSource> {
        let image = RgbImage::from_fn(700, 530, |x, y| Rgb([(x * 7 + y) as u8, (x ^ y) as u8, (y * 3) as u8]));
        Arc::new(SyntheticSlide::new(image, Mpp::new(0.5).expect("plausible")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_pixel_does_not_depend_on_the_rectangle(x in -40i64..600, y in -40i64..500, w in 1u32..90, h in 1u32..90, mpp in 0.5f64..2.2) {
            let resampled = Resampled::new(slide(), Mpp::new(mpp).expect("plausible")).expect("fine enough");
            let small = resampled.read(PixelRect { x, y, width: w, height: h }).expect("readable");
            let large = resampled.read(PixelRect { x: x - 13, y: y - 7, width: w + 30, height: h + 20 }).expect("readable");
            for (px, py, pixel) in small.enumerate_pixels() {
                prop_assert_eq!(pixel, large.get_pixel(px + 13, py + 7));
            }
        }
    }

    #[test]
    fn native_resolution_is_copied_and_outside_is_background() {
        let resampled = Resampled::new(slide(), Mpp::new(0.5).expect("plausible")).expect("fine enough");
        let block = resampled.read(PixelRect { x: -2, y: 520, width: 10, height: 20 }).expect("readable");
        assert_eq!(block.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(block.get_pixel(5, 15).0, [255; 3]);
        assert_eq!(block.get_pixel(4, 3).0, [(2 * 7 + 523) as u8, 0b10 ^ 0x0b, (523 * 3) as u8]);
    }

    #[test]
    fn too_coarse_a_slide_is_refused() {
        let error = Resampled::new(slide(), Mpp::new(0.25).expect("plausible")).err().expect("refused");
        assert_eq!(error.id(), "slide.too-coarse");
    }

    #[test]
    fn reduction_keeps_the_mean_and_the_place() {
        // Left half dark, right half bright: at a quarter of the resolution the edge stays at a quarter of its place.
        let image = RgbImage::from_fn(800, 400, |x, _| Rgb(if x < 400 { [10; 3] } else { [210; 3] }));
        let slide: Arc<dyn SlideSource> =
            Arc::new(SyntheticSlide::single_level(image, Mpp::new(0.5).expect("plausible")));
        let small = thumbnail(&slide, Mpp::new(2.0).expect("plausible")).expect("readable");
        assert_eq!((small.width(), small.height()), (200, 100));
        assert_eq!(small.get_pixel(97, 50).0, [10; 3]);
        assert_eq!(small.get_pixel(102, 50).0, [210; 3]);
        let (a, b) = (i32::from(small.get_pixel(99, 50).0[0]), i32::from(small.get_pixel(100, 50).0[0]));
        assert!((a + b - 220).abs() <= 2, "symmetric about the edge: {a} {b}");
    }
}
