//! Files of the agent's state: written whole or not at all.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Durable when it returns: the content and its name are synced.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_by(&Os, path, &text)
}

/// Each can fail, or be the last thing that was done.
trait Steps {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    /// For root alone: the ledger has tokens in it.
    fn create(&self, file: &Path) -> io::Result<fs::File> {
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)
    }

    fn write(&self, file: &mut fs::File, text: &[u8]) -> io::Result<()> {
        file.write_all(text)
    }

    fn sync(&self, file: &fs::File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        fs::File::open(folder)?.sync_all()
    }

    /// A link, because rename(2) would replace what has that name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }
}

struct Os;

impl Steps for Os {}

fn write_by(steps: &impl Steps, path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    steps.make_folder(folder)?;
    let unfinished = path.with_extension("unfinished");
    let mut file = steps.create(&unfinished)?;
    steps.write(&mut file, text)?;
    steps.sync(&file)?;
    steps.rename(&unfinished, path)?;
    steps.sync_folder(folder)
}

/// Puts a file out of the way under a name of its own, so that a second damage does not bury the first.
pub fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    keep_aside_by(&Os, path)
}

fn keep_aside_by(steps: &impl Steps, path: &Path) -> io::Result<PathBuf> {
    let names = (1u32..).map(|n| path.with_extension(format!("damaged-{n}")));
    for aside in names {
        match steps.link(path, &aside) {
            Ok(()) => return steps.remove(path).map(|()| aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use nix::errno::Errno;

    use super::*;

    /// The step of this number fails; a write fails in the middle of it.
    struct Faulty {
        errno: Errno,
        fails: usize,
        n_steps: Cell<usize>,
    }

    impl Faulty {
        fn step<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
            let number = self.n_steps.get();
            self.n_steps.set(number + 1);
            if number == self.fails { Err(self.errno.into()) } else { act() }
        }
    }

    impl Steps for Faulty {
        fn make_folder(&self, folder: &Path) -> io::Result<()> {
            self.step(|| Os.make_folder(folder))
        }

        fn create(&self, file: &Path) -> io::Result<fs::File> {
            self.step(|| Os.create(file))
        }

        fn write(&self, file: &mut fs::File, text: &[u8]) -> io::Result<()> {
            Os.write(file, &text[..text.len() / 2])?;
            self.step(|| Os.write(file, &text[text.len() / 2..]))
        }

        fn sync(&self, file: &fs::File) -> io::Result<()> {
            self.step(|| Os.sync(file))
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(|| Os.rename(from, to))
        }

        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            self.step(|| Os.sync_folder(folder))
        }

        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(|| Os.link(from, to))
        }

        fn remove(&self, file: &Path) -> io::Result<()> {
            self.step(|| Os.remove(file))
        }
    }

    const ERRNOS: [Errno; 5] = [Errno::EIO, Errno::EBUSY, Errno::EACCES, Errno::ENOSPC, Errno::EINVAL];

    #[test]
    fn whichever_step_fails_the_file_is_the_old_or_the_new_and_the_next_write_is_good() {
        for errno in ERRNOS {
            for fails in 0..6 {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("ledger.json");
                write_by(&Os, &path, b"old").unwrap();
                let faulty = Faulty { errno, fails, n_steps: Cell::default() };
                let error = write_by(&faulty, &path, b"new").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno as i32));
                // Only a name that is there and not yet synced is told as a failure.
                let expected: &[u8] = if fails == 5 { b"new" } else { b"old" };
                assert_eq!(fs::read(&path).unwrap(), expected, "{errno} at step {fails}");
                write_by(&Os, &path, b"newer").unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"newer");
            }
        }
    }

    #[test]
    fn a_damaged_file_that_cannot_be_kept_aside_stays_where_it_is_and_is_kept_the_next_time() {
        for errno in ERRNOS {
            for fails in 0..2 {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("ledger.json");
                fs::write(&path, b"damaged").unwrap();
                let faulty = Faulty { errno, fails, n_steps: Cell::default() };
                let error = keep_aside_by(&faulty, &path).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno as i32));
                assert_eq!(fs::read(&path).unwrap(), b"damaged", "{errno} at step {fails}");
                let aside = keep_aside(&path).unwrap();
                assert_eq!((fs::read(aside).unwrap(), path.exists()), (b"damaged".to_vec(), false));
            }
        }
    }
}
