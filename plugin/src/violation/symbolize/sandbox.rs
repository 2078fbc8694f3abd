//! Step 8: what a process gives up before it reads a hostile file.
//!
//! After `enter` it has no capability, can gain none, can open exactly two more files (for which it has two
//! descriptors and no way to free them), and may use no more memory and time than a symbol needs. Its only way
//! out is its standard output.
#![expect(unsafe_code, reason = "close_range and the seccomp filter have no safe wrapper in our crates")]

use std::{io, os::fd::AsRawFd};

use nix::libc;
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};

/// Mapped files count: programs with debug information have a few hundred MiB.
const ADDRESS_SPACE: u64 = 4 << 30;
/// It is charged to the agent's own cgroup.
const HEAP: u64 = 128 << 20;
const CPU_SECONDS: u64 = 2;

/// What blazesym, the allocator and the end of the process need. Everything else is EPERM, also to keep a
/// library's fallback alive where it has one.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_write,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Descriptors of the agent that were not opened with O_CLOEXEC. Before anything else is opened.
/// close_range is there since Linux 5.9; the guard needs more.
pub fn close_inherited_files() {
    // SAFETY: takes integers only; no value of this process owns a descriptor above 2 yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

pub fn enter() -> io::Result<()> {
    // The first to go when the agent's cgroup is out of memory. Without /proc it is as likely as the agent.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit_resources()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    install_filter()
}

fn limit_resources() -> io::Result<()> {
    let limit = |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    limit(Resource::As, ADDRESS_SPACE)?;
    limit(Resource::Data, HEAP)?;
    limit(Resource::Cpu, CPU_SECONDS)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // The two lowest free descriptors are the only ones that may still be used; `close` is not allowed by the filter.
    // There are no holes below it: `close_inherited_files` left 0, 1 and 2.
    let next = std::fs::File::open("/dev/null").or_else(|_| std::fs::File::open("/proc/self/exe"))?;
    let next = u64::try_from(next.as_raw_fd()).map_err(io::Error::other)?;
    limit(Resource::Nofile, next + 2)?;
    Ok(())
}

fn install_filter() -> io::Result<()> {
    let mut program = filter();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: `program` points to `length` valid instructions that outlive the call; the kernel copies them.
    let rc = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program), 0, 0)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// seccomp(2): offsets of `struct seccomp_data`, instructions of classic BPF.
fn filter() -> Vec<libc::sock_filter> {
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    const CLOSE: u32 = 3;
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let answer = |value| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let jump_if =
        |value, equal, not| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, equal, not, value);

    let mut program = vec![
        load(ARCH),
        jump_if(AUDIT_ARCH_X86_64, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    for number in ALLOWED.iter().filter_map(|number| u32::try_from(*number).ok()) {
        program.push(jump_if(number, 0, 1));
        program.push(answer(libc::SECCOMP_RET_ALLOW));
    }
    // "Closed", but its descriptor is not free again.
    program.push(jump_if(CLOSE, 0, 1));
    program.push(answer(libc::SECCOMP_RET_ERRNO));
    program.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()));
    program
}

fn instruction(code: u32, if_true: u8, if_false: u8, k: u32) -> libc::sock_filter {
    // Classic BPF has 16-bit codes; libc gives their parts as u32.
    libc::sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt: if_true, jf: if_false, k }
}
