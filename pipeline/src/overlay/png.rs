//! `overlay.png`: the section with the map over it, a legend, a scale bar.

use embedded_graphics::geometry::{Point, Size};
use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_9X18_BOLD};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use image::{Rgb, RgbImage, imageops};

use super::RESEARCH_USE_ONLY;
use crate::canvas::{ALARM, Canvas, INK, LINE, MARGIN, fill, swatch, text};
use crate::contract::Cluster;
use crate::map::{BACKGROUND, LabelMap, UNFAMILIAR};
use crate::units::{Mpp, UmPoint};

/// Share of the cluster's colour over tissue: structures stay visible below it.
const COVER: f32 = 0.45;
/// Share of the colour along borders between labels.
const BORDER_COVER: f32 = 0.9;
/// Tissue that is unlike the training data is dotted: one pixel in so many along both axes takes the ink of the text.
const DOT_EVERY: u32 = 4;
const DOT: [u8; 3] = [30; 3];
const LEGEND_WIDTH: u32 = 280;

/// The drawn picture. The section fills it from pixel (0, 0), which begins at the slide's bounds origin; legend and
/// banner lie to the right and below.
pub(super) struct Picture {
    pub(super) image: RgbImage,
    pub(super) mpp: Mpp,
}

/// Draws the map over `thumbnail`, whose pixel (0, 0) begins at `origin`.
pub(super) fn draw(
    thumbnail: &RgbImage,
    mpp: Mpp,
    origin: UmPoint,
    map: &LabelMap,
    clusters: &[Cluster],
    title: &str,
    warnings: &[String],
) -> Picture {
    let (width, height) = thumbnail.dimensions();
    let lines = clusters.len() as u32 + 6;
    let footer = (warnings.len() as u32 + 1) * LINE as u32 + MARGIN as u32;
    let total_height = height.max(lines * LINE as u32 + 2 * MARGIN as u32) + footer;
    let mut image = RgbImage::from_pixel(width + LEGEND_WIDTH, total_height, Rgb([255; 3]));
    imageops::replace(&mut image, &blend(thumbnail, mpp, origin, map, clusters), 0, 0);
    let mut canvas = Canvas(&mut image);
    legend(&mut canvas, width as i32 + MARGIN, map, clusters, title);
    scale_bar(&mut canvas, width, height, mpp);
    let mut y = total_height as i32 - footer as i32 + MARGIN / 2;
    for warning in warnings {
        text(&mut canvas, MARGIN, y, &format!("! {warning}"), &FONT_8X13, ALARM);
        y += LINE;
    }
    text(&mut canvas, MARGIN, y, RESEARCH_USE_ONLY, &FONT_8X13, INK);
    Picture { image, mpp }
}

/// The map over `thumbnail`, whose pixel (0, 0) begins at `origin`: the section stays visible below its clusters' colours,
/// unfamiliar tissue is dotted.
pub fn blend(thumbnail: &RgbImage, mpp: Mpp, origin: UmPoint, map: &LabelMap, clusters: &[Cluster]) -> RgbImage {
    let point = |x: u32, y: u32| {
        let um = |v: u32| (f64::from(v) + 0.5) * mpp.get();
        UmPoint { x: origin.x + um(x), y: origin.y + um(y) }
    };
    let label = |x: u32, y: u32| map.label_at(point(x, y));
    let is_dot = |x: u32, y: u32| {
        x.is_multiple_of(DOT_EVERY) && y.is_multiple_of(DOT_EVERY) && map.unusual_at(point(x, y)) & UNFAMILIAR != 0
    };
    let mut blended = thumbnail.clone();
    for (x, y, pixel) in blended.enumerate_pixels_mut() {
        let here = label(x, y);
        if let Some(cluster) = clusters.iter().find(|c| c.id == here && here != BACKGROUND) {
            let border = label(x + 1, y) != here || label(x, y + 1) != here;
            *pixel = if is_dot(x, y) {
                Rgb(DOT)
            } else {
                mix(*pixel, cluster.color, if border { BORDER_COVER } else { COVER })
            };
        }
    }
    blended
}

fn mix(pixel: Rgb<u8>, color: [u8; 3], cover: f32) -> Rgb<u8> {
    let mut out = pixel;
    for (value, over) in out.0.iter_mut().zip(color) {
        *value = (f32::from(*value) * (1.0 - cover) + f32::from(over) * cover).round() as u8;
    }
    out
}

fn legend(canvas: &mut Canvas, x: i32, map: &LabelMap, clusters: &[Cluster], title: &str) {
    let counts = map.counts();
    let labelled: u64 = counts[1..].iter().sum();
    text(canvas, x, MARGIN, title, &FONT_9X18_BOLD, INK);
    text(canvas, x, MARGIN + LINE, "share of the labelled tissue", &FONT_8X13, INK);
    for (i, cluster) in clusters.iter().enumerate() {
        let y = MARGIN + LINE * (i as i32 + 2) + LINE / 2;
        swatch(canvas, x, y, cluster.color);
        let percent = if labelled == 0 { 0.0 } else { counts[cluster.id as usize] as f64 * 100.0 / labelled as f64 };
        text(canvas, x + 26, y, &format!("{:<20} {percent:5.1} %", cluster.name), &FONT_8X13, INK);
    }
    let unfamiliar: u64 = map.unusual_counts(UNFAMILIAR)[1..].iter().sum();
    if unfamiliar > 0 {
        let percent = unfamiliar as f64 * 100.0 / labelled as f64;
        let y = MARGIN + LINE * (clusters.len() as i32 + 2) + LINE / 2;
        text(canvas, x, y, &format!("dotted: unfamiliar      {percent:5.1} %"), &FONT_8X13, INK);
    }
}

/// Length in micrometres of a scale bar for a section of this width, and what to write on it: 1, 2 or 5 times a power of
/// ten, at most a quarter of the width.
pub fn scale_bar_um(width_um: f64) -> (f64, String) {
    let quarter = width_um / 4.0;
    let power = 10_f64.powf(quarter.log10().floor());
    let um = [5.0, 2.0, 1.0].into_iter().map(|m| m * power).find(|&um| um <= quarter).unwrap_or(power);
    (um, if um >= 1000.0 { format!("{} mm", um / 1000.0) } else { format!("{um} µm") })
}

fn scale_bar(canvas: &mut Canvas, width: u32, height: u32, mpp: Mpp) {
    let (um, label) = scale_bar_um(f64::from(width) * mpp.get());
    let bar = (um / mpp.get()).round() as u32;
    let (x, y) = (MARGIN, height as i32 - MARGIN - 6);
    let back = Size::new(bar.max(label.chars().count() as u32 * 8) + 12, 34);
    fill(canvas, Rectangle::new(Point::new(x - 6, y - 22), back), PrimitiveStyle::with_fill(Rgb888::WHITE));
    fill(canvas, Rectangle::new(Point::new(x, y), Size::new(bar, 5)), PrimitiveStyle::with_fill(INK));
    text(canvas, x, y - 18, &label, &FONT_8X13, INK);
}
