use std::fs;

use tissuemap::contract::StainSpec;

use super::*;

fn info(sha256: &str, stains: &[&str]) -> ModelInfo {
    let stain = |name: &&str| StainSpec { name: (*name).into(), aliases: vec![] };
    ModelInfo {
        path: "m.onnx".into(),
        sha256: sha256.into(),
        stains: stains.iter().map(stain).collect(),
        provider: Provider::Cpu,
        revision: None,
        golden: String::new(),
    }
}

fn chain(registry: &Registry, sha256: &str) -> Vec<String> {
    registry.before(sha256).iter().map(|row| row.sha256.clone()).collect()
}

#[test]
fn a_rollback_goes_back_step_by_step_and_never_in_a_circle() {
    let mut registry = Registry::default();
    for sha256 in ["aaaa", "bbbb", "cccc"] {
        registry.activate(&info(sha256, &["HE", "CD31"]), &format!("{sha256}.onnx"), Coming::New, "dropped");
    }
    registry.activate(&info("dddd", &["HE"]), "dddd.onnx", Coming::New, "dropped");
    assert_eq!(registry.active(&["CD31".into(), "HE".into()]).expect("serves").sha256, "cccc");
    assert_eq!(registry.get("dddd").expect("known").replaced, None, "other stains, nobody's successor");
    assert_eq!(chain(&registry, "cccc"), ["bbbb", "aaaa"]);
    registry.set_aside("cccc", "bad");
    registry.activate(&info("bbbb", &["HE", "CD31"]), "bbbb.onnx", Coming::Back, "again");
    assert!(!registry.get("bbbb").expect("known").on_trial, "it has served before");
    assert_eq!(chain(&registry, "bbbb"), ["aaaa"]);
    registry.activate(&info("aaaa", &["HE", "CD31"]), "aaaa.onnx", Coming::New, "on request");
    assert_eq!(chain(&registry, "aaaa"), ["bbbb"], "which it replaced, and which replaced it");
}

#[test]
fn only_first_failures_of_several_sets_speak_against_a_model_and_one_success_clears_it() {
    let mut registry = Registry::default();
    for sha256 in ["aaaa", "bbbb"] {
        registry.activate(&info(sha256, &["HE"]), "m.onnx", Coming::New, "dropped");
    }
    assert_eq!(registry.job_failed("bbbb", JobId(1), true), 1);
    assert_eq!(registry.job_failed("bbbb", JobId(1), true), 1, "the same set");
    assert_eq!(registry.job_failed("bbbb", JobId(2), false), 1, "not the model's fault");
    registry.job_done("bbbb");
    assert_eq!(registry.job_failed("bbbb", JobId(3), true), 0, "it has shown that it can");
    let row = registry.get("bbbb").expect("known");
    assert_eq!((row.jobs_done, row.jobs_failed, row.on_trial), (1, 4, false));
}

#[test]
fn a_model_is_found_by_name_or_by_the_beginning_of_its_hash() {
    let mut registry = Registry::default();
    registry.activate(&info("abcd1", &["HE"]), "one.onnx", Coming::New, "dropped");
    registry.activate(&info("abcd2", &["HE"]), "two.onnx", Coming::New, "dropped");
    registry.reject("ffff3", "two.onnx", "bad");
    assert_eq!(registry.find("two.onnx").expect("known").sha256, "abcd2", "not the one that may not serve");
    assert_eq!(registry.find("abcd1").expect("known").name, "one.onnx");
    assert!(registry.find("abcd").expect_err("two").reason().contains("several"));
    assert!(registry.find("abc").expect_err("too short").reason().contains("no such model"));
}

#[test]
fn h08_a_damaged_memory_is_moved_aside_and_begun_anew() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("models.json");
    let (mut registry, aside) = Registry::read(&file).expect("nothing yet");
    assert_eq!(aside, None);
    registry.activate(&info("aaaa", &["HE"]), "m.onnx", Coming::New, "dropped");
    registry.write(&file).expect("written");
    assert_eq!(Registry::read(&file).expect("readable").0.rows(), registry.rows());
    let text = fs::read(&file).expect("there");
    fs::write(&file, &text[..text.len() / 2]).expect("torn");
    let (empty, aside) = Registry::read(&file).expect("readable");
    assert!(empty.rows().is_empty() && aside.is_some_and(|aside| aside.exists()));
    let mut names = fs::read_dir(folder.path()).expect("readable").map(|file| file.expect("there").file_name());
    assert!(names.any(|name| name.to_string_lossy().starts_with("models.json.corrupt-")) && !file.exists());
}

#[test]
fn h29_a_memory_beyond_bounds_or_in_no_file_is_damaged() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("models.json");
    fs::File::create(&file).and_then(|file| file.set_len(3 << 30)).expect("written");
    assert!(Registry::read(&file).expect("moved aside").1.is_some());
    fs::create_dir(&file).expect("made");
    assert!(Registry::read(&file).expect("moved aside").1.is_some());
    fs::write(&file, "").expect("written");
    assert!(Registry::read(&file).expect("moved aside").1.is_some(), "zero bytes are damage");
}

#[test]
fn copies_of_models_that_do_not_serve_are_superfluous_but_the_newest_and_those_behind_one_that_serves() {
    let mut registry = Registry::default();
    for (age, sha256) in ["aaaa", "bbbb", "cccc", "dddd", "eeee"].into_iter().enumerate() {
        registry.activate(&info(sha256, &["HE"]), &format!("{sha256}.onnx"), Coming::New, "dropped");
        registry.get_mut(sha256).expect("known").since =
            SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
    }
    // Set when they were replaced; here, in the order they came.
    for (age, row) in registry.rows.iter_mut().enumerate() {
        row.since = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
    }
    let superfluous = |registry: &Registry, keep| -> Vec<String> {
        registry.superfluous(keep).into_iter().map(|kept| kept.sha256).collect()
    };
    assert_eq!(superfluous(&registry, 3), [""; 0], "eeee serves, dddd is behind it");
    assert_eq!(superfluous(&registry, 1), ["bbbb", "aaaa"]);
    assert_eq!(
        superfluous(&registry, 0),
        ["cccc", "bbbb", "aaaa"],
        "never what serves and what a rollback goes back to"
    );
    ["aaaa", "bbbb"].into_iter().for_each(|sha256| registry.removed(sha256));
    assert_eq!(superfluous(&registry, 1), [""; 0]);
    assert_eq!(chain(&registry, "eeee"), ["dddd", "cccc"]);
    let row = registry.get("aaaa").expect("remembered, so that its file does not bring it back by itself");
    assert!(row.state == ModelState::Standby && row.reason.contains("drop its file again"), "{row:?}");
    registry.is_back("aaaa");
    assert_eq!(superfluous(&registry, 1), ["cccc"], "the newest now");
    for i in 0..2000 {
        registry.activate(&info(&format!("m{i}"), &["HE"]), "m.onnx", Coming::New, &"x".repeat(10_000));
        let old = registry.superfluous(4);
        old.iter().for_each(|kept| registry.removed(&kept.sha256));
    }
    let bytes = serde_json::to_vec(&registry).expect("JSON").len() as u64;
    assert!(registry.rows().len() <= REMEMBERED && bytes < MOST_BYTES, "{} rows, {bytes} bytes", registry.rows().len());
}
