//! Starts the built shim as a runtime would, under a tracer that plays the guard: when the shim's thread
//! returns from the challenge, the signal is there, and from the kernel, as the BPF program sends it.
#![expect(unsafe_code, reason = "fork, system calls that nix does not have, a signal that it cannot name")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    ffi::{CString, OsString},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt, process::CommandExt},
    process::{Command, Stdio},
};

use nix::{
    libc,
    sched::{CpuSet, sched_getaffinity},
    sys::{
        ptrace::{self, Event, Options},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, fexecve},
};
use quietcore_abi::{CHALLENGE, PR_TASK_ISOLATION};
use quietcore_shim::filter::Instruction;

const SHIM: &str = env!("CARGO_BIN_EXE_quietcore-shim");

pub(crate) struct Start {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
    /// Runs in the child, between fork and exec.
    pub(crate) before: fn() -> io::Result<()>,
    pub(crate) answer: Answer,
}

/// Who answers the challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Guard,
    /// One that shares the PID namespace, and pretends.
    AnotherProcess,
    Nobody,
}

/// What came of it. `began` and `became` are what the kernel shows of the process at the shim's first
/// instruction and at the program's.
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
    /// The bits and arg3 of each prctl(PR_TASK_ISOLATION), in order.
    pub(crate) asked: Vec<(u64, u64)>,
    /// Where the thread might run at each of these.
    pub(crate) asked_on: Vec<String>,
    pub(crate) began: Process,
    pub(crate) became: Option<Process>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) executable: OsString,
    pub(crate) kept: Kept,
}

/// What an exec keeps, unless somebody changed it on the way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) env: Vec<Vec<u8>>,
    pub(crate) status: Vec<String>,
    pub(crate) files: Vec<(String, OsString)>,
    pub(crate) folder: OsString,
    pub(crate) limits: String,
}

impl Start {
    /// A watched container whose program is `command`.
    pub(crate) fn command(command: &[&str]) -> Start {
        let plan = plan("none", "prctl");
        let argv = ["/.quietcore/shim", &plan, "--"].into_iter().chain(command.iter().copied());
        Start {
            argv: argv.map(|arg| arg.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
            before: || Ok(()),
            answer: Answer::Guard,
        }
    }

    pub(crate) fn run(&self) -> End {
        let shim = File::open(SHIM).unwrap();
        let (argv, env, before) = (c_strings(&self.argv), c_strings(&self.env), self.before);
        let mut command = Command::new(SHIM);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let exec = move || {
            ptrace::traceme()?;
            before()?;
            // Through the descriptor: whoever `before` became may not reach the build folder.
            fexecve(&shim, &argv, &env)?;
            Ok(())
        };
        // SAFETY: between fork and exec the child makes system calls and allocates; glibc's malloc is usable
        // there, because fork takes and releases its locks.
        unsafe { command.pre_exec(exec) };
        let child = command.spawn().unwrap();
        let mut end = self.trace(Pid::from_raw(i32::try_from(child.id()).unwrap()));
        let output = child.wait_with_output().unwrap();
        end.code = output.status.code();
        end.stderr = String::from_utf8(output.stderr).unwrap();
        end
    }

    /// From the first exec to the second, or to the end.
    fn trace(&self, pid: Pid) -> End {
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGTRAP));
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEEXIT
            | Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).unwrap();
        let mut end = End {
            code: None,
            stderr: String::new(),
            asked: vec![],
            asked_on: vec![],
            began: Process::of(pid),
            became: None,
        };
        let (mut inside, mut pass_on) = (false, None);
        loop {
            ptrace::syscall(pid, pass_on.take()).unwrap();
            match waitpid(pid, None).unwrap() {
                WaitStatus::PtraceSyscall(_) => {
                    inside = !inside;
                    if !inside {
                        self.syscall_returns(pid, &mut end);
                    }
                }
                WaitStatus::PtraceEvent(_, _, event) => {
                    if event == Event::PTRACE_EVENT_EXEC as i32 {
                        end.became = Some(Process::of(pid));
                    }
                    ptrace::detach(pid, None).unwrap();
                    return end;
                }
                WaitStatus::Stopped(_, signal) => pass_on = Some(signal),
                other => panic!("{other:?}"),
            }
        }
    }

    fn syscall_returns(&self, pid: Pid, end: &mut End) {
        let registers = ptrace::getregs(pid).unwrap();
        if (registers.orig_rax, registers.rdi) != (157, u64::from(PR_TASK_ISOLATION)) {
            return;
        }
        end.asked.push((registers.rsi, registers.rdx));
        end.asked_on.push(allowed_cpus(pid));
        let signal = i32::try_from(registers.rdx).unwrap();
        match self.answer {
            Answer::Guard if registers.rsi == u64::from(CHALLENGE) => raise_by_kernel(pid, signal, registers),
            // SAFETY: kill takes integers.
            Answer::AnotherProcess => assert_eq!(unsafe { libc::kill(pid.as_raw(), signal) }, 0),
            Answer::Guard | Answer::Nobody => {}
        }
    }
}

/// What bpf_send_signal leaves in siginfo. Only the kernel may say it, and a process to itself: so the tracee
/// is made to call rt_sigqueueinfo(2), with the bytes below its stack, and its registers are put back.
fn raise_by_kernel(pid: Pid, signal: i32, registers: libc::user_regs_struct) {
    const SI_KERNEL: i64 = 0x80;
    const SYSCALL_INSTRUCTION: u64 = 2; // its length
    let info = registers.rsp - 1024;
    for (word, value) in [i64::from(signal), SI_KERNEL].into_iter().chain([0; 14]).enumerate() {
        let address = info + 8 * u64::try_from(word).unwrap();
        ptrace::write(pid, std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap()), value)
            .unwrap();
    }
    let call = libc::user_regs_struct {
        rip: registers.rip - SYSCALL_INSTRUCTION,
        rax: libc::SYS_rt_sigqueueinfo.cast_unsigned(),
        rdi: u64::try_from(pid.as_raw()).unwrap(),
        rsi: u64::try_from(signal).unwrap(),
        rdx: info,
        ..registers
    };
    ptrace::setregs(pid, call).unwrap();
    for _entry_and_exit in 0..2 {
        ptrace::syscall(pid, None).unwrap();
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::PtraceSyscall(pid));
    }
    assert_eq!(ptrace::getregs(pid).unwrap().rax, 0, "rt_sigqueueinfo");
    ptrace::setregs(pid, registers).unwrap();
}

impl Process {
    fn of(pid: Pid) -> Process {
        let file = |name: &str| format!("/proc/{pid}/{name}");
        let link = |name: &str| fs::read_link(file(name)).unwrap().into_os_string();
        let status = fs::read_to_string(file("status")).unwrap();
        let kept = [
            "Umask",
            "Uid",
            "Gid",
            "Groups",
            "SigPnd",
            "ShdPnd",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Cpus_allowed",
            "Cpus_allowed_list",
            "Mems_allowed",
        ];
        let is_kept = |line: &&str| line.split_once(':').is_some_and(|(name, _)| kept.contains(&name));
        let mut files: Vec<_> = fs::read_dir(file("fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|number| (number.clone(), link(&format!("fd/{number}"))))
            .collect();
        files.sort();
        Process {
            argv: split(&fs::read(file("cmdline")).unwrap()),
            executable: link("exe"),
            kept: Kept {
                env: split(&fs::read(file("environ")).unwrap()),
                status: status.lines().filter(is_kept).map(str::to_owned).collect(),
                files,
                folder: link("cwd"),
                limits: fs::read_to_string(file("limits")).unwrap(),
            },
        }
    }
}

/// As /proc lists it.
fn allowed_cpus(pid: Pid) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().to_owned()
}

impl Process {
    pub(crate) fn cpus(&self) -> &str {
        let line = self.kept.status.iter().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim()
    }
}

/// The plan of a container that owns every CPU this test may run on.
pub(crate) fn plan(provider: &str, arm: &str) -> String {
    format!("v2 cpus={} shared=none provider={provider} arm={arm} locked=no", own_cpus())
}

pub(crate) fn own_cpus() -> String {
    let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus = (0..CpuSet::count()).filter(|&cpu| own.is_set(cpu).unwrap());
    cpus.map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(",")
}

/// seccomp(2) for this thread alone.
pub(crate) fn install(instructions: &[Instruction]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).unwrap(),
        filter: instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` and its instructions (laid out as struct sock_filter) live for the call, which copies them.
    let ret =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A profile as a pod could bring it: this one call is answered EPERM.
pub(crate) fn deny(nr: u32) -> io::Result<()> {
    let instruction = |code, k, if_false| Instruction { code, if_true: 0, if_false, k };
    nix::sys::prctl::set_no_new_privs()?;
    install(&[
        instruction(0x20, 0, 0),  // load the call's number
        instruction(0x15, nr, 1), // is it this one?
        instruction(0x06, 0x0005_0000 | 1, 0),
        instruction(0x06, 0x7fff_0000, 0),
    ])
}

/// prctl(PR_TASK_ISOLATION) by this thread; the errno, or 0.
pub(crate) fn task_isolation(args: [u64; 4]) -> i32 {
    prctl(u64::from(PR_TASK_ISOLATION), args)
}

pub(crate) fn prctl(option: u64, [a, b, c, d]: [u64; 4]) -> i32 {
    // SAFETY: every argument of the options used here is an integer.
    match unsafe { libc::syscall(libc::SYS_prctl, option, a, b, c, d) } {
        0 => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap(),
    }
}

/// Leaves a blocked real-time signal on the own queue, as often as asked.
pub(crate) fn queue_blocked(signal: i32, times: usize) -> io::Result<()> {
    let set = 1u64 << (signal - 1);
    // SAFETY: the set is 8 bytes, as large as is said.
    let blocked = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8) };
    // SAFETY: raise takes an integer.
    let raised = (0..times).all(|_| unsafe { libc::raise(signal) } == 0);
    if blocked == 0 && raised { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn disposition(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: only SIG_DFL and SIG_IGN are given, and those run no code.
    unsafe { sigaction(signal, &action) }.map(|_| ())
}

fn c_strings(texts: &[Vec<u8>]) -> Vec<CString> {
    texts.iter().map(|text| CString::new(text.as_slice()).unwrap()).collect()
}

fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut texts: Vec<_> = list.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
    texts.pop();
    texts
}

pub(crate) fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
