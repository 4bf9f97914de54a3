use std::collections::BTreeMap;
use std::path::PathBuf;

use image::{Rgb, RgbImage};

use super::{Level, Limits, SlideError, SlideInfo, SlideSource};
use crate::units::{Level0Rect, Mpp, PixelRect};

/// A slide in memory, for plain images, tests and measurements: an image as level 0, halved levels, and bounds that may lie inside
/// the canvas (no freely available small file has a bounds offset).
pub struct SyntheticSlide {
    pub(super) info: SlideInfo,
    levels: Vec<RgbImage>,
    limits: Limits,
}

impl SyntheticSlide {
    /// Levels are halved by area average until the long side is below 256 px.
    pub fn new(image: RgbImage, mpp: Mpp) -> Self {
        Self::with_levels(image, mpp, 256)
    }

    /// Level 0 only.
    pub fn single_level(image: RgbImage, mpp: Mpp) -> Self {
        Self::with_levels(image, mpp, u32::MAX)
    }

    fn with_levels(image: RgbImage, mpp: Mpp, smallest_px: u32) -> Self {
        let bounds = Level0Rect { x: 0, y: 0, width: image.width(), height: image.height() };
        let mut images = vec![image];
        while let Some(last) = images.last()
            && last.width().max(last.height()) / 2 >= smallest_px
        {
            let half = halved(last);
            images.push(half);
        }
        let levels = images
            .iter()
            .enumerate()
            .map(|(k, i)| Level { width: i.width(), height: i.height(), downsample: f64::from(1 << k) })
            .collect();
        let info = SlideInfo {
            path: PathBuf::from("synthetic.svs"),
            vendor: "synthetic".into(),
            mpp,
            levels,
            bounds,
            background: [255; 3],
            properties: BTreeMap::new(),
        };
        Self { info, levels: images, limits: Limits::default() }
    }

    /// The slide under another name: results are written beside this path.
    #[must_use]
    pub fn at(mut self, path: PathBuf) -> Self {
        self.info.path = path;
        self
    }

    /// The slide with `openslide.bounds-*`: only this part of the canvas was scanned.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Level0Rect) -> Self {
        self.info.bounds = bounds;
        self
    }
}

/// Means of 2 × 2 pixels; sides are rounded up, and a border pixel stands for the one that is not there.
fn halved(image: &RgbImage) -> RgbImage {
    let (right, bottom) = (image.width() - 1, image.height() - 1);
    RgbImage::from_fn(image.width().div_ceil(2), image.height().div_ceil(2), |x, y| {
        let block = [(0, 0), (1, 0), (0, 1), (1, 1)]
            .map(|(dx, dy)| image.get_pixel((2 * x + dx).min(right), (2 * y + dy).min(bottom)).0.map(u16::from));
        Rgb(std::array::from_fn(|c| ((block.iter().map(|pixel| pixel[c]).sum::<u16>() + 2) / 4) as u8))
    })
}

impl SlideSource for SyntheticSlide {
    fn info(&self) -> &SlideInfo {
        &self.info
    }

    fn read_level(&self, level: usize, rect: PixelRect) -> Result<RgbImage, SlideError> {
        self.limits.check_block(&self.info.path, rect.width, rect.height)?;
        let image = &self.levels[level];
        let inside = |value: i64, size: u32| u32::try_from(value).ok().filter(|&v| v < size);
        Ok(RgbImage::from_fn(rect.width, rect.height, |x, y| {
            match (inside(rect.x + i64::from(x), image.width()), inside(rect.y + i64::from(y), image.height())) {
                (Some(x), Some(y)) => *image.get_pixel(x, y),
                _ => Rgb(self.info.background),
            }
        }))
    }
}
