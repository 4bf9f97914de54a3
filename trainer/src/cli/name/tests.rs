use std::collections::BTreeMap;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde_json::json;
use tempfile::TempDir;
use tissuemap::contract::{Cluster, clusters_default, example};
use tissuemap::infer::Model;
use tissuemap::overlay::result_folder;
use tissuemap::road::{RoadParams, process_opened};
use tissuemap::section_set::SetKey;
use tissuemap::slide::{SlideSource, SyntheticSlide};
use tissuemap::tissue::{TissueOutcome, TissueParams, find_tissue};
use tissuemap::units::{Level0Rect, Mpp};

use super::*;
use crate::export::card;

const CLUSTERS: u8 = 12;
/// Offsets that are no multiple of anything.
const BOUNDS: Level0Rect = Level0Rect { x: 101, y: 53, width: 500, height: 337 };
/// Two tissues side by side, canvas pixels: left, middle and right edge, top and bottom edge. All are edges of the map's
/// cells, which are 16 pixels from the bounds' corner on.
const TISSUE: ([u32; 3], [u32; 2]) = ([149, 357, 549], [101, 357]);

fn params() -> RoadParams {
    let tissue = TissueParams { um_per_px: 1.0, min_piece_um2: 20.0, ..TissueParams::default() };
    RoadParams { tissue, ..RoadParams::default() }
}

/// Two legend colours that the tissue finder takes for stained tissue.
fn two_clusters() -> [Cluster; 2] {
    let is_tissue = |c: &Cluster| {
        let flat = RgbImage::from_fn(64, 64, |x, _| Rgb(if x < 32 { c.color } else { [250; 3] }));
        matches!(find_tissue(&flat, 1.0, &params().tissue).outcome, TissueOutcome::Found { fraction } if fraction > 0.4)
    };
    let stainable: Vec<Cluster> = clusters_default(CLUSTERS).into_iter().filter(is_tissue).take(2).collect();
    stainable.try_into().expect("two")
}

/// An example model, a slide of two of its colours, and the map that it makes of them: the model's file and the folder
/// beside the slide. `None` without ONNX Runtime, said loudly.
fn mapped(folder: &TempDir) -> Option<(PathBuf, PathBuf)> {
    let mpp = Mpp::new(0.5).expect("plausible");
    let model_path = folder.path().join("model.onnx");
    fs::write(&model_path, example::bytes(&["HE"], 16, mpp, CLUSTERS)).expect("written");
    let mut model = match Model::load(&model_path) {
        Err(ModelError::Library(error)) => {
            eprintln!("SKIPPED: {error}");
            return None;
        }
        model => model.expect("loads"),
    };
    let [left, right] = two_clusters();
    let ([x0, x1, x2], [y0, y1]) = TISSUE;
    let painted = RgbImage::from_fn(700, 450, |x, y| {
        let grain = ((x * 31 + y * 17) % 7) as u8;
        let color = match x {
            _ if !(y0..y1).contains(&y) || !(x0..x2).contains(&x) => return Rgb([250; 3]),
            x if x < x1 => left.color,
            _ => right.color,
        };
        Rgb(color.map(|c| c.saturating_sub(grain)))
    });
    let path = folder.path().join("case7_HE.svs");
    fs::write(&path, "fingerprinted").expect("written");
    let slide: Arc<dyn SlideSource> = Arc::new(SyntheticSlide::new(painted, mpp).with_bounds(BOUNDS).at(path.clone()));
    let key = SetKey { case: "case7".into(), block: None };
    process_opened(&key, &BTreeMap::from([("HE".to_owned(), slide)]), &mut model, &params(), &()).expect("processed");
    Some((model_path, result_folder(&path)))
}

/// A rectangle's ring, canvas pixels, as QuPath writes it: from the bounds' corner.
fn ring([x0, x1]: [u32; 2], [y0, y1]: [u32; 2]) -> serde_json::Value {
    let at = |x: u32, y: u32| json!([x - BOUNDS.x, y - BOUNDS.y]);
    json!([at(x0, y0), at(x1, y0), at(x1, y1), at(x0, y1), at(x0, y0)])
}

fn feature(class: &str, kind: &str, coordinates: &serde_json::Value) -> serde_json::Value {
    json!({"type": "Feature", "properties": {"classification": {"name": class}},
        "geometry": {"type": kind, "coordinates": coordinates}})
}

fn command(model: &Path) -> NameCommand {
    NameCommand {
        force: false,
        model: model.to_owned(),
        names: None,
        out: None,
        print: false,
        annotations: Vec::new(),
        maps: Vec::new(),
    }
}

fn run(command: &NameCommand) -> Result<(String, String), TrainError> {
    let (mut out, mut note) = (Vec::new(), Vec::new());
    command.run(&mut out, &mut note)?;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ok((text(out), text(note)))
}

#[test]
fn planted_annotations_become_names_and_the_named_model_proves_itself() {
    let folder = tempfile::tempdir().expect("folder");
    let Some((model, map)) = mapped(&folder) else { return };
    let ([x0, x1, x2], [y0, y1]) = TISSUE;
    let [left, right] = two_clusters();
    // The left tissue but for a hole in it that is 96 × 160 of 208 × 256 pixels, and the right one in two halves.
    let hole = ring([x0 + 48, x0 + 144], [y0 + 48, y0 + 208]);
    let middle = u32::midpoint(x1, x2);
    let features = [
        feature("gland", "Polygon", &json!([ring([x0, x1], [y0, y1]), hole])),
        feature("stroma", "MultiPolygon", &json!([[ring([x1, middle], [y0, y1])], [ring([middle, x2], [y0, y1])]])),
        json!({"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [1, 2]}}),
    ];
    let annotations = folder.path().join("annotations.geojson");
    fs::write(&annotations, json!({"type": "FeatureCollection", "features": features}).to_string()).expect("written");
    let proposal = NameCommand { annotations: vec![annotations.clone()], maps: vec![map.clone()], ..command(&model) };
    let (toml, note) = run(&proposal).expect("proposes");
    assert!(note.contains("2 annotations of 2 classes; ignored: 1 without a class"), "{note}");

    let mut overlap = Overlap::new(CLUSTERS.into());
    let sha256 = sha256(&fs::read(&model).expect("read"));
    let read_map = AnnotatedMap::read(&map, &sha256).expect("map");
    overlap.add(&read_map, &Annotations::read(&annotations).expect("annotations"));
    let share = |class: &str, cluster: &Cluster| {
        let i = usize::from(cluster.id) - 1;
        (overlap.classes[class][i] / overlap.annotated[i], overlap.annotated[i] / overlap.cluster[i])
    };
    let (purity, coverage) = share("gland", &left);
    let annotated = 1.0 - (96.0 * 160.0) / (208.0 * 256.0);
    assert!(purity > 0.99 && (coverage - annotated).abs() < 0.02, "{purity} {coverage}");
    let (purity, coverage) = share("stroma", &right);
    assert!(purity > 0.99 && coverage > 0.98, "{purity} {coverage}");
    let gland_um2 = (208.0 * 256.0 - 96.0 * 160.0) * 0.25;
    let found = overlap.classes["gland"].iter().sum::<f64>();
    assert!((found / gland_um2 - 1.0).abs() < 0.01, "{found} of {gland_um2} µm²");

    let names = folder.path().join("names.toml");
    fs::write(&names, &toml).expect("written");
    let out = folder.path().join("named.onnx");
    let (said, _) = run(&NameCommand { names: Some(names), out: Some(out.clone()), ..command(&model) }).expect("names");
    let mut named = Model::load(&out).expect("loads");
    assert!(said.contains(named.sha256()), "{said}");
    let before = Model::load(&model).expect("loads").contract().clone();
    let mut expected = before.clone();
    "gland".clone_into(&mut expected.clusters[usize::from(left.id) - 1].name);
    "stroma".clone_into(&mut expected.clusters[usize::from(right.id) - 1].name);
    assert_eq!(*named.contract(), expected, "nothing but two names changed");
    assert!(named.verify_golden().expect("golden patches pass").passes());
    let card = fs::read_to_string(card::path_beside(&out)).expect("a card");
    assert!(card.contains("| gland |") && card.contains(named.sha256()), "{card}");

    // Two slides are twice the area, at the same purity.
    let mut twice = Overlap::new(CLUSTERS.into());
    for _ in 0..2 {
        twice.add(&read_map, &Annotations::read(&annotations).expect("annotations"));
    }
    assert!(twice.cluster.iter().zip(&overlap.cluster).all(|(two, one)| (two - 2.0 * one).abs() < 1e-6));

    // The map was made by the model before it was named.
    let other = NameCommand { model: out, ..proposal };
    let error = run(&other).expect_err("another model's map");
    assert!(error.to_string().contains("not by this one") && error.hint().is_some(), "{error}");
}

#[test]
fn the_printed_file_renames_nothing_and_a_model_can_be_replaced_by_its_named_copy() {
    let folder = tempfile::tempdir().expect("folder");
    let Some((model, _)) = mapped(&folder) else { return };
    let (printed, _) = run(&NameCommand { print: true, ..command(&model) }).expect("prints");
    let names = folder.path().join("names.toml");
    fs::write(&names, &printed).expect("written");
    let before = fs::read(&model).expect("read");
    let replace = NameCommand { names: Some(names.clone()), out: Some(model.clone()), ..command(&model) };
    run(&replace).expect("names");
    assert_eq!(fs::read(&model).expect("read"), before, "the same contract is the same file");

    fs::write(&names, printed.replace("\"cluster 2\"", "\"stroma\"")).expect("written");
    run(&replace).expect("names");
    assert_eq!(Model::load(&model).expect("loads").contract().clusters[1].name, "stroma");
    let files: Vec<_> = fs::read_dir(folder.path()).expect("folder").map(|e| e.expect("entry").file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().contains("partial")), "{files:?}");
}

#[test]
fn annotations_and_maps_come_in_pairs_and_folders_must_be_results() {
    let folder = tempfile::tempdir().expect("folder");
    let model = folder.path().join("model.onnx");
    fs::write(&model, example::bytes(&["HE"], 16, Mpp::new(0.5).expect("plausible"), CLUSTERS)).expect("written");
    let annotations = folder.path().join("a.geojson");
    let feature = feature("gland", "Polygon", &json!([ring([150, 350], [100, 350])]));
    fs::write(&annotations, feature.to_string()).expect("written");
    let twice = NameCommand {
        annotations: vec![annotations.clone(), annotations.clone()],
        maps: vec![folder.path().to_owned()],
        ..command(&model)
    };
    let error = run(&twice).expect_err("a map is missing");
    assert!(error.to_string().contains("2 files of annotations for 1 maps"), "{error}");
    let error = run(&NameCommand { annotations: vec![annotations], ..twice }).expect_err("no result");
    assert!(error.to_string().contains("no result of tissuemap"), "{error}");
    fs::write(&model, "no model").expect("written");
    let error = run(&NameCommand { print: true, ..command(&model) }).expect_err("no model");
    assert!(matches!(error, TrainError::Model(_)), "{error}");
}
