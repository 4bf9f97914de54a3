//! Charts as SVG: lines, and clouds of points. Colours that carry no meaning of their own are left to the style sheet.

use std::fmt::Write as _;

use maud::{Markup, html};

/// Units of the data box; the style sheet decides how large that is on the page.
const WIDTH: f64 = 320.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// Points of a cloud are drawn in so many layers of all colours, or the colour that comes last would lie over the others.
const LAYERS: usize = 12;

/// One line of a chart.
pub(super) struct Series<'a> {
    /// What the legend calls it.
    pub(super) name: &'a str,
    pub(super) color: [u8; 3],
    pub(super) dashed: bool,
    /// From left to right.
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over one horizontal axis.
pub(super) struct LineChart<'a> {
    /// What a screen reader says of the picture.
    pub(super) alt: String,
    pub(super) x_label: &'a str,
    pub(super) series: Vec<Series<'a>>,
    /// Stretches of the horizontal axis with a name each: begin, end, name.
    pub(super) bands: Vec<(f64, f64, &'a str)>,
    /// A place on the horizontal axis that stands out.
    pub(super) marker: Option<f64>,
    /// Height of the picture in units of its width.
    pub(super) aspect: f64,
}

impl LineChart<'_> {
    /// Nothing where there are no points.
    pub(super) fn draw(&self) -> Markup {
        let all = || self.series.iter().flat_map(|series| &series.points).filter(|(_, y)| y.is_finite());
        let ends = self.bands.iter().flat_map(|&(from, to, _)| [from, to]);
        let (xs, ys) = (span(all().map(|p| p.0).chain(self.marker).chain(ends)), span(all().map(|p| p.1)));
        let (Some(xs), Some(ys)) = (xs, ys) else {
            return html! {};
        };
        let height = WIDTH * self.aspect;
        let y_ticks = ticks(ys, 4);
        let ys = (ys.0.min(y_ticks.values[0]), ys.1.max(*y_ticks.values.last().unwrap_or(&ys.1)));
        let x_ticks = ticks(xs, 6);
        let x = |v: f64| LEFT + (v - xs.0) / (xs.1 - xs.0) * (WIDTH - LEFT - RIGHT);
        let y = |v: f64| height - BOTTOM - (v - ys.0) / (ys.1 - ys.0) * (height - TOP - BOTTOM);
        html! {
            svg class="chart" viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label=(self.alt) {
                @for (i, (from, to, name)) in self.bands.iter().enumerate() {
                    rect class=(if i % 2 == 0 { "band" } else { "band other" }) x=(at(x(*from))) y=(at(TOP))
                        width=(at(x(*to) - x(*from))) height=(at(height - TOP - BOTTOM)) {}
                    @if x(*to) - x(*from) > 5.5 * name.len() as f64 {
                        text class="band-name" x=(at(f64::midpoint(x(*from), x(*to)))) y=(at(TOP - 3.0)) { (name) }
                    }
                }
                @for &tick in &y_ticks.values {
                    line class="grid" x1=(at(LEFT)) x2=(at(WIDTH - RIGHT)) y1=(at(y(tick))) y2=(at(y(tick))) {}
                    text class="tick y" x=(at(LEFT - 5.0)) y=(at(y(tick) + 3.2)) { (y_ticks.text(tick)) }
                }
                @for &tick in x_ticks.values.iter().filter(|&&tick| tick >= xs.0 && tick <= xs.1) {
                    text class="tick x" x=(at(x(tick))) y=(at(height - BOTTOM + 13.0)) { (x_ticks.text(tick)) }
                }
                line class="axis" x1=(at(LEFT)) x2=(at(WIDTH - RIGHT)) y1=(at(height - BOTTOM)) y2=(at(height - BOTTOM)) {}
                text class="label" x=(at(f64::midpoint(LEFT, WIDTH - RIGHT))) y=(at(height - 5.0)) { (self.x_label) }
                @if let Some(marker) = self.marker {
                    line class="marker" x1=(at(x(marker))) x2=(at(x(marker))) y1=(at(TOP)) y2=(at(height - BOTTOM)) {}
                }
                @for series in &self.series {
                    (line(series, &x, &y))
                }
            }
        }
    }
}

fn line(series: &Series<'_>, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) -> Markup {
    let finite: Vec<&(f64, f64)> = series.points.iter().filter(|(_, v)| v.is_finite()).collect();
    let mut path = String::new();
    for (i, (px, py)) in finite.iter().enumerate() {
        let _ = write!(path, "{}{} {}", if i == 0 { 'M' } else { 'L' }, at(x(*px)), at(y(*py)));
    }
    let color = rgb(series.color);
    html! {
        path class=(if series.dashed { "line dashed" } else { "line" }) d=(path) stroke=(color) {}
        // Few points are seen one by one, and can be pointed at.
        @if finite.len() <= 30 {
            @for (px, py) in &finite {
                circle cx=(at(x(*px))) cy=(at(y(*py))) r="2.3" fill=(color) {
                    title { (series.name) ", " (px) ": " (figure(*py)) }
                }
            }
        }
    }
}

/// The lines' names beside their colours.
pub(super) fn legend(entries: &[(&str, [u8; 3])]) -> Markup {
    html! {
        ul class="legend" {
            @for (name, color) in entries {
                li { (swatch(*color)) (name) }
            }
        }
    }
}

/// A square of a colour.
pub(super) fn swatch(color: [u8; 3]) -> Markup {
    html! { span class="swatch" style=(format!("background:{}", rgb(color))) {} }
}

/// Points in the plane, each of one group; groups in their `colors`. Group i has the class `gi`.
pub(super) fn cloud(points: &[(f64, f64)], groups: &[usize], colors: &[[u8; 3]], alt: &str) -> Markup {
    let bounds = (span(points.iter().map(|p| p.0)), span(points.iter().map(|p| p.1)));
    let (Some(xs), Some(ys)) = bounds else { return html! {} };
    let height = WIDTH * ((ys.1 - ys.0) / (xs.1 - xs.0)).clamp(0.45, 1.0);
    let scale = ((WIDTH - 16.0) / (xs.1 - xs.0)).min((height - 16.0) / (ys.1 - ys.0));
    let place = |(x, y): (f64, f64)| {
        let from_middle = |v: f64, (low, high): (f64, f64)| (v - f64::midpoint(low, high)) * scale;
        (WIDTH / 2.0 + from_middle(x, xs), height / 2.0 - from_middle(y, ys))
    };
    // No more ink for many points than for few.
    let width = (150.0 / (points.len() as f64).sqrt()).clamp(2.0, 6.0);
    let layer = |layer: usize, group: usize| {
        let mut path = String::new();
        for i in (layer..points.len()).step_by(LAYERS).filter(|&i| groups[i] == group) {
            let (x, y) = place(points[i]);
            let _ = write!(path, "M{} {}h0", at(x), at(y));
        }
        path
    };
    html! {
        svg class="cloud" viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label=(alt)
            style=(format!("--dot:{width:.1}")) {
            @for from in 0..LAYERS {
                @for (group, color) in colors.iter().enumerate() {
                    @let path = layer(from, group);
                    @if !path.is_empty() {
                        path class=(format!("g{group}")) d=(path) stroke=(rgb(*color)) {}
                    }
                }
            }
        }
    }
}

/// `rgb(…)` as style sheets want it.
pub(super) fn rgb([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A share of 1 in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Three significant digits, without an exponent where it is no help.
pub(super) fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".to_owned(),
        s if !(1e-4..1e6).contains(&s) => format!("{value:.2e}"),
        s if s >= 100.0 => format!("{value:.0}"),
        s => format!("{value:.*}", (2 - s.log10().floor() as i32).clamp(0, 7) as usize),
    }
}

/// `0.123 ± 0.045`
pub(super) fn mean_and_deviation(mean: f64, deviation: f64) -> Markup {
    html! { (format!("{mean:.3}")) span class="sd" { (format!(" ± {deviation:.3}")) } }
}

/// A coordinate, as short as can be seen.
fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Smallest and largest; apart even where all are equal. None of nothing.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match high - low {
        width if width > 0.0 => Some((low, high)),
        0.0 => Some((low - 0.5, high + 0.5)),
        _ => None,
    }
}

struct Ticks {
    values: Vec<f64>,
    decimals: usize,
}

impl Ticks {
    fn text(&self, value: f64) -> String {
        // No negative zero.
        format!("{:.*}", self.decimals, value + 0.0)
    }
}

/// About `count` round numbers that enclose the span.
fn ticks((low, high): (f64, f64), count: usize) -> Ticks {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&s| s >= rough * 0.999).unwrap_or(rough);
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    let decimals = (-(step * 1.001).log10().floor()).clamp(0.0, 9.0) as usize;
    Ticks { values: (first..=last).map(|i| i as f64 * step).collect(), decimals }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_span() {
        for (span, expected) in [
            ((0.0, 1.0), vec!["0.0", "0.5", "1.0"]),
            ((-0.3, 0.21), vec!["-0.4", "-0.2", "0.0", "0.2", "0.4"]),
            ((2.0, 20.0), vec!["0", "5", "10", "15", "20"]),
            ((1234.0, 1250.0), vec!["1230", "1235", "1240", "1245", "1250"]),
        ] {
            let ticks = ticks(span, 4);
            assert_eq!(ticks.values.iter().map(|&v| ticks.text(v)).collect::<Vec<_>>(), expected, "{span:?}");
        }
    }

    #[test]
    fn figures_have_three_digits() {
        let texts = [0.0, 0.001_234, 0.123_45, 9.876_5, 54.32, 12_345.6, 1.5e-7, -2.0].map(figure);
        assert_eq!(texts, ["0", "0.00123", "0.123", "9.88", "54.3", "12346", "1.50e-7", "-2.00"]);
    }

    #[test]
    fn every_point_of_a_cloud_is_drawn_inside_the_picture_in_the_colour_of_its_group() {
        let points: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i % 10) * 3.0 - 7.0, f64::from(i / 10))).collect();
        let groups: Vec<usize> = (0..100).map(|i| i % 3).collect();
        let text = cloud(&points, &groups, &[[1, 2, 3], [4, 5, 6], [7, 8, 9]], "alt").into_string();
        assert_eq!(text.matches("h0").count(), 100);
        let of_group = |group: &str| -> usize {
            let paths = text.split("<path ").filter(|path| path.starts_with(&format!("class=\"{group}\"")));
            paths.map(|path| path.matches("h0").count()).sum()
        };
        assert_eq!(["g0", "g1", "g2"].map(of_group), [34, 33, 33]);
        let coordinates = text.split('M').skip(1).flat_map(|move_to| {
            move_to.split("h0").next().expect("place").split(' ').map(|v| v.parse::<f64>().expect("number"))
        });
        assert!(coordinates.into_iter().all(|v| (0.0..=WIDTH).contains(&v)));
    }

    #[test]
    fn equal_and_absent_values_are_drawn_without_nonsense() {
        let chart = |points: Vec<(f64, f64)>| {
            let series = vec![Series { name: "a", color: [0; 3], dashed: false, points }];
            let (bands, marker) = (Vec::new(), None);
            LineChart { alt: String::new(), x_label: "x", series, bands, marker, aspect: 0.6 }.draw().into_string()
        };
        assert_eq!(chart(Vec::new()), "");
        for text in [chart(vec![(1.0, 2.0)]), chart(vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0)])] {
            assert!(text.contains("class=\"line\"") && !text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
