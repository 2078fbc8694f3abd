//! Step 8: how many arguments a system call has, so that a note shows no stale registers. Pure.

/// Enough to recognize the call, few enough to read.
pub(super) const ARGUMENTS_OF_UNKNOWN: usize = 3;

/// For calls that a dataplane program is seen making; the others show the first three.
pub(super) fn arguments(name: &str) -> usize {
    match name {
        "getpid" | "gettid" | "getppid" | "getuid" | "geteuid" | "getgid" | "getegid" | "sched_yield"
        | "pause" | "fork" | "vfork" | "sync" | "setsid" | "munlockall" | "restart_syscall" => 0,
        "close" | "brk" | "exit" | "exit_group" | "time" | "alarm" | "dup" | "pipe" | "unlink" | "rmdir"
        | "chdir" | "umask" | "times" | "uname" | "sysinfo" | "epoll_create1" | "timerfd_create"
        | "fsync" | "fdatasync" | "mlockall" | "set_tid_address" => 1,
        "munmap" | "nanosleep" | "clock_gettime" | "clock_settime" | "clock_getres" | "gettimeofday"
        | "kill" | "tkill" | "stat" | "fstat" | "lstat" | "access" | "getrlimit" | "getrusage" | "mlock"
        | "munlock" | "eventfd2" | "pipe2" | "dup2" | "ftruncate" | "truncate" | "rename" | "mkdir"
        | "set_robust_list" | "rt_sigpending" | "sigaltstack" | "listen" | "shutdown" | "memfd_create" => 2,
        "pread64" | "pwrite64" | "epoll_ctl" | "epoll_wait" | "clock_nanosleep" | "rt_sigaction"
        | "rt_sigprocmask" | "rt_sigtimedwait" | "openat" | "newfstatat" | "socketpair" | "ptrace"
        | "wait4" | "sendfile" | "accept4" | "tee" | "prlimit64" | "reboot" => 4,
        "ppoll" | "prctl" | "select" | "mremap" | "clone" | "getsockopt" | "setsockopt" | "mount"
        | "recvmmsg" | "statx" | "execveat" | "waitid" | "preadv" | "pwritev" => 5,
        "mmap" | "futex" | "sendto" | "recvfrom" | "pselect6" | "epoll_pwait" | "epoll_pwait2" | "splice"
        | "io_uring_enter" | "copy_file_range" | "mbind" | "process_vm_readv" | "process_vm_writev" => 6,
        _ => ARGUMENTS_OF_UNKNOWN,
    }
}
