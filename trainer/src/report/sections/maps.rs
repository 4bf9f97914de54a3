//! The model's maps on the slides it was trained with: made as the daemon makes them, drawn for the page.

use image::{Rgb, RgbImage, imageops};
use maud::{Markup, html};
use tissuemap::contract::Cluster;
use tissuemap::map::{BACKGROUND, LabelMap};
use tissuemap::overlay::{blend, scale_bar_um};
use tissuemap::units::UmPoint;

use crate::report::chart::{legend, percent, rgb, swatch};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::absent;
use crate::report::picture::address;
use crate::report::sections::density::densities;
use crate::report::slide_maps::{SlideMap, SlideMaps};
use crate::system::error::TrainError;

/// Long side of a density map.
const SMALL_SIDE_PX: u32 = 260;
/// Densities are smoothed over one patch: the model cannot see finer.
const SIGMA_PATCHES: f64 = 1.0;
/// Of a density's colour over tissue that is all of one cluster.
const COVER: f32 = 0.92;
/// From none to all, ever darker: fit for every eye and for grey printers. None is near the colour of glass, so that a
/// rare cluster is seen at once.
const SCALE: [[u8; 3]; 6] =
    [[233, 236, 236], [161, 212, 190], [77, 162, 168], [49, 104, 145], [58, 52, 110], [32, 12, 44]];

pub(in crate::report) fn section(data: &ReportData<'_>) -> Result<ReportSection, TrainError> {
    let SlideMaps(maps) = data.inputs.maps;
    let total = data.inputs.patches.sets.len();
    let clusters = data.clusters();
    let shown: Vec<Markup> = maps.iter().flatten().map(|map| one(data, map)).collect::<Result<_, _>>()?;
    let entries: Vec<(&str, [u8; 3])> = clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.color)).collect();
    let body = html! {
        p {
            "What the scanner's computer would leave beside these slides, on the sections of the reference stain ("
            (data.inputs.contract.reference) "). "
            @if total > maps.len() { "Shown are the first " (maps.len()) " of " (total) " section sets. " }
            "Most of this tissue was trained on: how the model does on other slides is a question for other slides."
        }
        @for failure in maps.iter().filter_map(|map| map.as_ref().err()) {
            (absent(format!("{} has no map: {}.", failure.set, failure.reason)))
        }
        @if !shown.is_empty() { (legend(&entries)) }
        @for map in &shown { (map) }
    };
    Ok(ReportSection { id: "maps", title: "Maps", body })
}

fn one(data: &ReportData<'_>, map: &SlideMap) -> Result<Markup, TrainError> {
    let SlideMap { set, thumbnail, mpp, origin, labels, notes } = map;
    let clusters = data.clusters();
    let blended = blend(thumbnail, *mpp, *origin, labels, clusters);
    let width_um = f64::from(thumbnail.width()) * mpp.get();
    let (um, length) = scale_bar_um(width_um);
    let bar = html! {
        span class="scale" style=(format!("width:{:.2}%", 100.0 * um / width_um)) { (length) }
    };
    let sigma = SIGMA_PATCHES * f64::from(data.inputs.contract.patch_px) / f64::from(data.inputs.contract.stride_px);
    let shares = densities(labels, clusters.len() as u8, sigma);
    let small = imageops::thumbnail(thumbnail, fitting(thumbnail).0, fitting(thumbnail).1);
    let counts = labels.counts();
    let tissue: u64 = counts[1..].iter().sum();
    let density = |(share, cluster): (&Vec<f32>, &Cluster)| {
        let picture = address(&density_picture(&small, mpp.get() * scale(thumbnail), *origin, labels, share))?;
        let area = counts[cluster.id as usize] as f64 / tissue.max(1) as f64;
        Ok::<_, TrainError>(html! {
            figure class="density" {
                img src=(picture) alt=(format!("{set}: where {} is", cluster.name));
                figcaption { (swatch(cluster.color)) (cluster.name) " " span class="note" { (percent(area)) } }
            }
        })
    };
    let small_maps: Vec<Markup> = shares.iter().zip(clusters).map(density).collect::<Result<_, _>>()?;
    Ok(html! {
        article class="map" {
            h3 { (set) }
            div class="pair" {
                figure {
                    div class="framed" {
                        img src=(address(thumbnail)?) alt=(format!("{set}: section of the reference stain"));
                        (bar)
                    }
                    figcaption { "Section, " (data.inputs.contract.reference) }
                }
                figure {
                    div class="framed" {
                        img src=(address(&blended)?) alt=(format!("{set}: the clusters over the section"));
                        (bar)
                    }
                    figcaption { "Clusters; " (tissue) " cells of " (format!("{:.0}", labels.cell_um)) " µm" }
                }
            }
            @for note in notes { p class="note" { (note) } }
            div class="densities" { @for small in &small_maps { (small) } }
            p class="note scale-note" {
                "Local share of each cluster, smoothed over one patch (" (format!("{:.0}", sigma * labels.cell_um)) " µm): 0 % "
                span class="ramp" style=(format!("background:linear-gradient(90deg,{})", SCALE.map(rgb).join(","))) {}
                " 100 %. Beside each name its share of the tissue's area."
            }
        }
    })
}

/// How many times smaller a density map is than the thumbnail.
fn scale(thumbnail: &RgbImage) -> f64 {
    f64::from(thumbnail.width()) / f64::from(fitting(thumbnail).0)
}

/// Width and height of the density maps.
fn fitting(thumbnail: &RgbImage) -> (u32, u32) {
    let (width, height) = thumbnail.dimensions();
    let factor = (f64::from(SMALL_SIDE_PX) / f64::from(width.max(height))).min(1.0);
    let side = |px: u32| ((f64::from(px) * factor).round() as u32).max(1);
    (side(width), side(height))
}

/// `share` of each cell in colour over the section in grey.
fn density_picture(section: &RgbImage, um_per_px: f64, origin: UmPoint, map: &LabelMap, share: &[f32]) -> RgbImage {
    let mut out = section.clone();
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let um = |v: u32| (f64::from(v) + 0.5) * um_per_px;
        let grey = pixel.0.iter().map(|&v| f32::from(v)).sum::<f32>() / 3.0;
        // Paler than it is: the section only says where one is.
        let pale = 255.0 - (255.0 - grey) * 0.35;
        let cell = map.index_at(UmPoint { x: origin.x + um(x), y: origin.y + um(y) });
        *pixel = match cell.filter(|&cell| map.labels[cell] != BACKGROUND) {
            Some(cell) => Rgb(ramp(share[cell]).map(|v| (v * COVER + pale * (1.0 - COVER)).round() as u8)),
            None => Rgb([pale as u8; 3]),
        };
    }
    out
}

/// The colour of a share of 0…1.
fn ramp(share: f32) -> [f32; 3] {
    let place = share.clamp(0.0, 1.0) * (SCALE.len() - 1) as f32;
    let below = (place as usize).min(SCALE.len() - 2);
    let part = place - below as f32;
    std::array::from_fn(|c| f32::from(SCALE[below][c]) * (1.0 - part) + f32::from(SCALE[below + 1][c]) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_density_is_drawn_where_its_cell_lies_and_glass_stays_pale() {
        let origin = UmPoint { x: 100.0, y: 50.0 };
        let map =
            LabelMap { origin, cell_um: 20.0, cols: 2, rows: 1, labels: vec![1, BACKGROUND], unusual: vec![0; 2] };
        let section = RgbImage::from_pixel(8, 4, Rgb([255; 3]));
        let found = density_picture(&section, 5.0, origin, &map, &[1.0, 0.0]);
        assert_eq!(found.get_pixel(3, 3).0, [50, 31, 61], "8 % of white shines through");
        assert_eq!((found.get_pixel(4, 0).0, found.get_pixel(7, 3).0), ([255; 3], [255; 3]));
        assert_eq!((ramp(0.0), ramp(0.2)), (SCALE[0].map(f32::from), SCALE[1].map(f32::from)));
    }

    #[test]
    fn density_maps_keep_the_shape_of_the_section() {
        assert_eq!(fitting(&RgbImage::new(900, 450)), (260, 130));
        assert_eq!(fitting(&RgbImage::new(100, 3)), (100, 3));
    }
}
