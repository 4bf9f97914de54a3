//! The loop with a real folder, a real bus and a job runner that only pretends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tissuemap::contract::StainSpec;
use tissuemap::durable::Published;
use tissuemap::hex::hex;
use tissuemap::infer::{ProofStep, Provider};
use tissuemap::road::{Progress, SetResult, Stage};
use tissuemap::units::Mpp;

use super::*;
use crate::command::Commander;
use crate::job::{FaultKind, Job, JobRunner, ModelInfo};
use crate::status::State;
use crate::testing;

mod absence;
mod bus;
mod crash;
mod disk;
mod foreign;
mod jobs;
mod models;
mod share;

/// Pretends: what a slide's file says is what becomes of it. Results are real folders with real records.
#[derive(Default)]
struct Pretender {
    jobs: Mutex<Vec<BTreeMap<String, PathBuf>>>,
    /// Jobs whose slides say `needs room` find the disk full.
    full: AtomicBool,
    /// Jobs whose slides say `needs a worker` find that none starts.
    no_worker: AtomicBool,
    /// First looks at slides that say `away for looks`, and jobs of those that say `away for jobs`, find that they cannot be
    /// reached.
    away: AtomicBool,
    /// First looks, in their order.
    looks: Mutex<Vec<PathBuf>>,
    /// How large a slide's result is, beside its record.
    bytes: AtomicUsize,
    /// Jobs whose slides say `hold` go on until this is true or they are cancelled.
    release: watch::Sender<bool>,
}

/// What the daemon of these tests begins with.
const MODEL: &str = "stains HE CD31\n";

/// The model that a file pretends to be: lines `stains HE CD31`, `revision 7`, `refused onnx.opset`, `slow` (its proof waits for
/// [`Pretender::release`]).
fn pretended(path: &Path) -> Result<ModelInfo, Fault> {
    let text = fs::read_to_string(path).expect("readable");
    let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    if let Some(id) = line("refused") {
        return Err(Fault::new(format!("{}: bad", path.display()), "export it again").with_id(id));
    }
    let stain = |name: &str| StainSpec { name: name.into(), aliases: vec![] };
    Ok(ModelInfo {
        path: path.into(),
        sha256: sha256(&text),
        stains: line("stains").expect("a model").split(' ').map(stain).collect(),
        provider: Provider::Cpu,
        revision: line("revision").map(|number| number.parse().expect("a number")),
        golden: "as they were".into(),
    })
}

fn sha256(text: &str) -> String {
    hex(Sha256::digest(text))
}

/// A model of a pretender. One that says `fails` fails whatever it is given.
struct Pretended {
    pretender: Arc<Pretender>,
    model: ModelInfo,
    fails: bool,
}

impl Backend for Arc<Pretender> {
    fn probe(&self, slide: &Path, _: Option<Mpp>) -> Result<(), Fault> {
        self.looks.lock().expect("not poisoned").push(slide.into());
        match fs::read_to_string(slide).expect("readable").as_str() {
            "away for looks" if self.away.load(Ordering::Relaxed) => Err(stale(slide)),
            "broken" => Err(Fault::new(format!("{}: damaged", slide.display()), "copy it again")),
            "probe panics" => panic!("attempt to divide by zero"),
            _ => Ok(()),
        }
    }

    fn load(&self, path: &Path, tell: &dyn Fn(ProofStep)) -> Result<Arc<dyn JobRunner>, Fault> {
        if fs::read_to_string(path).expect("readable").contains("slow") {
            tell(ProofStep::Golden);
            let begun = std::time::Instant::now();
            while !*self.release.borrow() {
                assert!(begun.elapsed() < Duration::from_mins(2), "nobody released this model");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let fails = fs::read_to_string(path).expect("readable").contains("fails");
        Ok(Arc::new(Pretended { pretender: Arc::clone(self), model: pretended(path)?, fails }))
    }
}

impl JobRunner for Pretended {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        if self.fails {
            return Err(Fault::new("index out of range", "report it"));
        }
        self.pretender.process(job, progress, &self.model.sha256)
    }
}

impl Pretender {
    fn process(&self, job: &Job, progress: &dyn Progress, model: &str) -> Result<SetResult, Fault> {
        self.jobs.lock().expect("not poisoned").push(job.set.slides.clone());
        progress.stage(Stage::Infer, 1, 4);
        for slide in job.set.slides.values() {
            match fs::read_to_string(slide).expect("readable").as_str() {
                "fails" => return Err(Fault::new(format!("{}: no tissue", slide.display()), "scan again")),
                "needs room" if self.full.load(Ordering::Relaxed) => {
                    return Err(Fault::from_error(&std::io::Error::from_raw_os_error(28)));
                }
                "needs a worker" if self.no_worker.load(Ordering::Relaxed) => {
                    return Err(
                        Fault::new("it cannot be started", "look for the program").with_kind(FaultKind::NoWorker)
                    );
                }
                "away for jobs" if self.away.load(Ordering::Relaxed) => return Err(stale(slide)),
                "panics" => panic!("index out of bounds"),
                "hold" => {
                    let begun = std::time::Instant::now();
                    while !*self.release.borrow() {
                        // A test that has failed does not release it, and could not say so before it ends.
                        assert!(begun.elapsed() < Duration::from_mins(2), "nobody released this job");
                        if progress.cancelled() {
                            return Err(Fault::from_error(&std::io::Error::other("cancelled")));
                        }
                        std::thread::yield_now();
                    }
                }
                _ => {}
            }
        }
        let run = format!("{:?}", std::time::SystemTime::now());
        let bytes = self.bytes.load(Ordering::Relaxed);
        let outputs =
            testing::publish(&job.set.slides, &run, model, bytes).map_err(|error| Fault::from_error(error.as_ref()))?;
        Ok(set_result(&job.set.key, outputs))
    }
}

/// What a share says whose server was restarted.
fn stale(slide: &Path) -> Fault {
    Fault::unreachable(slide, &std::io::Error::from_raw_os_error(116))
}

/// A running daemon over a folder of its own.
struct Fixture {
    folder: TempDir,
    /// What outlives the daemon, besides the slides.
    state: TempDir,
    runner: Arc<Pretender>,
    commander: Commander,
    status: watch::Receiver<Status>,
    stop: mpsc::Sender<&'static str>,
    daemon: tokio::task::JoinHandle<Result<(), Fault>>,
}

impl Fixture {
    fn start(settings: &str) -> Self {
        let [folder, state] = [(); 2].map(|()| tempfile::tempdir().expect("tempdir"));
        Self::start_in(folder, state, settings)
    }

    fn start_in(folder: TempDir, state: TempDir, settings: &str) -> Self {
        Self::start_with(folder, state, "model = \"m.onnx\"\n", settings)
    }

    fn start_with(folder: TempDir, state: TempDir, model: &str, settings: &str) -> Self {
        let runner = Arc::new(Pretender::default());
        let (sender, status) = watch::channel(Status::default());
        let file = folder.path().join(".tissuemapd.toml");
        let head = format!(
            "{model}drain_seconds = 1\nstate_folder = \"{}\"\n\
             [[watch]]\nfolder = \".\"\nsettle_seconds = 1\nscan_seconds = 1\n",
            state.path().display()
        );
        fs::write(&file, format!("{head}{settings}")).expect("write");
        let config = Config::read(&file).expect("valid");
        let journal = Journal::open(&config.state_folder()).expect("a journal");
        fs::write(folder.path().join("m.onnx"), MODEL).expect("write");
        let backend = Arc::new(Arc::clone(&runner));
        let models = Models::start(&config, &*backend).expect("a model");
        let (commander, commands) = Commander::new();
        let daemon = Daemon::new(config, backend, models, journal, sender, commands).expect("no clash of stains");
        let (stop, stopped) = mpsc::channel(2);
        let daemon = tokio::spawn(daemon.run(stopped, std::future::pending()));
        Self { folder, state, runner, commander, status, stop, daemon }
    }

    /// Ends the daemon as SIGTERM does and starts another one on what it left.
    async fn restart(self, settings: &str) -> Self {
        self.stop.send("test").await.expect("alive");
        self.daemon.await.expect("no panic").expect("a clean end");
        Self::start_in(self.folder, self.state, settings)
    }

    /// A slide as rsync brings it: written under a hidden name, then renamed.
    fn bring(&self, name: &str, content: &str) {
        let hidden = self.folder.path().join(format!(".{name}.x7"));
        fs::write(&hidden, content).expect("write");
        fs::rename(hidden, self.folder.path().join(name)).expect("rename");
    }

    async fn until(&mut self, reached: impl FnMut(&Status) -> bool) -> Status {
        self.status.wait_for(reached).await.expect("the daemon lives").clone()
    }

    fn jobs(&self) -> Vec<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().expect("a file").to_string_lossy().into_owned();
        let jobs = self.runner.jobs.lock().expect("not poisoned");
        jobs.iter().map(|slides| slides.values().map(name).collect()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_set_is_processed_once_and_an_incomplete_one_waits() {
    let mut daemon = Fixture::start("");
    daemon.bring("c1_HE.svs", "fine");
    daemon.bring("c2_HE.svs", "fine");
    daemon.bring("c1_CD31.svs", "fine");
    let status = daemon.until(|s| s.state == State::Idle && s.outcomes.len() == 1).await;
    assert_eq!(status.waiting, ["c2 (CD31 missing)"]);
    assert_eq!(status.model, format!("m.onnx sha256:{}", sha256(MODEL)));
    daemon.bring("c2_CD31.svs", "fine");
    let status = daemon.until(|s| s.state == State::Idle && s.outcomes.len() == 2).await;
    assert_eq!(status.waiting, [""; 0]);
    assert_eq!(daemon.jobs(), [["c1_CD31.svs", "c1_HE.svs"], ["c2_CD31.svs", "c2_HE.svs"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_and_panicking_work_is_labelled_and_the_daemon_goes_on() {
    let mut daemon = Fixture::start("");
    for (case, content) in [("a1", "broken"), ("a2", "probe panics"), ("a3", "fails"), ("a4", "panics")] {
        daemon.bring(&format!("{case}_HE.svs"), content);
        daemon.bring(&format!("{case}_CD31.svs"), "fine");
    }
    let status = daemon.until(|s| s.problems.len() == 4 && s.state == State::Idle).await;
    for (problem, parts) in status.problems.iter().zip([
        ["a1_HE.svs: damaged", "hint: copy it again"],
        ["a2_HE.svs: internal error: attempt to divide by zero", "hint: this is a bug"],
        ["set a3: ", "a3_HE.svs: no tissue; hint: scan again"],
        ["set a4: job: internal error: index out of bounds", "hint: this is a bug"],
    ]) {
        assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
    }
    assert_eq!(status.waiting, ["a1 (HE missing)", "a2 (HE missing)"]);

    daemon.bring("a5_HE.svs", "fine");
    daemon.bring("a5_CD31.svs", "fine");
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(status.last_result().expect("there").set, "a5");

    daemon.bring("a1_HE.svs", "now it is whole");
    daemon.until(|s| s.last_result().is_some_and(|o| o.set == "a1")).await;
    assert_eq!(daemon.jobs().len(), 4, "failed sets are not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn slides_that_fit_no_set_and_a_missing_folder_are_labelled() {
    let mut daemon = Fixture::start("[[watch]]\nfolder = \"/nonexistent/share\"\n");
    daemon.bring("nameless.svs", "fine");
    let status = daemon.until(|s| s.problems.len() == 2).await;
    assert!(status.problems[0].contains("nameless.svs: the file name fits none"), "{:?}", status.problems);
    assert!(status.problems[1].contains("/nonexistent/share: No such file"), "{:?}", status.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_a_naming_of_its_own_forms_its_sets_by_it() {
    let mut daemon = Fixture::start("[watch.naming]\npatterns = ['^(?<stain>[^@]+)@(?<case>.+)$']\n");
    daemon.bring("HE@c1.svs", "fine");
    daemon.bring("CD31@c1.svs", "fine");
    let status = daemon.until(|s| s.last_result().is_some()).await;
    assert_eq!(status.last_result().expect("there").set, "c1");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_lets_a_job_finish_and_begins_nothing_new() {
    let mut daemon = Fixture::start("[group]\nwait_seconds = 0\nincomplete = \"run\"");
    daemon.bring("c1_HE.svs", "hold");
    daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await;
    daemon.stop.send("test").await.expect("alive");
    daemon.until(|s| s.state == State::Draining).await;
    daemon.runner.release.send_replace(true);
    let status = daemon.until(|s| !s.outcomes.is_empty()).await;
    assert!(status.outcomes[0].result.is_ok());
    assert!(daemon.daemon.await.expect("no panic").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_cancels_a_job_that_takes_too_long() {
    let mut daemon = Fixture::start("[group]\nwait_seconds = 0\nincomplete = \"run\"");
    daemon.bring("c1_HE.svs", "hold");
    daemon.until(|s| s.state == State::Busy).await;
    daemon.stop.send("test").await.expect("alive");
    assert!(daemon.daemon.await.expect("no panic").is_ok());
    assert!(daemon.status.borrow().outcomes.is_empty(), "a cancelled job is no result");
}

fn set_result(key: &SetKey, published: Vec<Published>) -> SetResult {
    let moved = published.iter().flat_map(|result| result.warnings.clone()).collect();
    let outputs = published.into_iter().map(|result| result.folder).collect();
    SetResult { key: key.clone(), outputs, tissue_cells: 7, registration: vec![], warnings: vec![], moved }
}
