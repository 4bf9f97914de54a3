//! What a worker gives up before it opens the first file: after [`enter`], a hostile slide or model that takes it over can
//! read slides, the model and system libraries, and write into one folder.
//!
//! Four layers, each of which the kernel enforces on all threads that start from then on:
//! - **landlock**: the file system, TCP ports, and signals to other processes, by a list of what is allowed;
//! - **seccomp**: system calls, by a list of what is denied ([`super::syscalls`]);
//! - **limits**: memory that can be allocated, size of a file, open files, no core dumps (they would hold pixels);
//! - **capabilities** and set-user-id programs: none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::protocol::Setup;
use super::syscalls;
use crate::config::Sandbox;

/// Linux 6.2. Older ones cannot deny truncation of files that may be read.
const LEAST: ABI = ABI::V3;
/// Linux 6.12: ports since 6.7, devices since 6.10, signals since 6.12.
const BEST: ABI = ABI::V6;

/// An output file is some megabytes, a TensorRT engine some hundred. All files together: [`super::watch`].
const FILE_BYTES: u64 = 2 << 30;
/// OpenSlide keeps some thirty files open.
const OPEN_FILES: u64 = 1024;

/// What programs need of the system: libraries, and what they ask about processor and memory.
const SYSTEM: [&str; 16] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/bus/pci",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
];
/// And to use NVIDIA's cards.
const SYSTEM_GPU: [&str; 2] = ["/proc/driver/nvidia", "/proc/devices"];

/// Why a worker may not work.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the kernel refuses to {action}: {reason}")]
    Refused { action: &'static str, reason: String },
    #[error("{lacking}, and sandbox = \"required\"")]
    Lacking { lacking: String },
}

/// Confines this thread and all that start from it. Call it before there are others. Gives what this kernel lacks, in words.
///
/// # Errors
/// The kernel refuses a step, or lacks one where [`Sandbox::Required`].
pub fn enter(setup: &Setup) -> Result<Vec<String>, SandboxError> {
    limit(setup.memory).map_err(refused("set limits"))?;
    set_no_new_privs(true).map_err(refused("give up privileges"))?;
    drop_capabilities().map_err(refused("drop capabilities"))?;
    let files = confine_files(setup)?;
    let calls = syscalls::deny(setup.gpu).err().map(|reason| format!("system calls cannot be filtered: {reason}"));
    let lacking: Vec<String> = files.into_iter().chain(calls).collect();
    match setup.sandbox {
        Sandbox::Required if !lacking.is_empty() => Err(SandboxError::Lacking { lacking: lacking.join("; ") }),
        Sandbox::Required | Sandbox::BestEffort => Ok(lacking),
    }
}

fn refused<E: std::fmt::Display>(action: &'static str) -> impl Fn(E) -> SandboxError {
    move |error| SandboxError::Refused { action, reason: error.to_string() }
}

/// `RLIMIT_DATA` counts what a process can write and nobody else sees: the memory that it can really use up.
/// `RLIMIT_AS` would count addresses, of which CUDA reserves more than any machine has memory.
fn limit(memory: u64) -> io::Result<()> {
    let limits =
        [(Resource::Data, memory), (Resource::Fsize, FILE_BYTES), (Resource::Nofile, OPEN_FILES), (Resource::Core, 0)];
    for (resource, most) in limits {
        let most = getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// A daemon that runs as root may read slides of any owner, and so may its worker; of all else, nothing is kept.
fn drop_capabilities() -> io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    let kept = had.permitted & CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// What may be read and written; nothing may be run.
fn confine_files(setup: &Setup) -> Result<Option<String>, SandboxError> {
    let failed = refused("confine the file system");
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Nothing of it may be removed or renamed: a file without a name would take room that nobody sees.
    let write = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeDir | AccessFs::MakeReg;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;

    let level = match setup.sandbox {
        Sandbox::Required => CompatLevel::HardRequirement,
        Sandbox::BestEffort => CompatLevel::BestEffort,
    };
    let build = || -> Result<_, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(LEAST))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(BEST))?
            .handle_access(AccessNet::from_all(BEST))?
            .scope(Scope::from_all(BEST))?
            .create()?;
        let system = SYSTEM.iter().chain(SYSTEM_GPU.iter().filter(|_| setup.gpu)).map(PathBuf::from);
        for path in system.chain(libraries()).chain(setup.read.iter().cloned()) {
            rules = allow(rules, &path, read)?;
        }
        for path in &setup.write {
            rules = allow(rules, path, write)?;
        }
        if setup.gpu {
            for path in graphics_cards() {
                rules = allow(rules, &path, device)?;
            }
            // NVIDIA's driver writes somewhere in there, and does not start where it may not (measured with 580.159).
            rules = allow(rules, Path::new("/proc/self"), read | AccessFs::WriteFile | AccessFs::Truncate)?;
        }
        rules.no_new_privs(true).restrict_self()
    };
    let status = match build() {
        Ok(status) => status,
        // The only rights that are required are those of the file system.
        Err(landlock::RulesetError::HandleAccesses(_)) if setup.sandbox == Sandbox::Required => {
            return Ok(Some(NO_LANDLOCK.to_owned()));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let enough = matches!(status.landlock, LandlockStatus::Available { effective_abi, .. } if effective_abi >= LEAST);
    Ok((status.ruleset == RulesetStatus::NotEnforced || !enough).then(|| NO_LANDLOCK.to_owned()))
}

const NO_LANDLOCK: &str = "this kernel has no landlock or an old one (Linux 6.2 has it, where the boot parameter `lsm=` \
                           does not leave it out), so that the worker's files are confined by their permissions only";

/// A path that is not there cannot be opened later either; that is no error here.
fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    let (Ok(opened), Ok(what)) = (PathFd::new(path), fs::metadata(path)) else { return Ok(rules) };
    let access = if what.is_dir() { access } else { access & AccessFs::from_file(BEST) };
    rules.add_rule(PathBeneath::new(opened, access))
}

/// Where libraries lie, and where links in these folders lead.
fn libraries() -> impl Iterator<Item = PathBuf> {
    let by_environment = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let by_environment: Vec<PathBuf> = std::env::split_paths(&by_environment).collect();
    tissuemap::libs::search_path().into_iter().chain(by_environment).flat_map(|folder| {
        let links = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let targets: Vec<PathBuf> =
            links.filter(|path| path.is_symlink()).filter_map(|path| fs::canonicalize(path).ok()).collect();
        std::iter::once(folder).chain(targets)
    })
}

/// The devices of NVIDIA's driver.
pub(super) fn graphics_cards() -> Vec<PathBuf> {
    let devices = fs::read_dir("/dev").into_iter().flatten().flatten();
    devices.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"nvidia")).map(|e| e.path()).collect()
}
