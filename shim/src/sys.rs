//! Step 5: the system calls of the shim, and what the kernel hands a new program. With `mem.rs` the only
//! unsafe code; one kernel call a function.
#![expect(unsafe_code, reason = "system calls without a libc")]

use core::{
    arch::{asm, global_asm},
    ffi::CStr,
};

use quietcore_shim::{
    failure::Errno,
    filter::Instruction,
    path::{Found, Obstacle},
    plan::CpuMask,
};

// asm/unistd_64.h
const WRITE: usize = 1;
const RT_SIGPROCMASK: usize = 14;
const EXECVE: usize = 59;
const RT_SIGTIMEDWAIT: usize = 128;
const PRCTL: usize = 157;
const SCHED_SETAFFINITY: usize = 203;
const SCHED_GETAFFINITY: usize = 204;
const EXIT_GROUP: usize = 231;
const NEWFSTATAT: usize = 262;
const SECCOMP: usize = 317;
const FACCESSAT2: usize = 439; // Linux 5.8

global_asm!(
    ".globl _start",
    "_start:",
    "xor %ebp, %ebp",
    "mov %rsp, %rdi", // argc, argv..., 0, envp..., 0 (System V ABI, 3.4.1)
    "and $-16, %rsp",
    "call {start}",
    "ud2",
    start = sym start,
    options(att_syntax),
);

/// # Safety
/// `stack` is the stack pointer that the kernel started this program with.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    crate::main(Program { stack })
}

/// What the kernel put on the stack: counted, NUL-terminated strings that nobody changes.
pub(crate) struct Program {
    stack: *const usize,
}

impl Program {
    fn argc(&self) -> usize {
        // SAFETY: argc is the first word on the stack (see `start`).
        unsafe { self.stack.read() }
    }

    fn argv(&self) -> *const *const core::ffi::c_char {
        self.stack.wrapping_add(1).cast()
    }

    fn envp(&self) -> *const *const core::ffi::c_char {
        self.argv().wrapping_add(self.argc() + 1)
    }

    pub(crate) fn arg(&self, idx: usize) -> Option<&[u8]> {
        if self.argc() <= idx {
            return None;
        }
        // SAFETY: idx < argc.
        let text = unsafe { self.argv().wrapping_add(idx).read() };
        // SAFETY: the kernel terminates every argument.
        Some(unsafe { CStr::from_ptr(text) }.to_bytes())
    }

    /// The value of the last variable that begins with `name` ("PATH=").
    pub(crate) fn last_variable(&self, name: &[u8]) -> Option<&[u8]> {
        let (mut at, mut last) = (self.envp(), None);
        loop {
            // SAFETY: the list ends with a null pointer, and `at` has not passed it.
            let text = unsafe { at.read() };
            if text.is_null() {
                return last;
            }
            // SAFETY: the kernel terminates every variable.
            let text = unsafe { CStr::from_ptr(text) }.to_bytes();
            last = text.strip_prefix(name).or(last);
            at = at.wrapping_add(1);
        }
    }
}

/// # Safety
/// The kernel's contract for `nr` holds for the arguments.
unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let ret;
    // SAFETY: the caller's.
    unsafe {
        asm!("syscall", inlateout("rax") nr => ret, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    ret
}

fn errno(ret: isize) -> Result<usize, Errno> {
    usize::try_from(ret).map_err(|_negative| Errno(i32::try_from(-ret).unwrap_or(i32::MAX)))
}

pub(crate) fn write_stderr(text: &[u8]) {
    // SAFETY: `text` is readable for its length.
    unsafe { syscall(WRITE, 2, text.as_ptr() as usize, text.len(), 0, 0) };
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: exit_group takes an integer and does not return.
        unsafe { syscall(EXIT_GROUP, code.cast_unsigned() as usize, 0, 0, 0, 0) };
    }
}

pub(crate) fn allowed_cpus() -> Result<CpuMask, Errno> {
    let mut mask = CpuMask::EMPTY;
    // SAFETY: the kernel writes at most the given size into `mask`.
    let ret =
        unsafe { syscall(SCHED_GETAFFINITY, 0, size_of_val(&mask.0), mask.0.as_mut_ptr() as usize, 0, 0) };
    errno(ret).map(|_| mask)
}

/// Of this thread, the only one.
pub(crate) fn run_on(cpus: &CpuMask) -> Result<(), Errno> {
    // SAFETY: the mask is readable for its size; a kernel with fewer CPUs reads less of it.
    let ret = unsafe { syscall(SCHED_SETAFFINITY, 0, size_of_val(&cpus.0), cpus.0.as_ptr() as usize, 0, 0) };
    errno(ret).map(|_| ())
}

/// The answer says nothing that the caller does not see better by what happened.
pub(crate) fn prctl_task_isolation(bits: u32, arg3: usize) {
    let option = quietcore_abi::PR_TASK_ISOLATION as usize;
    // SAFETY: all arguments are integers.
    unsafe { syscall(PRCTL, option, bits as usize, arg3, 0, 0) };
}

/// struct sock_fprog of linux/filter.h.
#[repr(C)]
struct FilterProgram {
    len: u16,
    instructions: *const Instruction,
}

pub(crate) fn seccomp(instructions: &[Instruction]) -> Result<(), Errno> {
    const SET_MODE_FILTER: usize = 1;
    // Before Linux 5.16 a filter without it turns on the mitigation of speculative store bypass, for good.
    const SPEC_ALLOW: usize = 1 << 2;
    let len = u16::try_from(instructions.len()).unwrap_or(0);
    let program = FilterProgram { len, instructions: instructions.as_ptr() };
    // SAFETY: `program` and what it points to are readable for the call; the kernel copies them.
    errno(unsafe { syscall(SECCOMP, SET_MODE_FILTER, SPEC_ALLOW, &raw const program as usize, 0, 0) })
        .map(|_| ())
}

const SIGSET_SIZE: usize = size_of::<u64>();

fn change_mask(how: usize, set: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both sets are of the size given; the kernel writes `before`.
    unsafe {
        syscall(RT_SIGPROCMASK, how, &raw const set as usize, &raw mut before as usize, SIGSET_SIZE, 0)
    };
    before
}

/// Returns the mask as it was.
pub(crate) fn block(signal: u8) -> u64 {
    const SIG_BLOCK: usize = 0;
    change_mask(SIG_BLOCK, 1 << (signal - 1))
}

pub(crate) fn restore(mask: u64) {
    const SIG_SETMASK: usize = 2;
    change_mask(SIG_SETMASK, mask);
}

/// Who sent a signal that was taken off the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Kernel,
    Process,
}

/// struct siginfo (asm-generic/siginfo.h): si_signo, si_errno, si_code, and what depends on them.
#[repr(C, align(8))]
struct SigInfo([i32; 128 / size_of::<i32>()]);

const SI_CODE: usize = 2;
/// No process can pretend it to another (rt_sigqueueinfo(2)); bpf_send_signal says it (kernel/trace/bpf_trace.c).
const SI_KERNEL: i32 = 0x80;

/// Takes a blocked signal off the queue; waits for one at most that long.
pub(crate) fn take_pending(signal: u8, milliseconds: u64) -> Option<Sender> {
    let set = 1u64 << (signal - 1);
    let timeout = [0u64, milliseconds * 1_000_000]; // struct timespec
    let mut info = SigInfo([0; _]);
    // SAFETY: the set and the timeout are readable for the call, `info` is as large as struct siginfo.
    let ret = unsafe {
        syscall(
            RT_SIGTIMEDWAIT,
            &raw const set as usize,
            &raw mut info as usize,
            timeout.as_ptr() as usize,
            SIGSET_SIZE,
            0,
        )
    };
    match info.0[SI_CODE] {
        _ if ret <= 0 => None,
        SI_KERNEL => Some(Sender::Kernel),
        _ => Some(Sender::Process),
    }
}

const AT_FDCWD: usize = (-100isize).cast_unsigned();

/// What findExecutable of Go's os/exec asks: is it there, is it no folder, may this user execute it?
pub(crate) fn look(found: &Found) -> Result<(), Obstacle> {
    const S_IFMT: u32 = 0o170_000;
    const S_IFDIR: u32 = 0o040_000;
    const ANY_X: u32 = 0o111;
    let mode = mode(found).map_err(Obstacle::NotThere)?;
    if mode & S_IFMT == S_IFDIR {
        return Err(Obstacle::IsThere(Errno(Errno::EISDIR)));
    }
    match may_execute(found) {
        Ok(()) => Ok(()),
        // A seccomp profile that does not know the call: the mode bits must do.
        Err(Errno(Errno::ENOSYS | Errno::EPERM)) if mode & ANY_X != 0 => Ok(()),
        Err(Errno(Errno::ENOSYS | Errno::EPERM)) => Err(Obstacle::IsThere(Errno(Errno::EACCES))),
        Err(errno) => Err(Obstacle::IsThere(errno)),
    }
}

fn mode(found: &Found) -> Result<u32, Errno> {
    const ST_MODE: usize = 24; // in struct stat, asm/stat.h
    let path = found.as_bytes_with_nul().as_ptr() as usize;
    let mut stat = [0u64; 144 / size_of::<u64>()];
    // SAFETY: the path is terminated, and `stat` is as large and as aligned as struct stat.
    let ret = unsafe { syscall(NEWFSTATAT, AT_FDCWD, path, stat.as_mut_ptr() as usize, 0, 0) };
    let [a, b, c, d, ..] = stat[ST_MODE / size_of::<u64>()].to_le_bytes();
    errno(ret).map(|_| u32::from_le_bytes([a, b, c, d]))
}

fn may_execute(found: &Found) -> Result<(), Errno> {
    const X_OK: usize = 1;
    const AT_EACCESS: usize = 0x200;
    let path = found.as_bytes_with_nul().as_ptr() as usize;
    // SAFETY: the path is terminated.
    errno(unsafe { syscall(FACCESSAT2, AT_FDCWD, path, X_OK, AT_EACCESS, 0) }).map(|_| ())
}

/// Returns only when it failed.
pub(crate) fn exec(found: &Found, program: &Program, first_arg: usize) -> Errno {
    let path = found.as_bytes_with_nul().as_ptr() as usize;
    let argv = program.argv().wrapping_add(first_arg) as usize;
    // SAFETY: the path is terminated; argv and envp are the kernel's own null-terminated lists.
    let ret = unsafe { syscall(EXECVE, path, argv, program.envp() as usize, 0, 0) };
    Errno(i32::try_from(-ret).unwrap_or(i32::MAX))
}
