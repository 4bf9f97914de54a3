use std::fs;

use image::RgbImage;
use proptest::prelude::*;

use super::*;
use crate::register::Verdict;
use crate::slide::{SlideSource, SyntheticSlide};
use crate::units::UmPoint;

fn slide(file: &str, mpp: f64) -> SyntheticSlide {
    let bounds = Level0Rect { x: 3, y: 5, width: 20, height: 10 };
    let slide = SyntheticSlide::new(RgbImage::new(40, 30), Mpp::new(mpp).expect("plausible"));
    slide.with_bounds(bounds).at(format!("folder/{file}").into())
}

fn quality() -> RegistrationQuality {
    RegistrationQuality {
        verdict: Verdict::Review,
        reasons: vec!["a reason".into()],
        // What a failed estimate looks like; JSON has no such number.
        estimated_error_um: f64::NAN,
        estimated_error_p90_um: 20.0,
        cycle_error_um: None,
        overlap_fraction: 1.0,
        tissue_overlap_fraction: 1.0,
        determinant: 1.0,
        jacobian_min: 0.9,
        jacobian_max: 1.1,
        ngf_before: 0.9,
        ngf_affine: 0.8,
        ngf_after: 0.7,
        ncc: 0.5,
        edge_correlation: 0.2,
        search_score: 1.5,
        search_margin: Some(0.4),
    }
}

fn registered(deformation: Deformation) -> Registered {
    let nodes = deformation.field.as_ref().map_or(0, |field| field.nodes.len());
    let uncertainty_um = (0..nodes).map(|i| i as f32 / 7.0).collect();
    Registered { map: SectionMap::new(deformation), uncertainty_um, quality: quality() }
}

/// Writes a transform with a field of 2 × 3 nodes; gives the folder and the path of its JSON.
fn written() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let field = DisplacementField { origin: [0.0; 2], spacing: 9.0, cols: 2, rows: 3, nodes: vec![[1.0, -2.0]; 6] };
    let found = registered(Deformation { affine: Affine::IDENTITY.0, field: Some(field) });
    let (fixed, moving) = (slide("HE.svs", 0.25), slide("KI67.svs", 0.5));
    let files = write(folder.path(), "KI67", fixed.info(), moving.info(), &found).expect("writable");
    assert_eq!(files, ["KI67_transform.json", "KI67_displacement.tif"]);
    let path = folder.path().join(&files[0]);
    (folder, path)
}

fn deformations() -> impl Strategy<Value = Deformation> {
    let field =
        (2usize..9, 2usize..9).prop_flat_map(|(cols, rows)| {
            let nodes = prop::collection::vec([-500f32..500.0, -500f32..500.0], cols * rows);
            ([-1e5f64..1e5, -1e5f64..1e5], 0.1f64..1e3, nodes)
                .prop_map(move |(origin, spacing, nodes)| DisplacementField { origin, spacing, cols, rows, nodes })
        });
    let row = || [-2f64..2.0, -2f64..2.0, -1e5f64..1e5];
    ([row(), row()], prop::option::of(field)).prop_map(|(affine, field)| Deformation { affine, field })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_read_is_what_was_written(deformation in deformations(), x in -1e5f64..1e5, y in -1e5f64..1e5) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let found = registered(deformation);
        let (fixed, moving) = (slide("HE.svs", 0.25), slide("KI67.svs", 0.5));
        let files = write(folder.path(), "KI67", fixed.info(), moving.info(), &found).expect("writable");
        let read = read(&folder.path().join(&files[0])).expect("readable");
        prop_assert_eq!(read.fixed, SlideFrame::from(fixed.info()));
        prop_assert_eq!(read.moving, SlideFrame::from(moving.info()));
        prop_assert_eq!(read.uncertainty_um, found.uncertainty_um);
        let nodes = |map: &SectionMap| map.deformation().field.as_ref().map(|field| field.nodes.clone());
        prop_assert_eq!(nodes(&read.map), nodes(&found.map));
        // Decimal text may cost the last bit of what lies in the JSON.
        let point = UmPoint { x, y };
        let (there, back) = (found.map.apply(point), read.map.apply(point));
        prop_assert!((there.x - back.x).hypot(there.y - back.y) < 1e-6, "{:?} {:?}", there, back);
    }
}

#[test]
fn bad_files_are_named_with_reason_and_hint() {
    type Spoil = fn(&str) -> String;
    let spoilt: [(Spoil, &str); 7] = [
        (|_| "{".into(), "not JSON"),
        (|json| json.replace(FORMAT, "tissuemap-transform/9"), "tissuemap-transform/9"),
        (|json| json.replace("\"affine\"", "\"afine\""), "affine"),
        (|json| json.replace("KI67_displacement.tif", "../KI67_displacement.tif"), "plain file name"),
        (|json| json.replace("\"cols\": 2", "\"cols\": 1"), "at least 2"),
        (|json| json.replace("\"rows\": 3", "\"rows\": 4"), "2 x 3 nodes"),
        (|json| json.replace("\"spacing_um\": 9.0", "\"spacing_um\": 0.0"), "above 0"),
    ];
    for (spoil, reason) in spoilt {
        let (_folder, path) = written();
        let json = fs::read_to_string(&path).expect("readable");
        fs::write(&path, spoil(&json)).expect("writable");
        let error = read(&path).expect_err("refused");
        let said = error.to_string();
        assert!(said.contains(reason) && !error.hint().is_empty(), "{said}");
    }
}

#[test]
fn a_damaged_displacement_is_named_with_reason_and_hint() {
    type Spoil<'a> = &'a dyn Fn(&Path);
    let grey = |path: &Path| image::GrayImage::new(2, 3).save(path).expect("writable");
    let infinite = |path: &Path| {
        let field =
            DisplacementField { origin: [0.0; 2], spacing: 9.0, cols: 2, rows: 3, nodes: vec![[f32::NAN; 2]; 6] };
        fs::remove_file(path).expect("there");
        write_nodes(path, &field, &[0.0; 6]).expect("writable");
    };
    let cut = |path: &Path| {
        let bytes = fs::read(path).expect("readable");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("writable");
    };
    let gone = |path: &Path| fs::remove_file(path).expect("there");
    let spoilt: [(Spoil<'_>, &str); 4] =
        [(&grey, "float32"), (&infinite, "finite"), (&cut, ""), (&gone, "No such file")];
    for (spoil, reason) in spoilt {
        let (folder, path) = written();
        spoil(&folder.path().join("KI67_displacement.tif"));
        let error = read(&path).expect_err("refused");
        let said = error.to_string();
        assert!(said.contains("KI67_displacement.tif: ") && said.contains(reason), "{said}");
        assert!(error.hint().contains("together"), "{said}");
    }
}
