//! Slides arrive, overlays appear, originals stay as they were: the two programs as processes of their own, real files, a
//! real bus, a real ONNX model (the contract's example, so that nothing needs to be trained).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tissuemap::contract::example;
use tissuemap::overlay;
use tissuemap::placement::PlacementKind;
use tissuemap::register::Verdict;
use tissuemap::slide::OpenOptions;
use tissuemap::units::Mpp;

use crate::support;
use crate::support::bus::Bus;
use crate::support::site::{STAINS, scanned, slide, succeed};

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// A scanner's computer: a folder where slides arrive, a model, a configuration and a bus of its own.
struct Site {
    folder: TempDir,
    bus: Bus,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::create_dir(folder.path().join("incoming")).expect("create");
        // 64 px at 1 µm: some four hundred cells on the demo slide, a second of work.
        let model = example::bytes(&STAINS, 64, Mpp::new(1.0).expect("plausible"), 5);
        fs::write(folder.path().join("model.onnx"), model).expect("write");
        let config = "model = \"model.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nsettle_seconds = 1\nscan_seconds = 1\n\
                      [bus]\nkind = \"session\"\n";
        fs::write(folder.path().join("tissuemapd.toml"), config).expect("write");
        Self { folder, bus: Bus::session() }
    }

    fn incoming(&self) -> PathBuf {
        self.folder.path().join("incoming")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("tissuemapd.toml")
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model.onnx")
    }

    /// Copies the derived set as a case of its own.
    fn bring(&self, case: &str) {
        for stain in STAINS {
            fs::copy(scanned().join(slide("demo", stain)), self.incoming().join(slide(case, stain))).expect("copy");
        }
    }

    /// A slide whose copying was broken off.
    fn bring_torn(&self, name: &str) -> PathBuf {
        let whole = fs::read(scanned().join(slide("demo", "HE"))).expect("readable");
        let path = self.incoming().join(name);
        fs::write(&path, &whole[..whole.len() / 3]).expect("write");
        path
    }

    fn ctl(&self, args: &[&str]) -> Command {
        let mut ctl = Command::new(support::program("tissuemapctl"));
        ctl.args(["--bus", "session"]).args(args).env("DBUS_SESSION_BUS_ADDRESS", &self.bus.address);
        ctl
    }

    fn start(&self) -> Daemon {
        let mut child = Command::new(support::program("tissuemapd"))
            .args(["run", "--config"])
            .arg(self.config())
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus.address)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let mut daemon = Daemon { child, log };
        daemon.until("Ready");
        daemon
    }
}

/// A running `tissuemapd`, killed with the test.
struct Daemon {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    /// Reads the log up to the first line that contains `text`.
    fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let length = self.log.read_line(&mut line).expect("UTF-8");
            seen += &line;
            if line.contains(text) {
                return line;
            }
            let goes_on = length > 0 && !line.contains("ERROR");
            assert!(goes_on, "tissuemapd says this instead of {text:?}:\n{seen}");
        }
    }

    /// Asks it to end, as systemd does, and gives its exit code.
    fn end(&mut self) -> Option<i32> {
        succeed({
            let mut kill = Command::new("kill");
            kill.args(["-TERM", &self.child.id().to_string()]);
            kill
        });
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn result(folder: &Path, case: &str, stain: &str) -> PathBuf {
    folder.join(slide(case, stain)).with_extension("tissuemap")
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// A whole result: every file is there and says something.
fn assert_whole(output: &Path) {
    let picture = image::open(output.join(overlay::OVERLAY_PNG)).expect("a PNG").into_rgb8();
    let first = *picture.get_pixel(0, 0);
    assert!(picture.pixels().any(|pixel| *pixel != first), "{} is blank", output.display());
    let features = json(&output.join(overlay::CLUSTERS_GEOJSON));
    assert!(!features["features"].as_array().expect("a list").is_empty(), "{} has no clusters", output.display());
    let labels = image::open(output.join(overlay::LABELS_PNG)).expect("a PNG").into_luma8();
    let record = overlay::read_record(output).expect("a record");
    assert_eq!(labels.dimensions(), (record.map.cols, record.map.rows));
    assert_eq!(record.warnings, [""; 0], "{}", output.display());
}

#[test]
fn h16_arriving_slides_become_overlays_and_stay_as_they_were_and_a_restart_repeats_nothing() {
    let site = Site::new();
    let mut daemon = site.start();
    let waiting = site.ctl(&["wait", "--timeout", "300"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let torn = site.bring_torn("torn_HE.tif");
    site.bring("case7");
    let before = support::tree(&site.incoming());

    let waited = waiting.wait_with_output().expect("it ends");
    assert!(waited.status.success(), "{waited:?}");
    let told: Vec<&str> = stdout(&waited).lines().collect();
    for stain in STAINS {
        let output = result(&site.incoming(), "case7", stain);
        assert_whole(&output);
        assert!(told.contains(&output.to_str().expect("UTF-8")), "{} is not among {told:?}", output.display());
    }

    let status = succeed(site.ctl(&["status", "--json"]));
    let status: Value = serde_json::from_str(stdout(&status)).expect("JSON");
    assert_eq!(status["state"], "idle");
    assert_eq!(status["last_result"]["set"], "case7");
    let problems = status["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problem = problems[0].as_str().expect("text");
    assert!(problem.contains(torn.to_str().expect("UTF-8")) && problem.contains("hint: "), "{problem}");
    assert_eq!(daemon.end(), Some(0));

    let written =
        || fs::metadata(result(&site.incoming(), "case7", "HE").join(overlay::RESULT_JSON)).and_then(|m| m.modified());
    let first = written().expect("there");
    let mut again = site.start();
    again.until("Set has its results already");
    assert_eq!(again.end(), Some(0));
    assert_eq!(written().expect("there"), first);

    assert!(support::tree(&site.incoming()) == before, "originals have changed");
}

/// Puts a section of the same colours and none of the structure in the place of a case's slide: 48 pieces of the derived
/// section, in another order.
fn bring_foreign(site: &Site, case: &str, stain: &str) {
    let path = scanned().join(slide("demo", stain));
    let source = tissuemap::slide::open(&path, &OpenOptions::default()).expect("opens");
    let mpp = Mpp::new(1.0).expect("plausible");
    let section = tissuemap::slide::thumbnail(&source, mpp).expect("readable");
    let (width, height) = (section.width() / 6, section.height() / 8);
    let mut shuffled = image::RgbImage::from_pixel(section.width(), section.height(), image::Rgb([244; 3]));
    for piece in 0..48_u32 {
        // 19 has no factor in common with 48, so every piece is used once.
        let from = (piece * 19 + 7) % 48;
        let pixels = image::imageops::crop_imm(&section, from % 6 * width, from / 6 * height, width, height).to_image();
        image::imageops::replace(&mut shuffled, &pixels, i64::from(piece % 6 * width), i64::from(piece / 6 * height));
    }
    tissuemap::pyramid::write_rgb(&site.incoming().join(slide(case, stain)), &shuffled, mpp, "").expect("written");
}

#[test]
fn h14_a_section_of_another_tissue_is_refused_and_every_output_says_so() {
    let site = Site::new();
    let mut daemon = site.start();
    let waiting = site.ctl(&["wait", "--timeout", "300"]).stdout(Stdio::piped()).spawn().expect("it runs");
    bring_foreign(&site, "case8", "KI67");
    for stain in ["HE", "CD31"] {
        fs::copy(scanned().join(slide("demo", stain)), site.incoming().join(slide("case8", stain))).expect("copy");
    }
    assert!(waiting.wait_with_output().expect("it ends").status.success());

    let status = succeed(site.ctl(&["status", "--json"]));
    let status: Value = serde_json::from_str(stdout(&status)).expect("JSON");
    let told = &status["last_result"]["registration"];
    assert_eq!((&told[0]["stain"], &told[0]["verdict"]), (&"CD31".into(), &"good".into()), "{told}");
    assert_eq!((&told[1]["stain"], &told[1]["verdict"]), (&"KI67".into(), &"refused".into()), "{told}");
    assert!(told[1]["reasons"][0].as_str().expect("a reason").contains("same tissue"), "{told}");
    assert_eq!(daemon.end(), Some(0));

    assert!(!result(&site.incoming(), "case8", "KI67").exists(), "a refused section gets no map");
    for stain in ["HE", "CD31"] {
        let folder = result(&site.incoming(), "case8", stain);
        let record = overlay::read_record(&folder).expect("a record");
        assert!(
            record.warnings.iter().any(|w| w.contains("stain KI67") && w.contains("left out")),
            "{:?}",
            record.warnings
        );
        assert_eq!(record.registration[1].verdict, Verdict::Refused);
        assert_eq!(record.sections[2].placement, PlacementKind::LeftOut);
        let features = json(&folder.join(overlay::CLUSTERS_GEOJSON));
        let metadata = &features["features"][0]["properties"]["metadata"];
        assert_eq!(metadata["registration"], "CD31 good, KI67 refused");
        // The banner of warnings is red text below the section; without warnings there is none.
        let picture = image::open(folder.join(overlay::OVERLAY_PNG)).expect("a PNG").into_rgb8();
        let footer = picture.height() - 60;
        assert!(picture.enumerate_pixels().any(|(_, y, pixel)| y > footer && pixel.0 == [180, 30, 20]), "no banner");
    }
}

#[test]
fn h14_a_set_with_a_refused_stain_fails_where_that_is_wanted() {
    let site = Site::new();
    bring_foreign(&site, "case9", "CD31");
    for stain in ["HE", "KI67"] {
        fs::copy(scanned().join(slide("demo", stain)), site.incoming().join(slide("case9", stain))).expect("copy");
    }
    let config = fs::read_to_string(site.config()).expect("readable");
    fs::write(site.config(), format!("{config}[road]\nrefused_stain = \"fail-set\"\n")).expect("write");
    let slides = STAINS.map(|stain| site.incoming().join(slide("case9", stain)).display().to_string());
    let config = site.config().display().to_string();
    let mut args = vec!["process", "--config", &config];
    args.extend(slides.iter().map(String::as_str));
    let failed = site.ctl(&args).output().expect("it runs");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let told = stderr(&failed);
    assert!(told.contains("registration of stain CD31 is refused") && told.contains("hint: "), "{told}");
    assert!(STAINS.iter().all(|stain| !result(&site.incoming(), "case9", stain).exists()), "something was published");
}

#[test]
fn h01_h03_a_slide_that_is_still_growing_holds_its_set_back() {
    let site = Site::new();
    let mut daemon = site.start();
    for stain in ["CD31", "KI67"] {
        fs::copy(scanned().join(slide("demo", stain)), site.incoming().join(slide("slow", stain))).expect("copy");
    }
    let whole = fs::read(scanned().join(slide("demo", "HE"))).expect("readable");
    let path = site.incoming().join(slide("slow", "HE"));
    let mut grown = 0;
    for part in 1..=6 {
        grown = whole.len() * part / 6;
        fs::write(&path, &whole[..grown]).expect("write");
        assert!(!result(&site.incoming(), "slow", "HE").exists(), "processed at {grown} of {} bytes", whole.len());
        std::thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(grown, whole.len());
    let line = daemon.until("Set processed");
    assert!(line.contains("set=slow") && line.contains("slides=3"), "{line}");
    assert_whole(&result(&site.incoming(), "slow", "HE"));
}

/// Copies a file, or a folder of files.
fn copy_all(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).expect("create");
        let entries = fs::read_dir(from).expect("readable").map(|entry| entry.expect("readable").file_name());
        entries.for_each(|name| copy_all(&from.join(&name), &to.join(&name)));
    } else {
        fs::copy(from, to).expect("copy");
    }
}

#[test]
fn every_bad_slide_is_a_problem_with_its_own_reason_and_the_daemon_goes_on() {
    let Some(data) = support::data("every_bad_slide_is_a_problem_with_its_own_reason") else { return };
    let site = Site::new();
    let mut daemon = site.start();
    // What arrives (a file, and what belongs to it), and what must be said of it.
    let bad = [
        (vec!["openslide-fixtures/unreadable.svs"], "Bogus marker length"),
        (vec!["openslide-fixtures/unopenable.tiff"], "Unsupported TIFF compression"),
        (vec!["openslide-fixtures/fuzz-corpus-340b6f83/CMU-1-Saved-1_16.mrxs"], "not a slide format"),
        (
            vec!["corrupt/complex_tiff/Mirax2-Fluorescence-1.mrxs", "corrupt/complex_tiff/Mirax2-Fluorescence-1"],
            "Index.dat doesn't have expected version",
        ),
        (vec!["corrupt/valid_tiff.tif"], "outside the plausible"),
        (vec!["tcga-cr-7395-01a-01-ts1.svs"], "states no resolution"),
        (vec!["zero_gi.tif"], "not a slide format"),
    ];
    let name = |file: &str| Path::new(file).file_name().expect("a name").to_owned();
    for file in bad.iter().flat_map(|(files, _)| files) {
        copy_all(&data.join("slides").join(file), &site.incoming().join(name(file)));
    }
    let vms = data.join("slides/corrupt/complex_tiff/Hamamatsu-VMS");
    copy_all(&vms, &site.incoming().join("Hamamatsu-VMS"));
    fs::copy(data.join("slides/notanimage.txt"), site.incoming().join("notanimage.txt")).expect("copy");
    // A good one among them, of several files that are named by their folder.
    let series = site.incoming().join("boxes_HE");
    fs::create_dir(&series).expect("create");
    for file in ["boxes_0.dcm", "boxes_1.dcm"] {
        fs::copy(data.join("slides/openslide-fixtures").join(file), series.join(file)).expect("copy");
    }
    site.bring("case7");
    let before = support::tree(&site.incoming());

    let line = daemon.until("Set processed");
    assert!(line.contains("set=case7"), "{line}");
    let expected = bad.iter().map(|(files, reason)| (name(files[0]).to_string_lossy().into_owned(), *reason));
    let expected: Vec<_> = expected.chain([("13.24.05.vms".to_owned(), "Premature end of JPEG")]).collect();
    let problems = wait_for_problems(&site, expected.len());
    for (file, reason) in expected {
        let said =
            |problem: &&String| problem.contains(&file) && problem.contains(reason) && problem.contains("hint: ");
        assert!(problems.iter().any(|p| said(&p)), "{file}: {reason:?} is not among {problems:#?}");
    }
    assert!(!problems.iter().any(|p| p.contains("notanimage.txt")), "a text file is no slide");
    let status: Value = serde_json::from_str(stdout(&succeed(site.ctl(&["status", "--json"])))).expect("JSON");
    assert_eq!(status["waiting"], serde_json::json!(["boxes (CD31, KI67 missing)"]));
    assert!(support::tree(&site.incoming()) == before, "originals have changed");
    assert_eq!(daemon.end(), Some(0));
}

/// What the daemon has to say once it has tested every slide: polled, because good and bad come in any order.
fn wait_for_problems(site: &Site, count: usize) -> Vec<String> {
    let mut problems = Vec::new();
    for _ in 0..60 {
        let status = succeed(site.ctl(&["status", "--json"]));
        let status: Value = serde_json::from_str(stdout(&status)).expect("JSON");
        problems = status["problems"].as_array().expect("a list").iter().map(ToString::to_string).collect();
        if problems.len() >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    problems
}

#[test]
fn process_works_without_a_daemon_and_its_exit_code_tells_what_happened() {
    let site = Site::new();
    site.bring("one");
    let slides = STAINS.map(|stain| site.incoming().join(slide("one", stain)).display().to_string());
    let model = site.model().display().to_string();
    let process = |extra: &[&str]| {
        let mut args = vec!["process", "--model", &model];
        args.extend(slides.iter().map(String::as_str).chain(extra.iter().copied()));
        site.ctl(&args)
    };

    let output = succeed(process(&["--json"]));
    let told: Value = serde_json::from_str(stdout(&output)).expect("one JSON object");
    assert_eq!(told["key"]["case"], "one");
    STAINS.iter().for_each(|stain| assert_whole(&result(&site.incoming(), "one", stain)));

    let again = succeed(process(&[]));
    assert!(stderr(&again).contains("has its results already") && stdout(&again).is_empty(), "{again:?}");
    assert_eq!(stdout(&succeed(process(&["--force"]))).lines().count(), 3);

    let torn = site.bring_torn("torn_HE.tif");
    let failed = process(&["--force", torn.to_str().expect("UTF-8")]).output().expect("it runs");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(stderr(&failed).contains("torn_HE.tif") && stderr(&failed).contains("\nhint: "), "{failed:?}");
    assert_eq!(stdout(&failed).lines().count(), 3, "the good set is processed all the same");
}

#[test]
fn slide_info_tells_levels_mpp_and_properties() {
    let path = scanned().join(slide("demo", "HE"));
    let path = path.to_str().expect("UTF-8");
    let site = Site::new();
    let info: Value =
        serde_json::from_str(stdout(&succeed(site.ctl(&["slide", "info", "--json", path])))).expect("JSON");
    assert!(info["mpp"].as_f64().is_some_and(|mpp| (mpp - 0.499).abs() < 1e-3), "{info}");
    assert!(info["levels"].as_array().is_some_and(|levels| levels.len() > 1), "{info}");
    let text = succeed(site.ctl(&["slide", "info", path]));
    assert!(stdout(&text).contains("openslide.level-count: '"), "{text:?}");
}

#[test]
fn whatever_cannot_be_begun_has_its_own_exit_code_and_a_hint() {
    let site = Site::new();
    let code = |args: &[&str]| site.ctl(args).output().expect("it runs").status.code();
    assert_eq!(code(&["status"]), Some(69), "no daemon");
    assert_eq!(code(&["wait", "--timeout", "1"]), Some(69), "no daemon");
    assert_eq!(code(&["process", "x_HE.svs", "--model", "/nonexistent.onnx"]), Some(69), "no model");
    assert_eq!(code(&["process"]), Some(64), "no slides");
    assert_eq!(code(&["slide", "info", "/nonexistent.svs"]), Some(1), "no slide");
    assert_eq!(code(&["--help"]), Some(0));

    fs::write(site.config(), "model = \"model.onnx\"\n[[watch]]\nfolder = \"incoming\"\nsettle = 3\n").expect("write");
    let refused = Command::new(support::program("tissuemapd"))
        .args(["run", "--config"])
        .arg(site.config())
        .output()
        .expect("it runs");
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    assert!(
        stderr(&refused).contains("tissuemapd.toml: line 4") && stderr(&refused).contains("`settle`"),
        "{refused:?}"
    );
}

#[test]
fn the_printed_configuration_is_one() {
    let mut config = Command::new(support::program("tissuemapd"));
    config.arg("config");
    let table: toml::Table = stdout(&succeed(config)).parse().expect("TOML");
    assert!(table.contains_key("watch"));
}
