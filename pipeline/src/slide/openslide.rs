use std::collections::BTreeMap;
use std::path::Path;

use image::{Rgb, RgbImage};
use openslide_rs::errors::OpenSlideError;
use openslide_rs::{Address, OpenSlide, Region, Size};

use super::{Level, Limits, OpenOptions, SlideError, SlideInfo, SlideSource, openslide_ffi};
use crate::libs::LibraryError;
use crate::units::{Level0Rect, Mpp, PixelRect};
use crate::untrusted::{self, UntrustedError};

/// Decoded tiles OpenSlide may keep per slide. Patches are taken in blocks, so a few rows of tiles are enough; the
/// library's own default is the same 32 MiB, stated here because five slides are open at once.
const CACHE_BYTES: usize = 32 << 20;

/// The version of the OpenSlide library in use.
///
/// # Errors
/// [`LibraryError`] when there is none.
pub fn version() -> Result<String, LibraryError> {
    openslide_ffi::load()?;
    Ok(OpenSlide::version().unwrap_or_else(|e| e.to_string()))
}

pub(super) struct OpenSlideSource {
    slide: OpenSlide,
    info: SlideInfo,
    /// What OpenSlide divides an address by to find a pixel of each level.
    address_scale: Vec<f64>,
    limits: Limits,
}

impl OpenSlideSource {
    pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Self, SlideError> {
        openslide_ffi::load()?;
        // OpenSlide would wait for a pipe's writer.
        match untrusted::check(path) {
            Err(error @ UntrustedError::NotRegular { .. }) => {
                return Err(SlideError::NotAFile { path: path.into(), reason: error.to_string() });
            }
            Err(_) if !path.exists() => return Err(SlideError::NotFound(path.into())),
            _ => {}
        }
        let vendor = OpenSlide::detect_vendor(path).map_err(|_| SlideError::Unsupported(path.into()))?;
        let corrupt =
            |e: OpenSlideError| SlideError::Corrupt { path: path.into(), vendor: vendor.clone(), reason: reason(&e) };
        let slide = OpenSlide::new_with_cache(path, CACHE_BYTES).map_err(corrupt)?;

        let address_scale = slide.all_level_downsamples().to_vec();
        let mut levels: Vec<Level> = slide
            .all_level_dimensions()
            .iter()
            .zip(&address_scale)
            .map(|(size, &downsample)| Level { width: size.w, height: size.h, downsample })
            .collect();
        let base = levels[0];
        levels.iter_mut().for_each(|level| level.downsample = true_downsample(base, *level));
        options.limits.check_levels(path, &levels)?;

        let properties: BTreeMap<String, String> = slide
            .property_names()
            .map_err(corrupt)?
            .into_iter()
            .filter_map(|name| slide.property_value(&name).ok().map(|value| (name, value)))
            .collect();
        let bounds = slide.bounds();
        let (x, y) = (bounds.origin.x.min(base.width - 1), bounds.origin.y.min(base.height - 1));
        let info = SlideInfo {
            path: path.into(),
            vendor,
            mpp: stated_mpp(path, &properties, options.mpp)?,
            levels,
            bounds: Level0Rect {
                x,
                y,
                width: bounds.size.w.clamp(1, base.width - x),
                height: bounds.size.h.clamp(1, base.height - y),
            },
            background: properties.get("openslide.background-color").and_then(|hex| parse_rgb(hex)).unwrap_or([255; 3]),
            properties,
        };
        Ok(Self { slide, info, address_scale, limits: options.limits.clone() })
    }
}

/// The slide's own resolution, else the one that was given.
fn stated_mpp(path: &Path, properties: &BTreeMap<String, String>, given: Option<Mpp>) -> Result<Mpp, SlideError> {
    let property = |name: &str| properties.get(name).and_then(|v| v.parse::<f64>().ok());
    let path = || path.to_path_buf();
    let (Some(x), Some(y)) = (property("openslide.mpp-x"), property("openslide.mpp-y")) else {
        return given.ok_or_else(|| SlideError::MissingMpp(path()));
    };
    match (Mpp::new(x), given) {
        (Ok(mpp), _) if (x / y - 1.0).abs() < 0.01 => Ok(mpp),
        (_, Some(given)) => Ok(given),
        (Ok(_), None) => Err(SlideError::AnisotropicMpp { path: path(), x, y }),
        (Err(reason), None) => Err(SlideError::ImplausibleMpp { path: path(), reason }),
    }
}

fn parse_rgb(hex: &str) -> Option<[u8; 3]> {
    let value = u32::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 6)?;
    let [_, r, g, b] = value.to_be_bytes();
    Some([r, g, b])
}

fn reason(error: &OpenSlideError) -> String {
    match error {
        OpenSlideError::LibraryError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How many level-0 pixels a pixel of `level` is wide. OpenSlide reports the mean of the ratios of widths and heights, but
/// a level whose sides are those of the base divided by a whole number and rounded was reduced by that number; the mean
/// would misplace its far corner by more than a pixel.
fn true_downsample(base: Level, level: Level) -> f64 {
    let whole = level.downsample.round().max(1.0);
    let rounded = |base: u32, side: u32| {
        let exact = f64::from(base) / whole;
        f64::from(side) == exact.floor() || f64::from(side) == exact.ceil()
    };
    if rounded(base.width, level.width) && rounded(base.height, level.height) { whole } else { level.downsample }
}

impl SlideSource for OpenSlideSource {
    fn info(&self) -> &SlideInfo {
        &self.info
    }

    fn read_level(&self, level: usize, rect: PixelRect) -> Result<RgbImage, SlideError> {
        let path = &self.info.path;
        self.limits.check_block(path, rect.width, rect.height)?;
        let mut image = RgbImage::from_pixel(rect.width, rect.height, Rgb(self.info.background));
        let Level { width, height, .. } = self.info.levels[level];
        let scale = self.address_scale[level];
        // OpenSlide takes unsigned level-0 addresses, so only the part inside the level is asked for.
        let (x0, y0) = (rect.x.max(0), rect.y.max(0));
        let (x1, y1) = (
            (rect.x + i64::from(rect.width)).min(i64::from(width)),
            (rect.y + i64::from(rect.height)).min(i64::from(height)),
        );
        if x0 >= x1 || y0 >= y1 {
            return Ok(image);
        }
        let size = Size { w: (x1 - x0) as u32, h: (y1 - y0) as u32 };
        let address = Address { x: (x0 as f64 * scale).round() as u32, y: (y0 as f64 * scale).round() as u32 };
        let argb = self
            .slide
            .read_region(&Region { size, level: level as u32, address })
            .map_err(|e| SlideError::Read { path: path.clone(), level, reason: reason(&e) })?;
        let (dx, dy) = ((x0 - rect.x) as usize, (y0 - rect.y) as usize);
        let stride = rect.width as usize * 3;
        for (row, source) in argb.chunks_exact(size.w as usize * 4).enumerate() {
            let start = (dy + row) * stride + dx * 3;
            let target = &mut image.as_flat_samples_mut().samples[start..start + size.w as usize * 3];
            for (out, pixel) in target.chunks_exact_mut(3).zip(source.chunks_exact(4)) {
                blend(out, pixel, self.info.background);
            }
        }
        Ok(image)
    }
}

/// One premultiplied ARGB pixel (native endian) over the background.
fn blend(out: &mut [u8], argb: &[u8], background: [u8; 3]) {
    let [a, r, g, b] = u32::from_ne_bytes([argb[0], argb[1], argb[2], argb[3]]).to_be_bytes();
    if a == 255 {
        out.copy_from_slice(&[r, g, b]);
        return;
    }
    for (o, (c, bg)) in out.iter_mut().zip([r, g, b].into_iter().zip(background)) {
        let rest = u32::from(bg) * u32::from(255 - a);
        *o = (u32::from(c) + (rest + 127) / 255).min(255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_reduced_by_a_whole_number_has_that_downsample() {
        let level = |width, height, downsample| Level { width, height, downsample };
        let base = level(2001, 1333, 1.0);
        assert_eq!(true_downsample(base, base), 1.0);
        assert_eq!(true_downsample(base, level(1001, 667, 1.999)), 2.0);
        assert_eq!(true_downsample(base, level(500, 333, 4.002)), 4.0);
        // Sides that no whole number gives: what OpenSlide says holds.
        assert_eq!(true_downsample(base, level(900, 600, 2.222)), 2.222);
        assert_eq!(true_downsample(base, level(1001, 600, 2.1)), 2.1);
    }
}
