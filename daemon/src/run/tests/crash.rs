//! SIGKILL of a whole daemon at random times (hazard h05).

use std::os::unix::process::ExitStatusExt;

use rand::{RngExt, SeedableRng};

use super::*;

const SETS: usize = 8;
const KILLS: u32 = 30;
const PLACE: &str = "TISSUEMAP_TEST_CRASH_PLACE";

/// Publishes slowly, and writes down when it is asked for what it has done already.
struct Publisher {
    log: PathBuf,
    model: ModelInfo,
}

/// Loads publishers that write into this log.
struct Press(PathBuf);

impl Backend for Press {
    fn probe(&self, _: &Path, _: Option<Mpp>) -> Result<(), Fault> {
        Ok(())
    }

    fn load(&self, path: &Path, _: &dyn Fn(ProofStep)) -> Result<Arc<dyn JobRunner>, Fault> {
        Ok(Arc::new(Publisher { log: self.0.clone(), model: pretended(path)? }))
    }
}

impl JobRunner for Publisher {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn process(&self, job: &Job, _: &dyn Progress) -> Result<SetResult, Fault> {
        use std::io::Write;
        // In one piece: the next victim goes on where this one was killed.
        let mut log = fs::File::options().append(true).create(true).open(&self.log).expect("writable");
        if done::is_done(job, &self.model, done::Maker::This) {
            log.write_all(format!("{} twice\n", job.set.key).as_bytes()).expect("written");
        }
        std::thread::sleep(Duration::from_millis(10));
        let run = format!("{:?}", std::time::SystemTime::now());
        let outputs = testing::publish(&job.set.slides, &run, &self.model.sha256, 1000)
            .map_err(|error| Fault::from_error(error.as_ref()))?;
        log.write_all(format!("{} published\n", job.set.key).as_bytes()).expect("written");
        Ok(set_result(&job.set.key, outputs))
    }
}

fn daemon(place: &Path) -> (Daemon, watch::Receiver<Status>) {
    let file = place.join("tissuemapd.toml");
    let text = "model = \"m.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nscan_seconds = 1\n";
    fs::write(&file, text).expect("write");
    let mut config = Config::read(&file).expect("valid");
    // A second of settling in every life would leave no time to be killed in.
    config.watch[0].settle_seconds = 0;
    let journal = Journal::open(&config.state_folder()).expect("a journal");
    assert_eq!(journal.moved_aside(), None, "a kill damages nothing");
    let (sender, status) = watch::channel(Status::default());
    fs::write(place.join("m.onnx"), MODEL).expect("write");
    let press = Arc::new(Press(place.join("log")));
    let models = Models::start(&config, &*press).expect("a model");
    let daemon = Daemon::new(config, press, models, journal, sender, Commander::new().1);
    (daemon.expect("no clash of stains"), status)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that h05_a_daemon_killed_at_random_times_loses_no_set_and_repeats_none kills"]
async fn victim() {
    let place = std::env::var_os(PLACE).expect("started by the test");
    let place = Path::new(&place);
    let (daemon, _status) = daemon(place);
    let (_stop, stopped) = mpsc::channel(1);
    fs::write(place.join("lives"), std::process::id().to_string()).expect("written");
    daemon.run(stopped, std::future::pending()).await.expect("serves until it is killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn h05_a_daemon_killed_at_random_times_loses_no_set_and_repeats_none() {
    let place = tempfile::tempdir().expect("tempdir");
    let incoming = place.path().join("incoming");
    fs::create_dir(&incoming).expect("create");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let mut brought = 0;
    for kill in 0..KILLS {
        while brought < SETS && brought * KILLS as usize <= kill as usize * SETS {
            for stain in ["HE", "CD31"] {
                fs::write(incoming.join(format!("c{brought}_{stain}.svs")), stain).expect("write");
            }
            brought += 1;
        }
        let mut victim = testing::victim("run::tests::crash::victim", PLACE, place.path());
        // Until then a loaded machine may take any time, and nothing is going on that could be killed.
        let lives = || fs::read_to_string(place.path().join("lives")).is_ok_and(|pid| pid == victim.id().to_string());
        let started = std::time::Instant::now();
        while !lives() && started.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        victim.kill().expect("killed");
        let status = victim.wait().expect("ended");
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
    }
    let by_the_killed = fs::read_to_string(place.path().join("log")).map_or(0, |log| log.lines().count());
    assert!(by_the_killed > 0, "no kill came after a publication");

    let (daemon, mut status) = daemon(place.path());
    let (stop, stopped) = mpsc::channel(1);
    let running = tokio::spawn(daemon.run(stopped, std::future::pending()));
    let all = || (0..SETS).all(|set| incoming.join(format!("c{set}_HE.tissuemap/result.json")).exists());
    while !(all() && status.borrow().jobs.is_empty() && status.borrow().state == State::Idle) {
        tokio::time::timeout(Duration::from_mins(1), status.changed()).await.expect("it goes on").expect("alive");
    }
    stop.send("test").await.expect("alive");
    running.await.expect("no panic").expect("a clean end");
    let journal = Journal::open(&place.path().join("state")).expect("free again");
    for id in 1..=SETS as i64 {
        let row = journal.job(JobId(id)).expect("readable").expect("no row was lost");
        assert_eq!(row.state.as_str(), "done", "{row:?}");
    }
    assert_eq!(journal.job(JobId(SETS as i64 + 1)).expect("readable"), None, "no row was made twice");
    let log = fs::read_to_string(place.path().join("log")).expect("readable");
    assert!(!log.contains("twice"), "{log}");
    assert!(log.lines().count() <= SETS, "{log}");
    println!(
        "{KILLS} kills, {} of {SETS} publications seen by the log, {by_the_killed} before the last kill",
        log.lines().count()
    );
}
