//! `tissuemapctl register` as a process, on real sections, and what others read out of its files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tissuemap::landmarks::{self, Landmark, carry};
use tissuemap::transform;

use crate::support;

/// Largest median rTRE of HE to CD31 that is good enough.
const CD31_BOUND: f64 = 0.0061;
/// The images state no resolution; whatever is given, only the micrometres depend on it.
const MPP: &str = "3.5";

fn register(sections: &[PathBuf], out: &Path, extra: &[&str]) -> Command {
    let mut ctl = Command::new(support::program("tissuemapctl"));
    ctl.arg("register").args(sections).arg("--out").arg(out).args(["--mpp", MPP]).args(extra).env_remove("RUST_LOG");
    ctl
}

fn run(sections: &[PathBuf], out: &Path, extra: &[&str]) -> Output {
    register(sections, out, extra).output().expect("it runs")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn lesion(data: &Path, stains: &[&str]) -> Vec<PathBuf> {
    stains.iter().map(|stain| data.join(format!("section-sets/lung-lesion_3/{stain}.jpg"))).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn far(a: &Landmark, b: &Landmark) -> f64 {
    (a.x - b.x).hypot(a.y - b.y)
}

/// Median distance of `carried` from the landmarks that a person set on the same section, over the fixed diagonal.
fn median_rtre(carried: &[Landmark], set: &[Landmark], (width, height): (u32, u32)) -> f64 {
    let set: BTreeMap<&str, &Landmark> = set.iter().map(|point| (point.id.as_str(), point)).collect();
    let mut errors: Vec<f64> =
        carried.iter().filter_map(|point| Some(far(point, set.get(point.id.as_str())?))).collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2] / f64::from(width).hypot(f64::from(height))
}

#[test]
fn registered_sections_are_files_that_agree_with_each_other_and_with_landmarks() {
    let Some(data) = support::data("registered_sections_are_files_that_agree") else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let (out, sections) = (folder.path().join("lesion"), lesion(&data, &["HE", "CD31", "KI67"]));
    let points = sections[0].with_extension("csv");
    let output = run(&sections, &out, &["--stack", "--landmarks", points.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert_eq!(table.lines().count(), 3, "a header and two sections:\n{table}");

    let kinds = ["checkerboard.png", "displacement.tif", "edges.png", "landmarks.csv", "transform.json"];
    let of = |name: &str| kinds.map(|kind| format!("{name}_{kind}")).into_iter();
    let expected: Vec<String> =
        of("CD31").chain(of("KI67")).chain(["registered_stack.ome.tif", "registration.json"].map(Into::into)).collect();
    assert_eq!(names(&out), expected);
    assert_eq!(names(folder.path()), ["lesion"], "nothing is left beside it");
    let summary: Value =
        serde_json::from_slice(&fs::read(out.join("registration.json")).expect("there")).expect("JSON");
    let mut listed: Vec<&str> = summary["files"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    listed.sort_unstable();
    assert_eq!(listed, expected);
    assert_eq!(summary["sections"][0]["verdict"], "good");

    let fixed = image::image_dimensions(&sections[0]).expect("an image");
    let points = landmarks::read(&points).expect("readable");
    for (name, moving) in ["CD31", "KI67"].iter().zip(&sections[1..]) {
        let read = transform::read(&out.join(format!("{name}_transform.json"))).expect("readable");
        let carried = landmarks::read(&out.join(format!("{name}_landmarks.csv"))).expect("readable");
        for (from_map, from_file) in carry(&points, &read.map, read.fixed.mpp, read.moving.mpp).iter().zip(&carried) {
            assert!(from_map.id == from_file.id && far(from_map, from_file) < 1e-3, "{from_map:?} {from_file:?}");
        }
        assert_eq!(carried.len(), points.len());
        let field = read.map.deformation().field.as_ref().expect("a displacement");
        let tiff = image::open(out.join(format!("{name}_displacement.tif"))).expect("a TIFF").into_rgb32f();
        assert_eq!((tiff.width() as usize, tiff.height() as usize), (field.cols, field.rows));
        for ((pixel, node), error) in tiff.pixels().zip(&field.nodes).zip(&read.uncertainty_um) {
            assert_eq!(pixel.0, [node[0], node[1], *error]);
        }
        let set = landmarks::read(&moving.with_extension("csv")).expect("readable");
        let rtre = median_rtre(&carried, &set, fixed);
        println!("{name}: median rTRE {rtre:.5}");
        assert!(rtre < if *name == "CD31" { CD31_BOUND } else { 0.02 }, "{name}: {rtre}");
        for kind in ["checkerboard", "edges"] {
            let (width, height) = image::image_dimensions(out.join(format!("{name}_{kind}.png"))).expect("a PNG");
            assert!(
                width == fixed.0 && height > fixed.1 && height < fixed.1 + 200,
                "{name} {kind}: {width} x {height}"
            );
        }
    }
    python_agrees(&out, &sections[0].with_extension("csv"));
    // Only the first of the stack's planes is looked at by this reader: red of the fixed section, as it is in its file.
    let plane = image::open(out.join("registered_stack.ome.tif")).expect("a TIFF").into_luma8();
    let fixed = image::open(&sections[0]).expect("an image").into_rgb8();
    assert!(
        plane.pixels().zip(fixed.pixels()).all(|(plane, fixed)| plane[0] == fixed[0]),
        "the fixed section as it is"
    );

    let again = run(&sections[..2], &out, &[]);
    assert_eq!(again.status.code(), Some(64), "{again:?}");
    assert!(stderr(&again).contains("is not empty") && stderr(&again).contains("--force"), "{again:?}");
    let forced = run(&sections[..2], &out, &["--force", "--json"]);
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
    // The file tells its own hash besides, by which a later run knows that nobody changed it.
    let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
    let mut written = json(&fs::read(out.join("registration.json")).expect("there"));
    let fields = written.as_object_mut().expect("an object");
    assert!(fields.remove("record_sha256").is_some() && fields.remove("outputs").is_some());
    assert_eq!(json(&forced.stdout), written);
    assert_eq!(names(&out).len(), 5, "the earlier registration is gone: {:?}", names(&out));
}

/// The documentation's own program reads the same out of the files, and tifffile opens the stack.
fn python_agrees(out: &Path, points: &Path) {
    let python = support::root().join(".deps/venv/bin/python");
    if !Command::new(&python).args(["-c", "import tifffile"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: python_agrees: no .deps/venv; run scripts/setup.sh --test");
        return;
    }
    let python = |code: &str, args: &[&Path]| {
        let output = Command::new(&python).args(["-c", code]).args(args).output().expect("python runs");
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let document = fs::read_to_string(support::root().join("docs/REGISTRATION_FILES.md")).expect("readable");
    let (_, program) = document.split_once("```python\n").expect("a program");
    let (program, _) = program.split_once("```").expect("it ends");
    let printed = python(program, &[&out.join("CD31_transform.json"), points]);
    let ours = landmarks::read(&out.join("CD31_landmarks.csv")).expect("readable");
    assert_eq!(printed.lines().count(), ours.len());
    for (line, ours) in printed.lines().zip(&ours) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |field: &str| field.parse().expect("a number");
        let theirs = Landmark { id: fields[0].into(), x: number(fields[1]), y: number(fields[2]) };
        assert!(theirs.id == ours.id && far(&theirs, ours) < 1e-3, "{theirs:?} {ours:?}");
    }

    let stack = "import sys, tifffile\nwith tifffile.TiffFile(sys.argv[1]) as f: print(f.is_ome, f.series[0].shape)";
    assert_eq!(python(stack, &[&out.join("registered_stack.ome.tif")]).trim(), "True (9, 661, 892)");
}

#[test]
fn a_refused_registration_is_said_and_shown_and_is_the_exit_code() {
    let Some(data) = support::data("a_refused_registration_is_said_and_shown") else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("wrong");
    let mut sections = lesion(&data, &["HE"]);
    sections.push(data.join("slides/cmu_small_region.svs"));
    let output = run(&sections, &out, &["--stack"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("cmu_small_region is refused") && stderr(&output).contains("\nhint: "),
        "{output:?}"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("refused"), "{output:?}");
    assert!(out.join("cmu_small_region_edges.png").is_file(), "{:?}", names(&out));
}

#[test]
fn whatever_is_wrong_with_the_command_is_said_before_anything_is_written() {
    let Some(data) = support::data("whatever_is_wrong_with_the_command_is_said") else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let sections = lesion(&data, &["HE", "CD31"]);
    let ctl = || Command::new(support::program("tissuemapctl"));
    let no_mpp = ctl().arg("register").args(&sections).arg("--out").arg(&out).output().expect("it runs");
    assert_eq!(no_mpp.status.code(), Some(1), "{no_mpp:?}");
    assert!(stderr(&no_mpp).contains("HE.jpg") && stderr(&no_mpp).contains("--mpp"), "{no_mpp:?}");

    let points = folder.path().join("points.csv");
    fs::write(&points, "id,x\n1,2\n").expect("writable");
    let no_y = run(&sections, &out, &["--landmarks", points.to_str().expect("UTF-8")]);
    assert_eq!(no_y.status.code(), Some(64), "{no_y:?}");
    assert!(stderr(&no_y).contains("points.csv") && stderr(&no_y).contains("id,x,y"), "{no_y:?}");
    let finer = run(&sections, &out, &["--stack", "--stack-mpp", "0.5"]);
    assert_eq!(finer.status.code(), Some(64), "{finer:?}");
    assert_eq!(names(folder.path()), ["points.csv"]);
}

#[test]
fn an_interrupted_registration_leaves_nothing() {
    let Some(data) = support::data("an_interrupted_registration_leaves_nothing") else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let sections = lesion(&data, &["HE", "CC10", "CD31", "KI67", "PROSPC"]);
    let mut child =
        register(&sections, &folder.path().join("out"), &[]).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("register") {
        line.clear();
        assert!(log.read_line(&mut line).expect("UTF-8") > 0, "it says what it does");
    }
    assert!(!names(folder.path()).is_empty(), "there is something to tidy up");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("it runs");
    assert!(killed.success());
    let rest: String = log.lines().map(|line| line.expect("UTF-8") + "\n").collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest}");
    assert!(rest.contains("ended by a signal"), "{rest}");
    assert_eq!(names(folder.path()), [""; 0]);
}
