//! Pictures of a registration for people: a checkerboard of both sections, and the edges of one over the other.

use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_9X18_BOLD};
use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage, imageops};

use crate::canvas::{ALARM, Canvas, INK, LINE, MARGIN, swatch, text};
use crate::overlay::RESEARCH_USE_ONLY;
use crate::register::{RegistrationQuality, Verdict};

/// Squares along the long side of a checkerboard.
const SQUARES: u32 = 12;
/// Blur before edges are sought, as a share of the long side: cells blend into the structures they belong to.
const EDGE_SIGMA: f32 = 1.0 / 220.0;
/// Steps of grey per pixel below which nothing is an edge: glass, noise, JPEG blocks.
const FAINT: f32 = 1.0;
/// Share of what is not faint that is not drawn either, and shortest line drawn as a share of the long side: outlines
/// of vessels and lesions tell more than a thousand loops.
const UNDRAWN_SHARE: f64 = 0.6;
const SHORTEST_LINE: f32 = 1.0 / 22.0;
/// How much of the contrast is left to the section below the edges.
const GREY_CONTRAST: f32 = 0.6;
const FIXED_EDGES: [u8; 3] = [80, 190, 120];
const MOVING_EDGES: [u8; 3] = [225, 0, 160];
/// Width of a character of the small and the large font.
const SMALL_PX: u32 = 8;
const LARGE_PX: u32 = 9;

/// What stands below a picture.
#[derive(Debug, Clone, Copy)]
pub struct Caption<'a> {
    /// Names of the sections.
    pub fixed: &'a str,
    pub moving: &'a str,
    pub quality: &'a RegistrationQuality,
}

/// Squares of `fixed` and `moving`, which both lie in the frame of the fixed section, in turn; the caption below. Where the
/// registration is right, structures run on across the borders.
pub fn checkerboard(fixed: &RgbImage, moving: &RgbImage, caption: &Caption<'_>) -> RgbImage {
    let side = fixed.width().max(fixed.height()).div_ceil(SQUARES).max(1);
    let picture = RgbImage::from_fn(fixed.width(), fixed.height(), |x, y| {
        *if (x / side + y / side).is_multiple_of(2) { fixed } else { moving }.get_pixel(x, y)
    });
    let legend = format!("top left square: {}, then {} and {} in turn", caption.fixed, caption.moving, caption.fixed);
    caption.below(&picture, &[(None, legend)])
}

/// `fixed` in grey, its edges and those of `moving` in colours; the caption below. Where the registration is right, lines of
/// both colours run together. The border of the moving section's picture may show as an edge of its own.
pub fn edge_overlay(fixed: &RgbImage, moving: &RgbImage, caption: &Caption<'_>) -> RgbImage {
    let grey = imageops::grayscale(fixed);
    let mut picture = RgbImage::from_fn(fixed.width(), fixed.height(), |x, y| {
        let value = 255.0 - (255.0 - f32::from(grey.get_pixel(x, y)[0])) * GREY_CONTRAST;
        Rgb([value as u8; 3])
    });
    // The fixed edges are wider: where both run together, the moving ones lie in the middle of them.
    draw(&mut picture, &edges(&grey), FIXED_EDGES, &[(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]);
    draw(&mut picture, &edges(&imageops::grayscale(moving)), MOVING_EDGES, &[(0, 0)]);
    let legend = [(FIXED_EDGES, caption.fixed), (MOVING_EDGES, caption.moving)]
        .map(|(color, name)| (Some(color), format!("edges of {name}")));
    caption.below(&picture, &legend)
}

/// Draws all `edges` with a pen that covers these pixels around each.
fn draw(picture: &mut RgbImage, edges: &[bool], color: [u8; 3], pen: &[(i32, i32)]) {
    let width = picture.width();
    for (i, _) in edges.iter().enumerate().filter(|(_, edge)| **edge) {
        let (x, y) = (i as u32 % width, i as u32 / width);
        for &(dx, dy) in pen {
            // Edges keep clear of the border, so the neighbours exist.
            picture.put_pixel(x.wrapping_add_signed(dx), y.wrapping_add_signed(dy), Rgb(color));
        }
    }
}

/// Which pixels are edges, row-major: the gradient is a maximum across the edge and among the strongest, and the line that
/// they form is not short.
fn edges(grey: &GrayImage) -> Vec<bool> {
    let (width, height) = grey.dimensions();
    let long_side = width.max(height) as f32;
    let values: ImageBuffer<Luma<f32>, Vec<f32>> =
        ImageBuffer::from_fn(width, height, |x, y| Luma([f32::from(grey.get_pixel(x, y)[0])]));
    let smooth = imageops::blur(&values, long_side * EDGE_SIGMA);
    let (width, height) = (width as usize, height as usize);
    let value = |x: usize, y: usize| smooth.as_raw()[y * width + x];
    let inner = |i: usize| {
        let (x, y) = (i % width, i / width);
        (x > 0 && y > 0 && x + 1 < width && y + 1 < height).then_some((x, y))
    };
    let gradient: Vec<[f32; 2]> = (0..width * height)
        .map(|i| {
            inner(i).map_or([0.0; 2], |(x, y)| {
                [value(x + 1, y) - value(x - 1, y), value(x, y + 1) - value(x, y - 1)].map(|d| d / 2.0)
            })
        })
        .collect();
    let size: Vec<f32> = gradient.iter().map(|[dx, dy]| dx.hypot(*dy)).collect();
    let mut strong: Vec<f32> = size.iter().copied().filter(|size| *size >= FAINT).collect();
    strong.sort_by(f32::total_cmp);
    let limit = strong.get((strong.len() as f64 * UNDRAWN_SHARE) as usize).copied().unwrap_or(f32::INFINITY);
    let mut edges: Vec<bool> = (0..width * height)
        .map(|i| {
            let Some((x, y)) = inner(i).filter(|_| size[i] >= limit) else { return false };
            // The neighbour across the edge, in steps of 45°: tan 22.5° tells diagonal from straight.
            let step = |along: f32, other: f32| {
                if along.abs() < 0.414 * other.abs() { 0 } else { along.signum() as isize }
            };
            let [dx, dy] = gradient[i];
            let (sx, sy) = (step(dx, dy), step(dy, dx));
            let at = |sign: isize| size[y.wrapping_add_signed(sign * sy) * width + x.wrapping_add_signed(sign * sx)];
            size[i] >= at(1) && size[i] > at(-1)
        })
        .collect();
    drop_short(&mut edges, width, (long_side * SHORTEST_LINE) as usize);
    edges
}

/// Takes away the lines (sets of touching pixels) of less than `shortest` pixels.
fn drop_short(edges: &mut [bool], width: usize, shortest: usize) {
    let mut seen = vec![false; edges.len()];
    for start in 0..edges.len() {
        if !edges[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let mut line = vec![start];
        let mut next = 0;
        while next < line.len() {
            // Edges keep clear of the border, so all eight neighbours exist.
            for row in [line[next] - width, line[next], line[next] + width] {
                for pixel in row - 1..=row + 1 {
                    if edges[pixel] && !std::mem::replace(&mut seen[pixel], true) {
                        line.push(pixel);
                    }
                }
            }
            next += 1;
        }
        if line.len() < shortest {
            line.into_iter().for_each(|pixel| edges[pixel] = false);
        }
    }
}

impl Caption<'_> {
    /// The picture with a legend, the verdict and its reasons below.
    fn below(&self, picture: &RgbImage, legend: &[(Option<[u8; 3]>, String)]) -> RgbImage {
        let quality = self.quality;
        let title = format!(
            "{} on {}: {}, estimated error {:.1} µm (below {:.1} µm on 90 % of the tissue)",
            self.moving, self.fixed, quality.verdict, quality.estimated_error_um, quality.estimated_error_p90_um
        );
        captioned(picture, &title, quality.verdict == Verdict::Good, legend, &quality.reasons)
    }
}

/// `picture` with a title (in the colour of an alarm unless it is `good`), a legend of colours and words, warnings, and what
/// it may be used for, below.
pub fn captioned(
    picture: &RgbImage,
    title: &str,
    good: bool,
    legend: &[(Option<[u8; 3]>, String)],
    warnings: &[String],
) -> RgbImage {
    let room = picture.width().saturating_sub(2 * MARGIN as u32);
    let titles = wrapped(title, room / LARGE_PX);
    let warnings: Vec<String> =
        warnings.iter().flat_map(|warning| wrapped(&format!("! {warning}"), room / SMALL_PX)).collect();
    let footer = wrapped(RESEARCH_USE_ONLY, room / SMALL_PX);
    let lines = titles.len() + legend.len() + warnings.len() + footer.len();
    let banner = lines as u32 * LINE as u32 + 2 * MARGIN as u32;
    let mut image = RgbImage::from_pixel(picture.width(), picture.height() + banner, Rgb([255; 3]));
    imageops::replace(&mut image, picture, 0, 0);
    let mut canvas = Canvas(&mut image);
    let mut y = picture.height() as i32 + MARGIN;
    let mut next = || {
        y += LINE;
        y - LINE
    };
    for line in &titles {
        text(&mut canvas, MARGIN, next(), line, &FONT_9X18_BOLD, if good { INK } else { ALARM });
    }
    for (color, words) in legend {
        let (y, mut x) = (next(), MARGIN);
        if let Some(color) = color {
            swatch(&mut canvas, x, y, *color);
            x += 26;
        }
        text(&mut canvas, x, y, words, &FONT_8X13, INK);
    }
    for line in &warnings {
        text(&mut canvas, MARGIN, next(), line, &FONT_8X13, ALARM);
    }
    for line in &footer {
        text(&mut canvas, MARGIN, next(), line, &FONT_8X13, INK);
    }
    image
}

/// `words` in lines of at most `chars` characters; a longer word keeps a line of its own.
fn wrapped(words: &str, chars: u32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= chars as usize => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_a_thin_line_where_the_step_is() {
        let step = GrayImage::from_fn(60, 40, |x, _| Luma([if x < 30 { 40 } else { 220 }]));
        let edges = edges(&step);
        for y in 5..35 {
            let at: Vec<usize> = (0..60).filter(|x| edges[y * 60 + x]).collect();
            assert!(at == [29] || at == [30], "row {y}: {at:?}");
        }
        let spot = GrayImage::from_fn(440, 440, |x, y| {
            Luma([if (200..203).contains(&x) && (200..203).contains(&y) { 0 } else { 220 }])
        });
        assert!(!super::edges(&spot).contains(&true), "a spot is no outline");
        assert!(!super::edges(&GrayImage::from_pixel(60, 40, Luma([128]))).contains(&true), "nothing to see");
    }

    #[test]
    fn lines_are_as_long_as_there_is_room() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible", 7), ["incomprehensible"]);
    }
}
