//! Slides that go away, and files of people where results belong, with the daemon's own loop (hazards h21, h22).

use tissuemap::overlay::{read_record, result_folder};

use super::*;

/// A set waits for a stain for a moment, then goes without.
const PATIENT: &str = "[group]\nwait_seconds = 2\nincomplete = \"run\"\n";

impl Fixture {
    /// The stains that the result beside a slide was made with.
    fn made_with(&self, name: &str) -> Vec<String> {
        let record = read_record(&result_folder(&self.slide(name))).expect("a result");
        record.inputs.into_iter().map(|input| input.stain).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h22_an_archived_stain_leaves_the_result_as_it_is_also_after_a_restart() {
    let mut daemon = Fixture::start(PATIENT);
    daemon.bring("c1_HE.svs", "fine");
    daemon.bring("c1_CD31.svs", "fine");
    daemon.until(|s| s.outcomes.len() == 1 && s.state == State::Idle).await;
    let (slide, archive) = (daemon.slide("c1_CD31.svs"), daemon.state.path().join("archived.svs"));
    fs::rename(&slide, &archive).expect("archived");
    let status = daemon.until(|s| !s.notes.is_empty()).await;
    assert!(status.notes[0].contains("set c1: CD31 not there any more; the results"), "{:?}", status.notes);
    assert_eq!(status.problems, [""; 0], "a note is no error");
    assert_eq!(daemon.made_with("c1_HE.svs"), ["CD31", "HE"]);
    assert_eq!(daemon.jobs().len(), 1);

    // Only the record knows of CD31 now.
    let mut daemon = daemon.restart(PATIENT).await;
    daemon.until(|s| s.notes.iter().any(|note| note.contains("set c1: CD31 not there"))).await;
    assert_eq!(daemon.made_with("c1_HE.svs"), ["CD31", "HE"]);
    fs::rename(&archive, &slide).expect("returned as it was");
    daemon.until(|s| s.notes.is_empty() && s.state == State::Idle && s.arriving.is_empty()).await;
    assert_eq!(daemon.jobs(), [[""; 0]; 0], "nothing is to be done again");

    // A person may want the poorer result.
    fs::rename(&slide, &archive).expect("archived");
    daemon.until(|s| !s.notes.is_empty()).await;
    daemon.commander.submit(daemon.slide("c1_HE.svs")).await.expect("it may be asked for");
    daemon.until(|s| s.last_result().is_some() && s.notes.is_empty()).await;
    assert_eq!(daemon.made_with("c1_HE.svs"), ["HE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn h22_a_slide_that_returns_with_other_content_makes_its_set_run_again() {
    let mut daemon = Fixture::start(PATIENT);
    daemon.bring("c1_HE.svs", "fine");
    daemon.bring("c1_CD31.svs", "fine");
    daemon.until(|s| s.outcomes.len() == 1 && s.state == State::Idle).await;
    fs::remove_file(daemon.slide("c1_CD31.svs")).expect("there");
    daemon.until(|s| !s.notes.is_empty()).await;
    daemon.bring("c1_CD31.svs", "scanned again");
    daemon.until(|s| s.outcomes.len() == 2 && s.notes.is_empty()).await;
    assert_eq!(daemon.jobs().len(), 2);
    assert_eq!(daemon.made_with("c1_HE.svs"), ["CD31", "HE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn h21_notes_in_a_result_outlive_a_late_stain_and_status_tells_of_them() {
    let mut daemon = Fixture::start("[group]\nwait_seconds = 0\nincomplete = \"run\"\n");
    daemon.bring("c1_HE.svs", "fine");
    daemon.until(|s| s.outcomes.len() == 1).await;
    let result = result_folder(&daemon.slide("c1_HE.svs"));
    fs::write(result.join("review.txt"), "reviewed").expect("writable");
    fs::write(result.join("overlay.png"), "painted").expect("writable");
    daemon.bring("c1_CD31.svs", "fine");
    let status = daemon.until(|s| s.outcomes.len() == 2 && !s.notes.is_empty()).await;
    assert_eq!(daemon.made_with("c1_HE.svs"), ["CD31", "HE"]);
    assert_eq!(fs::read_to_string(result.join("review.txt")).expect("there"), "reviewed");
    let kept = daemon.slide("c1_HE.tissuemap.kept-1");
    assert_eq!(fs::read_to_string(kept.join("overlay.png")).expect("there"), "painted");
    assert!(status.notes.iter().any(|note| note.contains("review.txt")), "{:?}", status.notes);
    assert!(status.notes.iter().any(|note| note.contains("kept-1: ")), "{:?}", status.notes);
    let record = read_record(&result).expect("a record");
    assert_eq!(record.warnings.len(), 2, "{:?}", record.warnings);
    assert_eq!(status.problems, [""; 0]);
}
