//! Step 8: what is left to the process that reads a hostile binary. No harness: it runs itself inside.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test; without a harness it speaks for itself"
)]

use std::{fs, fs::File, io, net::UdpSocket, process::Command};

use expect_test::expect;
use quietcore::violation::symbolize::sandbox;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("inside") {
        return inside();
    }
    let output = Command::new("/proc/self/exe").arg("inside").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    expect![[r#"
        first file: ok
        second file: ok
        third file: Too many open files (os error 24)
        after closing the first: Too many open files (os error 24)
        socket: Operation not permitted (os error 1)
        program: Operation not permitted (os error 1)
        more descriptors: Operation not permitted (os error 1)
        CapPrm:	0000000000000000
        CapEff:	0000000000000000
        NoNewPrivs:	1
    "#]]
    .assert_eq(&text);
    println!("test after_enter_two_files_and_nothing_else ... ok");
}

fn inside() {
    sandbox::close_inherited_files();
    sandbox::enter().unwrap();
    let words = |result: io::Result<()>| result.map_or_else(|e| e.to_string(), |()| "ok".into());
    let status = File::open("/proc/self/status");
    println!("first file: {}", words(status.as_ref().map(|_| ()).map_err(|e| io::Error::from(e.kind()))));
    let second = File::open("/dev/null");
    println!("second file: {}", words(second.as_ref().map(|_| ()).map_err(|e| io::Error::from(e.kind()))));
    println!("third file: {}", words(File::open("/dev/null").map(|_| ())));
    let mut status = status.unwrap();
    let mut text = String::new();
    io::Read::read_to_string(&mut status, &mut text).unwrap();
    drop(status);
    println!("after closing the first: {}", words(fs::read("/dev/null").map(|_| ())));
    println!("socket: {}", words(UdpSocket::bind("127.0.0.1:0").map(|_| ())));
    println!("program: {}", words(Command::new("/bin/true").status().map(|_| ())));
    let more = rustix::process::Rlimit { current: Some(1024), maximum: Some(1024) };
    let more = rustix::process::setrlimit(rustix::process::Resource::Nofile, more);
    println!("more descriptors: {}", words(more.map_err(io::Error::from)));
    for line in text.lines().filter(|l| ["CapPrm", "CapEff", "NoNewPrivs"].iter().any(|k| l.starts_with(k))) {
        println!("{line}");
    }
}
