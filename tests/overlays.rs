use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use image::{GrayImage, Rgb, RgbImage};
use prost::Message;
use serde_json::Value;
use tissuemap::contract::{Cluster, ModelContract, Typicality, clusters_default, example};
use tissuemap::infer::Model;
use tissuemap::overlay::{self, Record, read_record};
use tissuemap::road::{RoadParams, process_opened};
use tissuemap::section_set::SetKey;
use tissuemap::slide::{SlideSource, SyntheticSlide};
use tissuemap::tissue::{TissueOutcome, TissueParams, find_tissue};
use tissuemap::units::{Level0Rect, Mpp};

const P: u32 = 16;
const CLUSTERS: u8 = 12;
/// Offsets that are no multiple of anything.
const BOUNDS: Level0Rect = Level0Rect { x: 101, y: 53, width: 500, height: 337 };

fn mpp() -> Mpp {
    Mpp::new(0.5).expect("plausible")
}

/// Legend colours that could be a stain (some are ink to the tissue finder, and rightly so).
fn stainable() -> Vec<Cluster> {
    let params = params();
    let is_tissue = |c: &Cluster| {
        let flat = RgbImage::from_fn(64, 64, |x, _| Rgb(if x < 32 { c.color } else { [250; 3] }));
        matches!(find_tissue(&flat, 1.0, &params.tissue).outcome, TissueOutcome::Found { fraction } if fraction > 0.4)
    };
    clusters_default(CLUSTERS).into_iter().filter(is_tissue).collect()
}

fn params() -> RoadParams {
    let tissue = TissueParams { um_per_px: 1.0, min_piece_um2: 20.0, ..TissueParams::default() };
    RoadParams { tissue, ..RoadParams::default() }
}

/// Blobs in legend colours on glass, inside the bounds; transparent black canvas would be outside.
fn painted(shift: (i32, i32)) -> RgbImage {
    let colors = stainable();
    assert!(colors.len() >= 3, "a test of one colour proves little");
    RgbImage::from_fn(900, 700, |x, y| {
        let (x, y) = (x as i32 - shift.0, y as i32 - shift.1);
        let (fx, fy) = (f64::from(x), f64::from(y));
        let wave = (fx / 80.0).sin() + (fy / 65.0).cos() + (fx / 130.0 + fy / 95.0).sin() + (fx * fy / 30000.0).cos();
        let grain = ((x * 31 + y * 17) % 7) as u8;
        if wave < -0.3 {
            return Rgb([250; 3]);
        }
        let which = ((wave + 0.3) * 1.6) as usize % colors.len();
        Rgb(colors[which].color.map(|c| c.saturating_sub(grain)))
    })
}

fn slide(folder: &Path, name: &str, shift: (i32, i32), bounds: Level0Rect) -> Arc<dyn SlideSource> {
    let path = folder.join(name);
    std::fs::write(&path, name).expect("writable: the record fingerprints the slide file");
    Arc::new(SyntheticSlide::new(painted(shift), mpp()).with_bounds(bounds).at(path))
}

/// No small free file has a bounds offset and known content, so the slides here are synthetic sources.
pub(crate) fn process(folder: &Path) -> Vec<(Record, Arc<dyn SlideSource>, std::path::PathBuf)> {
    process_with(folder, |_| ())
}

/// The same with another contract.
fn process_with(
    folder: &Path,
    change: impl FnOnce(&mut ModelContract),
) -> Vec<(Record, Arc<dyn SlideSource>, std::path::PathBuf)> {
    let model_path = folder.join("example.onnx");
    let stains = ["HE", "CD31"];
    let mut contract = example::contract(&stains, P, mpp(), CLUSTERS);
    change(&mut contract);
    let mut model = example::model(&stains, P, mpp(), CLUSTERS);
    contract.write(&mut model);
    std::fs::write(&model_path, model.encode_to_vec()).expect("writable");
    let mut model = Model::load(&model_path).expect("the example model loads");
    let moved = Level0Rect { x: 77, y: 91, width: 520, height: 330 };
    let slides = BTreeMap::from([
        ("HE".to_owned(), slide(folder, "case7_HE.svs", (0, 0), BOUNDS)),
        ("CD31".to_owned(), slide(folder, "case7_CD31.svs", (-13, 21), moved)),
    ]);
    let key = SetKey { case: "case7".into(), block: None };
    let result = process_opened(&key, &slides, &mut model, &params(), &()).expect("processed");
    assert_eq!(result.outputs.len(), 2, "{:?}", result.warnings);
    slides
        .into_values()
        .map(|slide| {
            let target = overlay::result_folder(&slide.info().path);
            (read_record(&target).expect("a whole record"), slide, target)
        })
        .collect()
}

#[test]
fn geojson_png_and_label_map_agree_within_a_pixel_on_a_slide_with_a_bounds_offset() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (record, slide, target) in process(folder.path()) {
        let bounds = slide.info().bounds;
        assert_eq!(record.map.overlay_mpp, mpp(), "the picture shows every level-0 pixel");
        let labels = image::open(target.join(overlay::LABELS_PNG)).expect("label map").to_luma8();
        let picture = image::open(target.join(overlay::OVERLAY_PNG)).expect("overlay").to_rgb8();
        let thumbnail = tissuemap::slide::thumbnail(&slide, mpp()).expect("readable");
        let rings = rings(&target.join(overlay::CLUSTERS_GEOJSON));

        let from_labels = |x: u32, y: u32| label_at(&record, &labels, x, y);
        let from_polygons = filled(&rings, bounds.width, bounds.height);
        let mut seen = std::collections::BTreeSet::new();
        for y in 1..bounds.height - 1 {
            for x in 1..bounds.width - 1 {
                let near: Vec<u8> =
                    (0..9).map(|i| from_labels(bounds.x + x + i % 3 - 1, bounds.y + y + i / 3 - 1)).collect();
                let polygon = from_polygons[(y * bounds.width + x) as usize];
                assert!(near.contains(&polygon), "polygon {polygon} at {x},{y}, label map has {near:?}");
                let drawn = from_color(picture.get_pixel(x, y).0, thumbnail.get_pixel(x, y).0, &record);
                assert!(
                    near.iter().any(|label| drawn.contains(label)),
                    "picture {drawn:?} at {x},{y}, label map has {near:?}"
                );
                seen.insert(polygon);
            }
        }
        assert!(seen.len() >= 4, "background and three clusters: {seen:?}");
    }
}

#[test]
fn the_map_is_where_the_colours_are() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let clusters = clusters_default(CLUSTERS);
    for (record, slide, target) in process(folder.path()) {
        let labels = image::open(target.join(overlay::LABELS_PNG)).expect("label map").to_luma8();
        let bounds = slide.info().bounds;
        let image = tissuemap::slide::thumbnail(&slide, mpp()).expect("readable");
        let (mut right, mut asked) = (0, 0);
        for y in (0..bounds.height).step_by(3) {
            for x in (0..bounds.width).step_by(3) {
                let color = image.get_pixel(x, y).0;
                let painted = clusters.iter().find(|c| c.color.iter().zip(color).all(|(a, b)| a.abs_diff(b) < 8));
                let label = label_at(&record, &labels, bounds.x + x, bounds.y + y);
                if let Some(cluster) = painted.filter(|_| label != 0) {
                    asked += 1;
                    right += u32::from(cluster.id == label);
                }
            }
        }
        // Cells are 16 px, blobs some 80: borders run through cells, where the example model answers the mean colour.
        let share = f64::from(right) / f64::from(asked);
        assert!(asked > 1000 && share > 0.7, "{}: {right} of {asked}", record.slide.stain);
    }
}

#[test]
fn what_is_unusual_is_in_every_output() {
    let folder = tempfile::tempdir().expect("temporary folder");
    // Every patch has grain, so none is familiar; of three clusters in turn all patches are untypical, none is, none can be told.
    let bounds: Vec<Option<f32>> = [Some(0.0), Some(100.0), None].into_iter().cycle().take(CLUSTERS.into()).collect();
    let results = process_with(folder.path(), |contract| {
        let centroids = vec![0.0; usize::from(CLUSTERS) * contract.latent_dim as usize];
        contract.novelty_threshold = Some(0.0);
        contract.typicality = Some(Typicality { centroids, bounds: bounds.clone() });
    });
    for (record, slide, target) in results {
        assert_eq!(record.map.unfamiliar_fraction, Some(1.0));
        let mut untypical = 0;
        for cluster in &record.clusters {
            let bound = bounds[usize::from(cluster.id) - 1];
            let expected = bound.map(|bound| if bound > 0.0 { 0.0 } else { 1.0 }).filter(|_| cluster.cells > 0);
            assert_eq!(cluster.untypical_fraction, expected, "{cluster:?}");
            assert_eq!(cluster.unfamiliar_fraction, (cluster.cells > 0).then_some(1.0), "{cluster:?}");
            untypical += usize::from(expected == Some(1.0));
        }
        let warnings = record.warnings.join("\n");
        assert!(warnings.contains("100 % of the tissue is unfamiliar"), "{warnings}");
        assert_eq!(warnings.contains("is untypical of that cluster"), untypical > 0, "{warnings}");

        let json: Value = serde_json::from_slice(&std::fs::read(target.join(overlay::CLUSTERS_GEOJSON)).expect("file"))
            .expect("JSON");
        for feature in json["features"].as_array().expect("features") {
            let properties = &feature["properties"];
            let cluster = record.clusters.iter().find(|c| properties["name"] == c.name).expect("cluster");
            let measurements = &properties["measurements"];
            assert_eq!(measurements["Share unfamiliar"], 1.0);
            assert_eq!(measurements.get("Share untypical").and_then(Value::as_f64), cluster.untypical_fraction);
        }
        let picture = image::open(target.join(overlay::OVERLAY_PNG)).expect("overlay").to_rgb8();
        let labels = image::open(target.join(overlay::LABELS_PNG)).expect("label map").to_luma8();
        let bounds = slide.info().bounds;
        // Above the scale bar.
        let dots =
            || (0..bounds.height - 60).step_by(4).flat_map(|y| (0..bounds.width).step_by(4).map(move |x| (x, y)));
        for (x, y) in dots() {
            let dotted = picture.get_pixel(x, y).0 == [30; 3];
            assert_eq!(dotted, label_at(&record, &labels, bounds.x + x, bounds.y + y) != 0, "at {x},{y}");
        }
    }
}

#[test]
fn h19_every_output_says_research_use_only() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (record, _, target) in process(folder.path()) {
        assert_eq!(record.notice, overlay::RESEARCH_USE_ONLY);
        let text = std::fs::read_to_string(target.join(overlay::CLUSTERS_GEOJSON)).expect("readable");
        assert!(text.contains(overlay::RESEARCH_USE_ONLY));
    }
}

/// Label of a level-0 pixel's centre, from the label map and its place in the record.
fn label_at(record: &Record, labels: &GrayImage, x: u32, y: u32) -> u8 {
    let cell =
        |v: u32, origin: f64| ((f64::from(v) + 0.5 - origin) * record.slide.mpp.get() / record.map.cell_um).floor();
    let (col, row) = (cell(x, record.map.origin_level0[0]), cell(y, record.map.origin_level0[1]));
    if col < 0.0 || row < 0.0 { 0 } else { labels.get_pixel_checked(col as u32, row as u32).map_or(0, |p| p.0[0]) }
}

/// All rings of a file with their cluster's number, coordinates as written.
fn rings(path: &Path) -> Vec<(u8, Vec<(f64, f64)>)> {
    let json: Value = serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
    assert_eq!(json["type"], "FeatureCollection");
    let ids: BTreeMap<String, u8> = clusters_default(CLUSTERS).into_iter().map(|c| (c.name, c.id)).collect();
    let mut rings = Vec::new();
    for feature in json["features"].as_array().expect("features") {
        let properties = &feature["properties"];
        assert_eq!(properties["objectType"], "annotation");
        let id = ids[properties["classification"]["name"].as_str().expect("class name")];
        for polygon in feature["geometry"]["coordinates"].as_array().expect("multipolygon") {
            for ring in polygon.as_array().expect("polygon") {
                let number = |v: &Value, i: usize| v[i].as_f64().expect("number");
                rings.push((id, ring.as_array().expect("ring").iter().map(|p| (number(p, 0), number(p, 1))).collect()));
            }
        }
    }
    rings
}

/// The polygons filled by the even-odd rule, one label a pixel centre.
fn filled(rings: &[(u8, Vec<(f64, f64)>)], width: u32, height: u32) -> Vec<u8> {
    let mut out = vec![0; (width * height) as usize];
    for y in 0..height {
        let line = f64::from(y) + 0.5;
        let mut crossings: BTreeMap<u8, Vec<f64>> = BTreeMap::new();
        for (id, ring) in rings {
            for pair in ring.windows(2) {
                let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
                if (y0 > line) != (y1 > line) {
                    crossings.entry(*id).or_default().push(x0 + (line - y0) / (y1 - y0) * (x1 - x0));
                }
            }
        }
        for (id, mut xs) in crossings {
            xs.sort_by(f64::total_cmp);
            for span in xs.chunks_exact(2) {
                for x in (span[0] - 0.5).ceil().max(0.0) as u32..((span[1] - 0.5).ceil() as u32).min(width) {
                    out[(y * width + x) as usize] = id;
                }
            }
        }
    }
    out
}

/// Labels whose colour, blended at any strength, explains the picture's pixel; background where it is unchanged.
fn from_color(drawn: [u8; 3], tissue: [u8; 3], record: &Record) -> Vec<u8> {
    if drawn == tissue {
        return std::iter::once(0).chain(record.clusters.iter().map(|c| c.id)).collect();
    }
    let explains = |color: [u8; 3]| {
        [0.45_f32, 0.9].iter().any(|cover| {
            let blend = |t: u8, c: u8| f32::from(t) * (1.0 - cover) + f32::from(c) * cover;
            (0..3).all(|i| (f32::from(drawn[i]) - blend(tissue[i], color[i])).abs() <= 1.0)
        })
    };
    // The scale bar lies over the picture's corner.
    let furniture = drawn == [255; 3] || drawn == [30; 3];
    record
        .clusters
        .iter()
        .filter(|c| furniture || explains(c.color))
        .map(|c| c.id)
        .chain(furniture.then_some(0))
        .collect()
}
