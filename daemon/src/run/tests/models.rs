//! Models that come, go and come back while the daemon serves (hazards h09 and h11).

use super::*;
use crate::models::{ModelRow, ModelState};

/// A folder that settles at once, and no wait between tries.
const QUICK: &str = "[models]\nsettle_seconds = 1\ncanary_jobs = 2\n[group]\nwait_seconds = 0\nincomplete = \"run\"\n\
                     [schedule]\ntries = 1\n";

impl Fixture {
    pub(super) fn drop_model(&self, name: &str, content: &str) {
        let folder = self.state.path().join("models");
        let hidden = folder.join(format!(".{name}"));
        fs::write(&hidden, content).expect("write");
        fs::rename(hidden, folder.join(name)).expect("rename");
    }

    /// The content of the files in the folder of refused models.
    fn refused(&self) -> BTreeMap<String, String> {
        let folder = self.state.path().join("models/rejected");
        let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("readable"));
        let read = |entry: fs::DirEntry| {
            (entry.file_name().into_string().expect("UTF-8"), fs::read_to_string(entry.path()).expect("readable"))
        };
        entries.map(read).collect()
    }

    async fn until_served(&mut self, content: &str) -> Status {
        let sha256 = sha256(content);
        self.until(|s| active(s).contains(&sha256)).await
    }

    /// The model that the result of this slide names.
    fn made_by(&self, slide: &str) -> String {
        let file = self.folder.path().join(slide).with_extension("tissuemap").join("result.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(file).expect("there")).expect("JSON");
        record["model"]["sha256"].as_str().expect("text").to_owned()
    }
}

fn active(status: &Status) -> Vec<String> {
    let active = status.models.iter().filter(|row| row.state == ModelState::Active);
    active.map(|row| row.sha256.clone()).collect()
}

fn row(status: &Status, content: &str) -> ModelRow {
    let sha256 = sha256(content);
    status.models.iter().find(|row| row.sha256 == sha256).expect("known").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn h11_a_model_that_is_dropped_serves_from_the_next_job_on_and_survives_a_restart() {
    let new = "stains HE CD31\nsecond\n";
    let mut daemon = Fixture::start(QUICK);
    daemon.bring("c1_HE.svs", "hold");
    daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await;
    daemon.drop_model("second.onnx", new);
    let status = daemon.until_served(new).await;
    assert!(status.job.is_some(), "the running job goes on");
    assert_eq!(status.model, format!("second.onnx sha256:{}", sha256(new)));
    assert_eq!(row(&status, MODEL).state, ModelState::Standby);
    daemon.bring("c2_HE.svs", "fine");
    daemon.until(|s| s.queue == ["c2"]).await;
    daemon.runner.release.send_replace(true);
    daemon.until(|s| s.outcomes.len() == 2).await;
    assert_eq!(daemon.made_by("c1_HE.svs"), sha256(MODEL), "the model that it began with");
    assert_eq!(daemon.made_by("c2_HE.svs"), sha256(new));

    let mut daemon = daemon.restart(QUICK).await;
    let status = daemon.until(|s| s.state == State::Idle && s.arriving.is_empty() && s.models.len() == 2).await;
    assert_eq!(active(&status), [sha256(new)]);
    daemon.until_told("c1_HE.svs", "is done").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(daemon.jobs().len(), 0, "what was done before the new model came is done");
    assert_eq!(active(&daemon.status.borrow()), [sha256(new)], "its file, and that of `model`, are known");
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_a_refused_model_is_moved_aside_with_its_reason_and_the_old_one_serves() {
    let mut daemon = Fixture::start(QUICK);
    daemon.drop_model("bad.onnx", "refused model.golden-mismatch\n");
    let status = daemon.until(|s| !s.rejections.is_empty() && !s.problems.is_empty()).await;
    let told = &status.rejections[0];
    assert_eq!((told.name.as_str(), told.id.as_str()), ("bad.onnx", "model.golden-mismatch"));
    assert!(
        status.problems[0].starts_with("model refused: ") && status.problems[0].contains("bad; hint: export it again")
    );
    let refused = daemon.refused();
    assert_eq!(refused["bad.onnx"], "refused model.golden-mismatch\n");
    assert!(refused["bad.onnx.reason.txt"].contains("id: model.golden-mismatch"), "{refused:?}");
    assert!(!daemon.state.path().join("models/bad.onnx").exists());
    assert_eq!(active(&status), [sha256(MODEL)]);
    daemon.bring("c1_HE.svs", "fine");
    daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(daemon.made_by("c1_HE.svs"), sha256(MODEL));

    fs::remove_dir_all(daemon.state.path().join("models/rejected")).expect("removed");
    daemon.until(|s| s.problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_an_older_model_does_not_come_back_by_dropping_it_but_on_request() {
    let [new, older] = [7, 6].map(|revision| format!("stains CD31 HE\nrevision {revision}\n"));
    let mut daemon = Fixture::start(QUICK);
    daemon.drop_model("new.onnx", &new);
    daemon.until_served(&new).await;
    for (name, content, words) in
        [("old.onnx", MODEL, "served here before"), ("older.onnx", older.as_str(), "is revision 6, and revision 7")]
    {
        daemon.drop_model(name, content);
        let status = daemon.until(|s| s.rejections.back().is_some_and(|last| last.name == name)).await;
        let told = status.rejections.back().expect("told");
        assert!(told.id == "model.downgrade" && told.reason.contains(words), "{told:?}");
        assert_eq!(active(&status), [sha256(&new)]);
    }
    let row = daemon.commander.activate("older.onnx".into()).await.expect("on purpose");
    assert_eq!((row.state, row.revision), (ModelState::Active, Some(6)));
    let row = daemon.commander.rollback().await.expect("to what was replaced");
    assert_eq!(row.sha256, sha256(&new));
    let fault = daemon.commander.activate("nothing.onnx".into()).await.expect_err("not known");
    assert!(fault.reason().contains("no such model"), "{fault}");
    let verified = daemon.commander.verify(sha256(MODEL)[..8].into()).await.expect("kept");
    assert_eq!((verified.sha256, verified.golden.as_str()), (sha256(MODEL), "as they were"));
    assert_eq!(active(&daemon.status.borrow()), [sha256(&new)], "a look changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_a_model_with_which_the_first_sets_fail_is_rolled_back_and_the_sets_are_done_with_the_old_one() {
    let bad = "stains HE CD31\nfails\n";
    let mut daemon = Fixture::start(QUICK);
    daemon.drop_model("bad.onnx", bad);
    daemon.until_served(bad).await;
    for case in ["c1", "c2", "c3"] {
        daemon.bring(&format!("{case}_HE.svs"), "fine");
    }
    let status = daemon.until(|s| s.outcomes.iter().filter(|outcome| outcome.result.is_ok()).count() == 3).await;
    assert_eq!(status.outcomes.iter().filter(|outcome| outcome.result.is_err()).count(), 2, "{:?}", status.outcomes);
    let told = status.rejections.back().expect("told");
    assert_eq!((told.name.as_str(), told.id.as_str()), ("bad.onnx", "model.rolled-back"));
    assert_eq!(active(&status), [sha256(MODEL)]);
    assert_eq!(row(&status, bad).jobs_failed, 2);
    for case in ["c1", "c2", "c3"] {
        assert_eq!(daemon.made_by(&format!("{case}_HE.svs")), sha256(MODEL));
    }
    let status = daemon.until(|s| s.state == State::Idle && s.jobs.is_empty()).await;
    assert_eq!(status.problems, [""; 0], "no set is given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_any_more_gives_way_to_the_one_before_it() {
    let new = "stains HE CD31\nsecond\n";
    let mut daemon = Fixture::start(QUICK);
    daemon.drop_model("second.onnx", new);
    daemon.until_served(new).await;
    let kept = daemon.state.path().join("worker/models").join(sha256(new)).join("second.onnx");
    fs::write(kept, "stains HE CD31\nanother\n").expect("damaged");
    let mut daemon = daemon.restart(QUICK).await;
    let status = daemon.until(|s| !s.problems.is_empty()).await;
    assert!(
        status.problems[0].contains("second.onnx cannot be loaded any more, and m.onnx serves"),
        "{:?}",
        status.problems
    );
    assert_eq!(active(&status), [sha256(MODEL)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_goes_to_the_model_whose_stains_it_has_most_completely() {
    let wide = "stains HE CD31 KI67\n";
    let mut daemon = Fixture::start("[models]\nsettle_seconds = 1\n");
    daemon.drop_model("wide.onnx", wide);
    let status = daemon.until_served(wide).await;
    assert_eq!(active(&status).len(), 2, "other stains, another model");
    for name in ["c1_HE.svs", "c1_CD31.svs", "c2_HE.svs", "c2_KI67.svs"] {
        daemon.bring(name, "fine");
    }
    let status = daemon.until(|s| s.outcomes.len() == 1 && !s.waiting.is_empty()).await;
    assert_eq!(status.waiting, ["c2 (CD31 missing)"]);
    assert_eq!(daemon.made_by("c1_HE.svs"), sha256(MODEL), "complete for it");
    daemon.bring("c2_CD31.svs", "fine");
    daemon.until(|s| s.outcomes.len() == 2).await;
    assert_eq!(daemon.made_by("c2_HE.svs"), sha256(wide));
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_are_processed_again_with_a_new_model_as_far_back_as_configured() {
    let new = "stains HE CD31\nsecond\n";
    let mut daemon = Fixture::start(&QUICK.replace("canary_jobs", "reprocess_days = 1\ncanary_jobs"));
    daemon.bring("c1_HE.svs", "fine");
    daemon.bring("old_HE.svs", "fine");
    testing::touch(&daemon.slide("old_HE.svs"), 1_000_000_000);
    daemon.until(|s| s.outcomes.len() == 2 && s.jobs.is_empty()).await;
    daemon.drop_model("second.onnx", new);
    daemon.until(|s| s.outcomes.len() == 3 && s.jobs.is_empty()).await;
    assert_eq!(daemon.made_by("c1_HE.svs"), sha256(new));
    assert_eq!(daemon.made_by("old_HE.svs"), sha256(MODEL));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_the_daemon_says_so_and_goes_on_when_one_comes() {
    let [folder, state] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let mut daemon = Fixture::start_with(folder, state, "", QUICK);
    daemon.bring("c1_HE.svs", "fine");
    let status = daemon.until(|s| s.waiting == ["c1 (no model)"]).await;
    assert!(status.problems[0].starts_with("no model serves; hint: drop one into "), "{:?}", status.problems);
    daemon.until_told("c1_HE.svs", "no model serves; hint: ").await;
    assert!(daemon.commander.submit(daemon.slide("c1_HE.svs")).await.is_err());
    daemon.drop_model("first.onnx", MODEL);
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(status.problems, [""; 0]);
    assert_eq!(daemon.made_by("c1_HE.svs"), sha256(MODEL));
}

#[tokio::test(flavor = "multi_thread")]
async fn h30_what_has_the_name_of_a_model_and_is_none_is_told_by_id_and_models_go_on() {
    let new = "stains HE CD31\nsecond\n";
    let mut daemon = Fixture::start(QUICK);
    let folder = daemon.state.path().join("models");
    fs::create_dir(folder.join("folder.onnx")).expect("made");
    let fifo = rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("pipe.onnx"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    );
    fifo.expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("s.onnx")).expect("bound");
    std::os::unix::fs::symlink("/nonexistent/m.onnx", folder.join("link.onnx")).expect("made");
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero.onnx")).expect("made");
    let long = format!("{}.onnx", "x".repeat(230));
    fs::write(folder.join(&long), new).expect("written");
    daemon.drop_model("second.onnx", new);
    let status = daemon.until_served(new).await;
    for (name, what) in [
        ("folder.onnx", "(model.not-a-file)"),
        ("pipe.onnx", "is a named pipe"),
        ("s.onnx", "is a socket"),
        ("link.onnx", "is a link that leads nowhere"),
        ("zero.onnx", "is a device"),
        (long.as_str(), "(model.name-too-long)"),
    ] {
        let told = |problem: &&String| problem.contains(name) && problem.contains(what) && problem.contains("hint: ");
        assert!(status.problems.iter().any(|problem| told(&problem)), "{name}: {:?}", status.problems);
        assert_eq!(status.rejections.iter().filter(|told| told.name == name).count(), 1, "{name}");
    }
    fs::remove_dir(folder.join("folder.onnx")).expect("removed");
    daemon.until(|s| !s.problems.iter().any(|problem| problem.contains("folder.onnx"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h30_a_revision_ahead_of_time_is_told_and_a_person_s_word_brings_another_model() {
    let extreme = "stains HE CD31\nrevision 99999999999999\n";
    let next = "stains HE CD31\nrevision 8\n";
    let later = "stains HE CD31\nrevision 9\n";
    let mut daemon = Fixture::start(QUICK);
    daemon.drop_model("extreme.onnx", extreme);
    daemon.until_served(extreme).await;
    let ahead = |s: &Status| s.problems.iter().any(|p| p.contains("revision 99999999999999, greater than any count"));
    daemon.until(|s| ahead(s)).await;
    daemon.drop_model("next.onnx", next);
    daemon.until(|s| s.rejections.back().is_some_and(|told| told.name == "next.onnx")).await;
    daemon.commander.activate("next.onnx".into()).await.expect("on purpose");
    daemon.until(|s| !ahead(s)).await;
    daemon.drop_model("later.onnx", later);
    daemon.until_served(later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_old_models_are_removed_and_one_that_is_dropped_again_can_be_activated() {
    let models: Vec<String> = (0..5).map(|i| format!("stains HE CD31\nnumber {i}\n")).collect();
    let mut daemon = Fixture::start("[models]\nsettle_seconds = 1\nkeep = 1\n");
    for (i, content) in models.iter().enumerate() {
        daemon.drop_model(&format!("m{i}.onnx"), content);
        daemon.until_served(content).await;
    }
    let kept = |content: &String| daemon.state.path().join("worker/models").join(sha256(content)).exists();
    // m4 serves, m3 is what a rollback goes back to, m2 is the newest of the others.
    assert_eq!(models.iter().map(kept).collect::<Vec<_>>(), [false, false, true, true, true]);
    assert!(daemon.state.path().join("models/m0.onnx").exists(), "the user's own file");
    let fault = daemon.commander.activate("m0.onnx".into()).await.expect_err("its copy is gone");
    assert!(fault.to_string().contains("drop its file again"), "{fault}");
    daemon.drop_model("again.onnx", &models[0]);
    let status = daemon.until(|s| s.rejections.back().is_some_and(|told| told.name == "again.onnx")).await;
    assert_eq!(active(&status), [sha256(&models[4])], "its file alone does not bring it back");
    daemon.commander.activate("again.onnx".into()).await.expect("on purpose");
}

#[tokio::test(flavor = "multi_thread")]
async fn h29_a_proof_that_takes_long_is_told_with_its_step_while_the_loop_goes_on() {
    let slow = "stains HE CD31\nslow\n";
    let mut daemon = Fixture::start(QUICK);
    daemon.drop_model("slow.onnx", slow);
    let status = daemon.until(|s| s.waits.iter().any(|wait| wait.what.ends_with("(step: golden)"))).await;
    let wait = status.waits.iter().find(|wait| wait.what.starts_with("proving model slow.onnx")).expect("told");
    assert_eq!(wait.limit, Some(Duration::from_mins(15)));
    daemon.bring("c1_HE.svs", "fine");
    daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(daemon.made_by("c1_HE.svs"), sha256(MODEL), "the old model serves meanwhile");
    daemon.runner.release.send_replace(true);
    daemon.until_served(slow).await;
    daemon.until(|s| s.waits.iter().all(|wait| !wait.what.starts_with("proving"))).await;
}
