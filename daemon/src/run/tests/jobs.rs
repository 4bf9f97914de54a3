//! What becomes of jobs: order, tries, people's wishes, and what is remembered over a restart.

use super::*;
use crate::journal::{JobRow, JobState};
use crate::testing::touch;

/// No set waits for stains that do not come.
const AT_ONCE: &str = "[group]\nwait_seconds = 0\nincomplete = \"run\"\n";

/// Tries follow each other quickly.
const QUICK: &str = "[group]\nwait_seconds = 0\nincomplete = \"run\"\n[schedule]\nretry_seconds = 1\n";

impl Fixture {
    pub(super) fn slide(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until what is told of a slide contains this, and gives all of it.
    pub(super) async fn until_told(&self, slide: &str, part: &str) -> String {
        let slide = self.slide(slide);
        for _ in 0..600 {
            let told = self.commander.explain(slide.clone()).await.expect("told").to_string();
            if told.contains(part) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} is never {part:?}: {:?}", slide.display(), self.commander.explain(slide.clone()).await);
    }
}

fn states(status: &Status) -> Vec<(String, JobState, u32)> {
    status.jobs.iter().map(|JobRow { set, state, attempts, .. }| (set.to_string(), *state, *attempts)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn h05_a_set_that_failed_twice_is_quarantined_also_after_a_restart_and_the_next_one_is_fine() {
    let mut daemon = Fixture::start(QUICK);
    daemon.bring("bad_HE.svs", "fails");
    let status = daemon.until(|s| s.problems.iter().any(|p| p.contains("given up after 2 tries"))).await;
    assert!(status.problems[0].contains("set bad: ") && status.problems[0].contains("hint: scan again"), "{status:?}");
    assert_eq!(states(&status), [("bad".into(), JobState::Quarantined, 2)]);
    daemon.bring("good_HE.svs", "fine");
    daemon.until(|s| s.last_result().is_some_and(|outcome| outcome.set == "good")).await;
    assert_eq!(daemon.jobs(), [["bad_HE.svs"], ["bad_HE.svs"], ["good_HE.svs"]]);

    let mut daemon = daemon.restart(QUICK).await;
    let status = daemon.until(|s| !s.problems.is_empty()).await;
    assert!(status.problems[0].contains("given up after 2 tries"), "{:?}", status.problems);
    daemon.until_told("good_HE.svs", "is done").await;
    assert_eq!(daemon.jobs(), [[""; 0]; 0]);

    let bad = status.jobs[0].id;
    daemon.commander.retry(bad).await.expect("it may be asked for");
    daemon.until(|s| states(s) == [("bad".into(), JobState::Quarantined, 2)] && s.outcomes.len() == 2).await;
    let error = daemon.commander.retry(JobId(99)).await.expect_err("there is none");
    assert_eq!(error.reason(), "there is no job 99");
}

#[tokio::test(flavor = "multi_thread")]
async fn h05_touched_and_renamed_slides_are_not_done_again_and_rescanned_ones_are() {
    let mut daemon = Fixture::start("");
    for stain in ["HE", "CD31"] {
        daemon.bring(&format!("c1_{stain}.svs"), &format!("scan 1 of {stain}"));
    }
    daemon.until(|s| s.last_result().is_some()).await;

    touch(&daemon.slide("c1_HE.svs"), 1_700_000_000);
    daemon.until_told("c1_HE.svs", "is done (results were there already)").await;
    assert_eq!(daemon.jobs().len(), 1, "touched");

    let daemon = daemon.restart("").await;
    for stain in ["HE", "CD31"] {
        fs::rename(daemon.slide(&format!("c1_{stain}.svs")), daemon.slide(&format!("c9_{stain}.svs")))
            .expect("renamed");
    }
    daemon.until_told("c9_CD31.svs", "is done (results were there already)").await;
    assert_eq!(daemon.jobs().len(), 0, "renamed");
    assert!(daemon.slide("c9_HE.tissuemap/result.json").exists() && daemon.slide("c9_CD31.tissuemap").exists());
    assert!(!daemon.slide("c1_HE.tissuemap").exists(), "the result follows its slide");

    let mut daemon = daemon.restart("").await;
    daemon.until_told("c9_HE.svs", "is done").await;
    daemon.bring("c9_HE.svs", "scan 2 of HE");
    daemon.until(|s| s.last_result().is_some_and(|outcome| outcome.set == "c9")).await;
    assert_eq!(daemon.jobs(), [["c9_CD31.svs", "c9_HE.svs"]], "scanned again: as long as it was, other content");

    // A copy is no renamed slide: it has a right to a result of its own.
    for stain in ["HE", "CD31"] {
        let content = fs::read_to_string(daemon.slide(&format!("c9_{stain}.svs"))).expect("readable");
        daemon.bring(&format!("copy_{stain}.svs"), &content);
    }
    daemon.until(|s| s.last_result().is_some_and(|outcome| outcome.set == "copy")).await;
    assert!(daemon.slide("c9_HE.tissuemap").exists() && daemon.slide("copy_HE.tissuemap").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_daemon_and_ends_on_request() {
    let mut daemon = Fixture::start(AT_ONCE);
    daemon.commander.pause().await.expect("written down");
    daemon.bring("c1_HE.svs", "fine");
    let status = daemon.until(|s| s.queue == ["c1"]).await;
    assert!(status.paused && status.state == State::Idle);

    let mut daemon = daemon.restart(AT_ONCE).await;
    let status = daemon.until(|s| s.queue == ["c1"]).await;
    assert!(status.paused);
    daemon.until_told("c1_HE.svs", "number 1 in the queue, and nothing is begun: tissuemapd is paused").await;
    assert_eq!(daemon.jobs().len(), 0);
    daemon.commander.resume().await.expect("written down");
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert!(!status.paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_left_alone_also_after_a_restart_until_it_is_asked_for() {
    let mut daemon = Fixture::start(AT_ONCE);
    daemon.bring("c1_HE.svs", "hold");
    let job = daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await.job.expect("runs").id;
    daemon.commander.cancel(job).await.expect("it runs");
    let status = daemon.until(|s| s.state == State::Idle).await;
    assert_eq!(states(&status), [("c1".into(), JobState::Cancelled, 1)]);
    assert_eq!(status.problems, [""; 0], "a wish is no problem");

    let mut daemon = daemon.restart(AT_ONCE).await;
    daemon.until_told("c1_HE.svs", "was cancelled on request").await;
    assert!(daemon.commander.cancel(job).await.is_err(), "it is cancelled already");
    assert_eq!(daemon.jobs().len(), 0);
    daemon.runner.release.send_replace(true);
    daemon.commander.retry(job).await.expect("it may be asked for");
    daemon.until(|s| s.last_result().is_some()).await;
    assert!(daemon.commander.retry(job).await.expect_err("done").to_string().contains("is done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h05_a_job_that_the_end_of_the_daemon_cancelled_begins_again_and_the_try_does_not_count() {
    let mut daemon = Fixture::start(AT_ONCE);
    daemon.bring("c1_HE.svs", "hold");
    daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await;
    let mut daemon = daemon.restart(AT_ONCE).await;
    let status = daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await;
    assert_eq!(states(&status), [("c1".into(), JobState::Running, 1)]);
    daemon.runner.release.send_replace(true);
    daemon.until(|s| s.last_result().is_some() && s.jobs.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_set_is_processed_on_request() {
    let mut daemon = Fixture::start("");
    daemon.bring("c1_HE.svs", "fine");
    daemon.until(|s| s.waiting == ["c1 (CD31 missing)"]).await;
    daemon.until_told("c1_HE.svs", "belongs to set c1, which waits for CD31").await;
    daemon.commander.submit(daemon.slide("c1_HE.svs")).await.expect("it is there");
    daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(daemon.jobs(), [["c1_HE.svs"]]);

    let error = daemon.commander.submit("/elsewhere/c1_HE.svs".into()).await.expect_err("not watched");
    assert!(error.reason().contains("in none of the watched folders"), "{error}");
    let error = daemon.commander.submit(daemon.slide("c2_HE.svs")).await.expect_err("not there");
    assert!(error.reason().contains("has not been seen yet"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_order_holds_and_can_be_changed_while_running() {
    let mut daemon = Fixture::start(AT_ONCE);
    daemon.bring("c0_HE.svs", "hold");
    daemon.until(|s| s.state == State::Busy).await;
    for (case, scanned) in [("c1", 1_700_000_000), ("c2", 1_700_000_200), ("c3", 1_700_000_100)] {
        daemon.bring(&format!("{case}_HE.svs"), "fine");
        touch(&daemon.slide(&format!("{case}_HE.svs")), scanned);
    }
    daemon.until(|s| s.queue == ["c2", "c3", "c1"]).await;

    let file = daemon.slide(".tissuemapd.toml");
    let text = fs::read_to_string(&file).expect("readable");
    fs::write(&file, format!("{text}[schedule]\norder = \"in-order\"\n")).expect("write");
    daemon.commander.reload(Config::read(&file).expect("valid")).await.expect("that may change");
    daemon.until(|s| s.queue == ["c1", "c3", "c2"]).await;
    fs::write(&file, text.replace("m.onnx", "n.onnx")).expect("write");
    let error = daemon.commander.reload(Config::read(&file).expect("valid")).await.expect_err("needs a restart");
    assert!(error.reason().contains("model"), "{error}");

    daemon.runner.release.send_replace(true);
    daemon.until(|s| s.outcomes.len() == 4).await;
    assert_eq!(daemon.jobs(), [["c0_HE.svs"], ["c1_HE.svs"], ["c3_HE.svs"], ["c2_HE.svs"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn h08_after_a_damaged_journal_nothing_is_done_twice() {
    let mut daemon = Fixture::start(AT_ONCE);
    for case in ["c1", "c2", "c3"] {
        daemon.bring(&format!("{case}_HE.svs"), "fine");
    }
    daemon.until(|s| s.outcomes.len() == 3 && s.jobs.is_empty()).await;
    daemon.stop.send("test").await.expect("alive");
    daemon.daemon.await.expect("no panic").expect("a clean end");
    let journal = daemon.state.path().join(Journal::FILE);
    let mut bytes = fs::read(&journal).expect("readable");
    let half = bytes.len() / 2;
    bytes[half..].fill(0xa5);
    fs::write(&journal, bytes).expect("write");

    let daemon = Fixture::start_in(daemon.folder, daemon.state, AT_ONCE);
    for case in ["c1", "c2", "c3"] {
        daemon.until_told(&format!("{case}_HE.svs"), "is done (results were there already)").await;
    }
    assert_eq!(daemon.jobs().len(), 0);
    assert!(daemon.status.borrow().last_error.contains("journal: damaged"), "{:?}", daemon.status.borrow().last_error);
    let kept = fs::read_dir(daemon.state.path()).expect("readable").map(|entry| entry.expect("entry").file_name());
    assert!(kept.into_iter().any(|name| name.to_string_lossy().starts_with("journal.sqlite.corrupt-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn h04_a_set_for_which_no_worker_starts_waits_for_one_and_no_try_counts() {
    let mut daemon = Fixture::start(
        "[group]\nwait_seconds = 0\nincomplete = \"run\"\n[schedule]\nretry_seconds = 1\nmin_free_mib = 0\n",
    );
    daemon.runner.no_worker.store(true, Ordering::Relaxed);
    daemon.bring("c1_HE.svs", "needs a worker");
    // More tries than would quarantine it, were they counted.
    while daemon.jobs().len() < 4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.runner.no_worker.store(false, Ordering::Relaxed);
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!((status.totals.quarantined, status.outcomes.len()), (0, 1), "{:?}", status.outcomes);
}
