//! The one place in this crate that calls the kernel, or reads what it wrote.
#![expect(unsafe_code, reason = "a system call by hand, and a siginfo_t without a crate that declares it")]

use core::{arch::asm, ffi::c_void};

use crate::{PR_TASK_ISOLATION, Violation, violation};

/// 0 or an errno. Inlined, so that no page but the caller's own is needed when it returns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prctl_task_isolation(bits: u64, classes: u64) -> i32 {
    const NR_PRCTL: u64 = 157;
    let ret: i64;
    // SAFETY: PR_TASK_ISOLATION takes integers only and touches no memory of ours; the kernel changes rcx and
    // r11 besides rax. The handler of a signal may have stored to memory by its return: no `nomem`.
    unsafe {
        asm!("syscall",
            inlateout("rax") NR_PRCTL => ret,
            in("rdi") u64::from(PR_TASK_ISOLATION), in("rsi") bits, in("rdx") classes, in("r10") 0u64, in("r8") 0u64,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    errno_of(ret)
}

/// 0 or an errno. Inlined, so that no page but the caller's own is needed when it returns.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn prctl_task_isolation(bits: u64, classes: u64) -> i32 {
    const NR_PRCTL: u64 = 167;
    let ret: i64;
    // SAFETY: as on x86-64; the kernel changes x0 alone.
    unsafe {
        asm!("svc 0",
            in("x8") NR_PRCTL, inlateout("x0") u64::from(PR_TASK_ISOLATION) => ret,
            in("x1") bits, in("x2") classes, in("x3") 0u64, in("x4") 0u64, options(nostack));
    }
    errno_of(ret)
}

/// The kernel answers with errors from -4095 to -1, and this call with nothing else but 0.
#[inline(always)]
fn errno_of(ret: i64) -> i32 {
    i32::try_from(-ret).unwrap_or(i32::MAX)
}

/// `siginfo_t` as far as it is read here (include/uapi/asm-generic/siginfo.h, 64 bits).
#[repr(C)]
struct SigInfo {
    signo: i32,
    errno: i32,
    code: i32,
    unused: i32,
    pid: u32,
    uid: u32,
    value: u64,
}

/// What the signal of a violation carries, for [`Violation::from_value`]; 0 of
/// any other signal, and of a violation's before Linux 6.13, where its number alone tells the class.
///
/// # Safety
///
/// `info` points to a `siginfo_t` that the kernel wrote: the second argument of a handler that was installed
/// with `SA_SIGINFO`, or what sigwaitinfo(2) filled in.
#[must_use]
#[inline]
pub unsafe fn value(info: *const c_void) -> u32 {
    // SAFETY: the caller's promise; a siginfo_t is 128 bytes and aligned to 8.
    let info = unsafe { &*info.cast::<SigInfo>() };
    violation::value_of(info.code, info.value)
}

impl Violation {
    /// For a handler that may do more than store the [`value`]: the violation has disarmed the thread (OneShot).
    /// `None` where that is 0.
    ///
    /// # Safety
    ///
    /// As of [`value`].
    #[must_use]
    pub unsafe fn from_siginfo(info: *const c_void) -> Option<Violation> {
        // SAFETY: the caller's promise is the same.
        Violation::from_value(unsafe { value(info) })
    }
}
