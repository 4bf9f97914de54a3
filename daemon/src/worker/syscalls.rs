//! The system calls that a worker may not make.
//!
//! Of the calls that Linux had up to `rseq` (4.18), a list of what is denied, not of what is allowed: what the drivers of
//! graphics cards call changes from version to version, and a worker that dies of a harmless call helps nobody. Of all later
//! ones and of `ioctl`, a list of what is allowed ([`numbers`]): the next kernel may have a call that nobody has thought of.
//! What is denied fails with an error instead of killing: libraries try things and live without.

mod numbers;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Never, but see [`deny`].
const DENIED: &[i64] = &[
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_tkill,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Priorities, of which the worker has set its own before ([`crate::priority`]).
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    // The network, and sockets of other programs.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // With a message, open files would travel, which nobody counts on their way.
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    // Memory and queues that outlive the worker, or that nobody counts as its own.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semctl,
    libc::SYS_semtimedop,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_pipe2,
    libc::SYS_vmsplice,
    libc::SYS_tee,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    // Disks: room without content, and everybody's data at once.
    libc::SYS_fallocate,
    libc::SYS_sync,
    libc::SYS_syncfs,
    // What others do with their files, and locks that they would wait for.
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_fanotify_mark,
    libc::SYS_flock,
    libc::SYS_lookup_dcookie,
    // Ways around this list.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_personality,
    libc::SYS_seccomp,
    // What landlock does not cover: owner, mode, times and attributes of files that can be read.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    // What the supervisor must not find in a staging folder.
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_mknodat,
    // Roots, mounts, namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Keys, users, the kernel, the machine.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

// Linux 6.13 and 6.17. New calls have the same number on every machine.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_FILE_SETATTR: i64 = 469;

/// What CUDA uses beside sockets of this machine: memory that it shares with its own processes. The supervisor counts it.
const ALLOWED_GPU: &[i64] = &[libc::SYS_bind, libc::SYS_listen, libc::SYS_memfd_create, libc::SYS_pipe2];

/// The same in the older dress that only this processor has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_inotify_init,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_symlink,
    libc::SYS_link,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

/// Denies the calls of this thread, and of those that start from it, for ever.
///
/// With a graphics card (`gpu`), a socket of this machine may be made and given a name: NVIDIA's driver opens one for
/// programs that share its memory, and without it does not start (measured with 580.159, `cuInit` gives error 304). Files stay
/// landlock's matter, so that the name can only be an abstract one.
///
/// # Errors
/// The kernel's reason, in words.
pub(super) fn deny(gpu: bool) -> Result<(), String> {
    for filter in filters(gpu).map_err(|error| error.to_string())? {
        seccompiler::apply_filter(&filter).map_err(|error| match &error {
            seccompiler::Error::Seccomp(cause) | seccompiler::Error::Prctl(cause) => format!("{error}: {cause}"),
            _ => error.to_string(),
        })?;
    }
    Ok(())
}

fn filters(gpu: bool) -> Result<[BpfProgram; 2], seccompiler::Error> {
    let own = u64::from(std::process::id());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &number in DENIED.iter().chain(DENIED_HERE) {
        rules.insert(number, vec![]);
    }
    let when = |argument, operator, value| -> Result<SeccompRule, seccompiler::Error> {
        Ok(SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])?)
    };
    let all = |argument, operators: &[(SeccompCmpOp, i32)]| -> Result<SeccompRule, seccompiler::Error> {
        let condition = |(operator, value): &(SeccompCmpOp, i32)| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator.clone(), u64::from(*value as u32))
        };
        Ok(SeccompRule::new(operators.iter().map(condition).collect::<Result<_, _>>()?)?)
    };
    let flags = |flags: i32| SeccompCmpOp::MaskedEq(u64::from(flags as u32));
    if gpu {
        rules.insert(libc::SYS_socket, vec![when(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?]);
        ALLOWED_GPU.iter().for_each(|number| drop(rules.remove(number)));
    } else {
        // Memory that can be written and run, and memory that is shared and so no longer counted once it is let go of.
        let both = libc::PROT_WRITE | libc::PROT_EXEC;
        let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        rules.insert(libc::SYS_mmap, vec![all(2, &[(flags(both), both)])?, all(3, &[(flags(shared), shared)])?]);
        for call in [libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
            rules.insert(call, vec![all(2, &[(flags(libc::PROT_EXEC), libc::PROT_EXEC)])?]);
        }
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_pipe, vec![]);
    }
    // Files without a name are in no folder that the supervisor could count.
    let nameless = (flags(libc::O_TMPFILE), libc::O_TMPFILE);
    rules.insert(libc::SYS_openat, vec![all(2, std::slice::from_ref(&nameless))?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![all(1, std::slice::from_ref(&nameless))?]);
    // No leases, no signals for others, no larger pipes.
    let other_commands: Vec<_> = FCNTL.iter().map(|&command| (SeccompCmpOp::Ne, command)).collect();
    let signalling = SeccompRule::new(vec![
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::F_SETFL as u64)?,
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, flags(libc::O_ASYNC), libc::O_ASYNC as u64)?,
    ])?;
    rules.insert(libc::SYS_fcntl, vec![all(1, &other_commands)?, signalling]);
    // Signals to oneself are how a program aborts.
    rules.insert(libc::SYS_kill, vec![when(0, SeccompCmpOp::Ne, own)?]);
    rules.insert(libc::SYS_tgkill, vec![when(0, SeccompCmpOp::Ne, own)?]);
    // Threads, no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    // Of oneself: limits, pages, processors, locks that end with a thread.
    for call in ONESELF {
        rules.insert(*call, vec![when(0, SeccompCmpOp::Ne, 0)?]);
    }
    // A signal at the supervisor's death stays.
    let other_options: Vec<_> = PRCTL.iter().map(|&option| (SeccompCmpOp::Ne, option)).collect();
    rules.insert(libc::SYS_prctl, vec![all(0, &other_options)?]);

    // In this order: the other one denies further filters.
    Ok([numbers::filter(gpu), program(rules, libc::EPERM)?])
}

/// Calls whose first argument is a process, where 0 stands for the caller.
const ONESELF: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_sched_setaffinity,
    libc::SYS_get_robust_list,
];

/// What may be asked of an open file with `fcntl`. SQLite, in which some slides are, takes locks for reading.
const FCNTL: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_GETPIPE_SZ,
    libc::F_GET_SEALS,
];

/// What may be asked of `prctl`: names of threads and of memory, and what was given up already.
const PRCTL: &[i32] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    PR_SET_VMA,
    libc::PR_GET_DUMPABLE,
    libc::PR_GET_PDEATHSIG,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_CAPBSET_READ,
];
const PR_SET_VMA: i32 = 0x5356_4d41;

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, seccompiler::Error> {
    let action = SeccompAction::Errno(error as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?.try_into()?)
}
