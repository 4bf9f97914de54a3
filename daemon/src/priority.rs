//! The scanner's own software comes first: whoever computes steps back, for the processor and for the disk.
//!
//! Both priorities belong to a thread and are inherited by the threads that it starts, so a process that computes calls
//! [`step_back`] before it starts any. What limits the daemon as a whole, with all its processes, is its control group:
//! `CPUWeight=` and `IOWeight=` in the systemd unit.

use std::io;

use rustix::process::{getpriority_process, setpriority_process};

/// A tenth of the share of a program that did not step back. With the lowest, 19, it would be a seventieth: on a busy
/// machine sets would run into their deadline.
const NICE: i32 = 10;

/// Sets a low CPU priority and the idle disk class for this thread and those that it starts from now on.
///
/// # Errors
/// The system refuses. Lowering one's own priority needs no privilege, so only a filter on system calls does that.
pub fn step_back() -> io::Result<()> {
    if getpriority_process(None)? < NICE {
        setpriority_process(None, NICE)?;
    }
    idle_disk_class()
}

/// `ioprio_set(IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << 13)`. Only the bfq scheduler heeds it; others ignore it.
#[allow(unsafe_code)]
fn idle_disk_class() -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    const THIS_THREAD: libc::c_long = 0;
    const CLASS_IDLE: libc::c_long = 3 << 13;
    // SAFETY: three numbers; the system reads and writes no memory of ours.
    let outcome = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, THIS_THREAD, CLASS_IDLE) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_thread_that_stepped_back_has_low_priorities_and_so_have_its_children() {
        // On a thread of its own: the priorities stay, and other tests shall not be slow.
        let seen = std::thread::spawn(|| {
            step_back().expect("lowering is allowed");
            let child = Command::new("cat").arg("/proc/self/stat").output().expect("cat runs");
            let class = Command::new("ionice").output().ok();
            (String::from_utf8(child.stdout).expect("text"), class)
        });
        let (stat, class) = seen.join().expect("no panic");
        // Field 19 is the nice value; the second, the name in brackets, may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        assert_eq!(fields[19 - 3], NICE.to_string(), "{stat}");
        match class {
            Some(class) => assert_eq!(String::from_utf8_lossy(&class.stdout).trim(), "idle"),
            None => println!("SKIPPED: no `ionice` to look at the disk class"),
        }
    }
}
