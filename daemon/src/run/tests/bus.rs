//! The daemon as it is seen from a bus: a real one, with the loop behind it.

use std::collections::HashMap;

use futures_util::StreamExt;
use zbus::connection;
use zbus::fdo::{IntrospectableProxy, ObjectManagerProxy};
use zbus::proxy::CacheProperties;

use super::*;
use crate::status::dbus::{self, Access, Action, Authority, Daemon1Proxy, Error, Job1Proxy, Model1Proxy, Service};

/// The same bus as the integration tests have.
#[allow(dead_code, reason = "they need more of it")]
#[path = "../../../../tests/support/bus.rs"]
mod private;

use self::private::Bus;

impl Bus {
    /// Serves and announces a daemon, as the program does; a client on the same bus.
    async fn serve(&self, daemon: &Fixture) -> zbus::Connection {
        self.serve_with(daemon, Authority::Bus).await
    }

    async fn serve_with(&self, daemon: &Fixture, authority: Authority) -> zbus::Connection {
        let access = Access { status: daemon.status.clone(), commander: daemon.commander.clone(), authority };
        let service = Service::begin(self.builder(), access).await.expect("served");
        tokio::spawn(service.announce());
        self.builder().build().await.expect("connected")
    }

    fn builder(&self) -> connection::Builder<'static> {
        connection::Builder::address(zbus::Address::try_from(self.address.as_str()).expect("valid"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_shows_properties_and_sends_signals() {
    let bus = Bus::session();
    let mut daemon = Fixture::start("");
    let client = bus.serve(&daemon).await;
    let proxy = Daemon1Proxy::new(&client).await.expect("there");
    let mut ready = proxy.receive_result_ready().await.expect("subscribed");
    let mut failed = proxy.receive_job_failed().await.expect("subscribed");
    let mut jobs = proxy.receive_current_job_changed().await;
    let mut stages = proxy.receive_stage_changed().await;

    daemon.bring("c1_HE.svs", "hold");
    daemon.bring("c1_CD31.svs", "fine");
    while jobs.next().await.expect("a change").get().await.expect("a value") != "c1" {}
    while stages.next().await.expect("a change").get().await.expect("a value") != "infer" {}
    // Not before: of two sets that are there at once, the newer one comes first.
    daemon.bring("c2_HE.svs", "fails");
    daemon.bring("c2_CD31.svs", "fine");
    daemon.until(|s| s.queue == ["c2"]).await;
    // The cache of the proxy follows by signals; a fresh proxy asks.
    let proxy = Daemon1Proxy::new(&client).await.expect("there");
    assert_eq!(proxy.state().await.expect("state"), "busy");
    assert_eq!(proxy.current_job().await.expect("job"), "c1");
    assert_eq!(proxy.queue().await.expect("queue"), ["c2"]);
    assert_eq!(proxy.queue_length().await.expect("length"), 1);
    assert_eq!((proxy.provider().await.expect("provider"), proxy.eta().await.expect("eta")), ("cpu".into(), -1));
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

/// Nobody obeys, nothing changes.
fn idle_access() -> Access {
    let (commander, _) = Commander::new();
    Access { status: watch::channel(Status::default()).1, commander, authority: Authority::Bus }
}

/// A proxy that asks each time.
async fn manager(client: &zbus::Connection) -> Daemon1Proxy<'static> {
    Daemon1Proxy::builder(client).cache_properties(CacheProperties::No).build().await.expect("there")
}

/// The object of an open job, as soon as it is there.
async fn job(client: &zbus::Connection, id: JobId) -> Job1Proxy<'static> {
    let builder = Job1Proxy::builder(client).path(dbus::job_path(id)).cache_properties(CacheProperties::No);
    let object = builder.build().await.expect("a path");
    while object.set().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_may_ask_of_the_daemon_can_be_asked_on_the_bus() {
    let bus = Bus::session();
    let mut daemon = Fixture::start("[group]\nwait_seconds = 0\nincomplete = \"run\"\n[schedule]\ntries = 1\n");
    let client = bus.serve(&daemon).await;
    let manager = manager(&client).await;
    // A proxy that listens, for changes.
    let mut pauses = Daemon1Proxy::new(&client).await.expect("there").receive_paused_changed().await;

    manager.pause().await.expect("written down");
    while !pauses.next().await.expect("a change").get().await.expect("a value") {}
    daemon.bring("c1_HE.svs", "hold");
    daemon.bring("c2_HE.svs", "fails");
    daemon.until(|s| s.queue.len() == 2).await;
    let folder = daemon.folder.path().to_owned();
    let slide = |name: &str| folder.join(name).display().to_string();
    let (state, sentence, hint) = manager.explain(&slide("c1_HE.svs")).await.expect("told");
    assert_eq!((state.as_str(), hint.as_str()), ("held-up", "resume it"), "{sentence}");

    let jobs = manager.list_jobs().await.expect("listed");
    let places: Vec<(u32, &str)> = jobs.iter().map(|job| (job.place, job.state.as_str())).collect();
    assert_eq!(places, [(1, "requested"), (2, "requested")]);
    let number = |set: &str| JobId(jobs.iter().find(|job| job.set == set).expect("listed").id);
    let (c1, c2) = (number("c1"), number("c2"));
    assert_eq!(manager.submit(&slide("c1_HE.svs")).await.expect("queued already"), c1.0);

    manager.resume().await.expect("written down");
    daemon.until(|s| s.job.as_ref().is_some_and(|job| job.id == c1)).await;
    job(&client, c1).await.cancel().await.expect("it runs");
    daemon.until(|s| s.state == State::Idle && s.outcomes.len() == 1 && s.jobs.len() == 2).await;
    let states =
        |jobs: Vec<dbus::JobEntry>| jobs.into_iter().map(|job| (job.set, job.state)).collect::<HashMap<_, _>>();
    let told = states(manager.list_jobs().await.expect("listed"));
    assert_eq!((told["c1"].as_str(), told["c2"].as_str()), ("cancelled", "quarantined"));

    let refused = [
        (manager.submit("/elsewhere/c1_HE.svs").await.map(drop), "NotWatched", "in none of the watched folders"),
        (manager.submit(&slide("c3_HE.svs")).await.map(drop), "NotReady", "has not been seen yet"),
        (manager.cancel(99).await, "NoSuchJob", "there is no job 99; hint: `tissuemapctl queue` lists them"),
        (manager.cancel(c1.0).await, "WrongState", "(c1) is cancelled; hint: there is nothing to cancel"),
        (job(&client, c1).await.cancel().await, "WrongState", "nothing to cancel"),
    ];
    for (outcome, name, text) in refused {
        let error = outcome.expect_err("refused");
        assert_eq!(zbus::DBusError::name(&error).as_str(), format!("org.tissuemap.Daemon1.Error.{name}"));
        assert!(zbus::DBusError::description(&error).is_some_and(|told| told.contains(text)), "{error}");
    }
    manager.retry(c2.0).await.expect("given up");
    daemon.until(|s| s.outcomes.len() == 2).await;
    daemon.stop.send("test").await.expect("alive");
    daemon.daemon.await.expect("no panic").expect("a clean end");
    let error = manager.pause().await.expect_err("it has ended");
    assert!(matches!(error, Error::Ending(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_job_has_an_object_from_its_beginning_to_its_end() {
    let bus = Bus::session();
    let mut daemon = Fixture::start("[group]\nwait_seconds = 0\nincomplete = \"run\"\n");
    let client = bus.serve(&daemon).await;
    let objects = ObjectManagerProxy::builder(&client).destination(dbus::NAME).path(dbus::PATH).build();
    let objects = objects.await.expect("there");
    let mut added = objects.receive_interfaces_added().await.expect("subscribed");
    let mut removed = objects.receive_interfaces_removed().await.expect("subscribed");

    daemon.bring("c1_HE.svs", "hold");
    let signal = added.next().await.expect("a signal");
    let path = signal.args().expect("arguments").object_path.to_string();
    let id = daemon.until(|s| s.job.as_ref().is_some_and(|job| job.stage == "infer")).await.jobs[0].id;
    assert_eq!(path, dbus::job_path(id));
    let object = Job1Proxy::builder(&client).path(path.clone()).build().await.expect("there");
    let mut stages = object.receive_stage_changed().await;
    while stages.next().await.expect("a change").get().await.expect("a value") != "infer" {}
    assert_eq!(object.state().await.expect("state"), "running");
    assert_eq!((object.id().await.expect("id"), object.set().await.expect("set")), (id.0, "c1".into()));
    assert!((object.progress().await.expect("progress") - 0.25).abs() < 1e-9);
    assert_eq!(object.attempts().await.expect("tries"), 1);
    let managed = objects.get_managed_objects().await.expect("managed");
    // The library lists the folder above the jobs, too, as an object without any interface of ours.
    let jobs = |objects: zbus::fdo::ManagedObjects| -> Vec<String> {
        let ours = objects.into_iter().filter(|(_, interfaces)| interfaces.contains_key("org.tissuemap.Job1"));
        ours.map(|(path, _)| path.to_string()).collect()
    };
    assert_eq!(jobs(managed), [path.as_str()]);

    daemon.runner.release.send_replace(true);
    let signal = removed.next().await.expect("a signal");
    assert_eq!(signal.args().expect("arguments").object_path.as_str(), path);
    assert_eq!(jobs(objects.get_managed_objects().await.expect("managed")), [""; 0]);
    daemon.until(|s| s.last_result().is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_have_objects_and_are_activated_rolled_back_and_rejected_on_the_bus() {
    let [bad, new] = ["refused model.golden-mismatch\n", "stains HE CD31\nsecond\n"];
    let bus = Bus::session();
    let mut daemon = Fixture::start("[models]\nsettle_seconds = 1\n");
    let client = bus.serve(&daemon).await;
    let manager = manager(&client).await;
    let mut rejected = manager.receive_model_rejected().await.expect("subscribed");

    daemon.drop_model("bad.onnx", bad);
    let signal = rejected.next().await.expect("a signal");
    let args = signal.args().expect("three arguments");
    assert_eq!((args.name, args.id), ("bad.onnx", "model.golden-mismatch"));
    assert!(args.reason.contains("hint: "), "{}", args.reason);

    daemon.drop_model("second.onnx", new);
    let served = daemon.until(|s| s.models.iter().any(|row| row.name == "second.onnx" && row.jobs_done == 0)).await;
    let digest = |name: &str| served.models.iter().find(|row| row.name == name).expect("known").sha256.clone();
    let (first, second) = (digest("m.onnx"), digest("second.onnx"));
    let object = |sha256: &str| {
        let path = dbus::model_path(sha256);
        let client = client.clone();
        async move {
            let object = Model1Proxy::builder(&client).path(path).cache_properties(CacheProperties::No).build().await;
            let object = object.expect("a path");
            while object.state().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            object
        }
    };
    let (one, two) = (object(&first).await, object(&second).await);
    while (one.state().await.expect("state"), two.state().await.expect("state")) != ("standby".into(), "active".into())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(two.stains().await.expect("stains"), ["HE", "CD31"]);
    assert_eq!(
        (two.sha256().await.expect("hash"), two.name().await.expect("name")),
        (second.clone(), "second.onnx".into())
    );
    let (sha256, name, ..) = manager.verify_model("m.onnx").await.expect("kept");
    assert_eq!((sha256, name.as_str()), (first.clone(), "m.onnx"));
    assert_eq!(manager.rollback().await.expect("to what was replaced"), first);
    two.activate().await.expect("on purpose");
    let listed = manager.list_models().await.expect("listed");
    let states: Vec<(&str, &str)> = listed.iter().map(|model| (model.name.as_str(), model.state.as_str())).collect();
    assert_eq!(states, [("m.onnx", "standby"), ("bad.onnx", "rejected"), ("second.onnx", "active")]);
    let error = manager.activate_model("nothing.onnx").await.expect_err("not known");
    assert!(matches!(error, Error::NoSuchModel(_)), "{error}");
}

/// Stands in for polkit: knows what one caller may do, as polkit knows it.
struct Polkit {
    allowed: &'static str,
    asked: mpsc::Sender<(String, u32)>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    #[allow(clippy::needless_pass_by_value)] // The bus hands arguments over.
    fn check_authorization(
        &self,
        subject: zbus_polkit::policykit1::Subject,
        action: &str,
        details: HashMap<String, String>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::fdo::Result<(bool, bool, HashMap<String, String>)> {
        assert_eq!((subject.kind(), details.len(), cancellation), ("system-bus-name", 0, ""));
        self.asked.try_send((action.to_owned(), flags)).expect("somebody listens");
        match action {
            "org.tissuemap.daemon1.pause" if self.allowed.is_empty() => {
                Err(zbus::fdo::Error::Failed(format!("Action {action} is not registered")))
            }
            action => Ok((action == self.allowed, false, HashMap::new())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h17_where_polkit_is_present_nothing_is_changed_without_its_word() {
    let bus = Bus::session();
    let mut daemon = Fixture::start("");
    let client = bus.serve_with(&daemon, Authority::Polkit).await;
    let manager = manager(&client).await;
    manager.pause().await.expect("without polkit, the bus has decided");
    manager.resume().await.expect("the same");

    // The last one does not even know the actions, as if their file were not installed.
    for allowed in [Action::Pause.id(), Action::ManageJobs.id(), ""] {
        let (asked, mut questions) = mpsc::channel(16);
        let path = "/org/freedesktop/PolicyKit1/Authority";
        let polkit = bus.builder().serve_at(path, Polkit { allowed, asked }).name("org.freedesktop.PolicyKit1");
        let polkit = polkit.build().await.expect("served");
        let outcome = manager.pause().await;
        assert_eq!(outcome.is_ok(), allowed == Action::Pause.id(), "{allowed}: {outcome:?}");
        assert!(outcome.map_or_else(|error| matches!(error, Error::NotAuthorized(_)), |()| true));
        assert_eq!(
            questions.recv().await,
            Some((Action::Pause.id().to_owned(), 1)),
            "the client may be asked for a password"
        );
        daemon.until(|s| s.paused).await;

        for refused in [manager.submit("/x").await.map(drop), manager.cancel(99).await, manager.retry(99).await] {
            let expected = matches!(refused, Err(Error::NotAuthorized(_)));
            assert_eq!(expected, allowed != Action::ManageJobs.id(), "{allowed}: {refused:?}");
        }
        let rollback = manager.rollback().await;
        assert!(matches!(rollback, Err(Error::NotAuthorized(_))), "{allowed}: {rollback:?}");
        manager.explain("/x").await.expect("anybody may ask");
        polkit.release_name("org.freedesktop.PolicyKit1").await.expect("it was ours");
    }
    manager.resume().await.expect("polkit is gone again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_introspection_files_are_what_the_bus_tells() {
    let bus = Bus::session();
    let mut daemon = Fixture::start("[group]\nwait_seconds = 0\nincomplete = \"run\"\n");
    let client = bus.serve(&daemon).await;
    daemon.bring("c1_HE.svs", "fails");
    let id = daemon.until(|s| !s.jobs.is_empty()).await.jobs[0].id;
    job(&client, id).await;

    let mut differing = Vec::new();
    let model = dbus::model_path(&daemon.status.borrow().models[0].sha256);
    for (interface, path) in [
        (dbus::NAME, dbus::PATH.to_owned()),
        ("org.tissuemap.Job1", dbus::job_path(id)),
        ("org.tissuemap.Model1", model),
    ] {
        let object = IntrospectableProxy::builder(&client).destination(dbus::NAME).path(path.clone()).build();
        let told = object.await.expect("there").introspect().await.expect("introspectable");
        // Only our own interface; the standard ones come with the library.
        let begin = told.find(&format!("  <interface name=\"{interface}\">")).expect("our interface");
        let end = begin + told[begin..].find("  </interface>").expect("its end") + "  </interface>\n".len();
        let head = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
                    \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";
        let told = format!("{head}<node name=\"{path}\">\n{}</node>\n", &told[begin..end]);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../systemd/{interface}.xml"));
        let written = fs::read_to_string(&file).unwrap_or_default();
        if written != told {
            let actual = std::env::temp_dir().join(format!("{interface}.xml"));
            fs::write(&actual, told).expect("write");
            differing.push(format!(
                "{} differs from what the bus tells; that is now in {}",
                file.display(),
                actual.display()
            ));
        }
    }
    assert_eq!(differing, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_told_that_the_name_is_taken() {
    let bus = Bus::session();
    let _first = Service::begin(bus.builder(), idle_access()).await.expect("served");
    assert!(matches!(Service::begin(bus.builder(), idle_access()).await, Err(zbus::Error::NameTaken)));
}
