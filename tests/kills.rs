//! SIGKILL of the supervisor and of its workers at random times, while real sets are processed (hazards h04, h05, h06):
//! in the end, everything is as if nobody had been killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;
use tissuemap::contract::example;
use tissuemap::overlay::RESULT_JSON;
use tissuemap::units::Mpp;
use tissuemap_daemon::journal::{JobId, Journal};

use crate::support;
use crate::support::site::{QUICK_ROAD, STAINS, scanned, slide, succeed};

/// How many processes are killed; more with `TISSUEMAP_KILLS`.
fn kills() -> usize {
    std::env::var("TISSUEMAP_KILLS").ok().map_or(8, |number| number.parse().expect("a number"))
}

/// Slides lie in `box` until they arrive in `incoming`. They are moved, so that both runs see the same paths and times.
struct Site {
    folder: TempDir,
    sets: usize,
}

impl Site {
    fn new(sets: usize) -> Self {
        let site = Self { folder: tempfile::tempdir().expect("tempdir"), sets };
        fs::create_dir(site.path("box")).expect("create");
        let model = example::bytes(&STAINS, 64, Mpp::new(1.0).expect("plausible"), 5);
        fs::write(site.path("model.onnx"), model).expect("write");
        // A set that meets many killed workers is not to be blamed for them here.
        let config = "model = \"model.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nsettle_seconds = 1\n\
                      scan_seconds = 1\n[schedule]\ntries = 100000\nretry_seconds = 1\nretry_max_seconds = 1\n[bus]\n\
                      kind = \"none\"\n[worker]\nproviders = [\"cpu\"]\n";
        // Quick sets: so the kills meet every stage of the work, publishing too, and not registration alone.
        fs::write(site.path("tissuemapd.toml"), format!("{config}{QUICK_ROAD}")).expect("write");
        for (set, stain) in (0..sets).flat_map(|set| STAINS.map(|stain| (set, stain))) {
            let to = site.path("box").join(slide(&case(set), stain));
            fs::copy(scanned().join(slide("demo", stain)), to).expect("copy");
        }
        site.empty();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// No slide has arrived, and the daemon knows of none.
    fn empty(&self) {
        let _ = fs::remove_dir_all(self.path("state"));
        fs::create_dir(self.path("incoming")).expect("create");
    }

    fn bring(&self, set: usize) {
        self.move_slides(set, "box", "incoming");
    }

    fn move_slides(&self, set: usize, from: &str, to: &str) {
        for stain in STAINS {
            let name = slide(&case(set), stain);
            fs::rename(self.path(from).join(&name), self.path(to).join(&name)).expect("moved");
        }
    }

    fn start(&self) -> Child {
        let mut daemon = Command::new(support::program("tissuemapd"));
        let log = fs::File::options().append(true).create(true).open(self.path("log")).expect("writable");
        daemon.args(["run", "--config"]).arg(self.path("tissuemapd.toml")).env_remove("RUST_LOG");
        daemon.stderr(log).spawn().expect("it runs")
    }

    /// Waits until every set has its results, and ends the daemon.
    fn finish(&self, mut daemon: Child) {
        let result = |set, stain| self.path("incoming").join(slide(&case(set), stain)).with_extension("tissuemap");
        let all = || (0..self.sets).all(|set| STAINS.iter().all(|stain| result(set, stain).join(RESULT_JSON).exists()));
        let begun = Instant::now();
        while !all() {
            // As systemd does: a daemon ends where its first worker is killed before it serves.
            if daemon.try_wait().expect("its state").is_some() {
                daemon = self.start();
            }
            if begun.elapsed() > Duration::from_mins(2 + self.sets as u64) {
                let log = fs::read_to_string(self.path("log")).expect("readable");
                panic!("not done: {:?}\n{log}", files(&self.path("incoming")).keys());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        succeed(end(daemon.id()));
        assert!(daemon.wait().expect("it ends").success());
    }

    /// What lies in the folder of slides, which then is emptied.
    fn take_results(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let results = files(&self.path("incoming"));
        (0..self.sets).for_each(|set| self.move_slides(set, "incoming", "box"));
        fs::remove_dir_all(self.path("incoming")).expect("removed");
        results
    }
}

fn case(set: usize) -> String {
    format!("case{set}")
}

fn end(pid: u32) -> Command {
    let mut kill = Command::new("kill");
    kill.args(["-TERM", &pid.to_string()]);
    kill
}

/// Every file at and below, by its path within. Records are without their times.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let name = PathBuf::from(path.file_name().expect("a name"));
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(within, content)| (name.join(within), content)));
            continue;
        }
        let mut content = fs::read(&path).expect("readable");
        if name.as_os_str() == RESULT_JSON {
            let mut record: Value = serde_json::from_slice(&content).expect("JSON");
            // The record's own hash goes with its times.
            for field in ["times", "record_sha256"] {
                record.as_object_mut().expect("an object").remove(field).expect(field);
            }
            content = record.to_string().into_bytes();
        }
        all.insert(name, content);
    }
    all
}

/// The processes whose parent this is.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let text = list.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    text.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn h05_kills_of_supervisor_and_workers_change_no_byte_of_any_result() {
    let kills = kills();
    let site = Site::new((kills / 10).clamp(2, 20));
    let undisturbed = site.start();
    (0..site.sets).for_each(|set| site.bring(set));
    site.finish(undisturbed);
    let expected = site.take_results();
    assert!(expected.len() > 4 * 3 * site.sets, "{:?}", expected.keys());

    site.empty();
    let mut random = ChaCha8Rng::seed_from_u64(kills as u64);
    let (mut daemon, mut supervisors, mut brought) = (site.start(), 0, 0);
    for kill in 0..kills {
        while brought < site.sets && brought * kills <= kill * site.sets {
            site.bring(brought);
            brought += 1;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..3000)));
        let workers = children(daemon.id());
        let victim = random.random_range(0..=workers.len());
        if let Some(worker) = workers.get(victim) {
            // It may have ended by itself just now.
            let _ = Command::new("kill").args(["-KILL", &worker.to_string()]).stderr(Stdio::null()).status();
        } else {
            daemon.kill().expect("it had not ended by itself");
            daemon.wait().expect("it ends");
            supervisors += 1;
            daemon = site.start();
        }
    }
    (brought..site.sets).for_each(|set| site.bring(set));
    site.finish(daemon);
    println!("{supervisors} supervisors and {} workers killed over {} sets", kills - supervisors, site.sets);

    let audit = site.path("state/audit.jsonl");
    let mut verify = Command::new(support::program("tissuemapd"));
    verify.arg("audit").arg(audit);
    succeed(verify);
    let journal = Journal::open(&site.path("state")).expect("whole");
    assert_eq!(journal.moved_aside(), None);
    for id in 1..=site.sets as i64 {
        let row = journal.job(JobId(id)).expect("readable").expect("no set is lost");
        assert_eq!(row.state.as_str(), "done", "{row:?}");
    }
    assert_eq!(journal.job(JobId(site.sets as i64 + 1)).expect("readable"), None, "no set is there twice");
    let results = site.take_results();
    assert_eq!(results.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let changed: Vec<_> = expected.iter().filter(|(path, content)| results[*path] != **content).collect();
    let names: Vec<_> = changed.iter().map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "{names:?}");
}
