//! From colour to optical density, the quantity that stain amounts add up in.

use image::RgbImage;

use super::plane::Plane;

/// The glass is at least this bright: 3 % of the pixels are background even where tissue fills the image.
const BACKGROUND_PERCENTILE: f64 = 0.97;
/// Folds, ink and dust are darker than tissue; above this percentile the density is clipped.
const DENSEST_PERCENTILE: f64 = 0.995;
/// Sensor and JPEG noise of a few grey levels on glass stays below this density; the faintest counterstain is far above.
const MIN_DENSITY: f32 = 0.02;

/// Tissue always lets some light through. What is blacker than this in all channels was never scanned: programs fill
/// missing parts of an image with black.
const UNSCANNED_LEVEL: u8 = 8;
/// Interpolation smears the border of unscanned parts by a pixel or two.
const UNSCANNED_MARGIN_PX: usize = 2;

/// Mean optical density `−log10(I / background)` of the three channels, scaled to `[0, 1]`; the background is each
/// channel's 97th percentile. Unscanned parts count as background. `None` where the image holds nothing darker than its background.
pub(crate) fn optical_density(image: &RgbImage) -> Option<Plane> {
    let pixels = image.as_raw();
    let mut histograms = [[0usize; 256]; 3];
    for pixel in pixels.chunks_exact(3) {
        for (histogram, value) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(*value)] += 1;
        }
    }
    let tables = histograms.map(|histogram| {
        let background = percentile(&histogram, BACKGROUND_PERCENTILE).max(1) as f32;
        // Level 0 counts as 1: its density would be infinite.
        std::array::from_fn::<f32, 256, _>(|level| (background / level.max(1) as f32).log10() / 3.0)
    });
    let mut density = Plane {
        width: image.width() as usize,
        height: image.height() as usize,
        data: pixels
            .chunks_exact(3)
            .map(|pixel| {
                tables.iter().zip(pixel).map(|(table, value)| table[usize::from(*value)]).sum::<f32>().max(0.0)
            })
            .collect(),
    };
    clear_unscanned(&mut density, pixels);
    let mut sorted = density.data.clone();
    let rank = (sorted.len().checked_sub(1)? as f64 * DENSEST_PERCENTILE) as usize;
    let densest = *sorted.select_nth_unstable_by(rank, f32::total_cmp).1;
    if densest < MIN_DENSITY {
        return None;
    }
    density.data.iter_mut().for_each(|d| *d = (*d / densest).min(1.0));
    Some(density)
}

/// Sets the density to that of glass in and next to unscanned parts.
fn clear_unscanned(density: &mut Plane, pixels: &[u8]) {
    let (width, height) = (density.width, density.height);
    for (i, _) in pixels.chunks_exact(3).enumerate().filter(|(_, pixel)| pixel.iter().all(|v| *v <= UNSCANNED_LEVEL)) {
        let around = |centre: usize, side: usize| {
            centre.saturating_sub(UNSCANNED_MARGIN_PX)..(centre + UNSCANNED_MARGIN_PX + 1).min(side)
        };
        for y in around(i / width, height) {
            let columns = around(i % width, width);
            density.data[y * width + columns.start..y * width + columns.end].fill(0.0);
        }
    }
}

/// The level below or at which the given share of the counted pixels lies.
fn percentile(histogram: &[usize; 256], share: f64) -> usize {
    let total: usize = histogram.iter().sum();
    let rank = (total as f64 * share).ceil() as usize;
    let mut seen = 0;
    histogram
        .iter()
        .position(|count| {
            seen += count;
            seen >= rank
        })
        .unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn density_is_zero_on_glass_one_on_the_densest_tissue_and_independent_of_lamp_brightness() {
        let section = |lamp: f64| {
            RgbImage::from_fn(100, 100, |x, _| {
                let transmitted = [1.0, 0.5, 0.1][(x as usize / 34).min(2)];
                Rgb([(lamp * transmitted) as u8; 3])
            })
        };
        let (bright, dim) = (optical_density(&section(250.0)).unwrap(), optical_density(&section(200.0)).unwrap());
        for (x, expected) in [(0, 0.0), (50, 0.5f32.log10() / 0.1f32.log10()), (99, 1.0)] {
            assert!((bright.row(50)[x] - expected).abs() < 0.01);
            assert!((dim.row(50)[x] - expected).abs() < 0.01);
        }
    }

    #[test]
    fn a_black_frame_counts_as_glass() {
        let section = |frame: u8| {
            RgbImage::from_fn(120, 100, |x, y| match (x, y) {
                (20..100, 20..80) => Rgb([200, 120, 160]),
                (10..110, 10..90) => Rgb([240; 3]),
                _ => Rgb([frame; 3]),
            })
        };
        assert_eq!(optical_density(&section(0)), optical_density(&section(240)));
    }

    #[test]
    fn constant_and_merely_noisy_images_are_blank() {
        assert!(optical_density(&RgbImage::from_pixel(64, 64, Rgb([240, 238, 241]))).is_none());
        assert!(optical_density(&RgbImage::new(64, 64)).is_none());
        let noisy = RgbImage::from_fn(64, 64, |x, y| Rgb([236 + ((x * 7 + y * 13) % 5) as u8; 3]));
        assert!(optical_density(&noisy).is_none());
    }
}
