//! A share whose host is gone (hazard h12).

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// A folder in which a look stands still: its manifest is a pipe, and opening one waits for somebody at the other end.
struct Share(TempDir);

impl Share {
    fn new() -> Self {
        let share = Self(tempfile::tempdir().expect("tempdir"));
        mknodat(CWD, share.manifest(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        share
    }

    fn manifest(&self) -> PathBuf {
        self.0.path().join("manifest.csv")
    }

    /// From here on it answers.
    fn come_back(&self) {
        let aside = self.0.path().join("pipe");
        if fs::rename(self.manifest(), &aside).is_ok() && fs::write(self.manifest(), "").is_ok() {
            // Opened for both, a pipe waits for nobody, and who waits for it goes on.
            drop(fs::File::options().read(true).write(true).open(aside));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.0.path().join("pipe").exists() {
            self.come_back();
        }
    }
}

#[tokio::test]
async fn h12_a_folder_that_does_not_answer_is_told_as_a_problem_and_the_others_go_on() {
    let share = Share::new();
    let folder = share.0.path().display();
    let mut daemon = Fixture::start(&format!(
        "[[watch]]\nfolder = \"{folder}\"\nmanifest = \"{}\"\nscan_seconds = 1\n",
        share.manifest().display()
    ));
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
