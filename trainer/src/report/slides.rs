//! The model's maps on the slides it was trained with: made as the daemon makes them, drawn for the page.

use std::path::Path;

use image::{Rgb, RgbImage, imageops};
use maud::{Markup, html};
use tissuemap::contract::Cluster;
use tissuemap::infer::Model;
use tissuemap::map::{BACKGROUND, LabelMap};
use tissuemap::overlay::{blend, scale_bar_um};
use tissuemap::road::{self, Layout, Progress, RoadError, Section as Placed, Stage};
use tissuemap::section_set::SectionSet;
use tissuemap::slide;
use tissuemap::units::{Mpp, UmPoint};

use super::chart::{legend, percent, rgb, swatch};
use super::density::densities;
use super::page::absent;
use super::picture::address;
use super::{Section, View};
use crate::config::Config;
use crate::error::TrainError;
use crate::progress;
use crate::sampling::{Candidate, Candidates};

/// Sets that are drawn, the first of the training's: each takes about half a megabyte and as long as in the daemon.
pub const MOST_SETS: usize = 12;
/// Long side of a section's picture in pixels.
const LONG_SIDE_PX: u32 = 900;
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

/// One set's map on its reference section.
struct SlideMap {
    set: String,
    thumbnail: RgbImage,
    mpp: Mpp,
    origin: UmPoint,
    labels: LabelMap,
    notes: Vec<String>,
}

/// A set without a map, and why.
struct Unmapped {
    set: String,
    reason: String,
}

/// The maps of the sets that a model was trained with, as far as they can still be made.
pub struct SlideMaps(Vec<Result<SlideMap, Unmapped>>);

impl SlideMaps {
    /// Makes the maps of the first [`MOST_SETS`] of `sets` through the same code as the daemon. `base` is where relative
    /// folders of the configuration start. Slides that are not there any more, or cannot be read, are no error: the
    /// report says so.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`].
    pub fn make(
        config: &Config,
        base: &Path,
        model: &mut Model,
        sets: &[String],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, TrainError> {
        let (found, mut reason) = match Candidates::find(config, base) {
            Ok(candidates) => (candidates.sets, None),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                (Vec::new(), Some(format!("{error}{cause}")))
            }
        };
        let bar = progress::bar(sets.len().min(MOST_SETS) as u64);
        bar.set_prefix("maps");
        let mut maps = Vec::new();
        for set in sets.iter().take(MOST_SETS) {
            if interrupted() {
                return Err(TrainError::Interrupted { checkpoint: None });
            }
            bar.set_message(set.clone());
            let map = match found.iter().find(|candidate| candidate.set.key.to_string() == *set) {
                Some(candidate) => match map(config, candidate, model, &Stop(interrupted)) {
                    Err(RoadError::Cancelled) => return Err(TrainError::Interrupted { checkpoint: None }),
                    other => other.map_err(|error| error.to_string()),
                },
                None => Err(reason
                    .get_or_insert("its slides are not in the configured folders any more".to_owned())
                    .clone()),
            };
            maps.push(map.map_err(|reason| Unmapped { set: set.clone(), reason }));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self(maps))
    }

    /// No maps, all for one reason.
    pub fn none(sets: &[String], reason: &str) -> Self {
        let unmapped = |set: &String| Err(Unmapped { set: set.clone(), reason: reason.to_owned() });
        Self(sets.iter().take(MOST_SETS).map(unmapped).collect())
    }
}

/// Passes an interruption on to the pipeline; what it does is not shown step by step.
struct Stop<'a>(&'a (dyn Fn() -> bool + Sync));

impl Progress for Stop<'_> {
    fn stage(&self, _: Stage, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        (self.0)()
    }
}

fn map(config: &Config, candidate: &Candidate, model: &mut Model, stop: &Stop<'_>) -> Result<SlideMap, RoadError> {
    let (set, params) = (&candidate.set, candidate.params());
    let layout = Layout::from(model.contract());
    let slides = set.slides.iter().filter(|(stain, _)| config.stains.iter().any(|s| s.name == **stain));
    let wanted = SectionSet { key: set.key.clone(), slides: slides.map(|(s, p)| (s.clone(), p.clone())).collect() };
    let prepared = road::prepare(&wanted, &layout, &params, stop)?;
    let labels = road::infer(&prepared, model, params.batch, stop)?.labels;
    let reference = prepared.sections.iter().find(|section| section.stain == layout.reference);
    let Some(slide) = reference.and_then(|section| section.slide.as_ref()) else {
        let found = wanted.slides.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(RoadError::NoReference { key: set.key.clone(), reference: layout.reference, found });
    };
    let (width, height) = slide.info().bounds_um();
    let finest = slide.info().mpp;
    let wanted = Mpp::new(width.max(height) / f64::from(LONG_SIDE_PX)).ok().filter(|&mpp| mpp > finest);
    let mpp = wanted.unwrap_or(finest);
    let note = |section: &Placed| {
        let verdict = section.verdict().filter(|verdict| !verdict.reasons.is_empty())?;
        Some(format!("Registration of {}: {}", verdict.stain, verdict.reasons.join("; ")))
    };
    Ok(SlideMap {
        set: set.key.to_string(),
        thumbnail: slide::thumbnail(slide, mpp)?,
        mpp,
        origin: slide.info().bounds_origin(),
        labels,
        notes: prepared.sections.iter().filter_map(note).collect(),
    })
}

pub(super) fn section(view: &View<'_>) -> Result<Section, TrainError> {
    let SlideMaps(maps) = view.inputs.maps;
    let total = view.inputs.patches.sets.len();
    let clusters = view.clusters();
    let shown: Vec<Markup> = maps.iter().flatten().map(|map| one(view, map)).collect::<Result<_, _>>()?;
    let entries: Vec<(&str, [u8; 3])> = clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.color)).collect();
    let body = html! {
        p {
            "What the scanner's computer would leave beside these slides, on the sections of the reference stain ("
            (view.inputs.contract.reference) "). "
            @if total > maps.len() { "Shown are the first " (maps.len()) " of " (total) " section sets. " }
            "Most of this tissue was trained on: how the model does on other slides is a question for other slides."
        }
        @for unmapped in maps.iter().filter_map(|map| map.as_ref().err()) {
            (absent(format!("{} has no map: {}.", unmapped.set, unmapped.reason)))
        }
        @if !shown.is_empty() { (legend(&entries)) }
        @for map in &shown { (map) }
    };
    Ok(Section { id: "maps", title: "Maps", body })
}

fn one(view: &View<'_>, map: &SlideMap) -> Result<Markup, TrainError> {
    let SlideMap { set, thumbnail, mpp, origin, labels, notes } = map;
    let clusters = view.clusters();
    let blended = blend(thumbnail, *mpp, *origin, labels, clusters);
    let width_um = f64::from(thumbnail.width()) * mpp.get();
    let (um, length) = scale_bar_um(width_um);
    let bar = html! {
        span class="scale" style=(format!("width:{:.2}%", 100.0 * um / width_um)) { (length) }
    };
    let sigma = SIGMA_PATCHES * f64::from(view.inputs.contract.patch_px) / f64::from(view.inputs.contract.stride_px);
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
                    figcaption { "Section, " (view.inputs.contract.reference) }
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
    use crate::config::SetFolder;
    use crate::fit::Surroundings;
    use crate::testing::{seeded, texture_config, texture_patches};
    use tissuemap::contract::Precision;

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

    #[test]
    fn maps_are_made_of_the_slides_that_are_there_and_the_others_are_named() {
        let _turn = seeded(1);
        if let Err(error) = tissuemap::slide::load_openslide() {
            eprintln!("SKIPPED: {error}");
            return;
        }
        let (config, patches) = (texture_config(1), texture_patches(1));
        let surroundings =
            Surroundings { device: tch::Device::Cpu, checkpoint: None, metrics: None, interrupted: &|| false };
        let fitted = crate::fit::fit(&config, &patches, &surroundings).expect("fits");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.onnx");
        match crate::export::export(&fitted, &patches, &config, Precision::Fp32, &path) {
            Err(TrainError::Model(tissuemap::infer::ModelError::Library(error))) => {
                return eprintln!("SKIPPED: {error}");
            }
            exported => exported.expect("exports"),
        };
        // Left half of the one colour, right half of the other, on glass.
        let section = RgbImage::from_fn(640, 400, |x, y| match (x, y) {
            (100..320, 80..320) => Rgb([80, 60, 160]),
            (320..540, 80..320) => Rgb([200, 80, 120]),
            _ => Rgb([250; 3]),
        });
        let slide = folder.path().join("a_S1.tif");
        tissuemap::pyramid::write_rgb(&slide, &section, Mpp::new(1.0).expect("plausible"), "test").expect("written");
        let sets = ["a".to_owned(), "gone".to_owned()];
        let config = Config {
            sets: vec![SetFolder { folder: ".".into(), manifest: None, mpp: None, held_out: false }],
            ..config
        };
        let mut model = Model::load(&path).expect("loads");
        let SlideMaps(maps) = SlideMaps::make(&config, folder.path(), &mut model, &sets, &|| false).expect("maps");
        let map = maps[0].as_ref().map_err(|unmapped| unmapped.reason.clone()).expect("there");
        assert_eq!((map.set.as_str(), map.thumbnail.dimensions(), map.labels.cols), ("a", (640, 400), 40));
        let label = |x, y| map.labels.label_at(UmPoint { x, y });
        let labels = [label(200.0, 200.0), label(440.0, 200.0), label(20.0, 20.0)];
        assert!(labels[0] != labels[1] && labels[0] != BACKGROUND && labels[1] != BACKGROUND, "{labels:?}");
        assert_eq!(labels[2], BACKGROUND);
        let reason = &maps[1].as_ref().err().expect("not there").reason;
        assert!(reason.contains("not in the configured folders any more"), "{reason}");

        let elsewhere = folder.path().join("nowhere");
        let SlideMaps(maps) = SlideMaps::make(&config, &elsewhere, &mut model, &sets, &|| false).expect("no maps");
        assert!(maps.iter().all(|map| map.as_ref().err().is_some_and(|unmapped| unmapped.reason.contains("nowhere"))));
        let stopped = SlideMaps::make(&config, folder.path(), &mut model, &sets, &|| true).err().expect("stopped");
        assert_eq!(stopped.exit_code(), 130);
    }
}
