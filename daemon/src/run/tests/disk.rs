//! A full disk (hazard h07).

use std::process::Command;

use super::*;
use crate::journal::JobState;

const QUICK: &str =
    "[group]\nwait_seconds = 0\nincomplete = \"run\"\n[schedule]\nretry_seconds = 1\nmin_free_mib = 0\n";

#[tokio::test(flavor = "multi_thread")]
async fn h07_a_job_that_finds_the_disk_full_waits_and_goes_on_by_itself() {
    let mut daemon = Fixture::start(QUICK);
    daemon.runner.full.store(true, Ordering::Relaxed);
    daemon.bring("c1_HE.svs", "needs room");
    let status = daemon.until(|s| s.disk.is_some()).await;
    assert_eq!((status.jobs[0].state, status.jobs[0].attempts), (JobState::Requested, 0), "no try was counted");
    assert!(status.problems[0].contains("disk full") && status.problems[0].contains("make room"), "{status:?}");
    // More tries than would quarantine it, were they counted.
    while daemon.jobs().len() < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let attempts = daemon.status.borrow().jobs[0].attempts;
    assert!(attempts <= 1, "only one that goes on is counted: {attempts}");
    daemon.runner.full.store(false, Ordering::Relaxed);
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!((status.disk, status.problems.len()), (None, 0));
    assert!(status.outcomes.iter().all(|outcome| outcome.result.is_ok()), "{:?}", status.outcomes);
}

#[tokio::test(flavor = "multi_thread")]
async fn h07_nothing_is_begun_while_less_is_free_than_configured() {
    let [folder, state] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
    let settings = "[group]\nwait_seconds = 0\nincomplete = \"run\"\n[schedule]\nmin_free_mib = 1000000000\n";
    let mut daemon = Fixture::start_in(folder, state, settings);
    daemon.bring("c1_HE.svs", "fine");
    let status = daemon.until(|s| s.disk.is_some() && s.queue == ["c1"]).await;
    assert_eq!(status.jobs[0].state, JobState::Requested);
    assert_eq!(daemon.jobs().len(), 0);

    let file = daemon.folder.path().join(".tissuemapd.toml");
    let text = fs::read_to_string(&file).expect("readable").replace("1000000000", "1");
    fs::write(&file, text).expect("write");
    daemon.commander.reload(Config::read(&file).expect("valid")).await.expect("that may change");
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(status.disk, None);
}

/// A file system of 2 MiB, gone with the test; None where one may not be mounted.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().expect("tempdir");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(place.path()).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(place))
    }

    /// Leaves only so many bytes free; gives the file that takes the rest.
    fn fill(&self, left: u64) -> PathBuf {
        let state = rustix::fs::statvfs(self.0.path()).expect("readable");
        let free = state.f_bavail * state.f_frsize;
        let filler = self.0.path().join("filler");
        fs::write(&filler, vec![1; free.saturating_sub(left) as usize]).expect("it fits");
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h07_wherever_a_small_disk_runs_full_the_set_is_finished_once_there_is_room() {
    // Full for the journal's first line, for a later one, for the staged picture, for its record.
    for left in [0, 12 << 10, 40 << 10, 300 << 10] {
        let Some(disk) = SmallDisk::mount() else {
            println!("SKIPPED: a small tmpfs cannot be mounted here (needs root); the injected error above stands in");
            return;
        };
        let [folder, state] = ["incoming", "state"]
            .map(|name| tempfile::Builder::new().prefix(name).tempdir_in(disk.0.path()).expect("tempdir"));
        // Both stains make one job, whichever settles first.
        let settings = "[schedule]\nretry_seconds = 1\nmin_free_mib = 0\n";
        let mut daemon = Fixture::start_in(folder, state, settings);
        daemon.runner.bytes.store(200 << 10, Ordering::Relaxed);
        daemon.until(|s| s.state == State::Idle).await;
        daemon.bring("c1_HE.svs", "fine");
        daemon.bring("c1_CD31.svs", "fine");
        let filler = disk.fill(left);
        let status = daemon.until(|s| s.disk.is_some() || s.last_result().is_some()).await;
        assert!(status.disk.is_some(), "{left} bytes were enough: {:?}", status.outcomes);
        fs::remove_file(filler).expect("removed");
        let status = daemon.until(|s| s.last_result().is_some() && s.jobs.is_empty()).await;
        assert!(status.outcomes.iter().all(|outcome| outcome.result.is_ok()), "{left}: {:?}", status.outcomes);
        for stain in ["HE", "CD31"] {
            let picture = daemon.folder.path().join(format!("c1_{stain}.tissuemap/overlay.png"));
            assert_eq!(fs::metadata(picture).expect("there").len(), 200 << 10);
        }
        let left_behind = fs::read_dir(daemon.folder.path()).expect("readable");
        let names = left_behind.map(|entry| entry.expect("entry").file_name());
        let names: Vec<_> = names.filter(|name| name != crate::claim::FILE).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().starts_with(".tissuemap-")), "{left}: {names:?}");
        daemon.stop.send("test").await.expect("alive");
        daemon.daemon.await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h07_what_the_journal_has_no_room_for_is_written_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        println!("SKIPPED: a small tmpfs cannot be mounted here (needs root)");
        return;
    };
    // Only the state lies on the small disk: the set can be finished, and that cannot be written down.
    let state = tempfile::tempdir_in(disk.0.path()).expect("tempdir");
    let mut daemon = Fixture::start_in(tempfile::tempdir().expect("tempdir"), state, QUICK);
    daemon.bring("c1_HE.svs", "hold");
    daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await;
    let filler = disk.fill(0);
    daemon.runner.release.send_replace(true);
    let minute = Duration::from_mins(1);
    let full = daemon.until(|s| s.last_result().is_some() && s.disk.is_some());
    let status = tokio::time::timeout(minute, full).await.expect("it waits for room");
    assert_eq!(status.jobs[0].state, JobState::Running, "no more is in the journal");
    fs::remove_file(filler).expect("removed");
    tokio::time::timeout(minute, daemon.until(|s| s.jobs.is_empty())).await.expect("it is written");
    daemon.stop.send("test").await.expect("alive");
    daemon.daemon.await.expect("no panic").expect("a clean end");
}
