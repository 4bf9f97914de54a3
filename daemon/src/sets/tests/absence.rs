//! Slides that arrive, leave, return and change in any order, over restarts: which results are replaced (hazard h22). The
//! state machine is the daemon's, and so is what it finds in the records, which are real files; only time, the looks and the
//! model are pretended.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;
use tissuemap::contract::StainSpec;
use tissuemap::infer::Provider;
use tissuemap::overlay::{Record, read_record, result_folder};

use crate::arrive::members::fingerprint;
use crate::done::{Maker, is_done, would_lose};
use crate::job::{Job, ModelInfo};
use crate::sets::*;
use crate::testing;

const STAINS: [&str; 3] = ["HE", "CD31", "CC10"];
const WAIT: Duration = Duration::from_secs(100);

#[derive(Debug, Clone, Copy)]
enum Event {
    /// The slide of this stain is brought, as it was or with other content.
    Bring {
        stain: usize,
        anew: bool,
    },
    TakeAway(usize),
    /// The whole share is away.
    TakeAllAway,
    /// A person submits whatever is there.
    Submit,
    /// The daemon forgets what is not on the disk.
    Restart,
    WaitLong,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..STAINS.len(), prop::bool::weighted(0.3)).prop_map(|(stain, anew)| Event::Bring { stain, anew }),
        4 => (0..STAINS.len()).prop_map(Event::TakeAway),
        1 => Just(Event::TakeAllAway),
        1 => Just(Event::Submit),
        2 => Just(Event::Restart),
        3 => Just(Event::WaitLong),
    ]
}

/// A watch folder with the slides of case c1, and what a daemon does about it.
struct World {
    folder: TempDir,
    /// How often each slide was scanned.
    scans: BTreeMap<&'static str, u64>,
    sets: Sets,
    now: Duration,
    runs: u32,
    model: ModelInfo,
}

impl World {
    fn new() -> Self {
        let stain = |name: &str| StainSpec { name: name.into(), aliases: vec![] };
        let model = ModelInfo {
            path: "m.onnx".into(),
            sha256: "ab".into(),
            stains: STAINS.map(stain).to_vec(),
            provider: Provider::Cpu,
            revision: None,
            golden: String::new(),
        };
        let folder = tempfile::tempdir().expect("tempdir");
        Self { folder, scans: BTreeMap::new(), sets: sets(), now: Duration::ZERO, runs: 0, model }
    }

    fn slide(&self, stain: &str) -> PathBuf {
        self.folder.path().join(format!("c1_{stain}.svs"))
    }

    fn bring(&mut self, stain: &'static str, anew: bool) {
        let scan = self.scans.entry(stain).or_default();
        *scan += u64::from(anew);
        let scan = *scan;
        fs::write(self.slide(stain), format!("scan {scan}")).expect("write");
        // What is copied back from an archive has the time of its scan.
        testing::touch(&self.slide(stain), 1_000_000 + scan);
    }

    fn there(&self) -> BTreeMap<String, PathBuf> {
        let slides = STAINS.map(|stain| (stain.to_owned(), self.slide(stain)));
        slides.into_iter().filter(|(_, slide)| slide.exists()).collect()
    }

    /// A look at the folder, and the jobs that follow; `asked` for by a person or not.
    fn look(&mut self, asked: bool) {
        let slides = self.there();
        let ready = slides.values().map(|slide| (slide.clone(), fingerprint(slide).expect("readable"))).collect();
        let key = SetKey { case: "c1".into(), block: None };
        let set = SectionSet { key: key.clone(), slides: slides.clone() };
        let mut due = self.sets.update(self.now, if slides.is_empty() { vec![] } else { vec![set] }, &ready);
        if asked && self.sets.queue(&key) {
            due = vec![key];
        }
        for key in due {
            let Some((set, inputs)) = self.sets.start(&key) else { continue };
            let job = Job { set, inputs, mpp: None };
            let lost = would_lose(&job, &self.model);
            if is_done(&job, &self.model, Maker::This) {
                self.sets.finish(&key, Ok(()));
            } else if !asked && !lost.is_empty() {
                self.sets.keep(&key, lost.into_iter().collect());
            } else {
                self.run(&job, asked);
                self.sets.finish(&key, Ok(()));
            }
        }
    }

    /// The law: a result is replaced only by one of at least the same stains, or because the content of a slide that it was
    /// made with has changed, or because a person asked.
    fn run(&mut self, job: &Job, asked: bool) {
        let stains: BTreeSet<&String> = job.set.slides.keys().collect();
        for slide in job.set.slides.values() {
            let Some(older) = read_record(&result_folder(slide)) else { continue };
            let richer = older.inputs.iter().all(|input| stains.contains(&input.stain));
            let changed = older.inputs.iter().any(|input| self.is_other_scan(&older, &input.stain));
            assert!(richer || changed || asked, "a result of {:?} is replaced by one of {stains:?}", inputs(&older));
        }
        self.runs += 1;
        testing::publish(&job.set.slides, &format!("run {}", self.runs), &self.model.sha256, 10).expect("published");
    }

    /// Whether the slide of this stain is there, and is another scan than the one that this result was made with.
    fn is_other_scan(&self, record: &Record, stain: &str) -> bool {
        let input = record.inputs.iter().find(|input| input.stain == stain).expect("one of its stains");
        let scan = self.scans.get(stain).copied().unwrap_or_default();
        self.slide(stain).exists() && input.modified_unix_ns != (1_000_000 + scan) * 1_000_000_000
    }
}

fn inputs(record: &Record) -> Vec<&str> {
    record.inputs.iter().map(|input| input.stain.as_str()).collect()
}

fn sets() -> Sets {
    Sets::new(vec![STAINS.map(String::from).to_vec()], WAIT, Incomplete::Run)
}

proptest! {
    // Each writes some hundred files and waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn h22_a_result_is_replaced_by_a_richer_one_or_after_a_change_or_on_request(
        events in prop::collection::vec(event(), 1..25)
    ) {
        let mut world = World::new();
        for event in events {
            world.now += Duration::from_secs(1);
            match event {
                Event::Bring { stain, anew } => world.bring(STAINS[stain], anew),
                Event::TakeAway(stain) => drop(fs::remove_file(world.slide(STAINS[stain]))),
                Event::TakeAllAway => STAINS.iter().for_each(|stain| drop(fs::remove_file(world.slide(stain)))),
                Event::Submit | Event::WaitLong => {}
                Event::Restart => world.sets = sets(),
            }
            if matches!(event, Event::WaitLong) {
                world.look(false);
                world.now += WAIT;
            }
            world.look(matches!(event, Event::Submit));
        }
        // Whatever happened: once all slides are there as they are now, every result is of all of them.
        STAINS.iter().for_each(|stain| world.bring(stain, false));
        world.look(false);
        for stain in STAINS {
            let record = read_record(&result_folder(&world.slide(stain))).expect("a result");
            prop_assert_eq!(record.inputs.len(), STAINS.len());
            prop_assert!(STAINS.iter().all(|stain| !world.is_other_scan(&record, stain)));
        }
        let runs = world.runs;
        // And what leaves and returns as it was makes nothing run again, with or without a restart.
        for restart in [false, true] {
            for stain in STAINS {
                fs::remove_file(world.slide(stain)).expect("there");
                for _ in 0..2 {
                    world.look(false);
                    world.now += WAIT;
                }
                if restart {
                    world.sets = sets();
                    world.look(false);
                    world.now += WAIT;
                }
                world.look(false);
                prop_assert_eq!(world.sets.notes().count(), 1, "{} went away, and that is told", stain);
                world.bring(stain, false);
                world.look(false);
                prop_assert_eq!(world.sets.notes().count(), 0);
                prop_assert_eq!(world.runs, runs);
            }
        }
        world.bring("CD31", true);
        world.look(false);
        prop_assert_eq!(world.runs, runs + 1, "other content makes the set run again");
    }
}
