//! The worker processes against real slides, real signals and the real kernel: what they survive, what survives them, and
//! what they cannot do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tissuemap::contract::example;
use tissuemap::infer::InferOptions;
use tissuemap::overlay;
use tissuemap::road::{Progress, SetResult, Stage};
use tissuemap::section_set::{SectionSet, SetKey};
use tissuemap::units::Mpp;
use tissuemap_daemon::config::Config;
use tissuemap_daemon::in_process::InProcess;
use tissuemap_daemon::job::{Backend, Fault, Job, JobRunner};
use tissuemap_daemon::worker::{Vitals, Workers};

use crate::support;
use crate::support::site::{STAINS, scanned, slide};

mod folders;

/// A watched folder with a set in it, a model, and workers for both.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let incoming = folder.path().join("incoming");
        fs::create_dir(&incoming).expect("create");
        for stain in STAINS {
            fs::copy(scanned().join(slide("demo", stain)), incoming.join(slide("c1", stain))).expect("copy");
        }
        let model = example::bytes(&STAINS, 64, Mpp::new(1.0).expect("plausible"), 5);
        fs::write(folder.path().join("model.onnx"), model).expect("write");
        Self { folder }
    }

    fn incoming(&self, name: &str) -> PathBuf {
        self.folder.path().join("incoming").join(name)
    }

    /// With these lines in `[worker]`.
    fn config(&self, worker: &str) -> Config {
        let path = self.folder.path().join("tissuemapd.toml");
        let text = format!(
            "model = \"model.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\n[bus]\nkind = \"none\"\n\
             [worker]\nproviders = [\"cpu\"]\n{worker}"
        );
        fs::write(&path, text).expect("write");
        Config::read(&path).expect("valid")
    }

    fn workers(&self, worker: &str) -> Crew {
        let config = self.config(worker);
        let workers = Workers::start(&support::program("tissuemapd"), &config).expect("they start");
        let model = workers.load(&config.model.expect("configured"), &|_| ()).expect("proved");
        Crew { workers, model }
    }

    fn job(&self) -> Job {
        let slides = STAINS.map(|stain| (stain.to_owned(), self.incoming(&slide("c1", stain))));
        let key = SetKey { case: "c1".into(), block: None };
        Job { set: SectionSet { key, slides: slides.into() }, inputs: BTreeMap::new(), mpp: None }
    }

    /// Folders in the watched folder, hidden ones too.
    fn results(&self) -> Vec<String> {
        let entries = fs::read_dir(self.incoming("")).expect("readable").map(|entry| entry.expect("readable"));
        let folders = entries.filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A worker for first looks, and one for sets.
struct Crew {
    workers: Workers,
    model: Arc<dyn JobRunner>,
}

impl Crew {
    fn jobs(&self) -> Vitals {
        self.workers.jobs()
    }

    fn probes(&self) -> Vitals {
        self.workers.probes()
    }

    fn probe(&self, slide: &Path, mpp: Option<Mpp>) -> Result<(), Fault> {
        self.workers.probe(slide, mpp)
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        self.model.process(job, progress)
    }
}

/// Hears the stages, and does something at the first that is `at`.
struct At<F> {
    at: Stage,
    act: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send> At<F> {
    fn new(at: Stage, act: F) -> Self {
        Self { at, act: Mutex::new(Some(act)) }
    }
}

impl<F: FnOnce() + Send> Progress for At<F> {
    fn stage(&self, stage: Stage, _: u64, _: u64) {
        if stage == self.at
            && let Some(act) = self.act.lock().expect("not poisoned").take()
        {
            act();
        }
    }
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill runs");
    assert!(sent.success(), "kill -{name} {pid}");
}

fn alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // A zombie is dead, it was only not buried yet.
    !stat.rsplit(") ").next().expect("fields").starts_with('Z')
}

/// Waits until `holds`, and gives the time that took.
fn wait_until(what: &str, limit: Duration, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

fn assert_said(fault: &Fault, parts: &[&str]) {
    let text = fault.to_string();
    assert!(parts.iter().all(|part| text.contains(part)) && text.contains("; hint: "), "{parts:?} in {text:?}");
}

/// Every file of a result, without the times in it.
fn content(result: &SetResult) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in &result.outputs {
        for name in overlay::FILES {
            let path = folder.join(name);
            let mut bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if name == overlay::RESULT_JSON {
                let mut record: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
                // The record's own hash goes with its times.
                for field in ["times", "record_sha256"] {
                    record.as_object_mut().expect("an object").remove(field).expect(field);
                }
                bytes = record.to_string().into_bytes();
            }
            files.insert(path, bytes);
        }
    }
    files
}

#[test]
fn h16_a_set_through_the_sandbox_is_the_same_to_the_byte_and_slides_stay_as_they_were() {
    let site = Site::new();
    let before = support::site::originals(&site.incoming(""));
    let workers = site.workers("sandbox = \"best-effort\"\n");
    let job = site.job();
    job.set.slides.values().for_each(|slide| workers.probe(slide, None).expect("whole"));
    let confined = workers.process(&job, &()).expect("processed");
    assert_eq!(confined.outputs.len(), STAINS.len());
    let by_worker = content(&confined);
    assert_eq!(site.results(), ["c1_CD31.tissuemap", "c1_HE.tissuemap", "c1_KI67.tissuemap"]);

    let config = site.config("");
    let here =
        InProcess::load(&config.model.expect("configured"), &config.road, &InferOptions::default()).expect("loads");
    assert_eq!(here.model(), workers.model.model());
    let direct = here.process(&job, &()).expect("processed");
    assert_eq!(
        (&confined.key, confined.tissue_cells, &confined.warnings),
        (&direct.key, direct.tissue_cells, &direct.warnings)
    );
    assert!(by_worker == content(&direct), "the sandboxed result differs");
    assert!(support::site::originals(&site.incoming("")) == before, "originals have changed");
    let staging = fs::read_dir(site.folder.path().join("state/worker/staging")).expect("readable");
    let of_workers: Vec<PathBuf> = staging.map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(of_workers.len(), 1, "one for every worker that serves a model: {of_workers:?}");
    assert_eq!(fs::read_dir(&of_workers[0]).expect("readable").count(), 0, "the staging folder is empty again");
}

#[test]
fn h04_a_worker_that_dies_of_a_signal_is_a_fault_and_the_next_set_is_fine() {
    let site = Site::new();
    let workers = site.workers("");
    let pid = workers.jobs().pid.expect("serves");
    let killed = Mutex::new(None);
    let crash = At::new(Stage::Register, || {
        // Rust's guard against stack overflow catches the first, and lets a true fault happen again.
        signal("SEGV", pid);
        std::thread::sleep(Duration::from_millis(100));
        signal("SEGV", pid);
        *killed.lock().expect("not poisoned") = Some(Instant::now());
    });
    let fault = workers.process(&site.job(), &crash).expect_err("crashed");
    assert_said(&fault, &["c1_HE.tif", "SIGSEGV", "in stage register"]);
    assert_eq!(site.results(), [""; 0], "nothing was published");

    wait_until("another worker", Duration::from_secs(10), || workers.jobs().starts == 2);
    let gap = killed.into_inner().expect("not poisoned").expect("killed").elapsed();
    println!("replaced {gap:?} after the signal");
    assert!(gap < Duration::from_secs(2), "{gap:?} after the signal");
    assert_eq!(workers.process(&site.job(), &()).expect("the next one").outputs.len(), STAINS.len());

    // One that dies while it has nothing to do is replaced as well.
    let probes = workers.probes();
    signal("KILL", probes.pid.expect("serves"));
    let gap = wait_until("another prober", Duration::from_secs(2), || workers.probes().starts == probes.starts + 1);
    println!("idle worker replaced {gap:?} after the signal");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
}

/// A tiled TIFF of one tile of 16384 × 16384 white pixels: 13 MB on the disk, a gigabyte when it is decoded.
fn bomb(path: &Path) {
    const SIDE: u32 = 16384;
    // PackBits: 128 times the same byte.
    let row = [129_u8, 255].repeat((3 * SIDE / 128) as usize);
    let tile = u32::try_from(row.len()).expect("small") * SIDE;
    let tags: [(u16, u16, u32, u32); 11] = [
        (256, 4, 1, SIDE),
        (257, 4, 1, SIDE),
        (258, 3, 3, 8 + 2 + 11 * 12 + 4),
        (259, 3, 1, 32773),
        (262, 3, 1, 2),
        (277, 3, 1, 3),
        (284, 3, 1, 1),
        (322, 4, 1, SIDE),
        (323, 4, 1, SIDE),
        (324, 4, 1, 8 + 2 + 11 * 12 + 4 + 6),
        (325, 4, 1, tile),
    ];
    let mut file = std::io::BufWriter::new(fs::File::create(path).expect("create"));
    let mut head = b"II\x2a\x00\x08\x00\x00\x00\x0b\x00".to_vec();
    for (tag, kind, count, value) in tags {
        head.extend(tag.to_le_bytes());
        head.extend(kind.to_le_bytes());
        head.extend(count.to_le_bytes());
        head.extend(value.to_le_bytes());
    }
    head.extend([0; 4]);
    head.extend([8, 0, 8, 0, 8, 0]);
    file.write_all(&head).expect("write");
    (0..SIDE).for_each(|_| file.write_all(&row).expect("write"));
}

#[test]
fn h04_a_slide_that_takes_more_memory_than_the_cap_is_a_fault_and_the_next_slide_is_fine() {
    let site = Site::new();
    bomb(&site.incoming("bomb_HE.tif"));
    let workers = site.workers("memory_mib = 700\n");
    let fault = workers.probe(&site.incoming("bomb_HE.tif"), Mpp::new(0.5).ok()).expect_err("too large");
    assert_said(&fault, &["bomb_HE.tif", "memory cap of 700 MiB", "memory_mib"]);
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
}

#[test]
fn h04_a_worker_that_hangs_is_killed_at_its_deadline() {
    let site = Site::new();
    let workers = site.workers("job_seconds = 3\nprobe_seconds = 1\n");
    let pid = workers.jobs().pid.expect("serves");
    let hang = At::new(Stage::Register, || signal("STOP", pid));
    let begun = Instant::now();
    let fault = workers.process(&site.job(), &hang).expect_err("hangs");
    assert_said(&fault, &["c1_HE.tif", "not done after 3 seconds", "in stage register", "job_seconds"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    wait_until("another worker", Duration::from_secs(2), || workers.jobs().starts == 2);
    assert!(!alive(pid));

    signal("STOP", workers.probes().pid.expect("serves"));
    let fault = workers.probe(&site.incoming("c1_HE.tif"), None).expect_err("hangs");
    assert_said(&fault, &["c1_HE.tif", "not done after 1 seconds", "probe_seconds"]);
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
}

#[test]
fn h12_the_supervisor_sees_that_a_busy_worker_stands_still() {
    let site = Site::new();
    let workers = site.workers("job_seconds = 4\n");
    assert_eq!(workers.jobs().busy_since, None);
    let pid = workers.jobs().pid.expect("serves");
    let hang = At::new(Stage::Register, || signal("STOP", pid));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| workers.process(&site.job(), &hang));
        let still = || {
            let vitals = workers.jobs();
            vitals.busy_since.is_some() && vitals.last_event.elapsed() > Duration::from_secs(2)
        };
        wait_until("standstill", Duration::from_secs(10), still);
        assert!(running.join().expect("no panic").is_err());
    });
}

/// Wants nothing any more from the stage on.
struct NoMore(Stage, std::sync::atomic::AtomicBool);

impl Progress for NoMore {
    fn stage(&self, stage: Stage, _: u64, _: u64) {
        if stage == self.0 {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        self.1.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn a_cancelled_set_ends_soon_leaves_nothing_and_keeps_the_worker() {
    let site = Site::new();
    let workers = site.workers("");
    let fault = workers.process(&site.job(), &NoMore(Stage::Register, false.into())).expect_err("cancelled");
    assert_said(&fault, &["cancelled"]);
    assert_eq!(site.results(), [""; 0]);
    assert_eq!(workers.jobs().starts, 1, "the same worker goes on");
    workers.process(&site.job(), &()).expect("the next one");
}

#[test]
fn h04_the_running_workers_read_nothing_but_what_was_granted() {
    let site = Site::new();
    let workers = site.workers("");
    let elsewhere = site.folder.path().join("elsewhere_HE.tif");
    fs::copy(site.incoming("c1_HE.tif"), &elsewhere).expect("copy");
    std::os::unix::fs::symlink(&elsewhere, site.incoming("link_HE.tif")).expect("link");
    for path in [&elsewhere, &site.incoming("link_HE.tif")] {
        let fault = workers.probe(path, None).expect_err("not granted");
        assert_said(&fault, &["HE.tif", "Permission denied"]);
    }
    for pid in [workers.jobs().pid, workers.probes().pid] {
        let pid = pid.expect("serves");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
            line.split_whitespace().nth(1).expect("a value").to_owned()
        };
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
        let capabilities = u64::from_str_radix(&field("CapPrm:"), 16).expect("hexadecimal");
        assert_eq!(capabilities & !(1 << 2), 0, "but CAP_DAC_READ_SEARCH");
        let first_to_go = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("alive");
        assert_eq!(first_to_go.trim(), "1000", "where memory runs out");
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("alive");
        assert!(!environment.contains("HOME="), "{environment:?}");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
        assert_eq!(stat.rsplit(')').next().expect("fields").split_whitespace().nth(19 - 3), Some("10"), "nice");
    }
}

#[test]
fn a_folder_that_appears_later_can_be_read() {
    let site = Site::new();
    let (incoming, aside) = (site.incoming(""), site.folder.path().join("aside"));
    fs::rename(&incoming, &aside).expect("rename");
    let workers = site.workers("");
    assert!(workers.probe(&site.incoming("c1_HE.tif"), None).is_err());
    fs::rename(&aside, &incoming).expect("rename");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("readable now");
    assert_eq!(workers.probes().starts, 2);
}

#[test]
fn a_model_that_is_refused_and_a_program_that_is_none_are_told_at_the_start() {
    let site = Site::new();
    let program = support::program("tissuemapd");
    fs::write(site.folder.path().join("model.onnx"), "junk").expect("write");
    let config = site.config("");
    let workers = Workers::start(&program, &config).expect("they need no model");
    let fault = workers.load(&config.model.expect("configured"), &|_| ()).err().expect("no model");
    assert_eq!(fault.id(), Some("onnx.unknown-field"));
    assert_said(&fault, &["model.onnx", "onnx."]);
    let fault = Workers::start(Path::new("/nonexistent/tissuemapd"), &site.config("")).err().expect("no program");
    assert_said(&fault, &["/nonexistent/tissuemapd", "No such file"]);
}

#[test]
fn the_measured_batch_is_kept_and_used_again() {
    let site = Site::new();
    drop(site.workers(""));
    let file = site.folder.path().join("state/batches.json");
    let kept: BTreeMap<String, usize> = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
    assert_eq!(kept.len(), 1);
    let (key, batch) = kept.iter().next().expect("one");
    assert!(key.contains("-cpu-") && [8, 16, 32, 64, 128].contains(batch), "{kept:?}");
    fs::write(&file, format!("{{\"{key}\": 24}}")).expect("write");
    drop(site.workers(""));
    let again: BTreeMap<String, usize> = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
    assert_eq!(again[key], 24, "not measured a second time");
}

/// The processes that `pid` has started.
fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc")
        .expect("readable")
        .filter_map(|entry| entry.expect("readable").file_name().to_str()?.parse::<u32>().ok());
    processes
        .filter(|process| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok()) == Some(pid)
        })
        .collect()
}

#[test]
fn h05_a_killed_daemon_leaves_no_worker_behind() {
    let site = Site::new();
    site.config("");
    let mut daemon = Command::new(support::program("tissuemapd"))
        .args(["run", "--config"])
        .arg(site.folder.path().join("tissuemapd.toml"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    wait_until("two workers", Duration::from_secs(30), || children(daemon.id()).len() == 2);
    let workers = children(daemon.id());
    // One cannot notice by itself.
    signal("STOP", workers[0]);
    daemon.kill().expect("alive");
    daemon.wait().expect("dead");
    wait_until("no worker", Duration::from_secs(2), || !workers.iter().any(|&pid| alive(pid)));
}
