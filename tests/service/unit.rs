//! `systemd/tissuemapd.service` under systemd's own tools, and the daemon under what the unit says.
//!
//! No test can count on a systemd that runs. So [`confined`] puts on by hand what the unit's directives would: it reads the
//! unit, so that a directive which breaks real work breaks the test.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use seccompiler::BpfProgram;
use serde_json::{Value, json};
use tissuemap::overlay;

use super::{Daemon, Site};
use crate::support;
use crate::support::site::{STAINS, slide};

/// Tells the child which folder it may write to.
const WRITABLE: &str = "TISSUEMAP_TEST_WRITABLE";

/// What systemd-analyze says; `None` is announced loudly where it is missing.
fn analyze(arguments: &[&str], folder: &Path) -> Option<Output> {
    let output = Command::new("systemd-analyze").args(arguments).current_dir(folder).output();
    output.inspect_err(|error| eprintln!("SKIPPED: systemd-analyze {}: {error}", arguments[0])).ok()
}

fn unit() -> String {
    fs::read_to_string(support::root().join("systemd/tissuemapd.service")).expect("readable")
}

/// The values of a key, in order.
pub(super) fn values(key: &str) -> Vec<String> {
    let key = format!("{key}=");
    unit().lines().filter_map(|line| line.strip_prefix(&key)).map(str::to_owned).collect()
}

#[test]
fn the_unit_is_what_systemd_understands_and_leaves_little_exposed() {
    let folder = tempfile::tempdir().expect("tempdir");
    // The program is where the test has it.
    let text = unit().replace("/usr/bin/tissuemapd", &support::program("tissuemapd").display().to_string());
    let check = |name: &str, drop_in: Option<&Path>| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).expect("create");
        // Appended, it reads as a drop-in does.
        let drop_in = drop_in.map(|path| fs::read_to_string(path).expect("readable")).unwrap_or_default();
        fs::write(folder.join("tissuemapd.service"), format!("{text}\n{drop_in}")).expect("write");
        let Some(verified) = analyze(&["verify", "./tissuemapd.service"], &folder) else { return };
        // It succeeds also where it has something to say.
        assert_eq!(String::from_utf8_lossy(&verified.stderr), "", "{name}");
        assert!(verified.status.success(), "{name}");
        let arguments = ["security", "--offline=true", "--threshold=15", "--no-pager", "./tissuemapd.service"];
        let Some(rated) = analyze(&arguments, &folder) else { return };
        let told = String::from_utf8_lossy(&rated.stdout).into_owned();
        assert!(told.contains("Overall exposure level"), "{told}");
        assert!(rated.status.success() || name == "gpu", "{name}: more exposed than 1.5: {told}");
    };
    check("plain", None);
    for example in fs::read_dir(support::root().join("systemd/examples")).expect("readable") {
        let path = example.expect("readable").path();
        check(path.file_stem().expect("a name").to_str().expect("UTF-8"), Some(&path));
    }
}

#[test]
fn the_times_of_the_unit_fit_the_defaults_of_the_configuration() {
    let seconds = |key: &str| values(key)[0].parse::<u64>().expect("seconds");
    let defaults: toml::Table = tissuemap_daemon::config::DEFAULT.parse().expect("TOML");
    let drain = defaults["drain_seconds"].as_integer().expect("a number").unsigned_abs();
    // The cancelled job has twenty seconds, the process ten more.
    assert!(seconds("TimeoutStopSec") >= drain + 30);
    // A worker that stands still has ten seconds after the daemon has ceased to vouch for it.
    assert!(seconds("WatchdogSec") >= 3 * 10);
}

/// The system calls of a group as systemd lists them, groups within it included.
fn group(name: &str) -> Option<Vec<String>> {
    let listed = analyze(&["syscall-filter", name], Path::new("/"))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut calls = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("    ")).map(str::trim) {
        match line {
            comment if comment.starts_with('#') => {}
            nested if nested.starts_with('@') => calls.extend(group(nested)?),
            call => calls.push(call.to_owned()),
        }
    }
    Some(calls)
}

/// What the unit's `SystemCallFilter=` lines allow, one after the other.
fn allowed() -> Option<Vec<String>> {
    let mut allowed: Vec<String> = group("@default")?;
    for line in values("SystemCallFilter") {
        let (denies, words) = line.strip_prefix('~').map_or((false, line.as_str()), |words| (true, words));
        for word in words.split(' ') {
            let calls = if word.starts_with('@') { group(word)? } else { vec![word.to_owned()] };
            allowed.retain(|call| !calls.contains(call));
            if !denies {
                allowed.extend(calls);
            }
        }
    }
    Some(allowed)
}

fn compiled(filter: &Value) -> Option<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().expect("a machine that seccomp knows");
    let text = json!({ "main": filter }).to_string();
    seccompiler::compile_from_json(text.as_bytes(), arch).ok().and_then(|mut filters| filters.remove("main"))
}

/// The filters that systemd would install for `SystemCallFilter=`, `RestrictAddressFamilies=AF_UNIX`,
/// `MemoryDenyWriteExecute=` and `RestrictNamespaces=`.
fn filters() -> Option<Vec<BpfProgram>> {
    const PROT_WRITE: u64 = 2;
    const PROT_EXEC: u64 = 4;
    const NAMESPACES: u64 = 0x7e02_0080;
    let argument = |index: u8, mask: u64, value: u64| json!({ "index": index, "type": "qword", "op": { "masked_eq": mask }, "val": value });
    let rules = |call: &str| match call {
        "socket" | "socketpair" => vec![json!({ "syscall": call, "args": [argument(0, 0xffff_ffff, 1)] })],
        "mmap" => [PROT_WRITE, PROT_EXEC]
            .map(|without| json!({ "syscall": call, "args": [argument(2, without, 0)] }))
            .to_vec(),
        "mprotect" | "pkey_mprotect" => vec![json!({ "syscall": call, "args": [argument(2, PROT_EXEC, 0)] })],
        "clone" => vec![json!({ "syscall": call, "args": [argument(0, NAMESPACES, 0)] })],
        "unshare" | "setns" => vec![],
        _ => vec![json!({ "syscall": call })],
    };
    let list = |filter: Vec<Value>, on_match: Value, otherwise: Value| json!({ "match_action": on_match, "mismatch_action": otherwise, "filter": filter });
    let all: Vec<Value> = allowed()?.iter().flat_map(|call| rules(call)).collect();
    // systemd lists calls of every machine; one that this machine does not have cannot be compiled.
    let known = |rule: &Value| compiled(&list(vec![rule.clone()], json!("allow"), json!({ "errno": 1 }))).is_some();
    let here: Vec<Value> = all.into_iter().filter(known).collect();
    assert!(here.len() > 150, "the list was not understood: {here:?}");
    let calls = compiled(&list(here, json!("allow"), json!({ "errno": 1 }))).expect("every rule by itself was");
    // Its flags lie in memory, where a filter does not see them; libraries then take `clone`.
    let no_clone3 = list(vec![json!({ "syscall": "clone3" })], json!({ "errno": 38 }), json!("allow"));
    Some(vec![calls, compiled(&no_clone3).expect("a filter")])
}

#[test]
fn real_inference_works_within_the_sandbox_of_the_unit() {
    if filters().is_none() {
        return;
    }
    let site = Site::new();
    // PrivateUsers=, PrivateNetwork=, CapabilityBoundingSet= and NoNewPrivileges=.
    let mut command = vec!["unshare", "--user", "--map-root-user", "--net", "--ipc", "--uts", "--"];
    command.extend(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
    if !Command::new(command[0]).args(&command[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: in part: users, network and capabilities cannot be taken away here");
        command.clear();
    }
    let test = std::env::current_exe().expect("the test's own path");
    let mut words = command.iter().map(PathBuf::from).chain([test]);
    let mut child = Command::new(words.next().expect("one at least"));
    child.args(words).args(["--exact", "service::unit::confined", "--ignored", "--nocapture", "--test-threads=1"]);
    child.env(WRITABLE, site.path(""));
    let mut daemon = Daemon::start(&site, child);
    site.bring("c1");
    daemon.until("a set was processed", || site.metric("jobs_done_total") == Some(1.0));
    for stain in STAINS {
        let result = site.path("incoming").join(slide("c1", stain)).with_extension("tissuemap");
        assert!(overlay::read_record(&result).is_some(), "{}", result.display());
    }
    let log = daemon.log();
    if !log.contains("this kernel has no landlock") {
        assert!(!log.contains("Not confined as wanted"), "the workers can confine themselves further: {log}");
    }
    assert_eq!(daemon.end().code(), Some(0));
}

/// No test: becomes `tissuemapd` within the unit's sandbox. Called without being told a folder, it has nothing to do.
#[test]
#[ignore = "a child process of the other test"]
fn confined() {
    let Some(writable) = std::env::var_os(WRITABLE).map(PathBuf::from) else { return };
    let filters = filters().expect("systemd-analyze was there before");
    // ProtectSystem=strict with a ReadWritePaths=.
    let abi = ABI::V3;
    let rule = |path: &Path, access| PathBeneath::new(PathFd::new(path).expect("there"), access);
    let read = AccessFs::from_read(abi);
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(rule(Path::new("/"), read)))
        .and_then(|rules| rules.add_rule(rule(&writable, AccessFs::from_all(abi))))
        .and_then(|rules| rules.add_rule(rule(Path::new("/dev/null"), AccessFs::from_file(abi))))
        .and_then(landlock::RulesetCreated::restrict_self)
        .expect("confined");
    // The last one first is the one that allows to add another.
    filters.iter().rev().for_each(|filter| seccompiler::apply_filter(filter).expect("filtered"));
    let error = Command::new(support::program("tissuemapd"))
        .args(["run", "--config"])
        .arg(writable.join("tissuemapd.toml"))
        .env_remove(WRITABLE)
        .exec();
    panic!("not started: {error}");
}
