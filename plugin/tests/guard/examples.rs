//! examples/poll-loop, in both languages, under the policy that lies beside them: what their readers will see.

use quietcore::{
    guard::abi::{QC_KIND_ARMED, QC_KIND_DISARMED},
    policy::effective::{Action, Effective},
};

use crate::{
    stand::{
        Run, Stand, enforce,
        programs::{poll_loop_c, poll_loop_rust},
        story,
    },
    values::kernel_can_carry,
};

/// examples/policy.yaml
fn policy() -> Effective {
    enforce([Action::Signal(10), Action::Signal(12), Action::Count, Action::Report])
}

/// The last line, and where the kernel carries no cause the one that it prints then.
#[track_caller]
fn check(program: &str, how: &str, with_cause: &str, without: &str) -> Run {
    let stand = Stand::new();
    let run = stand.run_program(&policy(), &[program, how, "0"]);
    let expected = if kernel_can_carry() { with_cause } else { without };
    assert_eq!(run.code, Some(0));
    let last = run.output.lines().last().unwrap();
    // Addresses are the linker's affair.
    let words: Vec<_> =
        last.split(' ').map(|word| if word.starts_with("0x") { "0x..:" } else { word }).collect();
    assert_eq!(words.join(" "), expected, "{}", run.output);
    run
}

#[test]
fn the_c_program_prints_its_system_call() {
    let without = "SIGUSR1 (syscall) at 0x..: this thread entered the kernel";
    check(poll_loop_c(), "syscall", "system call 110", without);
}

#[test]
fn the_c_program_prints_its_page_fault() {
    let without = "SIGUSR2 (exception) at 0x..: this thread entered the kernel";
    check(poll_loop_c(), "exception", "page fault writing", without);
}

#[test]
fn the_rust_program_prints_its_system_call() {
    let with = "syscall: system call 110: this thread entered the kernel";
    check(poll_loop_rust(), "syscall", with, "SIGUSR1: this thread entered the kernel");
}

#[test]
fn the_rust_program_prints_its_page_fault() {
    let with = "exception: page fault writing a page that is not mapped in: this thread entered the kernel";
    check(poll_loop_rust(), "exception", with, "SIGUSR2: this thread entered the kernel");
}

#[test]
fn both_hear_nothing_where_they_keep_their_promise() {
    for program in [poll_loop_c(), poll_loop_rust()] {
        let run = check(program, "none", "no entry", "no entry");
        assert_eq!(story(&run.records), [QC_KIND_ARMED, QC_KIND_DISARMED]);
    }
}
