//! A simulated scanner brings slides to the daemon's own loop: real files, real file system events, and a job runner that
//! writes down what it was given and whether every byte was there. More slides: `scanner-simulator trial --slides 1000`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use tissuemap_daemon::arrive::names::Marker;
use tissuemap_scanner::plan::Wish;
use tissuemap_scanner::recorder::Act;
use tissuemap_scanner::script::{STYLES, Stalls};
use tissuemap_scanner::template::Template;
use tissuemap_scanner::trial::{Outcome, Setup, trial};

use crate::support;

const SETTLE: Duration = Duration::from_secs(1);

/// Slides with stalls just short of the settle time.
fn wish(slides: usize) -> Wish {
    Wish {
        seed: 5,
        slides,
        stains: ["HE", "CD31", "KI67"].map(String::from).to_vec(),
        bytes: 60_000,
        stalls: Stalls { most: 3, length: SETTLE.mul_f64(0.75)..SETTLE.mul_f64(0.9) },
        burst: false,
        marker: None,
        prefix: "c".into(),
    }
}

fn setup() -> Setup {
    Setup {
        settle_seconds: SETTLE.as_secs(),
        scan_seconds: 2,
        poll: false,
        parallel: 48,
        patience: Duration::from_mins(5),
    }
}

fn hold(wish: &Wish, setup: &Setup, templates: Option<&[Template]>) -> Outcome {
    let folder = tempfile::tempdir().expect("tempdir");
    let outcome = trial(folder.path(), wish, setup, templates).expect("carried out");
    eprintln!("{}", outcome.verdict);
    assert!(outcome.verdict.is_good(), "{}", outcome.verdict);
    assert_eq!(outcome.problems, [""; 0]);
    // On a machine so busy that copies stall by themselves, nothing is proved: better to say so than to pass.
    let judged = outcome.ledger.len() - outcome.verdict.overslept.len();
    assert!(judged * 4 >= outcome.ledger.len() * 3, "the machine is too busy: {}", outcome.verdict);
    outcome
}

/// One trial for all who look at its sides.
fn mixed() -> &'static Outcome {
    static OUTCOME: OnceLock<Outcome> = OnceLock::new();
    OUTCOME.get_or_init(|| hold(&wish(144), &setup(), None))
}

#[test]
fn h01_no_style_of_copying_with_stalls_short_of_the_settle_time_is_taken_early() {
    let outcome = mixed();
    let styles: BTreeSet<&str> = outcome.ledger.iter().map(|entry| entry.style.as_str()).collect();
    let kinds: BTreeSet<&str> = outcome.ledger.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(styles.len(), STYLES.len(), "{styles:?}");
    assert_eq!(kinds, BTreeSet::from(["plain", "mirax", "dicom"]));
    let longest = outcome.ledger.iter().map(|entry| entry.longest_pause).fold(0.0, f64::max);
    assert!(longest > 0.85 * SETTLE.as_secs_f64(), "stalls that long were meant to be: {longest}");
}

#[test]
fn h03_stains_that_come_in_every_order_are_one_job_with_all_of_them() {
    let outcome = mixed();
    let mut came: BTreeMap<&str, Vec<(f64, &str)>> = BTreeMap::new();
    for entry in &outcome.ledger {
        came.entry(&entry.set).or_default().push((entry.complete, &entry.stain));
    }
    let mut orders = BTreeSet::new();
    for stains in came.values_mut() {
        stains.sort_by(|a, b| a.0.total_cmp(&b.0));
        orders.insert(stains.iter().map(|(_, stain)| *stain).collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 6, "all orders of three stains were meant to be: {orders:?}");

    let overslept = |set: &str| outcome.ledger.iter().any(|e| e.set == set && e.longest_pause >= SETTLE.as_secs_f64());
    for set in came.keys().filter(|set| !overslept(set)) {
        let job = outcome.sightings.iter().filter(|s| s.act == Act::Process && s.set == **set);
        let slides: BTreeSet<_> = job.clone().map(|sighting| &sighting.slide).collect();
        assert_eq!((job.count(), slides.len()), (3, 3), "set {set} is one job of three slides");
    }
}

#[test]
fn h01_real_slides_of_several_files_are_taken_whole() {
    let Some(data) = support::data("h01_real_slides_of_several_files_are_taken_whole") else { return };
    let mut templates = Template::read_all(&data.join("slides/openslide-fixtures/openslide-rs")).expect("slides");
    templates.extend(Template::read_all(&data.join("slides/corrupt/complex_tiff")).expect("slides"));
    templates.extend(Template::read_all(&data.join("slides/dicom-camelyon")).expect("slides"));
    let outcome = hold(&wish(45), &setup(), Some(&templates));
    let kinds: BTreeSet<&str> = outcome.ledger.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["plain", "mirax", "dicom"]));
}

#[test]
fn h02_with_every_event_lost_every_slide_is_done_once() {
    hold(&wish(48), &Setup { poll: true, ..setup() }, None);
}

#[test]
fn h02_more_events_than_the_kernel_keeps_and_every_slide_is_done_once() {
    // Creating, opening, writing and closing a file are six events: 18,000, where the kernel keeps 16,384.
    let burst = Wish { slides: 3000, bytes: 1000, burst: true, ..wish(0) };
    assert_eq!(hold(&burst, &setup(), None).ledger.len(), 3000);
}

#[test]
fn a_slide_is_not_taken_before_its_marker_is_there() {
    let marker = Marker::try_from("{stem}.done".to_owned()).expect("a marker");
    let outcome = hold(&Wish { marker: Some((marker, 2 * SETTLE)), ..wish(24) }, &setup(), None);
    assert!(outcome.ledger.iter().all(|entry| entry.complete - entry.touched >= 2.0 * SETTLE.as_secs_f64()));
}
