//! `tissuemapctl verify` on real results: what was changed is told by name, and nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tissuemap::overlay::{CLUSTERS_GEOJSON, OVERLAY_PNG, RESULT_JSON};

use crate::{overlays, support};

fn verify(arguments: &[&str], place: &Path) -> Output {
    Command::new(support::program("tissuemapctl")).arg("verify").args(arguments).arg(place).output().expect("it runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_changed_result_or_slide_is_told_by_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let results: Vec<_> =
        overlays::process(folder.path()).into_iter().map(|(_, slide, target)| (slide, target)).collect();
    let ((_, cd31), (slide, he)) = (&results[0], &results[1]);

    let whole = verify(&["--model", folder.path().join("example.onnx").to_str().expect("UTF-8")], folder.path());
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(text(&whole), format!("{}: OK\n{}: OK\n", cd31.display(), he.display()));

    let picture = he.join(OVERLAY_PNG);
    let mut bytes = fs::read(&picture).expect("readable");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&picture, bytes).expect("writable");
    fs::remove_file(he.join(CLUSTERS_GEOJSON)).expect("there");
    fs::write(he.join("notes.txt"), "seen by nobody").expect("writable");
    let told = verify(&[], folder.path());
    assert_eq!(told.status.code(), Some(1));
    let expected = [
        format!("{}: OK", cd31.display()),
        format!("{}: BAD", he.display()),
        format!("  {}: changed since the result was made", picture.display()),
        format!("  {}: missing", he.join(CLUSTERS_GEOJSON).display()),
        format!("  {}: not of the result", he.join("notes.txt").display()),
    ];
    assert_eq!(text(&told).lines().collect::<Vec<_>>(), expected);
    assert!(String::from_utf8_lossy(&told.stderr).contains("1 of 2 results"));

    // The slide of one section is an input of both results.
    fs::write(&slide.info().path, "another scan").expect("writable");
    let told = verify(&["--json"], cd31);
    assert_eq!(told.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&told.stdout).expect("one object");
    let changed = json["slides"].as_array().expect("a list").iter().filter(|slide| slide["state"] == "changed");
    assert_eq!(
        changed.map(|slide| slide["path"].clone()).collect::<Vec<_>>(),
        [slide.info().path.to_str().expect("UTF-8")]
    );
    assert!(verify(&["--outputs-only"], cd31).status.success());

    fs::write(cd31.join(RESULT_JSON), "{").expect("writable");
    let told = verify(&[], cd31);
    assert!(text(&told).contains("result.json is damaged"), "{}", text(&told));
    let nothing = verify(&[], &folder.path().join("case7_HE.svs"));
    assert_eq!(nothing.status.code(), Some(64));
}
