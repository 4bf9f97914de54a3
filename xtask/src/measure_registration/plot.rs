//! Estimated against true errors as an SVG, both axes logarithmic.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

const SIDE: f64 = 560.0;
const MARGIN: f64 = 70.0;
/// Decades shown, in powers of ten micrometres.
const DECADES: std::ops::RangeInclusive<i32> = -2..=2;

/// Writes one mark a point (kind, estimated, true), in micrometres.
pub(super) fn write(path: &Path, points: &[(&str, f64, f64)]) -> Result<()> {
    let (first, last) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
    let at = |um: f64| MARGIN + (um.log10().clamp(first, last) - first) / (last - first) * (SIDE - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {SIDE} {SIDE}' font-family='sans-serif' font-size='13'>\n\
         <rect width='100%' height='100%' fill='white'/>\n"
    );
    for decade in DECADES {
        let um = 10f64.powi(decade);
        let (x, y) = (at(um), SIDE - at(um));
        let (low, high) = (MARGIN, SIDE - MARGIN);
        writeln!(svg, "<path d='M{x:.1} {low}V{high}M{low} {y:.1}H{high}' stroke='#ddd'/>")?;
        writeln!(svg, "<text x='{x:.1}' y='{:.1}' text-anchor='middle'>{um}</text>", high + 18.0)?;
        writeln!(svg, "<text x='{:.1}' y='{:.1}' text-anchor='end'>{um}</text>", low - 8.0, y + 4.0)?;
    }
    writeln!(
        svg,
        "<path d='M{MARGIN} {}L{} {MARGIN}' stroke='#999' stroke-dasharray='4'/>",
        SIDE - MARGIN,
        SIDE - MARGIN
    )?;
    for (kind, estimated, actual) in points {
        let color = match *kind {
            "pair" => "#c0392b",
            "variant" => "#2980b9",
            _ => "#27ae60",
        };
        let (x, y) = (at(*estimated), SIDE - at(*actual));
        writeln!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='4' fill='{color}' fill-opacity='.6'/>")?;
    }
    for (i, (color, name)) in
        [("#c0392b", "pairs"), ("#2980b9", "variants of the pairs"), ("#27ae60", "known deformations")]
            .iter()
            .enumerate()
    {
        let y = MARGIN + 14.0 + 20.0 * i as f64;
        writeln!(svg, "<circle cx='{:.1}' cy='{:.1}' r='4' fill='{color}'/>", MARGIN + 14.0, y - 4.0)?;
        writeln!(svg, "<text x='{:.1}' y='{y:.1}'>{name}</text>", MARGIN + 26.0)?;
    }
    let middle = SIDE / 2.0;
    writeln!(svg, "<text x='{middle}' y='{}' text-anchor='middle'>estimated error (µm)</text>", SIDE - 20.0)?;
    writeln!(
        svg,
        "<text transform='translate(20 {middle}) rotate(-90)' text-anchor='middle'>true error (µm), median</text>"
    )?;
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}
