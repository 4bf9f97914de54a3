//! What was done already, from the records beside the slides: so that a restart repeats nothing.
//!
//! The journal of later versions will know this too; the records stay the truth, because they travel with the slides.

use std::path::Path;
use std::time::UNIX_EPOCH;

use tissuemap::overlay::{Input, Record, read_record, result_folder};

use crate::arrive::members::{Fingerprint, Member};
use crate::job::{Job, ModelInfo};

/// True when every slide of the set has a whole result of one and the same run, from the slides as they are now and
/// with this model. Slides that the run could not register have no result, and need none.
pub fn is_done(job: &Job, model: &ModelInfo) -> bool {
    // Slides of stains that the model does not know are no part of its runs.
    let slides = || job.set.slides.iter().filter(|(stain, _)| model.stains.iter().any(|known| known.name == **stain));
    let records: Vec<(&String, Option<Record>)> =
        slides().map(|(stain, slide)| (stain, read_record(&result_folder(slide)))).collect();
    let Some(run) = records.iter().filter_map(|(_, record)| record.as_ref()).max_by_key(|record| record.times.finished)
    else {
        return false;
    };
    let same_run = |record: &Option<Record>| record.as_ref().is_some_and(|record| record.run_id == run.run_id);
    let all_there = records.iter().all(|(stain, record)| was_left_out(run, stain) || same_run(record));
    let unchanged = slides().all(|(stain, slide)| {
        let input = run.inputs.iter().find(|input| input.stain == *stain);
        input.zip(job.inputs.get(slide)).is_some_and(|(input, now)| is_as_recorded(input, slide, now))
    });
    all_there && unchanged && run.inputs.len() == records.len() && run.model.sha256 == model.sha256
}

/// True when this slide, as it is now, was read by an earlier run with this model: it need not be tested again.
pub fn was_read(slide: &Path, now: &Fingerprint, model: &ModelInfo) -> bool {
    read_record(&result_folder(slide)).is_some_and(|record| {
        record.model.sha256 == model.sha256 && record.inputs.iter().any(|input| is_as_recorded(input, slide, now))
    })
}

fn was_left_out(run: &Record, stain: &str) -> bool {
    run.sections.iter().any(|section| section["stain"] == stain && section["placement"] == "left-out")
}

/// Records hold the state of the naming file only; its size and time stand for all members.
fn is_as_recorded(input: &Input, slide: &Path, now: &Fingerprint) -> bool {
    let nanoseconds = |member: &Member| member.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let naming = now.members().iter().find(|member| member.path == slide);
    naming.is_some_and(|member| {
        slide.file_name().is_some_and(|name| name.to_string_lossy() == input.file)
            && member.bytes == input.bytes
            && nanoseconds(member) == u128::from(input.modified_unix_ns)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};
    use tempfile::TempDir;
    use tissuemap::contract::StainSpec;
    use tissuemap::infer::Provider;
    use tissuemap::section_set::{SectionSet, SetKey};

    use super::*;
    use crate::arrive::members::fingerprint;

    /// Case c1 in HE and CD31, processed by one run with model `ab`.
    struct Fixture {
        folder: TempDir,
        model: ModelInfo,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("tempdir");
            let stain = |name: &str| StainSpec { name: name.into(), aliases: vec![] };
            let model = ModelInfo {
                path: "m.onnx".into(),
                sha256: "ab".into(),
                stains: ["HE", "CD31"].map(stain).to_vec(),
                provider: Provider::Cpu,
            };
            let fixture = Self { folder, model };
            for stain in ["HE", "CD31"] {
                fs::write(fixture.slide(stain), stain).expect("write");
            }
            for stain in ["HE", "CD31"] {
                fixture.record(stain, "registered", "run1");
            }
            fixture
        }

        fn slide(&self, stain: &str) -> std::path::PathBuf {
            self.folder.path().join(format!("c1_{stain}.svs"))
        }

        fn record(&self, stain: &str, placement: &str, run: &str) {
            let input = |stain: &&str| {
                let now = fingerprint(&self.slide(stain)).expect("readable");
                let nanoseconds = now.members()[0].modified.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
                json!({ "stain": stain, "file": format!("c1_{stain}.svs"), "bytes": now.members()[0].bytes,
                        "modified_unix_ns": nanoseconds as u64, "sha256": "" })
            };
            let inputs: Vec<Value> = ["HE", "CD31"].iter().map(input).collect();
            let record = json!({
                "format": 1, "notice": "", "software": { "name": "", "version": "", "openslide": "" }, "run_id": run,
                "set": { "case": "c1", "block": null },
                "slide": { "file": "", "stain": stain, "vendor": "", "mpp": 1.0, "width": 1, "height": 1,
                           "bounds": { "x": 0, "y": 0, "width": 1, "height": 1 } },
                "model": { "sha256": "ab", "contract_version": 1, "stains": [], "patch_px": 64, "stride_px": 64, "mpp": 1.0 },
                "inputs": inputs, "warnings": [],
                "sections": [{ "stain": "CD31", "placement": placement }], "tissue": null,
                "map": { "cols": 1, "rows": 1, "cell_um": 64.0, "origin_level0": [0.0, 0.0], "overlay_mpp": 1.0,
                         "tissue_cells": 1, "median_confidence": null },
                "clusters": [], "parameters": null,
                "times": { "started": "2026-11-23T07:00:00Z", "finished": "2026-11-23T07:01:00Z" },
            });
            let folder = result_folder(&self.slide(stain));
            fs::create_dir_all(&folder).expect("create");
            fs::write(folder.join("result.json"), record.to_string()).expect("write");
        }

        fn is_done(&self, stains: &[&str]) -> bool {
            let slides = stains.iter().map(|stain| ((*stain).to_owned(), self.slide(stain))).collect();
            let set = SectionSet { key: SetKey { case: "c1".into(), block: None }, slides };
            let now = |slide: &std::path::PathBuf| (slide.clone(), fingerprint(slide).expect("readable"));
            let inputs = set.slides.values().map(now).collect();
            is_done(&Job { set, inputs, mpp: None }, &self.model)
        }
    }

    #[test]
    fn h05_whole_results_of_the_same_slides_and_model_are_not_repeated() {
        let fixture = Fixture::new();
        assert!(fixture.is_done(&["HE", "CD31"]));
        let slide = fixture.slide("HE");
        assert!(was_read(&slide, &fingerprint(&slide).expect("readable"), &fixture.model));
    }

    #[test]
    fn a_stain_that_the_model_does_not_know_changes_nothing() {
        let fixture = Fixture::new();
        fs::write(fixture.slide("KI67"), "KI67").expect("write");
        assert!(fixture.is_done(&["HE", "CD31", "KI67"]));
    }

    #[test]
    fn another_model_a_rewritten_slide_or_a_missing_result_is_not_done() {
        let mut fixture = Fixture::new();
        fixture.model.sha256 = "cd".into();
        assert!(!fixture.is_done(&["HE", "CD31"]), "another model");

        let fixture = Fixture::new();
        fs::write(fixture.slide("CD31"), "scanned anew").expect("write");
        assert!(!fixture.is_done(&["HE", "CD31"]), "rewritten");

        let fixture = Fixture::new();
        fs::remove_dir_all(result_folder(&fixture.slide("CD31"))).expect("remove");
        assert!(!fixture.is_done(&["HE", "CD31"]), "result missing");

        let fixture = Fixture::new();
        assert!(!fixture.is_done(&["HE"]), "a stain is gone");
    }

    #[test]
    fn h06_results_of_two_runs_are_not_done() {
        let fixture = Fixture::new();
        fixture.record("HE", "registered", "run2");
        assert!(!fixture.is_done(&["HE", "CD31"]));
    }

    #[test]
    fn a_section_that_could_not_be_registered_needs_no_result() {
        let fixture = Fixture::new();
        fixture.record("HE", "left-out", "run2");
        fs::remove_dir_all(result_folder(&fixture.slide("CD31"))).expect("remove");
        assert!(fixture.is_done(&["HE", "CD31"]));
    }
}
