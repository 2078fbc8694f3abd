//! Step 8: runs the child process that reads a binary, and does not wait for it longer than the deadline.

use std::{
    ffi::OsString,
    io::Read,
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::violation::symbolize::{
    child::{self, Question, Symbol},
    place::NoFunction,
    process::ModuleFile,
};

pub const DEADLINE: Duration = Duration::from_secs(1);
/// After SIGKILL; a child that a dead file system holds in the kernel stays longer.
const REAP: Duration = Duration::from_millis(100);
/// Children that not even SIGKILL ended. With so many we read no more binaries.
const STUCK: usize = 4;
/// Two lines of text.
const ANSWER_BYTES: u64 = 4096;

#[derive(Debug)]
pub struct Children {
    program: PathBuf,
    deadline: Duration,
    stuck: Vec<Child>,
}

impl Children {
    /// `program` is this very binary, which has the subcommand [`child::SUBCOMMAND`].
    pub fn new(program: PathBuf, deadline: Duration) -> Children {
        Children { program, deadline, stuck: Vec::new() }
    }

    pub fn ask(&mut self, file: &ModuleFile, question: Question, offset: u64) -> Result<Symbol, NoFunction> {
        self.stuck.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if STUCK <= self.stuck.len() {
            return Err(NoFunction::NotParsed);
        }
        let (fd, path) = match file {
            ModuleFile::Mapped(fd) => (fd, None),
            ModuleFile::InRoot(root, path) => (root, Some(path)),
        };
        let stdin = fd.try_clone().map_err(|_no_descriptor| NoFunction::NotReadable)?;
        let spawned = Command::new(&self.program)
            .arg(child::SUBCOMMAND)
            .arg(question.word())
            .arg(offset.to_string())
            .args(path.map(OsString::from))
            .env_clear()
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(program = %self.program.display(), %error, "start symbolizer");
                return Err(NoFunction::NotParsed);
            }
        };
        let text = read_until(&mut child, Instant::now() + self.deadline);
        self.end(child);
        child::parse_answer(&text)
    }

    /// What the child had to say it has said.
    fn end(&mut self, mut child: Child) {
        // An error means that it has ended already.
        let _ = child.kill();
        let until = Instant::now() + REAP;
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pidfd =
            pid.and_then(|p| rustix::process::pidfd_open(p, rustix::process::PidfdFlags::empty()).ok());
        if pidfd.is_some_and(|fd| readable(fd.as_fd(), until)) && matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.stuck.push(child);
    }
}

fn read_until(child: &mut Child, deadline: Instant) -> String {
    let mut text = Vec::new();
    let Some(stdout) = child.stdout.take() else {
        return String::new();
    };
    let mut stdout = stdout.take(ANSWER_BYTES);
    let mut chunk = [0; 1024];
    while readable(stdout.get_ref().as_fd(), deadline) {
        match stdout.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => text.extend_from_slice(&chunk[..n]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Readable, or at its end. `false` at the deadline.
fn readable(fd: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}
