//! Step 3: irqbalance, told while it runs which CPUs to keep off, over the socket that it has for its user interface
//! (irqbalance.c, `sock_handle`; irqbalance-ui(1)). It is never restarted, so systemd's start limit is no matter.
//!
//! To the keeper it is one more file, whose content is the list of banned CPUs. Called by `kernel::Host` alone.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::cores::{mask, set::CpuSet};

/// `irqbalance` and its process's number: another process is another file.
pub(super) const FOLDER: &str = "/run/irqbalance";

/// It answers between two looks at the interrupts; a container's start waits for that.
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Balancers {
    /// What each was told. It takes it at its next look, up to its interval later, and says the old list until then.
    told: RefCell<BTreeMap<PathBuf, (String, Instant)>>,
    /// Questions that were not answered yet: whoever hangs up on it kills it, by SIGPIPE.
    asked: RefCell<BTreeMap<PathBuf, UnixStream>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Setup {
    interval: Duration,
    banned: String,
}

impl Balancers {
    pub(super) fn read(&self, socket: &Path) -> io::Result<String> {
        let Setup { banned, .. } = self.setup(socket)?;
        let mut told = self.told.borrow_mut();
        match told.get(socket) {
            Some((list, until)) if Instant::now() < *until => Ok(list.clone()),
            _ => {
                told.remove(socket);
                Ok(banned)
            }
        }
    }

    /// `by_itself`: what it bans where nobody tells it anything (`setup_banned_cpus` in irqbalance.c). That is given
    /// back as "no list", so that it follows its own configuration again.
    pub(super) fn write(&self, socket: &Path, list: &str, by_itself: &str) -> io::Result<()> {
        let list = list.trim();
        let Setup { interval, .. } = self.setup(socket)?;
        let words = if list == by_itself { "NULL" } else { list };
        // This it does not answer.
        say(socket, &format!("settings cpus {words}"))?;
        let until = Instant::now() + 2 * interval + ANSWERS_WITHIN;
        self.told.borrow_mut().insert(socket.to_owned(), (list.to_owned(), until));
        Ok(())
    }

    fn setup(&self, socket: &Path) -> io::Result<Setup> {
        let earlier = self.asked.borrow_mut().remove(socket);
        let mut stream = earlier.map_or_else(|| say(socket, "setup"), Ok)?;
        let mut answer = String::new();
        if let Err(error) = stream.read_to_string(&mut answer) {
            if error.kind() == io::ErrorKind::WouldBlock {
                self.asked.borrow_mut().insert(socket.to_owned(), stream);
            }
            return Err(error);
        }
        parse(&answer).ok_or_else(|| {
            let words = format!("irqbalance answers {answer:?} where SLEEP and BANNED were expected");
            io::Error::new(io::ErrorKind::InvalidData, words)
        })
    }
}

/// One sentence for each connection.
fn say(socket: &Path, words: &str) -> io::Result<UnixStream> {
    let mut stream = connect(socket)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    stream.write_all(words.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    Ok(stream)
}

/// connect(2) of one that does not take its connections waits without end: EAGAIN instead.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// "SLEEP 10 IRQ 9 LOAD 0 ... BANNED 00000000,0000000c"
fn parse(answer: &str) -> Option<Setup> {
    let after = |word: &str| {
        let mut words = answer.split_whitespace().skip_while(|found| *found != word);
        words.nth(1)
    };
    let interval = after("SLEEP")?.parse().ok()?;
    let banned = mask::parse(after("BANNED")?).ok()?;
    let banned = CpuSet::new(banned).map(|cpus| cpus.to_string()).unwrap_or_default();
    Some(Setup { interval: Duration::from_secs(interval), banned })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn an_answer_has_an_interval_and_a_mask() {
        let banned = |list: &str| Some(Setup { interval: Duration::from_secs(10), banned: list.to_owned() });
        assert_eq!(parse("SLEEP 10 BANNED 00000000"), banned(""));
        assert_eq!(parse("SLEEP 10 IRQ 9 LOAD 0 DIFF 0 CLASS 0 BANNED 00000001,0000000c"), banned("2-3,32"));
        for other in ["", "SLEEP 10", "SLEEP x BANNED 1", "SLEEP 10 BANNED", "SLEEP 10 BANNED xyz"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    /// irqbalance that is between two looks: it says the old list.
    fn slow_one(socket: &Path, n_questions: usize) -> thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            let answer = |stream: io::Result<UnixStream>| {
                let (mut stream, mut question) = (stream.unwrap(), String::new());
                stream.read_to_string(&mut question).unwrap();
                if question == "setup" {
                    stream.write_all(b"SLEEP 10 BANNED 00000002").unwrap();
                }
                question
            };
            listener.incoming().take(n_questions).map(answer).collect()
        })
    }

    #[test]
    fn what_it_was_told_counts_until_it_had_the_time_to_take_it() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("irqbalance7.sock");
        let asked = slow_one(&socket, 7);
        let balancers = Balancers::default();
        assert_eq!(balancers.read(&socket).unwrap(), "1");
        balancers.write(&socket, "1-3\n", "1").unwrap();
        assert_eq!(balancers.read(&socket).unwrap(), "1-3");
        balancers.write(&socket, "1", "1").unwrap();
        balancers.told.borrow_mut().clear();
        assert_eq!(balancers.read(&socket).unwrap(), "1");
        let words = ["setup", "setup", "settings cpus 1-3", "setup", "setup", "settings cpus NULL", "setup"];
        assert_eq!(asked.join().unwrap(), words);
    }

    #[test]
    fn one_that_hangs_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("irqbalance7.sock");
        let _never_accepts = UnixListener::bind(&socket).unwrap();
        let waiting: Vec<UnixStream> = std::iter::from_fn(|| connect(&socket).ok()).collect();
        assert!(!waiting.is_empty());
        let error = Balancers::default().read(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn nobody_hangs_up_on_one_that_has_not_answered_yet() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("irqbalance7.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let balancers = Balancers::default();
        assert_eq!(balancers.read(&socket).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (mut late, _) = listener.accept().unwrap();
        late.read_to_string(&mut String::new()).unwrap();
        late.write_all(b"SLEEP 10 BANNED 00000002").unwrap();
        drop(late);
        assert_eq!(balancers.read(&socket).unwrap(), "1");
    }

    #[test]
    fn one_that_is_gone_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("irqbalance7.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let error = Balancers::default().read(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
