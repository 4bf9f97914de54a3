//! Where on the slide there is tissue: not glass, not a pen mark.

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Parameters of [`find_tissue`]. The defaults were looked at on HE, pale immunostains, pen marks and empty glass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TissueParams {
    /// Resolution of the mask; 8 µm is about one cell nucleus.
    pub um_per_px: f64,
    /// Least mean optical density of tissue. Haematoxylin counterstain of pale immunostains is about 0.06.
    pub min_density: f32,
    /// Highest threshold that the histogram may suggest: above it pale stroma beside dark tumour would be lost.
    pub max_density: f32,
    /// Pieces smaller than this are dust.
    pub min_piece_um2: f64,
}

impl Default for TissueParams {
    fn default() -> Self {
        Self { um_per_px: 8.0, min_density: 0.02, max_density: 0.045, min_piece_um2: 4000.0 }
    }
}

impl TissueParams {
    /// The first value that is out of its range, and the range in words.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let densities = 0.0..=10.0;
        let checks = [
            ("um_per_px", (0.1..=1000.0).contains(&self.um_per_px), "must be 0.1 to 1000"),
            ("min_density", densities.contains(&self.min_density), "must be 0 to 10"),
            ("max_density", densities.contains(&self.max_density), "must be 0 to 10"),
            ("min_piece_um2", (0.0..=1e12).contains(&self.min_piece_um2), "must be 0 to 1e12"),
        ];
        checks.into_iter().find(|(_, valid, _)| !valid).map(|(name, _, range)| (name, range))
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum TissueOutcome {
    /// Share of the scanned area that is tissue.
    Found { fraction: f64 },
    /// No tissue: an empty mask is a labelled result, never a silent one.
    Empty { reason: EmptyReason },
}

/// Why a mask is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyReason {
    /// Nothing is darker than glass.
    OnlyGlass,
    /// What is darker than glass is pen.
    OnlyPen,
    /// What is darker than glass is smaller than the smallest piece.
    OnlyDust,
}

/// Mask over the scanned part of a slide.
#[derive(Debug, Clone)]
pub struct TissueMask {
    pub width: u32,
    pub height: u32,
    /// Row-major, `true` is tissue.
    pub tissue: Vec<bool>,
    pub outcome: TissueOutcome,
}

/// Finds tissue on a thumbnail of resolution `um_per_px`.
///
/// Optical density against the slide's own glass, smoothed, thresholded between the glass peak plus noise and
/// `max_density` by Otsu's method (1979); pen is what no histological dye can look like (see [`is_pen`]).
pub fn find_tissue(thumbnail: &RgbImage, um_per_px: f64, params: &TissueParams) -> TissueMask {
    let (width, height) = thumbnail.dimensions();
    let glass = glass_color(thumbnail);
    let densities: Vec<[f32; 3]> = thumbnail.pixels().map(|p| density(p.0, glass)).collect();
    let mean: Vec<f32> = densities.iter().map(|od| (od[0] + od[1] + od[2]) / 3.0).collect();
    let smooth = box_mean(&mean, width as usize, height as usize, 1);
    let threshold = threshold(&smooth, params);
    let dark: Vec<bool> = smooth.iter().map(|&d| d > threshold).collect();
    let ink: Vec<bool> = densities.iter().map(|&od| is_pen(od)).collect();
    let pen =
        spread_ink(ink, &dark, &textureless(&mean, width as usize, height as usize), width as usize, height as usize);
    let mut tissue: Vec<bool> = dark.iter().zip(&pen).map(|(&dark, &pen)| dark && !pen).collect();
    let inked = tissue.iter().zip(&dark).any(|(&t, &d)| d && !t);
    let unmarked = tissue.iter().any(|&t| t);
    let min_pixels = (params.min_piece_um2 / (um_per_px * um_per_px)).ceil() as usize;
    drop_small_pieces(&mut tissue, width as usize, height as usize, min_pixels);
    let count = tissue.iter().filter(|&&t| t).count();
    let outcome = match (count, unmarked, inked) {
        (1.., ..) => TissueOutcome::Found { fraction: count as f64 / tissue.len() as f64 },
        (0, _, true) => TissueOutcome::Empty { reason: EmptyReason::OnlyPen },
        (0, true, false) => TissueOutcome::Empty { reason: EmptyReason::OnlyDust },
        (0, false, false) => TissueOutcome::Empty { reason: EmptyReason::OnlyGlass },
    };
    TissueMask { width, height, tissue, outcome }
}

/// The colour of glass: 97th percentile per channel, but never darker than 200, so that a slide filled to its edges
/// with tissue is not taken for glass.
fn glass_color(image: &RgbImage) -> [f32; 3] {
    let mut histograms = [[0_u32; 256]; 3];
    for pixel in image.pixels() {
        for (histogram, &value) in histograms.iter_mut().zip(&pixel.0) {
            histogram[value as usize] += 1;
        }
    }
    let rank = (f64::from(image.width()) * f64::from(image.height()) * 0.97) as u32;
    histograms.map(|histogram| {
        let mut seen = 0;
        let percentile = histogram.iter().position(|&n| {
            seen += n;
            seen > rank
        });
        percentile.unwrap_or(255).max(200) as f32
    })
}

fn density(rgb: [u8; 3], glass: [f32; 3]) -> [f32; 3] {
    let mut od = [0.0; 3];
    for ((od, value), glass) in od.iter_mut().zip(rgb).zip(glass) {
        *od = (glass / f32::from(value.max(1))).log10().max(0.0);
    }
    od
}

/// Whether a pixel has a colour that ink has and histological dyes do not.
///
/// Haematoxylin, eosin and DAB all absorb green at least as much as red or blue (Ruifrok and Johnston 2001: optical
/// densities (.65 .70 .29), (.07 .99 .11), (.27 .57 .78)). Green ink transmits green; blue ink absorbs clearly more
/// red than green; red ink absorbs no red but nearly as much blue as green; black ink absorbs everything, more than
/// any section does once averaged over a nucleus' width.
fn is_pen([r, g, b]: [f32; 3]) -> bool {
    let green = r > 0.15 && b > 0.08 && g < 0.6 * r.min(b.max(0.5 * r));
    let blue = r > 0.35 && g < 0.7 * r && b < 0.7 * r;
    let red = g > 0.35 && r < 0.25 * g && b > 0.7 * g && b < 1.2 * g;
    let black = r.min(g).min(b) > 1.1;
    green || blue || red || black
}

/// Where optical density varies by less than a twentieth of itself around its local mean: ink lies on the cover slip,
/// out of focus, while tissue at this resolution is grained by nuclei and gaps.
fn textureless(density: &[f32], width: usize, height: usize) -> Vec<bool> {
    let local = box_mean(density, width, height, 1);
    let grain: Vec<f32> = density.iter().zip(&local).map(|(d, m)| (d - m).abs()).collect();
    let grain = box_mean(&grain, width, height, 2);
    let level = box_mean(density, width, height, 2);
    grain.iter().zip(&level).map(|(g, l)| *g < 0.05 * l).collect()
}

/// Spreads ink from where its colour is certain through what is dark, connected and textureless, and two pixels
/// further: a stroke's faded rim has the colour of a pale stain.
fn spread_ink(mut ink: Vec<bool>, dark: &[bool], textureless: &[bool], width: usize, height: usize) -> Vec<bool> {
    let mut reached: Vec<usize> = (0..ink.len()).filter(|&i| ink[i]).collect();
    // Single pixels of an inky colour occur in tissue; they must not erase what is around them.
    reached.retain(|&i| neighbours(i, width, height, 1).filter(|&n| ink[n]).count() >= 5);
    ink.fill(false);
    reached.iter().for_each(|&i| ink[i] = true);
    let mut next = 0;
    while next < reached.len() {
        for n in neighbours(reached[next], width, height, 1) {
            if !ink[n] && dark[n] && textureless[n] {
                ink[n] = true;
                reached.push(n);
            }
        }
        next += 1;
    }
    for &i in &reached {
        neighbours(i, width, height, 2).for_each(|n| ink[n] = true);
    }
    ink
}

/// Indices within `radius` pixels of `index` (itself included) in a row-major image.
fn neighbours(index: usize, width: usize, height: usize, radius: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (index % width, index / width);
    let columns = x.saturating_sub(radius)..(x + radius + 1).min(width);
    (y.saturating_sub(radius)..(y + radius + 1).min(height))
        .flat_map(move |row| columns.clone().map(move |col| row * width + col))
}

/// Mean over a square of side `2·radius + 1`, cut off at the border.
fn box_mean(values: &[f32], width: usize, height: usize, radius: usize) -> Vec<f32> {
    (0..values.len())
        .map(|index| {
            let (sum, count) =
                neighbours(index, width, height, radius).fold((0.0, 0.0_f32), |(sum, n), i| (sum + values[i], n + 1.0));
            sum / count
        })
        .collect()
}

fn threshold(density: &[f32], params: &TissueParams) -> f32 {
    const BINS: usize = 256;
    const TOP: f32 = 0.8;
    let mut histogram = [0_u64; BINS];
    for &d in density {
        histogram[((d / TOP * BINS as f32) as usize).min(BINS - 1)] += 1;
    }
    let width = TOP / BINS as f32;
    otsu(&histogram)
        .map_or(params.max_density, |bin| ((bin + 1) as f32) * width)
        .clamp(params.min_density, params.max_density)
}

/// Otsu's threshold: the last bin of the darker class. `None` for a histogram with a single occupied bin.
fn otsu(histogram: &[u64]) -> Option<usize> {
    let total: u64 = histogram.iter().sum();
    let sum: f64 = histogram.iter().enumerate().map(|(i, &n)| i as f64 * n as f64).sum();
    let (mut below, mut sum_below) = (0_u64, 0.0);
    let mut best = (0.0, None);
    for (bin, &n) in histogram.iter().enumerate() {
        below += n;
        sum_below += bin as f64 * n as f64;
        let above = total - below;
        if below == 0 || above == 0 {
            continue;
        }
        let gap = sum_below / below as f64 - (sum - sum_below) / above as f64;
        let variance = below as f64 * above as f64 * gap * gap;
        if variance > best.0 {
            best = (variance, Some(bin));
        }
    }
    best.1
}

/// Clears 8-connected pieces of fewer than `min_pixels`.
fn drop_small_pieces(mask: &mut [bool], width: usize, height: usize, min_pixels: usize) {
    let mut seen = vec![false; mask.len()];
    let mut piece = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || seen[start] {
            continue;
        }
        piece.clear();
        piece.push(start);
        seen[start] = true;
        let mut next = 0;
        while next < piece.len() {
            for neighbour in neighbours(piece[next], width, height, 1) {
                if mask[neighbour] && !seen[neighbour] {
                    seen[neighbour] = true;
                    piece.push(neighbour);
                }
            }
            next += 1;
        }
        if piece.len() < min_pixels {
            for &index in &piece {
                mask[index] = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn glass_with(patch: [u8; 3]) -> RgbImage {
        let noise = |x: u32, y: u32| ((x * 31 + y * 17 + x * y) % 5) as u8;
        RgbImage::from_fn(200, 150, |x, y| {
            let base = if (60..140).contains(&x) && (40..100).contains(&y) { patch } else { [242, 240, 243] };
            Rgb(base.map(|c| c.saturating_sub(noise(x, y))))
        })
    }

    fn find(image: &RgbImage) -> TissueMask {
        find_tissue(image, 8.0, &TissueParams::default())
    }

    #[test]
    fn he_and_pale_immunostains_are_tissue() {
        for (name, color) in [("HE", [190, 110, 170]), ("pale counterstain", [205, 210, 228]), ("DAB", [150, 110, 80])]
        {
            let mask = find(&glass_with(color));
            let TissueOutcome::Found { fraction } = mask.outcome else { panic!("{name}: {:?}", mask.outcome) };
            assert!((fraction - 80.0 * 60.0 / (200.0 * 150.0)).abs() < 0.02, "{name}: {fraction}");
        }
    }

    #[test]
    fn pen_glass_and_dust_are_empty_with_their_reason() {
        for (name, color) in
            [("green", [40, 160, 70]), ("blue", [30, 60, 170]), ("red", [220, 40, 50]), ("black", [10, 10, 12])]
        {
            assert_eq!(
                find(&glass_with(color)).outcome,
                TissueOutcome::Empty { reason: EmptyReason::OnlyPen },
                "{name}"
            );
        }
        assert_eq!(find(&glass_with([242, 240, 243])).outcome, TissueOutcome::Empty { reason: EmptyReason::OnlyGlass });
        let mut dust = glass_with([242, 240, 243]);
        dust.put_pixel(50, 50, Rgb([120, 80, 120]));
        assert_eq!(find(&dust).outcome, TissueOutcome::Empty { reason: EmptyReason::OnlyDust });
    }

    #[test]
    fn a_field_full_of_tissue_is_not_glass() {
        let full = RgbImage::from_fn(120, 120, |x, y| Rgb([180 - ((x * y) % 40) as u8, 100, 160]));
        assert!(matches!(find(&full).outcome, TissueOutcome::Found { fraction } if fraction > 0.99));
    }
}
