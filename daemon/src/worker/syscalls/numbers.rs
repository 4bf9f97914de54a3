//! The part of the filter that lists what is allowed: new system calls, and requests of `ioctl`.
//!
//! Written by hand, because seccompiler knows single numbers only, and a call that does not exist yet has none. The second
//! numbers that x86-64 has for every call (pointers of 32 bits, from `0x4000_0000` on) are denied with the unknown ones.

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use seccompiler::{BpfProgram, sock_filter};

/// From here on, calls have the same number on every machine.
const FIRST_NEW: u32 = 424;

/// Of the calls from [`FIRST_NEW`] on, those that were audited and found harmless; Linux 6.18 had those up to 470. Denied of
/// them: 424 to 435 (processes, `io_uring`, mounts, `clone3`: a filter cannot look into the structure that it is given, and
/// libraries take `clone` where it is missing), 437 (`openat2`: the same), 438, 440, 442 to 448, 451 to 453, 457 to 461 and
/// 463 to 470 (other processes, mounts, quotas, secret memory, shadow stacks, security modules, attributes of files).
const NEW: [u32; 9] = [
    436, // close_range
    439, // faccessat2
    441, // epoll_pwait2
    449, // futex_waitv
    450, // set_mempolicy_home_node
    454, // futex_wake
    455, // futex_wait
    456, // futex_requeue
    462, // mseal
];

/// Requests of `ioctl` that concern the descriptor only, or ask what a terminal is.
const REQUESTS: [u32; 6] = [
    libc::TCGETS as u32,
    libc::TIOCGWINSZ as u32,
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
];

/// The second byte of a request tells whom it is for: NVIDIA's driver has `F`, and its unified memory, whose requests are
/// plain numbers, 0. Those that change attributes of files have `f` or `X`.
const REQUESTS_GPU: [u32; 2] = [0x4600, 0];
const WHOM: u32 = 0xff00;

/// Where `struct seccomp_data` has the number of the call, and the lower half of its second argument.
const NUMBER: u32 = 0;
const SECOND_ARGUMENT: u32 = 16 + 8 + if cfg!(target_endian = "big") { 4 } else { 0 };

/// Allows what was audited; `ENOSYS` for calls that a kernel may lack, so that libraries take the older one, and `EPERM` for
/// requests.
pub(super) fn filter(gpu: bool) -> BpfProgram {
    let fail = |error: i32| statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | error as u32);
    let ioctl = requests(gpu, fail(libc::EPERM));

    let mut program = vec![statement(BPF_LD | BPF_W | BPF_ABS, NUMBER)];
    program.push(jump(BPF_JEQ, libc::SYS_ioctl as u32, 0, ioctl.len()));
    program.extend(ioctl);
    program.push(jump(BPF_JGT, libc::SYS_rseq as u32, 1, 0));
    program.push(allow());
    // Every number of `NEW` is one of these; between the two ranges there is nothing.
    program.push(jump(BPF_JGT, FIRST_NEW - 1, 1, 0));
    program.push(fail(libc::ENOSYS));
    program.extend(any_of(&NEW));
    program.push(fail(libc::ENOSYS));
    program
}

fn requests(gpu: bool, deny: sock_filter) -> BpfProgram {
    let mut program = vec![statement(BPF_LD | BPF_W | BPF_ABS, SECOND_ARGUMENT)];
    program.extend(any_of(&REQUESTS));
    if gpu {
        program.push(statement(BPF_ALU | BPF_AND | BPF_K, WHOM));
        program.extend(any_of(&REQUESTS_GPU));
    }
    program.push(deny);
    program
}

/// Allows each of these values, and goes on with any other.
fn any_of(values: &[u32]) -> impl Iterator<Item = sock_filter> {
    values.iter().flat_map(|&value| [jump(BPF_JEQ, value, 0, 1), allow()])
}

fn allow() -> sock_filter {
    statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW)
}

fn statement(code: u32, value: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

/// Skips so many instructions where the comparison holds, and so many where it does not.
fn jump(comparison: u32, value: u32, holds: u8, else_skip: usize) -> sock_filter {
    let jf = u8::try_from(else_skip).expect("programs here are short");
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt: holds, jf, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter would return for a call with this second argument.
    fn run(program: &[sock_filter], number: u32, request: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                c if c == BPF_LD | BPF_W | BPF_ABS => value = if k == NUMBER { number } else { request },
                c if c == BPF_ALU | BPF_AND | BPF_K => value &= k,
                c if c == BPF_JMP | BPF_JEQ | BPF_K => at += jump(value == k),
                c if c == BPF_JMP | BPF_JGT | BPF_K => at += jump(value > k),
                c if c == BPF_RET | BPF_K => return k,
                other => panic!("not used: {other:#x}"),
            }
        }
    }

    const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

    #[test]
    fn h28_calls_that_nobody_has_audited_do_not_exist_for_a_worker() {
        let program = filter(false);
        for number in [libc::SYS_read, libc::SYS_futex, libc::SYS_rseq] {
            assert_eq!(run(&program, number as u32, 0), libc::SECCOMP_RET_ALLOW, "{number}");
        }
        for number in (libc::SYS_rseq as u32 + 1..1000).chain([0x4000_0000, 0x4000_0039, u32::MAX]) {
            let expected = if NEW.contains(&number) { libc::SECCOMP_RET_ALLOW } else { MISSING };
            assert_eq!(run(&program, number, 0), expected, "{number}");
        }
    }

    #[test]
    fn h28_requests_of_a_worker_reach_neither_attributes_of_files_nor_terminals() {
        let ioctl = libc::SYS_ioctl as u32;
        // Set flags, set extended flags, trim, clone, take over a terminal's input, send signals, and the like of 32 bits.
        let denied =
            [0x4008_6602, 0x4004_6602, 0x401c_5820, 0xc018_5879, 0x4004_9409, 0x5412, 0x5452, 0x8901, 0x8008_6601];
        let nvidia = [0xc020_462a, 0x3000_0001, 37];
        for gpu in [false, true] {
            let program = filter(gpu);
            for request in denied {
                assert_eq!(run(&program, ioctl, request), DENIED, "{request:#x}");
            }
            for request in REQUESTS {
                assert_eq!(run(&program, ioctl, request), libc::SECCOMP_RET_ALLOW, "{request:#x}");
            }
            for request in nvidia {
                assert_eq!(run(&program, ioctl, request) == libc::SECCOMP_RET_ALLOW, gpu, "{request:#x}");
            }
        }
    }
}
