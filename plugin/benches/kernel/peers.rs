//! What else one would watch a process's system calls with. Each is run as its manual page says, against the same
//! victim.

use std::{
    fs, io,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// From its perf events' being there to its having all of them enabled.
const A_WHILE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Bpftrace,
    Perf,
    Strace,
}

pub struct Running {
    peer: Peer,
    child: Child,
    folder: tempfile::TempDir,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::Bpftrace, Peer::Perf, Peer::Strace];

    pub fn name(self) -> &'static str {
        match self {
            Peer::Bpftrace => "bpftrace",
            Peer::Perf => "perf trace",
            Peer::Strace => "strace -c",
        }
    }

    pub fn version(self) -> Result<String, String> {
        let program = self.name().split(' ').next().unwrap_or_default();
        let output = Command::new(program).arg("--version").output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    }

    fn command(self, pid: u32, out: &Path) -> Command {
        let program =
            format!("tracepoint:raw_syscalls:sys_enter /pid == {pid} && args->id == 110/ {{ @ = count(); }}");
        let mut words = self.name().split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("-o").arg(out);
        match self {
            Peer::Bpftrace => command.args(["-e", &program]),
            Peer::Perf => command.args(["-s", "-p", &pid.to_string()]),
            Peer::Strace => command.args(["-p", &pid.to_string()]),
        };
        command
    }

    /// Why not, where it does not work on this kernel.
    pub fn attach(self, pid: u32) -> Result<Running, String> {
        let failed = |error: io::Error| format!("{}: {error}", self.name());
        let folder = tempfile::tempdir().map_err(failed)?;
        let stderr = fs::File::create(folder.path().join("err")).map_err(failed)?;
        let mut command = self.command(pid, &folder.path().join("out"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let mut running = Running { peer: self, child: child.map_err(failed)?, folder };
        running.wait_until_attached(pid)?;
        Ok(running)
    }
}

impl Running {
    fn wait_until_attached(&mut self, pid: u32) -> Result<(), String> {
        let start = Instant::now();
        while !self.is_attached(pid) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status}: {}", self.peer.name(), self.read("err")));
            }
            if PATIENCE < start.elapsed() {
                return Err(format!("{} did not attach: {}", self.peer.name(), self.read("err")));
            }
            wait(Duration::from_millis(10));
        }
        wait(A_WHILE);
        Ok(())
    }

    fn is_attached(&self, pid: u32) -> bool {
        if self.peer == Peer::Strace {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            return status.lines().any(|line| line == format!("TracerPid:\t{}", self.child.id()));
        }
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", self.child.id())) else { return false };
        let mut files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.any(|file| file.to_string_lossy() == "anon_inode:[perf_event]")
    }

    /// Detaches it. How many getppid it says that it saw.
    pub fn end(mut self) -> u64 {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let text = self.read("out");
        seen(self.peer, &text).unwrap_or(0)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the summary that it prints at its end.
fn seen(peer: Peer, text: &str) -> Option<u64> {
    let row = |name_at: fn(&[&str]) -> Option<usize>, count_at: usize| {
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut rows = rows.filter(|row| name_at(row).is_some_and(|at| row[at] == "getppid"));
        rows.next()?.get(count_at)?.parse().ok()
    };
    match peer {
        Peer::Bpftrace => text.lines().find_map(|line| line.strip_prefix("@: ")?.trim().parse().ok()),
        Peer::Perf => row(|row| (!row.is_empty()).then_some(0), 1),
        Peer::Strace => row(|row| row.len().checked_sub(1), 3),
    }
}

#[expect(clippy::disallowed_methods, reason = "a tool that says nowhere when it is ready")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
