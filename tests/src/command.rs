//! Runs a program and says what it said.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

use crate::interrupt::{self, Registered};

/// A command that ran and did not succeed, with everything a reader needs to see why.
#[derive(Debug)]
pub struct Failed {
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}", self.line, self.status)?;
        for text in [&self.stdout, &self.stderr] {
            if !text.trim().is_empty() {
                write!(f, "\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

/// Standard output of a command that must succeed.
pub fn run(command: &mut Command) -> Result<String> {
    run_with_input(command, &[])
}

/// As `run`, with `input` on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let output = output_with_input(command, input)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!(Failed { line: line(command), status: output.status, stdout, stderr });
    }
    Ok(stdout)
}

/// Whatever came of a command.
pub fn output(command: &mut Command) -> Result<Output> {
    output_with_input(command, &[])
}

/// As `output`, with `input` on its standard input.
pub fn output_with_input(command: &mut Command, input: &[u8]) -> Result<Output> {
    let line = line(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, _registered) = spawn(command)?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // a command that does not read its input closes the pipe: not an error
            let _unread = stdin.map(|mut pipe| pipe.write_all(input));
        });
        let stderr = scope.spawn(move || read_all(stderr));
        let stdout = read_all(stdout);
        let stderr = stderr.join().unwrap_or_default();
        let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
        Ok(Output { status, stdout, stderr })
    })
}

/// Runs a command on our own terminal, for what a person wants to watch.
pub fn watch(command: &mut Command) -> Result<ExitStatus> {
    let line = line(command);
    let (mut child, _registered) = spawn(command.stdin(Stdio::null()))?;
    child.wait().with_context(|| format!("wait for `{line}`"))
}

fn spawn(command: &mut Command) -> Result<(Child, Option<Registered>)> {
    if interrupt::stop_asked() {
        bail!("interrupted before `{}`", line(command));
    }
    let own_group = interrupt::installed();
    if own_group {
        command.process_group(0);
    }
    let child = command.spawn().with_context(|| format!("start `{}`", line(command)))?;
    let group = i32::try_from(child.id()).ok().filter(|_| own_group);
    Ok((child, group.map(|pid| Registered::new(Pid::from_raw(pid)))))
}

fn read_all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read: io::Result<usize> = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
    drop(read); // what was read before an error is still worth showing
    bytes
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
