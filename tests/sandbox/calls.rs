//! System calls that no library makes for the tests: each would do something to a slide, to the supervisor or to the machine
//! where it is allowed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::process::getppid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Attempt;

/// Denied with and without a graphics card.
pub(super) const NEVER: [&str; 30] = [
    "attribute of a slide by the new call",
    "flags of a slide by the new call",
    "flags of a slide",
    "extended flags of a slide",
    "lock a slide",
    "lease on a slide",
    "send signals by a file",
    "signals when a file is ready",
    "enlarge a pipe",
    "shared memory that stays",
    "message queue that stays",
    "semaphores that stay",
    "named message queue",
    "room on the disk",
    "file without a name",
    "the supervisor's priority",
    "its own priority",
    "the supervisor's processors",
    "the supervisor's class",
    "a class of real time",
    "its own disk class",
    "the supervisor's disk class",
    "the supervisor's limits",
    "the supervisor's locks",
    "the supervisor's pages",
    "hear of others' files",
    "write all disks",
    "a session of its own",
    "outlive the supervisor",
    "type into a terminal",
];

/// Calls that are newer than what was audited, or have a second number.
pub(super) const UNKNOWN: [&str; 6] = [
    "a call of tomorrow",
    "a call of the day after",
    "namespaces of others",
    "rules on top",
    "a call by its second number",
    "the gap between old and new calls",
];

/// What CUDA needs, and nobody else.
pub(super) const WITHOUT_GPU: [&str; 4] = ["memory in a file", "a pipe", "memory to write and run", "memory to share"];

/// What libraries do all the time.
pub(super) const WORK: [&str; 3] = ["second descriptor", "lock for reading", "its own processors"];

/// Makes a system call of numbers, and of pointers to what the caller holds.
#[allow(unsafe_code)]
fn call(number: libc::c_long, arguments: &[usize]) -> io::Result<()> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: every caller here passes numbers, or pointers to values that live until it returns, of the size that the call
    // reads; the calls that map memory do not touch any that is in use.
    let outcome =
        unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn attempts(slide: &Path, staging: &Path) -> Vec<Attempt> {
    let file = File::open(slide).expect("readable");
    let mut all = on_slides(&file, slide);
    all.extend(memory(staging));
    all.extend(others());
    all.extend([
        ("a call of tomorrow", call(480, &[])),
        ("a call of the day after", call(9999, &[])),
        ("namespaces of others", call(470, &[])),
        ("rules on top", call(444, &[0, 0, 1])),
        ("a call by its second number", call(0x4000_0027, &[])),
        ("the gap between old and new calls", call(400, &[])),
        ("second descriptor", file.try_clone().map(drop)),
        ("lock for reading", read_lock(&file)),
        ("its own processors", own_processors()),
    ]);
    all
}

fn on_slides(file: &File, slide: &Path) -> Vec<Attempt> {
    const SETXATTRAT: libc::c_long = 463;
    const FILE_SETATTR: libc::c_long = 469;
    const SET_FLAGS: usize = 0x4008_6602;
    const SET_EXTENDED_FLAGS: usize = 0x401c_5820;
    let path = std::ffi::CString::new(slide.as_os_str().as_encoded_bytes()).expect("no zero");
    let (path, here) = (path.as_ptr() as usize, libc::AT_FDCWD as usize);
    let descriptor = file.as_raw_fd() as usize;
    let value = b"x";
    let attribute: [u64; 2] = [value.as_ptr() as u64, 1];
    let (name, flags, extended) = (c"user.test", [0_u64; 3], [0_u8; 28]);
    let parent = getppid().expect("a parent").as_raw_nonzero().get() as usize;
    let set = |command: i32, value: usize| call(libc::SYS_fcntl, &[descriptor, command as usize, value]);
    let ioctl = |request: usize, with: usize| call(libc::SYS_ioctl, &[descriptor, request, with]);
    vec![
        (
            "attribute of a slide by the new call",
            call(SETXATTRAT, &[here, path, 0, name.as_ptr() as usize, attribute.as_ptr() as usize, 16]),
        ),
        ("flags of a slide by the new call", call(FILE_SETATTR, &[here, path, flags.as_ptr() as usize, 24, 0])),
        ("flags of a slide", ioctl(SET_FLAGS, flags.as_ptr() as usize)),
        ("extended flags of a slide", ioctl(SET_EXTENDED_FLAGS, extended.as_ptr() as usize)),
        ("type into a terminal", ioctl(libc::TIOCSTI as usize, value.as_ptr() as usize)),
        ("lock a slide", flock(file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)),
        ("lease on a slide", set(libc::F_SETLEASE, libc::F_RDLCK as usize)),
        ("send signals by a file", set(libc::F_SETOWN, parent)),
        ("signals when a file is ready", set(libc::F_SETFL, libc::O_ASYNC as usize)),
        // Standard output of this child.
        ("enlarge a pipe", call(libc::SYS_fcntl, &[1, libc::F_SETPIPE_SZ as usize, 1 << 20])),
    ]
}

fn read_lock(file: &File) -> io::Result<()> {
    let lock = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
    let lock = std::ptr::from_ref(&lock) as usize;
    call(libc::SYS_fcntl, &[file.as_raw_fd() as usize, libc::F_SETLK as usize, lock])
}

fn own_processors() -> io::Result<()> {
    let all = rustix::thread::sched_getaffinity(None)?;
    Ok(sched_setaffinity(None, &all)?)
}

fn memory(staging: &Path) -> Vec<Attempt> {
    let private = 0;
    let create = (libc::IPC_CREAT | 0o600) as usize;
    let map = |protection: i32, flags: i32| {
        call(libc::SYS_mmap, &[0, 4096, protection as usize, (flags | libc::MAP_ANONYMOUS) as usize, usize::MAX, 0])
    };
    let fill = || {
        let file = File::create(staging.join("fill"))?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, 4096)?)
    };
    let nameless = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(staging);
    vec![
        ("memory in a file", call(libc::SYS_memfd_create, &[c"test".as_ptr() as usize, 0])),
        ("a pipe", io::pipe().map(drop)),
        ("memory to write and run", map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE)),
        ("memory to share", map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)),
        ("shared memory that stays", call(libc::SYS_shmget, &[private, 4096, create])),
        ("message queue that stays", call(libc::SYS_msgget, &[private, create])),
        ("semaphores that stay", call(libc::SYS_semget, &[private, 1, create])),
        (
            "named message queue",
            call(
                libc::SYS_mq_open,
                &[c"tissuemap-test".as_ptr() as usize, (libc::O_CREAT | libc::O_RDWR) as usize, 0o600, 0],
            ),
        ),
        ("room on the disk", fill()),
        ("file without a name", nameless.map(drop)),
        ("write all disks", call(libc::SYS_sync, &[])),
    ]
}

fn others() -> Vec<Attempt> {
    const CLASS_IDLE: usize = 3 << 13;
    let parent = getppid().expect("a parent");
    let number = parent.as_raw_nonzero().get() as usize;
    let mut one = CpuSet::new();
    one.set(0);
    let parameter = [0_i32];
    let real_time = [1_i32];
    let limits = [10_u64; 2];
    let (mut head, mut length) = (0_usize, 0_usize);
    let (head, length) = (&raw mut head as usize, &raw mut length as usize);
    vec![
        ("the supervisor's priority", call(libc::SYS_setpriority, &[0, number, 19])),
        ("its own priority", call(libc::SYS_setpriority, &[0, 0, 19])),
        ("the supervisor's processors", sched_setaffinity(Some(parent), &one).map_err(io::Error::from)),
        (
            "the supervisor's class",
            call(libc::SYS_sched_setscheduler, &[number, libc::SCHED_IDLE as usize, parameter.as_ptr() as usize]),
        ),
        (
            "a class of real time",
            call(libc::SYS_sched_setscheduler, &[0, libc::SCHED_FIFO as usize, real_time.as_ptr() as usize]),
        ),
        ("its own disk class", call(libc::SYS_ioprio_set, &[1, 0, CLASS_IDLE])),
        ("the supervisor's disk class", call(libc::SYS_ioprio_set, &[1, number, CLASS_IDLE])),
        (
            "the supervisor's limits",
            call(libc::SYS_prlimit64, &[number, libc::RLIMIT_NOFILE as usize, limits.as_ptr() as usize, 0]),
        ),
        ("the supervisor's locks", call(libc::SYS_get_robust_list, &[number, head, length])),
        ("the supervisor's pages", call(libc::SYS_move_pages, &[number, 0, 0, 0, 0, 0])),
        ("hear of others' files", call(libc::SYS_inotify_init1, &[0])),
        ("a session of its own", call(libc::SYS_setsid, &[])),
        ("outlive the supervisor", call(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, 0])),
    ]
}
