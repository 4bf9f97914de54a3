use std::fs;
use std::ops::Range;

use tempfile::TempDir;
use tissuemap::section_set::NamingRules;

use super::*;
use crate::arrive::scan::scan;
use crate::config::Schedule;

const SETTLE: u64 = 10;

/// A real folder and what arrival knows of it.
struct Fixture {
    folder: TempDir,
    watch: Watch,
    arrivals: Arrivals,
    namer: Namer,
    now: Duration,
}

fn at(seconds: u64) -> Range<Duration> {
    Duration::from_secs(seconds)..Duration::from_secs(seconds)
}

impl Fixture {
    fn new(settings: &str, files: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let text = format!("folder = {:?}\nsettle_seconds = {SETTLE}\n{settings}", folder.path());
        let watch: Watch = toml::from_str(&text).expect("valid");
        let namer = Namer::new(&NamingRules::default()).expect("valid");
        let arrivals = Arrivals::new(watch.settle());
        let fixture = Self { folder, watch, arrivals, namer, now: Duration::ZERO };
        for file in files {
            fs::create_dir_all(fixture.path(file).parent().expect("a parent")).expect("create");
            fs::write(fixture.path(file), file).expect("write");
        }
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn look(&mut self, seconds: u64) {
        let snapshot = scan(self.folder.path(), &self.watch.ignore, self.watch.marker.as_ref()).expect("readable");
        self.arrivals.observe(at(seconds), snapshot);
        self.now = Duration::from_secs(seconds);
    }

    fn said(&self, slide: &str, misfits: &[NamingError]) -> Option<(&'static str, String)> {
        let (slide, names) = (self.path(slide), (&self.namer, misfits));
        let next_look = Duration::from_secs(7);
        let situation = arrival(&slide, &self.watch, &self.arrivals, names, self.now, next_look)?;
        let told = explain(&slide, &situation);
        Some((told.state, told.to_string().replace(&format!("{}/", self.folder.path().display()), "")))
    }

    fn says(&self, slide: &str, state: &str, words: &str) {
        let (told, text) = self.said(slide, &[]).expect("not ready");
        assert_eq!((told, text.as_str()), (state, words));
    }
}

#[test]
fn a_slide_on_its_way_is_told_step_by_step() {
    let mut f = Fixture::new("marker = \"{stem}.done\"", &["c1_HE.svs", "c2_HE.svs", "c2_HE.done"]);
    let unseen =
        "c1_HE.svs has not been seen yet; the next look is in 7 s; hint: check the name, and that the file is there";
    f.says("c1_HE.svs", "unseen", unseen);
    f.look(100);
    f.now = Duration::from_secs(104);
    f.says("c1_HE.svs", "changing", "c1_HE.svs may still be copied: unchanged for 4 s of 10 s (1 file, 9 bytes)");
    f.look(110);
    let marker = "c1_HE.svs waits for its marker c1_HE.done; hint: the scanner's software leaves it; where it does not, \
                  take `marker` out of the [[watch]] section";
    f.says("c1_HE.svs", "awaits-marker", marker);
    f.says("c2_HE.svs", "testing", "c2_HE.svs is complete and is being tested");
    let settled = f.arrivals.next_probe().expect("settled");
    f.says("c2_HE.svs", "testing", "c2_HE.svs is complete and is being tested");
    f.arrivals.probed(settled, Err(Fault::new("c2_HE.svs: damaged", "copy it again")), &Schedule::default(), f.now);
    let again = "c2_HE.svs cannot be used, and is tried again in 60 s: c2_HE.svs: damaged; hint: copy it again";
    f.says("c2_HE.svs", "rejected", again);
    f.now += Duration::from_mins(1);
    let settled = f.arrivals.next_reprobe(f.now).expect("once more");
    f.arrivals.probed(settled, Err(Fault::new("c2_HE.svs: damaged", "copy it again")), &Schedule::default(), f.now);
    f.says("c2_HE.svs", "rejected", "c2_HE.svs cannot be used: c2_HE.svs: damaged; hint: copy it again");
}

#[test]
fn a_ready_slide_is_nothing_to_arrival_unless_no_set_takes_it() {
    let mut f = Fixture::new("", &["c1_HE.svs", "nameless.svs"]);
    // The older one is looked at later.
    crate::testing::touch(&f.path("nameless.svs"), 1_000_000_000);
    f.look(0);
    f.look(SETTLE);
    let (_, text) = f.said("nameless.svs", &[]).expect("not ready");
    assert!(text.contains("waits to be tested after 1 others"), "{text}");
    while let Some(settled) = f.arrivals.next_probe() {
        f.arrivals.probed(settled, Ok(()), &Schedule::default(), f.now);
    }
    assert_eq!(f.said("c1_HE.svs", &[]), None);
    let misfit = NamingError::Unmatched(f.path("nameless.svs"));
    let (state, text) = f.said("nameless.svs", &[misfit]).expect("a misfit");
    assert_eq!(state, "unnamed");
    assert!(text.contains("patterns tried: ^(?<case>.+?)_(?<stain>[^_]+)_Run"), "{text}");
    let key = tissuemap::section_set::SetKey { case: "c1".into(), block: None };
    let misfit =
        NamingError::Duplicate { path: f.path("c1_HE.svs"), first: f.path("a/c1_HE.svs"), key, stain: "HE".into() };
    let (state, text) = f.said("c1_HE.svs", &[misfit]).expect("a misfit");
    assert_eq!(state, "duplicate");
    assert!(text.starts_with("c1_HE.svs has stain HE of set c1, as a/c1_HE.svs has"), "{text}");
}

#[test]
fn names_that_are_passed_over_are_told_with_the_reason() {
    let mut f = Fixture::new("", &["c.mrxs", "c/Data0000.dat", "s_HE/1.dcm", "s_HE/2.dcm"]);
    f.look(0);
    let states = [
        ("c1_HE.svs.part", "temporary-name", "c1_HE.svs.part has a name like *.part"),
        ("c1.tmp/c1_HE.svs", "temporary-name", "c1.tmp has a name like *.tmp"),
        (".c1_HE.svs.Xk3", "hidden", "begins with a dot"),
        ("c1_HE.tissuemap/overlay.png", "output", "a result"),
        ("notes.txt", "not-a-slide", "ending of a slide"),
        ("c/Data0000.dat", "part-of", "part of the slide c.mrxs"),
        ("s_HE/2.dcm", "part-of", "part of the slide s_HE/1.dcm"),
    ];
    for (name, state, words) in states {
        let (told, text) = f.said(name, &[]).expect(name);
        assert!(told == state && text.contains(words), "{name}: {told}: {text}");
    }
}

#[test]
fn a_folder_that_cannot_be_read_explains_the_slides_below_it() {
    let mut f = Fixture::new("", &["c1_HE.svs"]);
    let elsewhere = tempfile::tempdir().expect("tempdir");
    std::os::unix::fs::symlink(elsewhere.path(), f.path("archive")).expect("link");
    f.look(0);
    let (state, text) = f.said("archive/c9_HE.svs", &[]).expect("not ready");
    assert_eq!(state, "unreadable");
    assert!(text.contains("outside the watch folder") && text.contains("hint: add a [[watch]]"), "{text}");
}

#[test]
fn every_situation_of_a_set_is_one_line_of_plain_words() {
    let (set, stains) = (|| "c1".to_owned(), || vec!["CD31".to_owned(), "KI67".to_owned()]);
    let fault = || Fault::new("c1_HE.svs: no tissue", "scan again");
    let waits = |then| {
        let left = Duration::from_mins(12);
        Situation::Grouping(Grouping::WaitsForStains { set: set(), missing: stains(), left, then })
    };
    let table = [
        (waits(Incomplete::Wait), "waits-for-stains", "belongs to set c1, which waits for CD31, KI67; hint: bring"),
        (waits(Incomplete::Run), "waits-for-stains", "waits for CD31, KI67 for 12 min more; without it after that"),
        (waits(Incomplete::Skip), "waits-for-stains", "waits for CD31, KI67 for 12 min more; left alone after that"),
        (
            Situation::Grouping(Grouping::Skipped { set: set(), missing: stains() }),
            "skipped",
            "left alone because CD31, KI67 did not come in time; hint: ",
        ),
        (
            Situation::Grouping(Grouping::UnknownStain { set: set(), stain: "PAS".into(), known: stains() }),
            "unknown-stain",
            "the model knows no PAS (CD31, KI67 only); hint: ",
        ),
        (
            Situation::Processing(Processing::Queued { set: set(), number: 3 }),
            "queued",
            "set c1, number 3 in the queue",
        ),
        (
            Situation::Processing(Processing::HeldUp {
                set: set(),
                number: 1,
                fault: Fault::new("disk full", "free it"),
            }),
            "held-up",
            "nothing is begun: disk full; hint: free it",
        ),
        (
            Situation::Processing(Processing::Retrying { set: set(), fault: fault(), wait: Duration::from_secs(90) }),
            "retrying",
            "tried again in 90 s: c1_HE.svs: no tissue; hint: scan again",
        ),
        (
            Situation::Processing(Processing::Failed { set: set(), fault: fault() }),
            "failed",
            "which failed: c1_HE.svs: no tissue; hint: scan again",
        ),
        (
            Situation::Processing(Processing::Running { set: set(), stage: "register", percent: 40 }),
            "running",
            "being processed: register, 40 %",
        ),
        (
            Situation::Processing(Processing::Cancelled { set: set() }),
            "cancelled",
            "cancelled on request; hint: submit",
        ),
        (
            Situation::Processing(Processing::Done {
                set: set(),
                result: "/in/c1_HE.tissuemap".into(),
                reason: "results were there already".into(),
            }),
            "done",
            "set c1, which is done (results were there already); its result, if it could be registered: /in/c1_HE.tissuemap",
        ),
        (Situation::Grouping(Grouping::Due), "ready", "about to be put into its set"),
        (
            Situation::Arriving(Arriving::Elsewhere { folders: vec!["/in".into(), "/share".into()] }),
            "elsewhere",
            "none of the watched folders (/in, /share); hint: ",
        ),
        (
            Situation::Arriving(Arriving::FolderFault(Fault::new("/in: No such file", "mount it"))),
            "folder-fault",
            "cannot be looked at: /in: No such file; hint: mount it",
        ),
    ];
    for (situation, state, words) in table {
        let told = explain(Path::new("/in/c1_HE.svs"), &situation);
        let text = told.to_string();
        assert_eq!(told.state, state);
        assert!(text.starts_with("/in/c1_HE.svs ") && text.contains(words) && !text.contains('\n'), "{text}");
        let json = serde_json::to_value(&told).expect("JSON");
        assert_eq!((&json["state"], &json["slide"]), (&state.into(), &"/in/c1_HE.svs".into()));
    }
}

#[test]
fn times_and_sizes_are_as_people_say_them() {
    let spans = [0, 119, 120, 7199, 7200, 90_061].map(|seconds| span(Duration::from_secs(seconds)));
    assert_eq!(spans, ["0 s", "119 s", "2 min", "119 min", "2 h 0 min", "25 h 1 min"]);
    assert_eq!([17, 3_200_000, 1_700_000_000].map(size), ["17 bytes", "3.2 MB", "1.7 GB"]);
}
