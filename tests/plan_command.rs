//! `tissuemapctl plan` on real sections: what it says is what processing would do, and its pictures are there.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support;
use crate::support::site::{originals, scanned, slide};

fn plan(slides: &[&str], extra: &[&str]) -> Output {
    let mut ctl = Command::new(support::program("tissuemapctl"));
    ctl.arg("plan").args(slides.iter().map(|name| scanned().join(name)));
    ctl.arg("--model").arg(support::root().join("models/demo.onnx")).args(extra).env_remove("RUST_LOG");
    ctl.output().expect("it runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_plan_tells_sets_registration_and_patches_and_leaves_pictures_only_where_told() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("look");
    let before = originals(scanned());
    let (he, cd31) = (slide("demo", "HE"), slide("demo", "CD31"));
    let output = plan(&[&he, &cd31], &["--json", "--out", out.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let set = &told["sets"][0];
    assert_eq!(set["set"], "demo");
    let placements: Vec<(&str, &str)> = set["stains"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|stain| (stain["stain"].as_str().expect("text"), stain["placement"].as_str().expect("text")))
        .collect();
    assert_eq!(placements[..2], [("HE", "reference"), ("CD31", "registered")]);
    assert!(placements[2..].iter().all(|(_, placement)| *placement == "missing"), "{placements:?}");
    assert_eq!(set["stains"][1]["registration"]["verdict"], "good");
    let (cells, patches) = (set["cells"].as_u64().expect("a number"), set["patches"].as_u64().expect("a number"));
    assert!(patches > 1000 && patches < cells, "{patches} of {cells}");

    let written: Vec<&str> = told["files"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for name in ["demo_patches.png", "demo_CD31_checkerboard.png", "demo_CD31_edges.png", "plan.json"] {
        assert!(written.contains(&name), "{written:?}");
    }
    let there = |folder: &Path| fs::read_dir(folder).expect("readable").count();
    assert_eq!(there(&out), written.len(), "every file is listed");
    let picture = image::open(out.join("demo_patches.png")).expect("a picture").to_rgb8();
    assert!(
        picture.width() > 500 && picture.pixels().any(|pixel| i32::from(pixel[2]) > i32::from(pixel[0]) + 60),
        "patches are blue"
    );

    let again = plan(&[&he], &["--out", out.to_str().expect("UTF-8")]);
    assert_eq!(again.status.code(), Some(64), "what is there is not replaced unasked: {}", stderr(&again));
    assert!(originals(scanned()) == before && there(folder.path()) == 1, "nothing else was written");
}

#[test]
fn what_cannot_be_processed_is_told_and_the_rest_is_planned() {
    let (he, cd31) = (slide("demo", "HE"), slide("demo", "CD31"));
    let output = plan(&[&cd31, "what.svs"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("no slide of the reference stain HE") && text.contains("naming patterns"), "{text}");
    let output = plan(&[&he, "what.svs"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("set demo: "), "{}", stderr(&output));
}
