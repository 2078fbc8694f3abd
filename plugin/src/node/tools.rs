//! Runs the boot loader's own programs: in the tree's root, with what they say kept for the case that they fail.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::NodeError;

/// Longer than this and a person wonders whether anything happens: mkconfig looks for other systems on every disk.
const QUIET: Duration = Duration::from_secs(2);

/// How the boot loader's programs are run; tests have their own.
pub(super) trait Run {
    /// `program` as seen from the root.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), NodeError>;
}

#[derive(Debug)]
pub(super) struct InRoot<'a> {
    pub(super) root: &'a Path,
}

impl Run for InRoot<'_> {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), NodeError> {
        let mut command = if self.root == Path::new("/") {
            Command::new(program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(self.root).arg(program);
            command
        };
        command.args(arguments);
        let told = [&[program], arguments].concat().join(" ");
        let output = with_progress(&told, command)
            .map_err(|source| NodeError::Start { program: program.into(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let output_ = String::from_utf8_lossy(&said).trim_end().to_owned();
        Err(NodeError::Tool { command: told, status: output.status.to_string(), output: output_ })
    }
}

fn with_progress(told: &str, mut command: Command) -> io::Result<Output> {
    let (done, outcome) = mpsc::channel();
    let child = thread::spawn(move || done.send(command.output()));
    let mut seconds = 0;
    let output = loop {
        match outcome.recv_timeout(QUIET) {
            Ok(output) => break output,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                seconds += QUIET.as_secs();
                // Nobody is left to tell when stderr is closed.
                let _ = writeln!(io::stderr(), "quietcore: {told}: still running after {seconds} s");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    let _ = child.join();
    output
}

/// As seen from the root.
pub(super) fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let folders = ["usr/sbin", "usr/bin", "sbin", "bin"];
    let found = folders.into_iter().find(|folder| root.join(folder).join(name).is_file())?;
    Some(Path::new("/").join(found).join(name))
}
