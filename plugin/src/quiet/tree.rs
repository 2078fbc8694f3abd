//! A kernel's files in memory, for tests: any operation can fail, or be the agent's last.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use nix::errno::Errno;

use super::{
    journal::{Book, Journal},
    kernel::Kernel,
};

/// What the nth operation meets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Fails(Errno),
    /// Nothing is done any more: the agent is dead. The operation itself was done, or not.
    Dies {
        done: bool,
    },
}

#[derive(Debug, Default)]
struct State {
    files: RefCell<BTreeMap<PathBuf, String>>,
    /// Writes of these are taken, and something else is said.
    stubborn: RefCell<BTreeMap<PathBuf, String>>,
    forbidden: RefCell<BTreeMap<PathBuf, Errno>>,
    populated: RefCell<BTreeSet<PathBuf>>,
    journal: RefCell<Journal>,
    n_operations: Cell<usize>,
    n_writes: Cell<usize>,
    fault: Cell<Option<(usize, Fault)>>,
    dead: Cell<bool>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Tree(Rc<State>);

impl Tree {
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let tree = Tree::default();
        for (path, text) in files {
            tree.set(path, text);
        }
        tree
    }

    pub(crate) fn set(&self, path: impl AsRef<Path>, text: &str) {
        self.0.files.borrow_mut().insert(path.as_ref().to_owned(), format!("{text}\n"));
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.files.borrow_mut().retain(|file, _| !file.starts_with(path));
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.0.files.borrow()[Path::new(path)].trim_end().to_owned()
    }

    pub(crate) fn files(&self) -> BTreeMap<PathBuf, String> {
        self.0.files.borrow().clone()
    }

    /// Whatever is written there, it says this.
    pub(crate) fn says(&self, path: &str, text: &str) {
        self.0.stubborn.borrow_mut().insert(path.into(), format!("{text}\n"));
    }

    pub(crate) fn forbid(&self, path: &str, errno: Errno) {
        self.0.forbidden.borrow_mut().insert(path.into(), errno);
    }

    /// A cpuset with processes in it, which is never emptied.
    pub(crate) fn populate(&self, path: &str) {
        self.0.populated.borrow_mut().insert(path.into());
    }

    /// The operation of this number, counted from now on.
    pub(crate) fn fault(&self, nth: usize, fault: Fault) {
        self.0.n_operations.set(0);
        self.0.fault.set(Some((nth, fault)));
    }

    /// A new agent, or the operator saw to it.
    pub(crate) fn heal(&self) {
        self.0.fault.set(None);
        self.0.dead.set(false);
    }

    pub(crate) fn n_operations(&self) -> usize {
        self.0.n_operations.get()
    }

    pub(crate) fn n_writes(&self) -> usize {
        self.0.n_writes.get()
    }

    pub(crate) fn journal(&self) -> Journal {
        self.0.journal.borrow().clone()
    }

    /// The first of so many names, or more, that lead from `folder` to a file.
    fn names(&self, folder: &Path, n_names: usize) -> io::Result<Vec<String>> {
        self.operation(|| {
            let files = self.0.files.borrow();
            let below = files.keys().filter_map(|file| file.strip_prefix(folder).ok());
            let deep = below.clone().filter(|rest| n_names <= rest.components().count());
            let mut names: Vec<String> = deep
                .filter_map(|rest| Some(rest.components().next()?.as_os_str().to_string_lossy().into_owned()))
                .collect();
            names.dedup();
            if below.count() == 0 { Err(Errno::ENOENT.into()) } else { Ok(names) }
        })
    }

    fn operation<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let number = self.0.n_operations.get();
        self.0.n_operations.set(number + 1);
        if self.0.dead.get() {
            return Err(Errno::EIO.into());
        }
        match self.0.fault.get() {
            Some((nth, Fault::Fails(errno))) if nth == number => Err(errno.into()),
            Some((nth, Fault::Dies { done })) if nth == number => {
                self.0.dead.set(true);
                if done { act() } else { Err(Errno::EIO.into()) }
            }
            _ => act(),
        }
    }
}

impl Kernel for Tree {
    fn read(&self, file: &Path) -> io::Result<String> {
        self.operation(|| self.0.files.borrow().get(file).cloned().ok_or_else(|| Errno::ENOENT.into()))
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        self.0.n_writes.set(self.0.n_writes.get() + 1);
        self.operation(|| {
            if let Some(errno) = self.0.forbidden.borrow().get(file) {
                return Err((*errno).into());
            }
            if text.is_empty() && self.0.populated.borrow().contains(file) {
                return Err(Errno::ENOSPC.into());
            }
            let says = self.0.stubborn.borrow().get(file).cloned();
            let mut files = self.0.files.borrow_mut();
            let content = files.get_mut(file).ok_or(Errno::ENOENT)?;
            *content = says.unwrap_or_else(|| format!("{text}\n"));
            Ok(())
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.names(folder, 1)
    }

    fn folders(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.names(folder, 2)
    }
}

impl Book for Tree {
    fn write(&self, journal: &Journal) -> io::Result<()> {
        self.operation(|| {
            self.0.journal.replace(journal.clone());
            Ok(())
        })
    }
}
