//! The C header and the Rust constants are one ABI. A C program that includes the header says what the
//! compiler makes of it.

use std::{fs, path::Path, process::Command};

use quietcore_abi::{CHALLENGE, CLASSES, ENABLE, ON_EXEC, PR_TASK_ISOLATION, set_sig, signals};

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

#[test]
fn c_and_rust_programs_get_the_same_numbers() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("header.c"), folder.join("header"));
    let table = table();
    fs::write(&source, c_program(&table)).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let built = Command::new("gcc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", include, "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let printed = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let printed: Vec<(String, u64)> = table
        .iter()
        .zip(printed.lines())
        .map(|((name, _), line)| (name.clone(), line.parse().unwrap()))
        .collect();
    assert_eq!(printed, table);
}

#[test]
fn every_macro_of_the_header_is_compared() {
    let header = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/include/quietcore.h")).unwrap();
    let table = table();
    let forgotten: Vec<&str> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define PR_")?.split([' ', '(']).next())
        .filter(|name| {
            !table.iter().any(|(expression, _)| {
                expression.strip_prefix("PR_").is_some_and(|rest| rest.split('(').next() == Some(name))
            })
        })
        .collect();
    assert_eq!(forgotten, [] as [&str; 0]);
}
