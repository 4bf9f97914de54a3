//! A share whose host is gone (hazard h12), that comes and goes (h23), or in which results cannot be written (h24).

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

/// A folder in which a look stands still.
struct Share(TempDir);

impl Share {
    fn new() -> Self {
        let share = Self(tempfile::tempdir().expect("tempdir"));
        testing::silent().insert(share.0.path().into());
        share
    }

    /// From here on it answers.
    fn come_back(&self) {
        testing::silent().remove(self.0.path());
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.come_back();
    }
}

#[tokio::test]
async fn h12_a_folder_that_does_not_answer_is_told_as_a_problem_and_the_others_go_on() {
    let share = Share::new();
    let folder = share.0.path().display();
    let mut daemon = Fixture::start(&format!("[[watch]]\nfolder = \"{folder}\"\nscan_seconds = 1\n"));
    daemon.until(|s| s.state == State::Idle).await;
    assert_eq!(daemon.status.borrow().problems, [""; 0]);

    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(3)).await;
    tokio::time::resume();
    let minute = Duration::from_mins(1);
    let problem = format!("watch folder {folder}: does not answer; hint: ");
    // The other folder was perhaps looked at in that moment, and answers in the next.
    let told = daemon.until(|s| s.problems.len() == 1 && s.problems[0].starts_with(&problem));
    tokio::time::timeout(minute, told).await.expect("told as a problem");
    daemon.bring("c1_HE.svs", "fine");
    daemon.bring("c1_CD31.svs", "fine");
    tokio::time::timeout(minute, daemon.until(|s| s.last_result().is_some())).await.expect("the other folder goes on");

    share.come_back();
    tokio::time::timeout(minute, daemon.until(|s| s.problems.is_empty())).await.expect("it answers again");
}

const QUICK: &str =
    "[group]\nwait_seconds = 0\nincomplete = \"run\"\n[schedule]\nretry_seconds = 1\nmin_free_mib = 0\n";
const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn h23_what_cannot_be_reached_is_told_tried_without_end_and_counts_for_nothing() {
    let mut daemon = Fixture::start(QUICK);
    daemon.runner.away.store(true, Ordering::Relaxed);
    daemon.bring("c1_HE.svs", "away for looks");
    daemon.bring("c2_HE.svs", "away for jobs");
    // More tries than would reject the slide and quarantine the set, were they counted.
    let begun = std::time::Instant::now();
    while daemon.jobs().len() < 3 || daemon.runner.looks.lock().expect("not poisoned").len() < 4 {
        assert!(begun.elapsed() < MINUTE, "given up: {:?}", daemon.status.borrow());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = daemon.status.borrow().clone();
    assert!(status.problems.iter().any(|p| p.contains("c1_HE.svs: Stale file handle")), "{:?}", status.problems);
    assert!(status.jobs.iter().all(|job| job.attempts <= 1), "only one that goes on is counted: {:?}", status.jobs);
    assert_eq!((status.totals.failed, status.totals.quarantined), (0, 0));
    daemon.runner.away.store(false, Ordering::Relaxed);
    let done = daemon.until(|s| s.outcomes.len() == 2 && s.problems.is_empty());
    let status = tokio::time::timeout(MINUTE, done).await.expect("both go on by themselves");
    assert!(status.outcomes.iter().all(|outcome| outcome.result.is_ok()), "{:?}", status.outcomes);
}

#[tokio::test(flavor = "multi_thread")]
async fn h23_a_folder_that_goes_and_comes_back_is_a_state_of_the_folder_and_its_slides_are_done() {
    let mut daemon = Fixture::start(QUICK);
    let other = tempfile::tempdir().expect("tempdir");
    daemon.until(|s| s.state == State::Idle).await;
    let (folder, aside) = (daemon.folder.path().to_path_buf(), other.path().join("aside"));
    daemon.bring("c1_HE.svs", "fine");
    fs::rename(&folder, &aside).expect("the folder goes");
    let told = daemon.until(|s| s.problems.len() == 1 && s.problems[0].contains("No such file"));
    let status = tokio::time::timeout(MINUTE, told).await.expect("told").clone();
    assert!(status.problems[0].starts_with(&format!("watch folder {}", folder.display())), "{:?}", status.problems);
    fs::rename(&aside, &folder).expect("the folder comes");
    let done = daemon.until(|s| s.last_result().is_some() && s.problems.is_empty());
    tokio::time::timeout(MINUTE, done).await.expect("its slide is done");
}

/// A folder that cannot be written until it may be again.
struct ReadOnly {
    place: TempDir,
    mounted: bool,
}

impl ReadOnly {
    /// One that can be written at first; none where root may write everywhere and may not mount.
    fn new() -> Option<Self> {
        let place = tempfile::tempdir().expect("tempdir");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(place.path()).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        let able = mounted || !rustix::process::geteuid().is_root();
        able.then_some(Self { place, mounted })
    }

    fn set(&self, writable: bool) {
        if self.mounted {
            let way = if writable { "remount,rw" } else { "remount,ro" };
            let done = Command::new("mount").args(["-o", way]).arg(self.place.path()).status().expect("mount runs");
            assert!(done.success(), "{way}");
        } else {
            let mode = if writable { 0o755 } else { 0o555 };
            fs::set_permissions(self.place.path(), fs::Permissions::from_mode(mode)).expect("ours");
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.place.path()).status();
        } else {
            self.set(true);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h24_sets_wait_before_any_work_where_results_cannot_be_written_and_others_go_on() {
    let Some(share) = ReadOnly::new() else {
        eprintln!("SKIPPED: root may write everywhere, and nothing can be mounted here");
        return;
    };
    let folder = share.place.path().display();
    for case in ["r1", "r2"] {
        fs::write(share.place.path().join(format!("{case}_HE.svs")), "fine").expect("write");
    }
    share.set(false);
    let more = format!("{QUICK}[[watch]]\nfolder = \"{folder}\"\nsettle_seconds = 1\nscan_seconds = 1\n");
    let mut daemon = Fixture::start(&more);
    let problem = format!("{folder}: results cannot be written here: ");
    let told = daemon.until(|s| s.problems.len() == 1 && s.problems[0].starts_with(&problem));
    tokio::time::timeout(MINUTE, told).await.expect("told once for both");
    daemon.bring("c1_HE.svs", "fine");
    let done = daemon.until(|s| s.last_result().is_some_and(|result| result.set == "c1"));
    let status = tokio::time::timeout(MINUTE, done).await.expect("the other folder goes on");
    assert_eq!(daemon.jobs(), [["c1_HE.svs"]], "nothing was computed in vain");
    assert!(status.jobs.iter().all(|job| job.attempts == 0), "no try was counted: {:?}", status.jobs);
    let slide = share.place.path().join("r1_HE.svs");
    let why = daemon.commander.explain(slide).await.expect("known");
    assert!(why.to_string().contains("results cannot be written here"), "{why}");
    share.set(true);
    let done = daemon.until(|s| s.outcomes.len() == 3 && s.problems.is_empty());
    tokio::time::timeout(MINUTE, done).await.expect("they go on by themselves");
    daemon.stop.send("test").await.expect("alive");
    daemon.daemon.await.expect("no panic").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn h24_the_second_daemon_on_a_folder_is_told_of_the_first_and_takes_over_when_that_ends() {
    let mut first = Fixture::start(QUICK);
    first.until(|s| s.state == State::Idle).await;
    let file = first.folder.path().join(crate::claim::FILE);
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = first.folder.path().display().to_string();
    let mut second =
        Fixture::start(&format!("[[watch]]\nfolder = \"{folder}\"\nsettle_seconds = 1\nscan_seconds = 1\n{QUICK}"));
    let told = second.until(|s| s.problems.iter().any(|p| p.contains("another tissuemapd (pid ")));
    tokio::time::timeout(MINUTE, told).await.expect("told");
    first.bring("c1_HE.svs", "fine");
    tokio::time::timeout(MINUTE, first.until(|s| s.last_result().is_some())).await.expect("the first does it");
    assert!(second.jobs().is_empty());
    first.stop.send("test").await.expect("alive");
    first.daemon.await.expect("no panic").expect("a clean end");
    fs::write(first.folder.path().join("c2_HE.svs"), "fine").expect("write");
    let done = second.until(|s| s.last_result().is_some_and(|result| result.set == "c2"));
    tokio::time::timeout(MINUTE, done).await.expect("the second takes over");
    assert_eq!(second.jobs(), [["c2_HE.svs"]], "what the first did is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn h23_a_good_new_slide_does_not_wait_behind_twenty_thousand_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("tempdir");
    for number in 0..20_000 {
        let slide = folder.path().join(format!("a{number:05}_HE.svs"));
        fs::write(&slide, "broken").expect("write");
        crate::testing::touch(&slide, 1_000_000_000 + number);
    }
    let state = tempfile::tempdir().expect("tempdir");
    let mut daemon = Fixture::start_in(folder, state, QUICK);
    // It comes when the others are being looked at already.
    let begun = daemon.until(|s| !s.problems.is_empty());
    tokio::time::timeout(2 * MINUTE, begun).await.expect("first looks");
    daemon.bring("z_HE.svs", "fine");
    tokio::time::timeout(2 * MINUTE, daemon.until(|s| s.last_result().is_some())).await.expect("done");
    let looks = daemon.runner.looks.lock().expect("not poisoned").len();
    println!("{looks} first looks came before");
    assert!(looks < 20_000, "the new slide waited for all others");
    assert!(daemon.status.borrow().problems.len() < 200, "problems are told by number where they are many");
}
