//! Step 8 on real processes and hostile files: from an address to words, by the real child process.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::{
    ffi::CString,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use quietcore::violation::{
    blame::Blame,
    happening::{Happening, Story, Thread},
    symbolize::{
        Symbolizer,
        child::Question,
        parent::Children,
        place::{NoFunction, NoModule, Place},
        process::ModuleFile,
    },
};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use tempfile::TempDir;

const PROGRAM: &str = r#"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static void *returns_to;

__attribute__((noinline)) int fwd_loop(int n)
{
	returns_to = __builtin_return_address(0);
	for (volatile int i = 0; i < n; i++)
		;
	return n;
}

int main(void)
{
	char *jit = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fwd_loop(1);
	printf("%lx\n%lx\n%lx\n", (unsigned long)fwd_loop, (unsigned long)jit, (unsigned long)returns_to);
	fflush(stdout);
	for (;;)
		pause();
}
"#;

/// Long enough for a loaded machine: no test depends on how long it is.
const PATIENT: Duration = Duration::from_secs(30);

struct Running {
    _dir: TempDir,
    child: Child,
    thread: Thread,
    fwd_loop: u64,
    jit: u64,
    /// In main.
    returns_to: u64,
}

impl Running {
    fn pid(&self) -> Option<i32> {
        Some(self.child.id().try_into().unwrap())
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compile(dir: &Path, flags: &[&str]) -> PathBuf {
    let source = dir.join("l2fwd.c");
    let program = dir.join("l2fwd");
    fs::write(&source, PROGRAM).unwrap();
    let status = Command::new("gcc").args(flags).arg("-O1").arg("-o").arg(&program).arg(&source).status();
    assert!(status.unwrap().success(), "gcc {flags:?}");
    program
}

fn run(flags: &[&str]) -> Running {
    let dir = TempDir::new().unwrap();
    let mut child = Command::new(compile(dir.path(), flags)).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut number = || u64::from_str_radix(&lines.next().unwrap().unwrap(), 16).unwrap();
    let (fwd_loop, jit, returns_to) = (number(), number(), number());
    let thread = thread(child.id());
    Running { _dir: dir, child, thread, fwd_loop, jit, returns_to }
}

fn thread(pid: u32) -> Thread {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    Thread {
        comm: "l2fwd".into(),
        tid: 1,
        host_tid: pid,
        host_tgid: pid,
        started: Duration::from_millis(ticks * 10),
        cpu: 0,
    }
}

fn symbolizer() -> Symbolizer {
    Symbolizer::new("/proc".into(), children())
}

fn children() -> Children {
    Children::new(env!("CARGO_BIN_EXE_quietcore").into(), PATIENT)
}

#[track_caller]
fn check(flags: &[&str], words: &str) {
    let program = run(flags);
    let place = symbolizer().place("c", program.pid(), &program.thread, program.fwd_loop + 4);
    assert_eq!(place.to_string(), words);
}

#[test]
fn an_address_becomes_a_function_whatever_the_binary_is_linked_like() {
    check(&["-pie", "-fPIE"], "fwd_loop+0x4");
    check(&["-no-pie"], "fwd_loop+0x4");
    check(&["-static"], "fwd_loop+0x4");
}

#[test]
fn debug_information_gives_the_line() {
    let program = run(&["-g"]);
    let place = symbolizer().place("c", program.pid(), &program.thread, program.fwd_loop);
    assert_eq!(place.source().as_deref(), Some("l2fwd.c:9"));
}

#[test]
fn a_stripped_binary_gives_module_and_offset() {
    let program = run(&["-s"]);
    let place = symbolizer().place("c", program.pid(), &program.thread, program.fwd_loop + 4);
    let Place::Module { name, offset, why: NoFunction::NoSymbol } = place else {
        panic!("{place:?}");
    };
    assert_eq!(name, "l2fwd");
    assert_eq!(offset & 0xfff, (program.fwd_loop + 4) & 0xfff);
}

#[test]
fn generated_code_and_holes_give_the_address() {
    let program = run(&[]);
    let mut symbolizer = symbolizer();
    let mut why = |ip| match symbolizer.place("c", program.pid(), &program.thread, ip) {
        Place::Address { ip: at, why } if at == ip => why,
        place => panic!("{place:?}"),
    };
    assert_eq!(why(program.jit + 4), NoModule::Anonymous);
    assert_eq!(why(4), NoModule::Unmapped);
    assert_eq!(why(u64::MAX), NoModule::Unmapped);
}

#[track_caller]
fn check_callers(flags: &[&str], of: impl Fn(&Running) -> Vec<u64>) -> Vec<Place> {
    let program = run(flags);
    let happening = Happening {
        at: Duration::ZERO,
        ip: program.fwd_loop,
        callers: of(&program),
        thread: program.thread.clone(),
        story: Story::Armed,
        blame: Blame::default(),
    };
    symbolizer().scene("c", program.pid(), &happening).callers
}

#[test]
fn a_stack_is_told_up_to_where_no_code_is() {
    let callers =
        check_callers(&[], |program| vec![program.returns_to, program.jit + 5, 0x10, program.returns_to]);
    let [function, generated] = callers.as_slice() else { panic!("{callers:?}") };
    assert!(function.to_string().starts_with("main+0x"), "{function}");
    assert!(matches!(generated, Place::Address { why: NoModule::Anonymous, .. }), "{generated}");
}

#[test]
fn a_stack_is_told_up_to_where_no_call_returns_to() {
    let callers =
        check_callers(&[], |program| vec![program.returns_to, program.fwd_loop, program.returns_to]);
    let [function] = callers.as_slice() else { panic!("{callers:?}") };
    assert!(function.to_string().starts_with("main+0x"), "{function}");
}

#[test]
fn a_stack_of_a_stripped_binary_is_module_and_offset() {
    let callers = check_callers(&["-s"], |program| vec![program.returns_to]);
    assert!(matches!(callers.as_slice(), [Place::Module { why: NoFunction::NoSymbol, .. }]), "{callers:?}");
}

#[test]
fn a_dead_process_is_symbolized_if_it_was_remembered_alive() {
    let mut program = run(&[]);
    let (container, ip) = (Arc::from("c"), program.fwd_loop + 4);
    let mut symbolizer = symbolizer();
    symbolizer.remember(&container, program.pid().unwrap(), &program.thread);
    program.kill();

    let place = symbolizer.place("c", program.pid(), &program.thread, ip);
    assert_eq!(place.to_string(), "fwd_loop+0x4");

    symbolizer.forget("c");
    let place = symbolizer.place("c", program.pid(), &program.thread, ip);
    assert_eq!(place, Place::Address { ip, why: NoModule::Ended });
}

#[test]
fn another_process_with_the_same_number_is_not_taken_for_the_dead_one() {
    let program = run(&[]);
    let earlier = Thread { started: Duration::from_secs(1), ..program.thread.clone() };
    let place = symbolizer().place("c", program.pid(), &earlier, program.fwd_loop);
    assert_eq!(place, Place::Address { ip: program.fwd_loop, why: NoModule::Ended });
}

/// As the agent opens it.
fn module(path: &Path) -> ModuleFile {
    ModuleFile::Mapped(Arc::new(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()))
}

#[track_caller]
fn check_hostile(contents: &[u8]) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("binary");
    fs::write(&path, contents).unwrap();
    let answer = children().ask(&module(&path), Question::Place, 0x1004);
    assert!(matches!(answer, Err(NoFunction::NotParsed | NoFunction::NoSymbol)), "{answer:?}");
}

#[test]
fn a_broken_binary_ends_its_child_only() {
    check_hostile(b"");
    check_hostile(b"\x7fELF");
    check_hostile(&[0x7f; 4096]);
    let dir = TempDir::new().unwrap();
    let good = fs::read(compile(dir.path(), &[])).unwrap();
    check_hostile(&good[..good.len() / 2]);

    // e_shoff, e_shnum and e_shstrndx of Elf64_Ehdr.
    let mut huge = good.clone();
    huge[60..62].copy_from_slice(&u16::MAX.to_le_bytes());
    check_hostile(&huge);
    // 0 sections in the header: the real count is sh_size of section 0, here 2^64 - 1.
    let mut extended = good.clone();
    extended[60..62].copy_from_slice(&0_u16.to_le_bytes());
    let first = usize::try_from(u64::from_le_bytes(good[40..48].try_into().unwrap())).unwrap();
    extended[first + 32..first + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    check_hostile(&extended);
    let mut away = good;
    away[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    check_hostile(&away);
}

#[test]
fn what_is_not_a_regular_file_is_never_read() {
    let dir = TempDir::new().unwrap();
    let fifo = dir.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    for path in [fifo.as_path(), dir.path(), Path::new("/dev/zero")] {
        assert_eq!(
            children().ask(&module(path), Question::Place, 0),
            Err(NoFunction::NotReadable),
            "{}",
            path.display()
        );
    }
}

fn in_root(root: &Path, path: &str) -> ModuleFile {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    ModuleFile::InRoot(Arc::new(open(root, flags, Mode::empty()).unwrap()), path.into())
}

#[test]
fn a_symbolic_link_stays_inside_the_containers_root() {
    let outside = TempDir::new().unwrap();
    let program = compile(outside.path(), &["-no-pie"]);
    let symbols = Command::new("nm").arg(&program).output().unwrap();
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    let line = symbols.lines().find(|line| line.ends_with(" fwd_loop")).unwrap();
    // Linked at 0x400000, whose first segment is at the file's start.
    let offset = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap() - 0x40_0000;

    let root = TempDir::new().unwrap();
    symlink(&program, root.path().join("absolute")).unwrap();
    symlink(format!("../../../../../..{}", program.display()), root.path().join("relative")).unwrap();
    symlink("/proc/self/exe", root.path().join("magic")).unwrap();
    for escape in ["/absolute", "/relative", "/magic", "/../../../../../../etc/passwd"] {
        let answer = children().ask(&in_root(root.path(), escape), Question::Place, offset);
        assert_eq!(answer, Err(NoFunction::NotReadable), "{escape}");
    }

    // The same link, with its target inside.
    let inside = root.path().join(program.strip_prefix("/").unwrap());
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    fs::copy(&program, &inside).unwrap();
    let symbol = children().ask(&in_root(root.path(), "/absolute"), Question::Place, offset).unwrap();
    assert_eq!((symbol.name.as_str(), symbol.offset), ("fwd_loop", 0));
}

/// A child that does not answer, in place of ours.
fn script(dir: &Path, body: &str) -> Children {
    let path = dir.join("script");
    // By another process: while we have it open for writing, a child that another test is just forking has
    // it too, and running it is ETXTBSY.
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
    assert!(Command::new("sh").args(["-c", write]).arg(&path).arg(body).status().unwrap().success());
    Children::new(path, Duration::from_secs(2))
}

#[test]
fn a_child_that_hangs_is_killed_at_the_deadline() {
    let dir = TempDir::new().unwrap();
    let note = dir.path().join("pid");
    let mut hanging = script(dir.path(), &format!("echo $$ > {}; exec sleep 1000", note.display()));
    assert_eq!(hanging.ask(&module(dir.path()), Question::Place, 0), Err(NoFunction::NotParsed));
    let pid = fs::read_to_string(note).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn what_a_child_said_before_the_deadline_counts() {
    let dir = TempDir::new().unwrap();
    let mut slow = script(dir.path(), r"printf 'elf\t4\tfwd_loop\t\ndwarf\t4\tfwd'; exec sleep 1000");
    let symbol = slow.ask(&module(dir.path()), Question::Place, 0).unwrap();
    assert_eq!((symbol.name.as_str(), symbol.offset), ("fwd_loop", 4));
}

#[test]
fn a_child_that_never_stops_talking_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let mut endless = script(dir.path(), "exec cat /dev/zero");
    assert_eq!(endless.ask(&module(dir.path()), Question::Place, 0), Err(NoFunction::NotParsed));
}

#[test]
fn a_missing_program_is_no_answer() {
    let missing = CString::new("/nonexistent").unwrap();
    let mut children = Children::new(missing.to_str().unwrap().into(), PATIENT);
    assert_eq!(children.ask(&module(Path::new("/")), Question::Place, 0), Err(NoFunction::NotParsed));
}

#[test]
fn a_container_whose_binaries_are_never_read_stops_costing_deadlines() {
    let program = run(&[]);
    let dir = TempDir::new().unwrap();
    let runs = dir.path().join("runs");
    let mut symbolizer =
        Symbolizer::new("/proc".into(), script(dir.path(), &format!("echo run >> {}", runs.display())));
    let maps = fs::read_to_string(format!("/proc/{}/maps", program.child.id())).unwrap();
    // The program, libc and the dynamic linker: more files than one is given up for.
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains(" /"));
    let starts: Vec<u64> =
        code.map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()).collect();
    assert!(3 <= starts.len(), "{maps}");
    for ip in starts.iter().flat_map(|start| (0..5).map(move |n| start + n)) {
        let place = symbolizer.place("c", program.pid(), &program.thread, ip);
        assert!(matches!(place, Place::Module { why: NoFunction::NotParsed, .. }), "{place:?}");
    }
    assert_eq!(fs::read_to_string(runs).unwrap().lines().count(), 8);
}
