//! The loop with a real folder, a real bus and a job runner that only pretends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::StreamExt;
use tempfile::TempDir;
use tissuemap::contract::StainSpec;
use tissuemap::infer::Provider;
use tissuemap::road::{Progress, SetResult, Stage};
use tissuemap::units::Mpp;
use zbus::connection;

use super::*;
use crate::job::{Job, ModelInfo};
use crate::status::State;
use crate::status::dbus::{self, Daemon1Proxy};
use crate::testing;

mod crash;
mod disk;
mod jobs;

/// Pretends: what a slide's file says is what becomes of it. Results are real folders with real records.
#[derive(Default)]
struct Pretender {
    jobs: Mutex<Vec<BTreeMap<String, PathBuf>>>,
    /// Jobs whose slides say `needs room` find the disk full.
    full: AtomicBool,
    /// How large a slide's result is, beside its record.
    bytes: AtomicUsize,
    /// Jobs whose slides say `hold` go on until this is true or they are cancelled.
    release: watch::Sender<bool>,
}

fn model() -> &'static ModelInfo {
    static MODEL: std::sync::OnceLock<ModelInfo> = std::sync::OnceLock::new();
    let stain = |name: &str| StainSpec { name: name.into(), aliases: vec![] };
    MODEL.get_or_init(|| ModelInfo {
        path: "/models/mouse.onnx".into(),
        sha256: "ab12".into(),
        stains: ["HE", "CD31"].map(stain).to_vec(),
        provider: Provider::Cpu,
    })
}

impl JobRunner for Pretender {
    fn model(&self) -> &ModelInfo {
        model()
    }

    fn probe(&self, slide: &Path, _: Option<Mpp>) -> Result<(), Fault> {
        match fs::read_to_string(slide).expect("readable").as_str() {
            "broken" => Err(Fault::new(format!("{}: damaged", slide.display()), "copy it again")),
            "probe panics" => panic!("attempt to divide by zero"),
            _ => Ok(()),
        }
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        self.jobs.lock().expect("not poisoned").push(job.set.slides.clone());
        progress.stage(Stage::Infer, 1, 4);
        for slide in job.set.slides.values() {
            match fs::read_to_string(slide).expect("readable").as_str() {
                "fails" => return Err(Fault::new(format!("{}: no tissue", slide.display()), "scan again")),
                "needs room" if self.full.load(Ordering::Relaxed) => {
                    return Err(Fault::from_error(&std::io::Error::from_raw_os_error(28)));
                }
                "panics" => panic!("index out of bounds"),
                "hold" => {
                    while !*self.release.borrow() {
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
        let outputs = testing::publish(&job.set.slides, &run, &model().sha256, bytes)
            .map_err(|error| Fault::from_error(error.as_ref()))?;
        Ok(set_result(&job.set.key, outputs))
    }
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
        let runner = Arc::new(Pretender::default());
        let (sender, status) = watch::channel(Status::default());
        let file = folder.path().join(".tissuemapd.toml");
        let head = format!(
            "model = \"m.onnx\"\ndrain_seconds = 1\nstate_folder = \"{}\"\n\
             [[watch]]\nfolder = \".\"\nsettle_seconds = 1\nscan_seconds = 1\n",
            state.path().display()
        );
        fs::write(&file, format!("{head}{settings}")).expect("write");
        let config = Config::read(&file).expect("valid");
        let journal = Journal::open(&config.state_folder()).expect("a journal");
        let shared: Arc<dyn JobRunner> = Arc::<Pretender>::clone(&runner);
        let daemon = Daemon::new(config, shared, journal, sender).expect("no clash of stains");
        let commander = daemon.commander();
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
    assert_eq!(status.model, "/models/mouse.onnx sha256:ab12");
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

/// A bus of our own, ended with the test.
struct PrivateBus {
    process: Child,
    address: String,
}

impl PrivateBus {
    fn start() -> Self {
        let mut process = std::process::Command::new("dbus-daemon")
            .args(["--session", "--print-address", "--nofork", "--nopidfile"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is installed (package dbus)");
        let mut address = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut address).expect("its address");
        Self { process, address: address.trim().to_owned() }
    }

    fn builder(&self) -> connection::Builder<'static> {
        connection::Builder::address(zbus::Address::try_from(self.address.as_str()).expect("valid"))
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_shows_properties_and_sends_signals() {
    let bus = PrivateBus::start();
    let mut daemon = Fixture::start("");
    let service = dbus::serve(bus.builder(), daemon.status.clone()).await.expect("served");
    tokio::spawn(dbus::announce(service, daemon.status.clone()));

    let client = bus.builder().build().await.expect("connected");
    let proxy = Daemon1Proxy::new(&client).await.expect("there");
    let mut ready = proxy.receive_result_ready().await.expect("subscribed");
    let mut failed = proxy.receive_job_failed().await.expect("subscribed");
    let mut jobs = proxy.receive_current_job_changed().await;
    let mut stages = proxy.receive_stage_changed().await;

    daemon.bring("c1_HE.svs", "hold");
    daemon.bring("c1_CD31.svs", "fine");
    daemon.bring("c2_HE.svs", "fails");
    daemon.bring("c2_CD31.svs", "fine");
    while jobs.next().await.expect("a change").get().await.expect("a value") != "c1" {}
    while stages.next().await.expect("a change").get().await.expect("a value") != "infer" {}
    daemon.until(|s| s.queue == ["c2"]).await;
    // The cache of the proxy follows by signals; a fresh proxy asks.
    let proxy = Daemon1Proxy::new(&client).await.expect("there");
    assert_eq!(proxy.state().await.expect("state"), "busy");
    assert_eq!(proxy.current_job().await.expect("job"), "c1");
    assert_eq!(proxy.queue().await.expect("queue"), ["c2"]);
    assert!((proxy.progress().await.expect("progress") - 0.25).abs() < 1e-9);
    assert_eq!(proxy.version().await.expect("version"), env!("CARGO_PKG_VERSION"));
    daemon.runner.release.send_replace(true);

    let signal = ready.next().await.expect("a signal");
    let args = signal.args().expect("two arguments");
    assert_eq!(args.set, "c1");
    let output = daemon.folder.path().canonicalize().expect("exists").join("c1_HE.tissuemap");
    assert!(args.outputs.iter().any(|path| path.ends_with("c1_HE.tissuemap")), "{:?} {output:?}", args.outputs);
    let signal = failed.next().await.expect("a signal");
    let args = signal.args().expect("two arguments");
    assert_eq!(args.set, "c2");
    assert!(args.reason.contains("c2_HE.svs: no tissue; hint: scan again"), "{}", args.reason);

    daemon.until(|s| s.state == State::Idle).await;
    let proxy = Daemon1Proxy::new(&client).await.expect("there");
    assert!(proxy.last_error().await.expect("error").contains("no tissue"));
    let last: serde_json::Value = serde_json::from_str(&proxy.last_result().await.expect("result")).expect("JSON");
    assert_eq!(last["set"], "c1");
    assert_eq!(last["outputs"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_introspection_file_is_what_the_bus_tells() {
    let bus = PrivateBus::start();
    let (_sender, status) = watch::channel(Status::default());
    let _service = dbus::serve(bus.builder(), status).await.expect("served");
    let client = bus.builder().build().await.expect("connected");
    let object =
        zbus::fdo::IntrospectableProxy::builder(&client).destination(dbus::NAME).path(dbus::PATH).build().await;
    let told = object.expect("there").introspect().await.expect("introspectable");

    // Only our own interface; the standard ones come with the library.
    let begin = told.find("  <interface name=\"org.tissuemap.Daemon1\">").expect("our interface");
    let end = begin + told[begin..].find("  </interface>").expect("its end") + "  </interface>\n".len();
    let head = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
                \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node name=\"/org/tissuemap/Daemon1\">\n";
    let told = format!("{head}{}</node>\n", &told[begin..end]);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/org.tissuemap.Daemon1.xml");
    let written = fs::read_to_string(&file).unwrap_or_default();
    if written != told {
        let actual = std::env::temp_dir().join("org.tissuemap.Daemon1.xml");
        fs::write(&actual, told).expect("write");
        panic!("{} differs from what the bus tells; that is now in {}", file.display(), actual.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_told_that_the_name_is_taken() {
    let bus = PrivateBus::start();
    let (_sender, status) = watch::channel(Status::default());
    let _first = dbus::serve(bus.builder(), status.clone()).await.expect("served");
    assert!(matches!(dbus::serve(bus.builder(), status).await, Err(zbus::Error::NameTaken)));
}

fn set_result(key: &SetKey, outputs: Vec<PathBuf>) -> SetResult {
    SetResult { key: key.clone(), outputs, tissue_cells: 7, registration: vec![], warnings: vec![] }
}
