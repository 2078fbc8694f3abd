//! The C header and the Rust crate are one ABI. C programs that include the header say what the compiler makes of
//! it.

#![allow(clippy::unwrap_used, reason = "all of this is a test, also what is not inside a #[test]")]
#![expect(unsafe_code, reason = "the crate is given a siginfo_t as the kernel gives it: by its address")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use quietcore_abi::{
    CHALLENGE, CLASSES, Cause, Class, ENABLE, ON_EXEC, PR_TASK_ISOLATION, Violation, set_sig, signals,
};

/// An expression of the header, and what Rust programs get for the same.
fn table() -> Vec<(String, u64)> {
    let mut table: Vec<(String, u64)> = [
        ("PR_TASK_ISOLATION", PR_TASK_ISOLATION),
        ("PR_TASK_ISOLATION_ENABLE", ENABLE),
        ("PR_TASK_ISOLATION_CLASSES", CLASSES),
        ("PR_TASK_ISOLATION_CHALLENGE", CHALLENGE),
        ("PR_TASK_ISOLATION_ON_EXEC", ON_EXEC),
    ]
    .map(|(name, value)| (name.to_owned(), u64::from(value)))
    .into();
    for signal in [0u8, 1, 10, 64, 127, 128, 255] {
        table.push((format!("PR_TASK_ISOLATION_SET_SIG({signal})"), u64::from(set_sig(signal))));
        let back = u64::from(signal & 0x7f);
        table.push((format!("PR_TASK_ISOLATION_GET_SIG(PR_TASK_ISOLATION_SET_SIG({signal}) | 3)"), back));
    }
    for (syscall, exception, interrupt) in [(0, 0, 0), (10, 12, 64), (1, 0, 0), (0, 0, 255), (255, 255, 255)]
    {
        let expression = format!("PR_TASK_ISOLATION_SIGNALS({syscall}, {exception}, {interrupt})");
        table.push((expression, signals(syscall, exception, interrupt)));
    }
    table
}

fn c_program(table: &[(String, u64)]) -> String {
    let prints: String = table
        .iter()
        .map(|(expression, _)| format!("\tprintf(\"%lu\\n\", (unsigned long)({expression}));\n"))
        .collect();
    // Twice: the header has to bear that.
    format!(
        "#include <quietcore.h>\n#include <quietcore.h>\n#include <stdio.h>\nint main(void)\n{{\n{prints}\treturn 0;\n}}\n"
    )
}

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

/// What the program prints.
fn run_c(name: &str, source: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, program) = (folder.join(name), folder.join(name).with_extension("built"));
    fs::write(&file, source).unwrap();
    let built = Command::new("gcc")
        .args([
            "-std=c99",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-Wpedantic",
            "-Werror",
            "-I",
            INCLUDE,
            "-o",
        ])
        .args([&program, &file])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Command::new(&program).output().unwrap().stdout
}

#[track_caller]
fn check(table: &[(String, u64)], printed: &[u8]) {
    let printed: Vec<(String, u64)> = table
        .iter()
        .zip(String::from_utf8_lossy(printed).lines())
        .map(|((name, _), line)| (name.clone(), line.parse().unwrap()))
        .collect();
    assert_eq!(printed, table);
}

#[test]
fn c_and_rust_programs_get_the_same_numbers() {
    let table = table();
    check(&table, &run_c("header.c", &c_program(&table)));
}

/// A value as the header makes it, and what the crate makes of it.
fn values() -> Vec<(String, Violation)> {
    let number = |detail: u16| (detail.to_string(), detail);
    let none = ("PR_TASK_ISOLATION_DETAIL_NONE".to_owned(), u16::MAX);
    let mut values = Vec::new();
    for (class, of_entries) in
        [("SYSCALL", Class::Syscall), ("EXCEPTION", Class::Exception), ("INTERRUPT", Class::Interrupt)]
    {
        for (detail, n) in [number(0), number(1), number(0x1234), none.clone()] {
            values.extend(causes(n).map(|(cause, expected)| {
                let value =
                    format!("PR_TASK_ISOLATION_CLASS_{class}, PR_TASK_ISOLATION_CAUSE_{cause}, {detail}");
                (value, Violation { class: of_entries, cause: expected })
            }));
        }
    }
    for (how, [protection, write, fetch]) in [
        ("PROTECTION", [true, false, false]),
        ("WRITE", [false, true, false]),
        ("FETCH", [false, false, true]),
    ] {
        let detail = format!("4 | PR_TASK_ISOLATION_FAULT_{how}");
        let value =
            format!("PR_TASK_ISOLATION_CLASS_EXCEPTION, PR_TASK_ISOLATION_CAUSE_PAGE_FAULT, {detail}");
        let cause = Cause::PageFault { protection, write, fetch };
        values.push((value, Violation { class: Class::Exception, cause }));
    }
    values
}

fn causes(detail: u16) -> [(&'static str, Cause); 12] {
    let fits = Some(detail).filter(|detail| *detail != u16::MAX);
    let [protection, write, fetch] = [0, 1, 4].map(|bit| detail >> bit & 1 == 1);
    [
        ("UNKNOWN", Cause::Unknown),
        ("SYSCALL", Cause::Syscall(fits)),
        ("SYSCALL32", Cause::Syscall32(fits)),
        ("PAGE_FAULT", Cause::PageFault { protection, write, fetch }),
        ("TRAP", Cause::Trap(detail)),
        ("TICK", Cause::Tick),
        ("RESCHEDULE", Cause::Reschedule),
        ("CALL_FUNCTION", Cause::CallFunction),
        ("IRQ_WORK", Cause::IrqWork),
        ("DEVICE", Cause::Device(fits)),
        ("VECTOR", Cause::Vector(detail)),
        ("SWITCH", Cause::Switch),
    ]
}

/// Makes a siginfo_t of each value and code, as the kernel does, and prints it: its bytes, what the header's macros
/// say of it, and those once more put together from their parts.
fn siginfo_program(calls: impl Iterator<Item = (String, &'static str)>) -> String {
    let calls: String = calls.map(|(value, code)| format!("\ttell({value}, {code});\n")).collect();
    format!(
        "#define _GNU_SOURCE
#include <quietcore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
static void tell(unsigned long value, int code)
{{
	siginfo_t info;
	unsigned int told;
	memset(&info, 0, sizeof(info));
	info.si_signo = SIGUSR1;
	info.si_code = code;
	info.si_value.sival_ptr = (void *)value;
	told = PR_TASK_ISOLATION_VALUE(&info);
	fwrite(&info, sizeof(info), 1, stdout);
	fwrite(&told, sizeof(told), 1, stdout);
	told = PR_TASK_ISOLATION_IS_VALUE(told) ? PR_TASK_ISOLATION_MAKE_VALUE(PR_TASK_ISOLATION_CLASS(told), PR_TASK_ISOLATION_CAUSE(told),
						   PR_TASK_ISOLATION_DETAIL(told))
		    : PR_TASK_ISOLATION_CLASS(told) | PR_TASK_ISOLATION_CAUSE(told);
	fwrite(&told, sizeof(told), 1, stdout);
}}
int main(void)
{{
{calls}	return 0;
}}
"
    )
}

/// What the crate reads in each siginfo_t; the same as the header does.
#[track_caller]
fn read(printed: &[u8]) -> Vec<u32> {
    const SIGINFO: usize = 128;
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let records = printed.chunks(SIGINFO + 8);
    records
        .map(|record| {
            let (info, by_header) = record.split_at(SIGINFO);
            let info: Vec<u64> =
                info.chunks(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap())).collect();
            // SAFETY: of the size and the alignment of a siginfo_t, and written by a program that has the type.
            let value = unsafe { quietcore_abi::value(info.as_ptr().cast()) };
            assert_eq!((word(&by_header[..4]), word(&by_header[4..])), (value, value));
            // SAFETY: the same.
            let violation = unsafe { Violation::from_siginfo(info.as_ptr().cast()) };
            assert_eq!(violation, Violation::from_value(value));
            value
        })
        .collect()
}

#[test]
fn c_and_rust_programs_read_the_same_in_a_siginfo() {
    let values = values();
    let calls =
        values.iter().map(|(value, _)| (format!("PR_TASK_ISOLATION_MAKE_VALUE({value})"), "SI_KERNEL"));
    let told = read(&run_c("siginfo.c", &siginfo_program(calls)));
    let told: Vec<_> = told.into_iter().map(Violation::from_value).collect();
    let expected: Vec<_> = values.into_iter().map(|(_, violation)| Some(violation)).collect();
    assert_eq!(told, expected);
}

#[test]
fn what_somebody_else_sent_is_no_violation_for_either() {
    let (ours, larger) = ("PR_TASK_ISOLATION_MAKE_VALUE(1, 1, 1)", "0x1d1010001");
    let others = [
        (ours, "SI_QUEUE"),
        (ours, "SI_USER"),
        (ours, "SI_TKILL"),
        (larger, "SI_KERNEL"),
        ("0", "SI_KERNEL"),
        ("0xc1010001", "SI_KERNEL"),
    ];
    let calls = others.iter().map(|(value, code)| ((*value).to_owned(), *code));
    assert_eq!(read(&run_c("others.c", &siginfo_program(calls))), [0; 6]);
    assert_eq!(Violation::from_value(0), None);
}

#[test]
fn the_headers_own_example_compiles() {
    let header = fs::read_to_string(Path::new(INCLUDE).join("quietcore.h")).unwrap();
    let example = header.lines().skip_while(|line| *line != " * EXAMPLE").skip(1);
    let example = example.take_while(|line| !line.starts_with(" * A whole one"));
    let example: String =
        example.map(|line| format!("{}\n", line.strip_prefix(" *").unwrap_or(line))).collect();
    let includes = "#define _GNU_SOURCE\n#include <err.h>\n#include <errno.h>\n#include <signal.h>\n#include <stdio.h>\n\
        #include <string.h>\n#include <sys/mman.h>\n#include <sys/prctl.h>\n#include <quietcore.h>\n\
        #define poll_the_ring() (told = 1)\n";
    run_c("example.c", &format!("{includes}{example}"));
}

/// By a compiler, in one of the tests above.
#[test]
fn every_macro_of_the_header_is_compared() {
    let header = fs::read_to_string(Path::new(INCLUDE).join("quietcore.h")).unwrap();
    let tables = table().into_iter().map(|(expression, _)| expression);
    let sources = tables.chain(values().into_iter().map(|(value, _)| value));
    let sources = sources.chain([siginfo_program(std::iter::empty())]);
    let sources = sources.collect::<Vec<_>>().join("\n");
    let compared: BTreeSet<_> = sources.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let forgotten: Vec<&str> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split([' ', '(']).next())
        .filter(|name| name.starts_with("PR_") && !compared.contains(name))
        .collect();
    assert_eq!(forgotten, [] as [&str; 0]);
}
