//! The sandbox from the inside: a program that has entered it tries what a hostile slide would.
//!
//! [`inside`] is the program. It runs as a child of the tests, because nobody leaves a sandbox again.

mod calls;

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, kill_process, setrlimit, test_kill_process};
use tissuemap::road::RoadParams;
use tissuemap_daemon::config::Sandbox;
use tissuemap_daemon::worker::{Setup, VERSION, sandbox};

/// Tells the child where its files are.
const FOLDER: &str = "TISSUEMAP_TEST_SANDBOX";
/// Tells the child, when it is set, that it may use graphics cards.
const GPU: &str = "TISSUEMAP_TEST_SANDBOX_GPU";
const MEMORY: u64 = 256 << 20;

/// One thing that was tried: its name and what came of it.
type Attempt = (&'static str, io::Result<()>);

/// Runs [`inside`] as a process of its own, in a folder with a slide, a staging folder and a secret.
fn enter(gpu: bool) -> String {
    let folder = tempfile::tempdir().expect("tempdir");
    for (file, content) in [
        ("slides/HE.tif", "pixels"),
        ("secret/key", "secret"),
        ("staging/old", "old"),
        ("staging-of-another/result.json", "{}"),
    ] {
        let path = folder.path().join(file);
        fs::create_dir(path.parent().expect("a folder")).expect("create");
        fs::write(path, content).expect("write");
    }
    let output = Command::new(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", "sandbox::inside", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .envs(gpu.then_some((GPU, "1")))
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(fs::read_to_string(folder.path().join("slides/HE.tif")).expect("there"), "pixels");
    assert_eq!(fs::read_to_string(folder.path().join("secret/key")).expect("there"), "secret");
    assert_eq!(fs::read_to_string(folder.path().join("staging-of-another/result.json")).expect("there"), "{}");
    told
}

/// What the child said of an attempt.
fn outcome<'a>(told: &'a str, attempt: &str) -> &'a str {
    let line = told.lines().find_map(|line| line.strip_prefix(&format!("{attempt}: ")));
    line.unwrap_or_else(|| panic!("{attempt:?} was not tried:\n{told}"))
}

fn assert_denied(told: &str, attempts: &[&str], with: &str) {
    for attempt in attempts {
        let outcome = outcome(told, attempt);
        assert!(outcome.contains(with), "{attempt}: {outcome}");
    }
}

#[test]
fn h04_a_program_in_the_sandbox_can_do_its_work_and_nothing_else() {
    let told = enter(false);
    assert_confined(&told);
    let calls = ["unix server", "abstract unix server", "unix datagram"];
    assert_denied(&told, &calls, "Operation not permitted");
    assert_denied(&told, &calls::WITHOUT_GPU, "Operation not permitted");
    if has_landlock(&told) {
        assert_denied(&told, &["name a thread by its file"], "denied");
    }
}

#[test]
fn h04_with_a_graphics_card_an_abstract_socket_and_a_threads_name_are_all_that_is_allowed_more() {
    let told = enter(true);
    assert_confined(&told);
    assert_denied(&told, &["abstract unix server", "name a thread by its file"], "done");
    assert_denied(&told, &calls::WITHOUT_GPU, "done");
    if has_landlock(&told) {
        assert_denied(&told, &["unix server"], "denied");
    }
}

fn has_landlock(told: &str) -> bool {
    let there = !told.contains("this kernel has no landlock");
    if !there {
        eprintln!("SKIPPED: no landlock here, so that files are confined by their permissions only");
    }
    there
}

/// What holds with and without a graphics card.
fn assert_confined(told: &str) {
    let work = ["read a slide", "list slides", "write into staging", "allocate a little", "start a thread"];
    assert_denied(told, &work, "done");

    // Seccomp: on every kernel.
    let calls = [
        "tcp server",
        "tcp client",
        "udp socket",
        "unix pair",
        "run a program",
        "make a slide writable",
        "change a slide's time",
        "link in staging",
        "second name in staging",
        "signal the supervisor",
        "look for the supervisor",
    ];
    assert_denied(told, &calls, "Operation not permitted");
    assert_denied(told, &calls::NEVER, "Operation not permitted");
    assert_denied(told, &calls::UNKNOWN, "Function not implemented");
    assert_denied(told, &calls::WORK, "done");
    assert_denied(told, &["raise the memory limit"], "not permitted");
    assert_denied(told, &["allocate too much"], "out of memory");
    assert_eq!(outcome(told, "core dump limit"), "Some(0)");
    if !has_landlock(told) {
        return;
    }
    let files = [
        "read a secret",
        "read /etc/passwd",
        "list another folder",
        "list /",
        "read the supervisor's environment",
        "write beside a slide",
        "write into a slide",
        "truncate a slide",
        "remove a slide",
        "rename a slide",
        "write into /tmp",
        "write into the staging folder's parent",
        "rename the staging folder",
        "move a slide into staging",
        "read another worker's result",
        "write another worker's result",
        "list another worker's staging",
        "remove from staging",
        "rename in staging",
    ];
    assert_denied(told, &files, "denied");
}

/// No test: what [`enter`] runs. Called without being told a folder, it has nothing to do.
#[test]
#[ignore = "a child process of the other test"]
fn inside() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (slides, staging) = (folder.join("slides"), folder.join("staging"));
    let setup = Setup {
        version: VERSION,
        sandbox: Sandbox::BestEffort,
        read: vec![slides.clone()],
        write: vec![staging.clone()],
        gpu: std::env::var_os(GPU).is_some(),
        memory: MEMORY,
        params: RoadParams::default(),
    };
    let lacking = sandbox::enter(&setup).expect("entered");
    println!();
    lacking.iter().for_each(|what| println!("{what}"));
    let attempts = files(&folder, &slides, &staging)
        .into_iter()
        .chain(calls(&slides, &staging))
        .chain(calls::attempts(&slides.join("HE.tif"), &staging))
        .chain(limits());
    for (name, result) in attempts {
        println!("{name}: {}", result.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
    }
    println!("core dump limit: {:?}", getrlimit(Resource::Core).maximum);
}

fn files(folder: &Path, slides: &Path, staging: &Path) -> Vec<Attempt> {
    let (slide, new) = (slides.join("HE.tif"), staging.join("new"));
    let other = folder.join("staging-of-another");
    let parent = getppid().expect("a parent").as_raw_nonzero();
    let open = |path: &Path| fs::OpenOptions::new().write(true).open(path).map(drop);
    vec![
        ("read a slide", fs::read(&slide).map(drop)),
        ("list slides", fs::read_dir(slides).map(drop)),
        ("write into staging", fs::create_dir(&new).and_then(|()| fs::write(new.join("map"), "map"))),
        ("remove from staging", fs::remove_file(new.join("map"))),
        ("rename in staging", fs::rename(new.join("map"), new.join("card"))),
        ("read another worker's result", fs::read(other.join("result.json")).map(drop)),
        ("write another worker's result", open(&other.join("result.json"))),
        ("list another worker's staging", fs::read_dir(&other).map(drop)),
        ("read a secret", fs::read(folder.join("secret/key")).map(drop)),
        ("read /etc/passwd", fs::read("/etc/passwd").map(drop)),
        ("list another folder", fs::read_dir(folder.join("secret")).map(drop)),
        ("list /", fs::read_dir("/").map(drop)),
        ("read the supervisor's environment", fs::read(format!("/proc/{parent}/environ")).map(drop)),
        ("write beside a slide", fs::write(slides.join("HE.tissuemap"), "map")),
        ("write into a slide", open(&slide)),
        ("truncate a slide", fs::File::create(&slide).map(drop)),
        ("remove a slide", fs::remove_file(&slide)),
        ("rename a slide", fs::rename(&slide, slides.join("gone.tif"))),
        ("write into /tmp", fs::write("/tmp/tissuemap-sandbox-test", "out")),
        ("write into the staging folder's parent", fs::write(folder.join("out"), "out")),
        ("rename the staging folder", fs::rename(staging, folder.join("moved"))),
        ("move a slide into staging", fs::rename(&slide, staging.join("HE.tif"))),
    ]
}

fn calls(slides: &Path, staging: &Path) -> Vec<Attempt> {
    let slide = slides.join("HE.tif");
    let parent = getppid().expect("a parent");
    let new_time = || fs::File::open(&slide)?.set_modified(SystemTime::UNIX_EPOCH);
    vec![
        ("tcp server", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("tcp client", TcpStream::connect("127.0.0.1:9").map(drop)),
        ("udp socket", UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("unix server", UnixListener::bind(staging.join("socket")).map(drop)),
        ("abstract unix server", abstract_server()),
        ("unix pair", UnixStream::pair().map(drop)),
        ("unix datagram", UnixDatagram::unbound().map(drop)),
        ("run a program", Command::new("/bin/true").status().map(drop)),
        ("make a slide writable", fs::set_permissions(&slide, fs::Permissions::from_mode(0o666))),
        ("change a slide's time", new_time()),
        ("link in staging", symlink("/etc/passwd", staging.join("link"))),
        ("second name in staging", fs::hard_link(staging.join("old"), staging.join("hard"))),
        ("signal the supervisor", kill_process(parent, Signal::URG).map_err(io::Error::from)),
        ("look for the supervisor", test_kill_process(parent).map_err(io::Error::from)),
        ("name a thread by its file", fs::write("/proc/thread-self/comm", "renamed")),
        ("start a thread", std::thread::Builder::new().spawn(|| ()).map(drop)),
    ]
}

/// As NVIDIA's driver opens one.
fn abstract_server() -> io::Result<()> {
    let name = format!("tissuemap-sandbox-{}", std::process::id());
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
}

fn limits() -> Vec<Attempt> {
    let allocate = |bytes: u64| {
        let mut memory: Vec<u8> = Vec::new();
        memory.try_reserve_exact(bytes as usize).map_err(|_| io::Error::other("out of memory"))
    };
    let more = Rlimit { current: Some(2 * MEMORY), maximum: Some(2 * MEMORY) };
    vec![
        ("allocate a little", allocate(MEMORY / 8)),
        ("allocate too much", allocate(MEMORY)),
        ("raise the memory limit", setrlimit(Resource::Data, more).map_err(io::Error::from)),
    ]
}
