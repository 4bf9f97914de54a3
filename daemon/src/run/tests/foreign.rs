//! What somebody else put where the daemon reads (hazards h25 and h26).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;
use crate::testing::pipe;

const QUICK: &str = "[group]\nwait_seconds = 0\nincomplete = \"run\"\n[models]\nsettle_seconds = 1\n";
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn h25_pipes_and_devices_among_slides_are_told_and_the_folder_goes_on() {
    let [folder, state] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let at = |name: &str| folder.path().join(name);
    pipe(&at("a1_HE.vms"));
    pipe(&at("a2_HE.svs"));
    symlink("/dev/zero", at("a3_HE.svs")).expect("writable");
    fs::create_dir(at("a4_HE")).expect("writable");
    fs::write(at("a4_HE.mrxs"), "index").expect("writable");
    pipe(&at("a4_HE/Slidedat.ini"));
    // Results of which the record is none.
    for (case, target) in [("c2", "/dev/zero"), ("c3", "/proc/kmsg")] {
        fs::create_dir(at(&format!("{case}_HE.tissuemap"))).expect("writable");
        symlink(target, at(&format!("{case}_HE.tissuemap/result.json"))).expect("writable");
    }
    fs::create_dir(at("c1_HE.tissuemap")).expect("writable");
    pipe(&at("c1_HE.tissuemap/result.json"));
    fs::create_dir(at("c4_HE.tissuemap")).expect("writable");
    let sparse = fs::File::create(at("c4_HE.tissuemap/result.json")).expect("writable");
    sparse.set_len(3 << 30).expect("sparse");
    let mut daemon = Fixture::start_in(folder, state, QUICK);
    let cases = ["c1", "c2", "c3", "c4", "c5"];
    cases.iter().for_each(|case| daemon.bring(&format!("{case}_HE.svs"), "fine"));
    let done = daemon.until(|s| s.outcomes.len() == cases.len() && s.problems.len() >= 4);
    let status = tokio::time::timeout(MINUTE, done).await.expect("the folder goes on");
    assert!(status.outcomes.iter().all(|outcome| outcome.result.is_ok()), "{:?}", status.outcomes);
    let kinds = [("a1_HE.vms", "a named pipe"), ("a2_HE.svs", "a named pipe"), ("a3_HE.svs", "a device")];
    for (name, what) in kinds.into_iter().chain([("a4_HE/Slidedat.ini", "a named pipe")]) {
        let told = status.problems.iter().find(|problem| problem.contains(name)).expect(name);
        assert!(told.contains(&format!("{name}: is {what}, not a regular file; hint: move it away")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h25_pipes_as_signature_and_reason_are_told_and_models_go_on() {
    let [folder, state] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let models = state.path().join("models");
    fs::create_dir_all(models.join("rejected")).expect("writable");
    pipe(&models.join("rejected/old.onnx.reason.txt"));
    fs::write(models.join("signed.onnx"), "stains HE CD31\nsigned\n").expect("writable");
    pipe(&models.join("signed.onnx.minisig"));
    let mut daemon = Fixture::start_in(folder, state, QUICK);
    let next = "stains HE CD31\nnext\n";
    daemon.drop_model("next.onnx", next);
    let served = daemon.until(|s| s.model.starts_with("next.onnx ") && s.problems.len() >= 2);
    let status = tokio::time::timeout(MINUTE, served).await.expect("the folder of models goes on");
    for name in ["old.onnx.reason.txt", "signed.onnx.minisig"] {
        let told = status.problems.iter().find(|problem| problem.contains(name)).expect(name);
        assert!(told.contains("is a named pipe, not a regular file; hint: move it away"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h26_slides_with_any_bytes_in_their_names_are_done_or_told_and_the_rest_goes_on() {
    let mut daemon = Fixture::start(QUICK);
    let names: [&[u8]; 4] =
        [b"a\nERROR forged_HE.svs", b"b\x1b[2J_HE.svs", "c\u{202e}_HE.svs".as_bytes(), b"d\xe9\xff_HE.svs"];
    for name in names {
        fs::write(daemon.folder.path().join(OsStr::from_bytes(name)), "fine").expect("write");
    }
    daemon.bring("e_HE.svs", "fine");
    let done = daemon.until(|s| s.outcomes.len() == 4 && s.problems.len() == 1);
    let status = tokio::time::timeout(MINUTE, done).await.expect("all go on");
    assert!(status.outcomes.iter().all(|outcome| outcome.result.is_ok()), "{:?}", status.outcomes);
    let told = &status.problems[0];
    assert!(told.contains("a\\nERROR forged_HE.svs: the file name fits none of the naming patterns"), "{told}");
    assert!(told.contains("; hint: rename it"), "{told}");
}
