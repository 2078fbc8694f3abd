//! Arming and disarming the calling thread.

use core::fmt;

use crate::{CLASSES, ENABLE, signals, sys};

/// One signal for each class of kernel entries; 0, the default, leaves a class to the policy's action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals {
    pub syscall: u8,
    pub exception: u8,
    pub interrupt: u8,
}

/// From its return on each entry of this thread into the kernel is a violation.
///
/// `Ok` is not always the last word: where a seccomp filter answers the call, a thread that may run on more
/// than one CPU of its grant, or has none, is refused by the pod's Event ArmRefused alone.
///
/// # Errors
///
/// Each [`Error`] says what to do about it. The thread is as it was before.
#[inline]
pub fn arm(chosen: Signals) -> Result<(), Error> {
    let Signals { syscall, exception, interrupt } = chosen;
    answer(sys::prctl_task_isolation(u64::from(ENABLE | CLASSES), signals(syscall, exception, interrupt)))
}

/// This thread may enter the kernel again. Disarming one that is not armed is no error.
///
/// # Errors
///
/// [`Error::NotPermitted`] where the policy is `locked`; [`Error::Invalid`] outside of a container with
/// granted cores.
#[inline]
pub fn disarm() -> Result<(), Error> {
    answer(sys::prctl_task_isolation(0, 0))
}

/// What the prctl's errno means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// EINVAL
    Invalid,
    /// EPERM
    NotPermitted,
    /// EAGAIN
    NotReady,
    /// An errno that is not of this prctl: somebody else's seccomp filter denies it, for example.
    Unexpected(i32),
}

const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;

#[inline]
fn answer(errno: i32) -> Result<(), Error> {
    match errno {
        0 => Ok(()),
        EINVAL => Err(Error::Invalid),
        EPERM => Err(Error::NotPermitted),
        EAGAIN => Err(Error::NotReady),
        other => Err(Error::Unexpected(other)),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("prctl(PR_TASK_ISOLATION): ")?;
        match self {
            Error::Invalid => to.write_str(
                "EINVAL: pin this thread to exactly one CPU of its grant, and choose signals that do not stop the process and are not ignored by default; outside of a container with granted cores nobody answers the call",
            ),
            Error::NotPermitted => to.write_str(
                "EPERM: the policy is locked, and allows neither signals of one's own nor disarming; or this container has no grant",
            ),
            Error::NotReady => to.write_str("EAGAIN: the core's tick cannot stop now: call again until it can"),
            Error::Unexpected(errno) => write!(to, "errno {errno}: does a seccomp filter deny prctl(2)?"),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString as _;

    #[test]
    fn each_errno_says_what_to_do() {
        assert_eq!(answer(0), Ok(()));
        assert_eq!(answer(EINVAL), Err(Error::Invalid));
        assert_eq!(answer(EPERM), Err(Error::NotPermitted));
        assert_eq!(answer(EAGAIN), Err(Error::NotReady));
        let told = answer(38).unwrap_err().to_string();
        assert_eq!(told, "prctl(PR_TASK_ISOLATION): errno 38: does a seccomp filter deny prctl(2)?");
    }

    #[test]
    fn outside_of_a_strict_container_nobody_answers() {
        assert_eq!(arm(Signals::default()), Err(Error::Invalid));
        assert_eq!(disarm(), Err(Error::Invalid));
    }
}
