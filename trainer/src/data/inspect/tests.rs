use std::fs;

use super::*;
use crate::testing::{slides, slides_config};
use serde_json::Value;
use tissuemap::contract::StainSpec;

fn report(config: &Config, base: &Path, out: Option<&Path>) -> (Value, String) {
    let report = inspect(config, base, out, &|| false).expect("inspected");
    let (mut json, mut table) = (Vec::new(), Vec::new());
    report.write_json(&mut json).expect("written");
    report.write_table(&mut table).expect("written");
    (serde_json::from_slice(&json).expect("JSON"), String::from_utf8(table).expect("UTF-8"))
}

#[test]
fn the_report_tells_what_a_fit_draws() {
    let Some(folder) = slides() else { return };
    fs::write(folder.path().join("notes.txt"), "no slide").expect("written");
    let sheets = folder.path().join("sheets");
    let config = slides_config();
    let (json, table) = report(&config, folder.path(), Some(&sheets));
    let store = tempfile::tempdir().expect("folder");
    let drawn = sampling::patches(&config, folder.path(), store.path(), &|| false).expect("drawn");
    assert_eq!(json["total"]["train_patches"], drawn.train.count());
    assert_eq!(json["total"]["held_out_patches"], drawn.held_out.count());
    assert_eq!(json["total"]["disk_bytes"], 100 * 3 * 32 * 32);
    assert_eq!(json["sets"][1]["sections"][0]["size_px"], serde_json::json!([1200, 1200]));
    // A disc of 500 µm.
    let tissue = json["sets"][0]["tissue_mm2"].as_f64().expect("area");
    assert!((0.70..0.85).contains(&tissue), "{tissue} mm²");
    for part in
        ["a: 45 patches to train on, 5 held out", "b_HE.tif  1200 x 1200 px  1.000 µm/px  reference", "notes.txt"]
    {
        assert!(table.contains(part), "{part:?} missing in {table}");
    }

    let sheet = image::open(sheets.join("patches-01.png")).expect("sheet").to_rgb8();
    let tissue = |y: u32| sheet.rows().nth(y as usize).expect("row").filter(|p| p[0] > 140 && p[1] < 150).count();
    // Two sets, each with a row of ten patches of 32 px.
    assert_eq!((sheet.height(), tissue(34 + 16) > 200, tissue(34 + 74 + 16) > 200), (14 + 2 * 74, true, true));
}

#[test]
fn a_set_that_would_be_left_out_is_listed_with_its_slides_and_the_reason() {
    let Some(folder) = slides() else { return };
    let mut config = slides_config();
    config.stains.push(StainSpec { name: "CD31".to_owned(), aliases: Vec::new() });
    let (json, table) = report(&config, folder.path(), None);
    assert_eq!(json["total"]["sets"], 0);
    assert_eq!(json["sets"][0]["left_out"], "it has no slide of stain CD31");
    assert!(table.contains("a: LEFT OUT, it has no slide of stain CD31\n  HE  a_HE.tif\n"), "{table}");
    assert!(table.contains("0 section sets to be used, 2 left out"), "{table}");
}

#[test]
fn sections_that_do_not_belong_together_are_shown_with_their_verdict() {
    let Some(folder) = slides() else { return };
    let blank = image::RgbImage::from_pixel(1200, 1200, image::Rgb([250; 3]));
    let mpp = tissuemap::units::Mpp::new(1.0).expect("plausible");
    tissuemap::pyramid::write_rgb(&folder.path().join("a_CD31.tif"), &blank, mpp, "test").expect("written");
    let mut config = slides_config();
    config.stains.push(StainSpec { name: "CD31".to_owned(), aliases: Vec::new() });
    let (json, _) = report(&config, folder.path(), None);
    let section = &json["sets"][0]["sections"][1];
    assert_eq!((&section["stain"], &section["verdict"]), (&"CD31".into(), &"refused".into()));
    assert!(json["sets"][0]["left_out"].as_str().expect("reason").starts_with("CD31: "), "{json}");
}
