//! Step 5: the system calls of the shim, and what the kernel hands a new program. With `mem.rs` the only
//! unsafe code; one kernel call a function.
#![expect(unsafe_code, reason = "system calls without a libc")]

use core::{
    arch::{asm, global_asm},
    ffi::CStr,
};

use quietcore_shim::{
    filter::Instruction,
    path::{Candidate, Found},
    plan::CpuMask,
};

pub(crate) const EACCES: i32 = 13;

// asm/unistd_64.h
const WRITE: usize = 1;
const STAT: usize = 4;
const RT_SIGPROCMASK: usize = 14;
const ACCESS: usize = 21;
const EXECVE: usize = 59;
const RT_SIGTIMEDWAIT: usize = 128;
const PRCTL: usize = 157;
const SCHED_GETAFFINITY: usize = 204;
const EXIT_GROUP: usize = 231;
const SECCOMP: usize = 317;

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

fn errno(ret: isize) -> Result<usize, i32> {
    usize::try_from(ret).map_err(|_negative| i32::try_from(-ret).unwrap_or(i32::MAX))
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

pub(crate) fn allowed_cpus(mask: &mut CpuMask) -> Result<(), i32> {
    // SAFETY: the kernel writes at most the given size into `mask`.
    let ret =
        unsafe { syscall(SCHED_GETAFFINITY, 0, size_of::<CpuMask>(), mask.as_mut_ptr() as usize, 0, 0) };
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

pub(crate) fn seccomp(instructions: &[Instruction]) -> Result<(), i32> {
    const SET_MODE_FILTER: usize = 1;
    let len = u16::try_from(instructions.len()).unwrap_or(0);
    let program = FilterProgram { len, instructions: instructions.as_ptr() };
    // SAFETY: `program` and what it points to are readable for the call; the kernel copies them.
    errno(unsafe { syscall(SECCOMP, SET_MODE_FILTER, 0, &raw const program as usize, 0, 0) }).map(|_| ())
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

/// Takes a blocked signal off the queue, without waiting; false when there is none.
pub(crate) fn take_pending(signal: u8) -> bool {
    let set = 1u64 << (signal - 1);
    let now = [0u64; 2]; // struct timespec
    // SAFETY: both are readable for the call; a null siginfo is allowed.
    let ret = unsafe {
        syscall(RT_SIGTIMEDWAIT, &raw const set as usize, 0, now.as_ptr() as usize, SIGSET_SIZE, 0)
    };
    0 < ret
}

/// What exec.LookPath asks: is it there, is it no folder, may this user execute it?
pub(crate) fn candidate(found: &Found) -> Candidate {
    const S_IFMT: u32 = 0o170_000;
    const S_IFDIR: u32 = 0o040_000;
    const MODE: usize = 24 / size_of::<u32>(); // st_mode in struct stat, asm/stat.h
    const X_OK: usize = 1;
    let path = found.as_bytes_with_nul().as_ptr() as usize;
    let mut stat = [0u32; 144 / size_of::<u32>()];
    // SAFETY: the path is terminated, and `stat` is as large as struct stat.
    match errno(unsafe { syscall(STAT, path, stat.as_mut_ptr() as usize, 0, 0, 0) }) {
        Ok(_) => {}
        Err(EACCES) => return Candidate::NoPermission,
        Err(_) => return Candidate::Missing,
    }
    if stat[MODE] & S_IFMT == S_IFDIR {
        return Candidate::Directory;
    }
    // SAFETY: the path is terminated.
    match errno(unsafe { syscall(ACCESS, path, X_OK, 0, 0, 0) }) {
        Ok(_) => Candidate::Executable,
        Err(_) => Candidate::NoPermission,
    }
}

/// Returns only when it failed.
pub(crate) fn exec(found: &Found, program: &Program, first_arg: usize) {
    let path = found.as_bytes_with_nul().as_ptr() as usize;
    let argv = program.argv().wrapping_add(first_arg) as usize;
    // SAFETY: the path is terminated; argv and envp are the kernel's own null-terminated lists.
    unsafe { syscall(EXECVE, path, argv, program.envp() as usize, 0, 0) };
}
