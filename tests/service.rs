//! `tissuemapd` as a service: a real process, a socket in place of systemd's, LEDs and metrics in a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tissuemap::contract::example;
use tissuemap::units::Mpp;

use crate::support;
use crate::support::site::{STAINS, scanned, slide};

/// One status, told in four ways.
mod status;

/// The unit: what systemd's own tools say of it, and real work within its sandbox.
mod unit;

/// systemd ends a daemon that is silent for so long; here, it only listens.
const WATCHDOG: Duration = Duration::from_millis(600);
const LIGHTS: [&str; 3] = ["ready", "busy", "attention"];

/// A scanner's computer.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().expect("tempdir"));
        fs::create_dir(site.path("incoming")).expect("create");
        let model = example::bytes(&STAINS, 64, Mpp::new(1.0).expect("plausible"), 5);
        fs::write(site.path("model.onnx"), model).expect("write");
        for light in LIGHTS {
            fs::create_dir_all(site.path("leds").join(light)).expect("create");
            fs::write(site.path("leds").join(light).join("brightness"), "0").expect("write");
            fs::write(site.path("leds").join(light).join("max_brightness"), "1").expect("write");
        }
        site.configure("drain_seconds = 5", 60);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `stall`: seconds that a worker may be silent in the midst of work.
    fn configure(&self, first: &str, stall: u64) {
        let text = format!(
            "{first}\nmodel = \"model.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nsettle_seconds = 1\n\
             scan_seconds = 1\n[bus]\nkind = \"none\"\n[worker]\nproviders = [\"cpu\"]\nstall_seconds = {stall}\n\
             [leds]\nready = \"ready\"\nbusy = \"busy\"\nattention = \"attention\"\nclass_folder = \"leds\"\n\
             [metrics]\nfile = \"tissuemap.prom\"\n"
        );
        fs::write(self.path("tissuemapd.toml"), text).expect("write");
    }

    fn brightness(&self, light: &str) -> String {
        fs::read_to_string(self.path("leds").join(light).join("brightness")).expect("readable")
    }

    /// What the metrics say, without labels.
    fn metric(&self, name: &str) -> Option<f64> {
        let text = fs::read_to_string(self.path("tissuemap.prom")).ok()?;
        text.lines().find_map(|line| line.strip_prefix(&format!("tissuemap_{name} "))?.parse().ok())
    }

    fn bring(&self, case: &str) {
        for stain in STAINS {
            let to = self.path("incoming").join(slide(case, stain));
            fs::copy(scanned().join(slide("demo", stain)), to).expect("copy");
        }
    }

    fn start(&self) -> Daemon {
        let mut command = Command::new(support::program("tissuemapd"));
        command.args(["run", "--config"]).arg(self.path("tissuemapd.toml"));
        Daemon::start(self, command)
    }
}

/// What was heard, and when.
type Heard<T> = Arc<Mutex<Vec<(Instant, T)>>>;

/// A running `tissuemapd` with somebody who listens to it; killed with the test.
struct Daemon {
    child: Child,
    notes: Heard<String>,
    log: Arc<Mutex<String>>,
    /// Its log is not read.
    deaf: Arc<AtomicBool>,
}

impl Daemon {
    /// By a command that runs `tissuemapd` or becomes it.
    fn start(site: &Site, mut command: Command) -> Self {
        let socket = site.path("notify");
        let _ = fs::remove_file(&socket);
        let listener = UnixDatagram::bind(&socket).expect("bound");
        let notes = Heard::default();
        let heard = Arc::clone(&notes);
        std::thread::spawn(move || {
            let mut text = [0; 4096];
            while let Ok(length) = listener.recv(&mut text) {
                let text = String::from_utf8_lossy(&text[..length]).into_owned();
                heard.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), text));
            }
        });
        let mut child = command
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (log, deaf) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
        let (mut stderr, text, stop) = (child.stderr.take().expect("piped"), Arc::clone(&log), Arc::clone(&deaf));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                while stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let Ok(length @ 1..) = stderr.read(&mut bytes) else { return };
                text.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        let daemon = Self { child, notes, log, deaf };
        daemon.until("it is ready", || daemon.heard("READY=1").len() == 1);
        daemon
    }

    /// When it said this, alone or among other things.
    fn heard(&self, what: &str) -> Vec<Instant> {
        let notes = self.notes.lock().expect("not poisoned");
        notes.iter().filter(|(_, text)| text.lines().any(|line| line.contains(what))).map(|(at, _)| *at).collect()
    }

    /// Times at which it said that it is alive, from then on.
    fn alive_since(&self, then: Instant) -> Vec<Duration> {
        self.heard("WATCHDOG=1").into_iter().filter_map(|at| at.checked_duration_since(then)).collect()
    }

    fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_mins(3), "never: {what}\n{}\n{:?}", self.log(), self.notes);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    fn end(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.deaf.store(false, Ordering::Relaxed);
    }
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill runs");
    assert!(sent.success(), "kill -{name} {pid}");
}

/// The longest time between two of these, and from the last to now.
fn longest_silence(times: &[Duration], until: Duration) -> Duration {
    let ends = times.iter().copied().chain([until]);
    let begins = [Duration::ZERO].into_iter().chain(times.iter().copied());
    begins.zip(ends).map(|(begin, end)| end.saturating_sub(begin)).max().unwrap_or(until)
}

#[test]
fn h12_systemd_hears_of_a_working_daemon_all_the_time() {
    let site = Site::new();
    let daemon = site.start();
    site.bring("c1");
    let begun = Instant::now();
    daemon.until("a set was processed", || site.metric("jobs_done_total") == Some(1.0));
    let (pings, time) = (daemon.alive_since(begun), begun.elapsed());
    // It says so twice within the limit. A loaded machine may delay one.
    assert!(longest_silence(&pings, time) < 3 * WATCHDOG, "alive while it works: {pings:?} of {time:?}");
    assert!(!daemon.heard("STATUS=busy: c1, infer").is_empty(), "{:?}", daemon.notes);
}

#[test]
fn h12_systemd_hears_nothing_while_a_worker_is_frozen_and_the_worker_is_replaced() {
    let site = Site::new();
    // Silent steps of real work take longer than that on a loaded machine: here, the worker is frozen before it begins.
    site.configure("drain_seconds = 5", 1);
    let daemon = site.start();
    let log = daemon.log();
    let pid = log.split("worker=\"jobs\" pid=").nth(1).and_then(|rest| rest.split(' ').next()).expect("its number");
    let pid = pid.parse().expect("a number");
    site.bring("c1");
    daemon.until("it is busy", || !daemon.heard("STATUS=busy: c1").is_empty());
    signal("STOP", pid);
    let frozen = Instant::now();
    daemon.until("the worker was replaced", || site.metric("worker_restarts_total") == Some(1.0));
    let replaced = frozen.elapsed();
    let pings = daemon.alive_since(frozen);
    // One second without progress is allowed here; ten seconds later it is killed.
    let silent = pings.iter().filter(|at| (2..9).contains(&at.as_secs())).count();
    assert_eq!(silent, 0, "nobody vouches for a frozen worker: {pings:?}");
    assert!(replaced > Duration::from_secs(9), "{replaced:?}");
    daemon.until("it is alive again", || daemon.alive_since(frozen).iter().any(|&at| at > replaced));
    let log = daemon.log();
    assert!(log.contains("Not alive") && log.contains("no progress for more than 1 seconds"), "{log}");
    assert_eq!(site.metric("jobs_failed_total"), Some(1.0), "the try counts");
}

#[test]
fn h12_systemd_hears_nothing_and_lights_are_dark_when_the_loop_stands_still() {
    let site = Site::new();
    let daemon = site.start();
    daemon.until("it says so", || !daemon.heard("WATCHDOG=1").is_empty());
    // Nobody reads its log any more. What it says of broken slides fills the pipe, and the loop waits for room.
    daemon.deaf.store(true, Ordering::Relaxed);
    for i in 0..400 {
        let name = format!("{}{i}_HE.svs", "long".repeat(50));
        fs::write(site.path("incoming").join(name), "no slide").expect("write");
    }
    let begun = Instant::now();
    let last = || daemon.alive_since(begun).last().copied().unwrap_or_default();
    daemon.until("it is silent", || begun.elapsed() > last() + 5 * WATCHDOG);
    let frozen = last();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(LIGHTS.map(|light| site.brightness(light)), ["0"; 3], "blinking means alive");
    }
    assert_eq!(last(), frozen, "nobody but the loop may say that it is alive");

    daemon.deaf.store(false, Ordering::Relaxed);
    daemon.until("it is alive again", || last() > frozen);
    daemon.until("it blinks again", || site.brightness("ready") == "1");
}

#[test]
fn h13_a_killed_daemon_leaves_no_light_once_systemd_has_cleaned_up() {
    let site = Site::new();
    let mut daemon = site.start();
    for lit in ["1", "0", "1"] {
        daemon.until("the light blinks", || site.brightness("ready") == lit);
    }
    daemon.until("metrics are there", || site.metric("up") == Some(1.0));
    daemon.signal("KILL");
    daemon.child.wait().expect("it ends");
    assert_eq!(site.brightness("ready"), "1", "as it was at that moment");
    // What the unit has systemd do then, with the program and the configuration of the test.
    let [line] = &unit::values("ExecStopPost")[..] else { panic!("one line") };
    let words: Vec<&str> = line.trim_start_matches('-').split(' ').collect();
    let ["/usr/bin/tissuemapd", command, "--config", "/etc/tissuemap/tissuemapd.toml"] = words[..] else {
        panic!("{line}")
    };
    let cleaned = Command::new(support::program("tissuemapd"))
        .args([command, "--config"])
        .arg(site.path("tissuemapd.toml"))
        .status()
        .expect("it runs");
    assert!(cleaned.success());
    assert_eq!(LIGHTS.map(|light| site.brightness(light)), ["0"; 3]);
    assert_eq!((site.metric("up"), site.metric("queue_length")), (Some(0.0), None));
}

#[test]
fn systemd_hears_of_every_change_and_the_audit_log_of_every_wish() {
    let site = Site::new();
    let mut daemon = site.start();
    let starting = daemon.heard("STATUS=starting").first().copied().expect("told");
    assert!(starting < daemon.heard("READY=1")[0], "ready only with the model");

    site.configure("drain_seconds = 7", 60);
    daemon.signal("HUP");
    daemon.until("it has read it", || daemon.heard("READY=1").len() == 2);
    assert_eq!((daemon.heard("RELOADING=1").len(), daemon.heard("MONOTONIC_USEC=").len()), (1, 1));
    assert!(daemon.log().contains("Configuration read again"), "{}", daemon.log());

    for (bad, why) in [("drain_seconds = \"x\"", "drain_seconds"), ("drain_seconds = 9\n[group]\nwait = 3", "wait")] {
        let before = daemon.heard("READY=1").len();
        site.configure(bad, 60);
        daemon.signal("HUP");
        daemon.until("it has read it", || daemon.heard("READY=1").len() > before);
        let log = daemon.log();
        let line = log.lines().rfind(|line| line.contains("The old configuration goes on")).expect("told");
        assert!(line.contains(why), "{line}");
        let checked = Command::new(support::program("tissuemapd"))
            .args(["config", "--check"])
            .arg(site.path("tissuemapd.toml"))
            .output()
            .expect("it runs");
        assert_eq!(checked.status.code(), Some(64), "{checked:?}");
    }
    site.configure("drain_seconds = 7", 61);
    daemon.signal("HUP");
    daemon.until("it is refused", || daemon.log().contains("changes of [worker] are not taken over"));

    site.bring("c1");
    daemon.until("a set was processed", || site.metric("jobs_done_total") == Some(1.0));
    for stain in STAINS {
        let told = format!("slide={}", site.path("incoming").join(slide("c1", stain)).display());
        let log = daemon.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("Slide done") && line.contains(&told)).collect();
        assert!(
            lines.len() == 1 && lines[0].contains("INFO") && lines[0].contains("case=\"c1\""),
            "{lines:?} of {log}"
        );
    }
    assert_eq!(daemon.end().code(), Some(0));
    // The old limit: 7 s for the job, 20 for its cancelling, 10 to end.
    assert_eq!((daemon.heard("STOPPING=1").len(), daemon.heard("EXTEND_TIMEOUT_USEC=37000000").len()), (1, 1));
    assert!(!daemon.heard("STATUS=draining").is_empty());
    assert_eq!(site.metric("up"), Some(0.0));
    assert_eq!(LIGHTS.map(|light| site.brightness(light)), ["0"; 3]);

    assert_audited(&site);
}

/// What was asked for and done above, in order, in a log that hangs together.
fn assert_audited(site: &Site) {
    let log = site.path("state/audit.jsonl");
    let entries: Vec<serde_json::Value> = fs::read_to_string(&log)
        .expect("readable")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let told: Vec<&str> = entries.iter().map(|entry| entry["event"].as_str().expect("text")).collect();
    assert_eq!(told, ["started", "asked", "asked", "job", "ended"]);
    assert_eq!((&entries[1]["by"], &entries[1]["action"]), (&"signal".into(), &"reload".into()));
    assert!(entries[1]["refused"].is_null() && entries[2]["refused"].as_str().expect("why").contains("[worker]"));
    let job = &entries[3];
    assert_eq!((&job["set"], &job["outcome"]), (&"c1".into(), &"done".into()));
    let inputs: BTreeMap<String, (PathBuf, String)> =
        serde_json::from_value(job["inputs"].clone()).expect("stain to slide and content");
    assert_eq!(inputs.keys().collect::<Vec<_>>(), ["CD31", "HE", "KI67"]);
    assert!(inputs.values().all(|(slide, content)| slide.is_file() && content.len() == 32), "{inputs:?}");
    assert_eq!(job["model"].as_str().map(str::len), Some(64));
    assert_eq!(job["outputs"].as_array().map(Vec::len), Some(3));

    let verify = |path: &Path| {
        let output = Command::new(support::program("tissuemapd")).arg("audit").arg(path).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, told) = verify(&log);
    assert!(code == Some(0) && told.contains("5 entries, whole"), "{told}");
    let forged = fs::read_to_string(&log).expect("readable").replace("\"outcome\":\"done\"", "\"outcome\":\"good\"");
    fs::write(&log, forged).expect("write");
    let (code, told) = verify(&log);
    assert!(code == Some(1) && told.contains("line 4 was changed"), "{told}");
}
