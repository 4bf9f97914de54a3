use std::fs::{self, File};
use std::io::read_to_string;
use std::sync::atomic::{AtomicBool, Ordering};

use image::GrayImage;
use rustix::fs::{Mode, OFlags, open, openat};
use serde_json::{Value, json};

use super::*;
use crate::infer::Provider;
use crate::overlay::{CLUSTERS_GEOJSON, LABELS_PNG, OVERLAY_PNG, RESULT_JSON, run_id};
use crate::section_set::{SectionSet, SetKey};

const STAINS: [&str; 2] = ["HE", "CD31"];
const MODEL: &str = "5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592";

/// A job, where its worker draws, and where its slides lie.
struct Job {
    staged: tempfile::TempDir,
    beside: tempfile::TempDir,
    set: SectionSet,
    stains: Vec<String>,
    params: RoadParams,
}

impl Job {
    fn new() -> Self {
        let (staged, beside) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let slides = STAINS.map(|stain| (stain.to_owned(), beside.path().join(format!("c1_{stain}.svs"))));
        let set = SectionSet { key: SetKey { case: "c1".into(), block: None }, slides: slides.into() };
        Self { staged, beside, set, stains: STAINS.map(String::from).to_vec(), params: RoadParams::default() }
    }

    /// The record that an honest worker writes for this stain.
    fn record(&self, stain: &str) -> Value {
        let inputs: Vec<Value> = STAINS
            .iter()
            .map(|s| json!({"stain": s, "file": format!("c1_{s}.svs"), "bytes": 1, "modified_unix_ns": 1, "sha256": "00"}))
            .collect();
        let parameters = serde_json::to_value(&self.params).expect("JSON");
        let read = serde_json::from_value::<Vec<overlay::Input>>(inputs.clone().into()).expect("inputs");
        json!({
            "format": 1, "notice": overlay::RESEARCH_USE_ONLY,
            "software": {"name": "tissuemap", "version": "0", "openslide": "4"},
            "run_id": run_id(MODEL, &read, &parameters),
            "set": self.set.key,
            "slide": {
                "file": format!("c1_{stain}.svs"), "stain": stain, "vendor": "aperio", "mpp": 0.5, "width": 9, "height": 9,
                "bounds": {"x": 0, "y": 0, "width": 9, "height": 9},
            },
            "model": {
                "sha256": MODEL, "contract_version": 1, "stains": STAINS, "patch_px": 64, "stride_px": 64, "mpp": 1.0,
                "provider": "cpu",
            },
            "inputs": inputs, "outputs": [], "warnings": [], "sections": [], "registration": [], "tissue": {},
            "map": {
                "cols": 3, "rows": 2, "cell_um": 64.0, "origin_level0": [0.0, 0.0], "overlay_mpp": 8.0, "tissue_cells": 0,
                "median_confidence": null, "unfamiliar_fraction": null,
            },
            "clusters": [], "parameters": parameters,
            "times": {"started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:01Z"},
            "record_sha256": "",
        })
    }

    /// What a worker leaves and tells, when it changes the record, then the files, before it fingerprints them.
    fn draw(&self, text: &str, record: impl Fn(&mut Value), files: impl Fn(&Path)) -> Drawn {
        let result = |(number, stain): (usize, &&str)| {
            let place = numbered(self.staged.path(), number);
            fs::create_dir_all(&place).expect("writable");
            for (name, (width, height)) in [(OVERLAY_PNG, (4, 4)), (LABELS_PNG, (3, 2))] {
                GrayImage::new(width, height).save(place.join(name)).expect("writable");
            }
            let polygons = json!({"type": "FeatureCollection", "features": [{"name": text}]});
            fs::write(place.join(CLUSTERS_GEOJSON), polygons.to_string()).expect("writable");
            files(&place);
            let mut written = self.record(stain);
            let outputs = [OVERLAY_PNG, CLUSTERS_GEOJSON, LABELS_PNG].map(|name| OutputFile::read(&place, name).ok());
            written["outputs"] = json!(outputs);
            written["vendor_note"] = text.into();
            record(&mut written);
            let text = serde_json::to_string_pretty(&written).expect("JSON");
            fs::write(place.join(RESULT_JSON), durable::seal(&text)).expect("writable");
            DrawnResult { stain: (*stain).into(), files: fingerprints(&place).expect("readable") }
        };
        let results = STAINS.iter().enumerate().map(result).collect();
        Drawn { results, tissue_cells: 0, registration: vec![], warnings: vec![] }
    }

    fn publish(&self, drawn: Drawn) -> Result<SetResult, RoadError> {
        let assignment = Assignment {
            set: &self.set,
            model_sha256: MODEL,
            model_stains: &self.stains,
            provider: Provider::Cpu,
            params: &self.params,
        };
        drawn.publish(&assignment, self.staged.path())
    }

    /// Names beside the slides.
    fn published(&self) -> usize {
        fs::read_dir(self.beside.path()).expect("readable").count()
    }
}

#[test]
fn h06_a_reader_never_sees_part_of_a_staged_set() {
    let job = Job::new();
    let publish = |text: &str| job.publish(job.draw(text, |_| {}, |_| {})).expect("published");
    let outputs = publish("0").outputs;
    assert_eq!(outputs.len(), 2);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut whole = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for output in &outputs {
                    // One open folder is one result, whatever is renamed meanwhile.
                    let folder = open(output, OFlags::DIRECTORY, Mode::empty()).expect("there");
                    let read = |name: &str| -> Option<Value> {
                        let file = openat(&folder, name, OFlags::RDONLY, Mode::empty()).ok()?;
                        Some(serde_json::from_str(&read_to_string(File::from(file)).expect("readable")).expect("whole"))
                    };
                    // A replaced folder is being removed: files may be gone, but never torn or of two results.
                    if let (Some(polygons), Some(record)) = (read(CLUSTERS_GEOJSON), read(RESULT_JSON)) {
                        assert_eq!(polygons["features"][0]["name"], record["vendor_note"]);
                        whole += 1;
                    }
                }
            }
            whole
        });
        (1..100).for_each(|i| drop(publish(&i.to_string().repeat(2000))));
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("no torn result") > 0);
    });
    assert_eq!(job.published(), 2, "nothing is left behind");
}

#[test]
fn h06_a_set_of_which_a_part_is_missing_is_not_published() {
    let job = Job::new();
    let drawn = job.draw("1", |_| {}, |_| {});
    fs::remove_file(numbered(job.staged.path(), 1).join(RESULT_JSON)).expect("there");
    assert!(job.publish(drawn).is_err());
    assert_eq!(job.published(), 0);
}

/// What a worker that was taken over may change of its answer or of a record.
type Change<T> = fn(&mut T);

#[test]
fn h27_an_answer_that_is_not_that_of_the_job_publishes_nothing() {
    let job = Job::new();
    let changes: [(&str, Change<Drawn>); 8] = [
        ("../../etc", |drawn| drawn.results[1].stain = "../../etc".into()),
        ("twice", |drawn| drawn.results[1] = drawn.results[0].clone()),
        ("no result", |drawn| drawn.results.clear()),
        ("other files", |drawn| drawn.results[1].files.truncate(3)),
        ("other files", |drawn| drawn.results[0].files[0].file = "../clusters.png".into()),
        ("other bytes", |drawn| drawn.results[0].files[2].sha256 = "00".repeat(32)),
        ("something else", |drawn| drawn.tissue_cells = 7),
        ("something else", |drawn| drawn.warnings = vec!["all is well".into()]),
    ];
    for (said, change) in changes {
        let mut drawn = job.draw("1", |_| {}, |_| {});
        change(&mut drawn);
        let error = job.publish(drawn).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
        assert_eq!(job.published(), 0, "{said}");
        fs::read_dir(job.staged.path()).expect("readable").for_each(|folder| {
            fs::remove_dir_all(folder.expect("readable").path()).expect("removed");
        });
    }
    // Told honestly, and changed afterwards: what another worker would do.
    let drawn = job.draw("1", |_| {}, |_| {});
    let record = numbered(job.staged.path(), 0).join(RESULT_JSON);
    fs::write(&record, fs::read_to_string(&record).expect("readable").replace("\"cols\": 3", "\"cols\": 4"))
        .expect("write");
    let error = job.publish(drawn).expect_err("changed").to_string();
    assert!(error.contains("other bytes"), "{error}");
    assert_eq!(job.published(), 0);
}

#[test]
fn h27_a_record_that_speaks_for_another_job_is_not_published() {
    let changes: [(&str, Change<Value>); 14] = [
        ("format", |r| r["format"] = 2.into()),
        ("set", |r| r["set"]["case"] = "c2".into()),
        ("stain", |r| r["slide"]["stain"] = "CD31".into()),
        ("slide", |r| r["slide"]["file"] = "c2_HE.svs".into()),
        ("model", |r| r["model"]["sha256"] = "00".repeat(32).into()),
        ("list of stains", |r| r["model"]["stains"] = json!(["HE"])),
        ("provider", |r| r["model"]["provider"] = "cuda".into()),
        ("slide", |r| r["inputs"][1]["file"] = "c2_CD31.svs".into()),
        ("slide", |r| r["inputs"][1]["stain"] = "KI67".into()),
        ("list of slides", |r| r["inputs"][1] = r["inputs"][0].clone()),
        ("list of slides", |r| r["inputs"] = json!([])),
        ("set of parameters", |r| r["parameters"]["refine"] = true.into()),
        ("run", |r| r["run_id"] = "00".into()),
        ("files", |r| r["outputs"][0]["bytes"] = 7.into()),
    ];
    for (said, change) in changes {
        let job = Job::new();
        let drawn = job.draw("1", change, |_| {});
        let error = job.publish(drawn).expect_err(said);
        let RoadError::NotAccepted { source, .. } = &error else { panic!("{said}: {error}") };
        assert!(source.to_string().contains(said), "{said}: {source}");
        assert_eq!(job.published(), 0, "{said}");
    }
}

#[test]
fn h27_files_that_are_not_what_their_names_say_are_not_published() {
    let whole = || {
        let mut bytes = std::io::Cursor::new(Vec::new());
        GrayImage::new(3, 2).write_to(&mut bytes, image::ImageFormat::Png).expect("memory");
        bytes.into_inner()
    };
    let cut = whole()[..40].to_vec();
    let bombs: [(&str, Vec<u8>); 7] = [
        (CLUSTERS_GEOJSON, b"{\"type\": \"FeatureCollection\", \"features\": [".to_vec()),
        (CLUSTERS_GEOJSON, b"{\"type\": \"Polygon\", \"features\": []}".to_vec()),
        (CLUSTERS_GEOJSON, b"<html><script>".to_vec()),
        (
            CLUSTERS_GEOJSON,
            [b"{\"type\": \"FeatureCollection\", \"features\": ".to_vec(), b"[".repeat(100_000)].concat(),
        ),
        (LABELS_PNG, b"#!/bin/sh".to_vec()),
        (LABELS_PNG, cut),
        (OVERLAY_PNG, Vec::new()),
    ];
    for (name, content) in bombs {
        let job = Job::new();
        let drawn = job.draw("1", |_| {}, |place| fs::write(place.join(name), &content).expect("writable"));
        let error = job.publish(drawn).expect_err(name);
        let RoadError::NotAccepted { source, .. } = &error else { panic!("{name}: {error}") };
        assert!(source.to_string().contains(name), "{name}: {source}");
        assert_eq!(job.published(), 0, "{name}");
    }
    let job = Job::new();
    let drawn = job.draw("1", |record| record["map"]["rows"] = 9.into(), |_| {});
    assert!(job.publish(drawn).is_err(), "a map of another size");
    let job = Job::new();
    let drawn = job.draw("1", |record| record["record_sha256"] = "00".repeat(32).into(), |_| {});
    let error = job.publish(drawn).expect_err("another seal");
    assert!(matches!(&error, RoadError::NotAccepted { source, .. } if source.to_string().contains("seal")), "{error}");
}
