//! Who may do what on the system's bus: a real bus with our policy, the real daemon, and callers that are other users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tissuemap::contract::example;
use tissuemap::units::Mpp;

use crate::support;
use crate::support::bus::Bus;
use crate::support::site::STAINS;

const NAME: &str = "org.tissuemap.Daemon1";
const PATH: &str = "/org/tissuemap/Daemon1";

/// What everybody may call of our own interfaces; the policy lets nobody but operators call anything else.
const READERS: [&str; 3] = ["Explain", "ListJobs", "ListModels"];

/// Somebody without rights: another user where the test may become one, else whoever runs it.
#[derive(Clone, Copy)]
struct Caller {
    uid: u32,
    gid: u32,
    /// Whether it is another user than the daemon's.
    other: bool,
}

impl Caller {
    fn new() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            // The user `nobody` and its group, everywhere.
            Self { uid: 65534, gid: 65534, other: true }
        } else {
            Self { uid: uid.as_raw(), gid: gid.as_raw(), other: false }
        }
    }

    fn run(self, mut command: Command) -> Output {
        if self.other {
            command.uid(self.uid).gid(self.gid);
        }
        command.output().expect("it runs")
    }
}

/// A bus with our policy, and the daemon on it.
struct SystemBus {
    folder: TempDir,
    bus: Bus,
    processes: Vec<Child>,
}

impl SystemBus {
    /// Members of the group `operators` are what the group `tissuemap` is on a machine where it exists, and whoever runs
    /// the test is the user `tissuemap`: the policy file is used as it is but for these two names.
    fn start(operators: u32) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let policy =
            fs::read_to_string(support::root().join("systemd/org.tissuemap.Daemon1.conf")).expect("the policy");
        let (user, group) = ("user=\"tissuemap\"", "group=\"tissuemap\"");
        assert!(policy.contains(user) && policy.contains(group), "the policy names both");
        let us = rustix::process::geteuid().as_raw();
        let policy = policy.replace(user, &format!("user=\"{us}\"")).replace(group, &format!("group=\"{operators}\""));
        fs::write(folder.path().join("policy.conf"), policy).expect("write");
        // It allows everything by itself, so that it is our file that denies.
        let config = format!(
            "<busconfig><type>custom</type><listen>unix:dir={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>\
             <allow send_type=\"signal\"/><allow receive_type=\"method_call\"/><allow receive_type=\"method_return\"/>\
             <allow receive_type=\"error\"/><allow receive_type=\"signal\"/></policy>\
             <include>policy.conf</include></busconfig>",
            folder.path().display()
        );
        fs::write(folder.path().join("bus.conf"), config).expect("write");
        let bus = Bus::configured(&folder.path().join("bus.conf"));
        let mut site = Self { folder, bus, processes: Vec::new() };
        site.start_daemon();
        site
    }

    fn start_daemon(&mut self) {
        let folder = self.folder.path();
        fs::create_dir(folder.join("incoming")).expect("create");
        let model = example::bytes(&STAINS, 64, Mpp::new(1.0).expect("plausible"), 5);
        fs::write(folder.join("model.onnx"), model).expect("write");
        let config = "model = \"model.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\n";
        fs::write(folder.join("tissuemapd.toml"), config).expect("write");
        let daemon = Command::new(support::program("tissuemapd"))
            .args(["run", "--config"])
            .arg(folder.join("tissuemapd.toml"))
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus.address)
            .env("RUST_LOG", "warn")
            .spawn()
            .expect("it runs");
        self.processes.push(daemon);
        let begun = Instant::now();
        while !self.ctl(&support::program("tissuemapctl"), &["status"]).output().expect("it runs").status.success() {
            assert!(begun.elapsed() < Duration::from_mins(1), "tissuemapd does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn ctl(&self, program: &Path, args: &[&str]) -> Command {
        let mut ctl = Command::new(program);
        ctl.args(args).env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus.address).current_dir("/");
        ctl
    }

    /// The program where everybody can start it.
    fn public_ctl(&self) -> PathBuf {
        let copy = self.folder.path().join("tissuemapctl");
        fs::copy(support::program("tissuemapctl"), &copy).expect("copy");
        copy
    }

    /// Calls a method as somebody. `Err` is the name of the error.
    fn call(
        &self,
        caller: Caller,
        destination: &str,
        path: &str,
        method: &str,
        args: &[&str],
    ) -> Result<String, String> {
        let mut send = Command::new("dbus-send");
        send.arg(format!("--bus={}", self.bus.address)).arg("--print-reply").arg(format!("--dest={destination}"));
        send.arg(path).arg(method).args(args).current_dir("/");
        let output = caller.run(send);
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).expect("UTF-8"));
        }
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        let name = told.strip_prefix("Error ").and_then(|rest| rest.split(':').next());
        Err(name.unwrap_or_else(|| panic!("dbus-send says this: {told}")).to_owned())
    }

    fn property(&self, caller: Caller, property: &str) -> Result<String, String> {
        let args = [format!("string:{NAME}"), format!("string:{property}")];
        self.call(caller, NAME, PATH, "org.freedesktop.DBus.Properties.Get", &args.each_ref().map(String::as_str))
    }
}

impl Drop for SystemBus {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Interface, object path, method and arguments of everything that our interfaces let anybody call.
fn methods() -> Vec<(&'static str, &'static str, String, Vec<&'static str>)> {
    let mut methods = Vec::new();
    for (interface, path) in [
        (NAME, PATH),
        ("org.tissuemap.Job1", "/org/tissuemap/Daemon1/job/1"),
        ("org.tissuemap.Model1", "/org/tissuemap/Daemon1/model/0"),
    ] {
        let file = support::root().join("systemd").join(format!("{interface}.xml"));
        let text = fs::read_to_string(file).expect("the interface");
        for method in text.split("<method name=\"").skip(1) {
            let (name, rest) = method.split_once('"').expect("a name");
            let body = rest.split_once("</method>").expect("its end").0;
            let arguments = body.lines().filter(|line| line.contains("direction=\"in\"")).map(|line| {
                let kind = line.split_once("type=\"").and_then(|(_, kind)| kind.split_once('"')).expect("a type").0;
                match kind {
                    "s" => "string:/nowhere",
                    "x" => "int64:1",
                    other => panic!("{name} takes {other}: say here how to call it"),
                }
            });
            methods.push((interface, path, name.to_owned(), arguments.collect()));
        }
    }
    methods
}

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";

#[test]
fn h17_on_the_system_bus_everybody_may_look_and_nobody_else_may_change_anything() {
    let caller = Caller::new();
    // No user of any machine is in this group.
    let site = SystemBus::start(4_000_000);

    let mut denied = 0;
    for (interface, path, method, args) in methods() {
        let outcome = site.call(caller, NAME, path, &format!("{interface}.{method}"), &args);
        if READERS.contains(&method.as_str()) {
            assert!(outcome.is_ok(), "{interface}.{method}: {outcome:?}");
        } else {
            assert_eq!(outcome, Err(DENIED.to_owned()), "{interface}.{method}");
            denied += 1;
        }
    }
    assert!(denied >= 12, "eight of the daemon, two of a job, two of a model: {denied}");
    let paused = format!("string:{NAME}");
    let set = site.call(
        caller,
        NAME,
        PATH,
        "org.freedesktop.DBus.Properties.Set",
        &[&paused, "string:Paused", "variant:boolean:true"],
    );
    assert_eq!(set, Err(DENIED.to_owned()));

    assert!(site.property(caller, "State").expect("readable").contains("idle"));
    assert!(site.property(caller, "Paused").expect("readable").contains("false"), "nothing was paused");
    for (path, method, args) in [
        (PATH, "org.freedesktop.DBus.Properties.GetAll", vec![paused.as_str()]),
        (PATH, "org.freedesktop.DBus.Introspectable.Introspect", vec![]),
        (PATH, "org.freedesktop.DBus.ObjectManager.GetManagedObjects", vec![]),
        ("/", "org.freedesktop.DBus.Peer.Ping", vec![]),
    ] {
        let outcome = site.call(caller, NAME, path, method, &args);
        assert!(outcome.is_ok(), "{method}: {outcome:?}");
    }

    let ctl = site.public_ctl();
    assert!(caller.run(site.ctl(&ctl, &["status"])).status.success());
    let output = caller.run(site.ctl(&ctl, &["pause"]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("hint: changes are for root and the group tissuemap"), "{told}");

    if caller.other {
        let args = [paused.as_str(), "uint32:0"];
        let taken = site.call(
            caller,
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.RequestName",
            &args,
        );
        assert_eq!(taken, Err(DENIED.to_owned()), "the name is the daemon's");
    } else {
        eprintln!("SKIPPED: that another user cannot take the daemon's name: needs root, to be one");
    }
}

#[test]
fn h17_members_of_the_group_may_change_things() {
    let caller = Caller::new();
    let site = SystemBus::start(caller.gid);
    for (interface, path, method, args) in methods() {
        let outcome = site.call(caller, NAME, path, &format!("{interface}.{method}"), &args);
        assert_ne!(outcome, Err(DENIED.to_owned()), "{interface}.{method}");
        if method == "Pause" {
            assert!(site.property(caller, "Paused").expect("readable").contains("true"), "{outcome:?}");
        }
        if (interface, method.as_str()) == (NAME, "Cancel") {
            assert_eq!(outcome, Err("org.tissuemap.Daemon1.Error.NoSuchJob".to_owned()));
        }
    }
    assert!(site.property(caller, "Paused").expect("readable").contains("false"), "resumed");
}
