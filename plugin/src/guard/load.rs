//! Step 7: loads, attaches and pins the guard once, or adopts what an agent before us pinned.
//!
//! Attaching sends IPIs to every core (text patching), so it happens at agent start only, and not at all
//! when the same programs are pinned already.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use libbpf_rs::{Link, MapCore as _, MapHandle, Object, ObjectBuilder, ProgramInput};

use super::{
    pins::{self, Pinned},
    ring::RecordReader,
    self_test::{self, SelfTestError, WATCH_SELF},
    slots::{Slot, Slots},
    support::{Kernel, SupportError},
    watch::{self, WatchError},
};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));
const TRACEPOINT: &str = "tp_btf/";
pub(super) const PID_LEVEL: &str = "qc_own_pid_level";

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(transparent)]
    Support(#[from] SupportError),
    #[error("load the guard's BPF programs (they need CAP_BPF and CAP_PERFMON)")]
    Load(#[source] libbpf_rs::Error),
    #[error("attach BPF program {program}")]
    Attach { program: String, source: libbpf_rs::Error },
    #[error("pin {path}: is it on a bpffs? (mount -t bpf bpf /sys/fs/bpf)")]
    Pin { path: PathBuf, source: libbpf_rs::Error },
    #[error("adopt {path}")]
    Adopt { path: PathBuf, source: libbpf_rs::Error },
    #[error("change pins at {path}")]
    PinDir { path: PathBuf, source: io::Error },
    #[error(
        "strict containers run under the guard of another quietcore version (pinned at {path}): drain this \
         node's strict pods, then restart the agent"
    )]
    OtherVersionInUse { path: PathBuf },
    #[error(
        "the pins at {path} are of a quietcore that this version cannot read: drain this node's strict pods, \
         remove that directory, then restart the agent"
    )]
    OtherVersionUnreadable { path: PathBuf, source: libbpf_rs::Error },
    #[error(
        "{link} is gone, so strict containers of this node run half guarded: drain its strict pods, then restart \
         the agent"
    )]
    Incomplete { link: PathBuf },
    #[error("map the guard's memory")]
    Map(#[source] io::Error),
    #[error("the guard's programs have no map {0}")]
    NoMap(&'static str),
    #[error("keep a file descriptor of the guard")]
    Keep(#[source] io::Error),
    #[error("read the ring of records")]
    Ring(#[source] libbpf_rs::Error),
    #[error("find the agent's PID namespace")]
    PidLevel(#[source] libbpf_rs::Error),
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    #[error(transparent)]
    Watch(#[from] WatchError),
}

#[derive(Debug)]
pub struct Guard {
    pinned: Pinned,
    pub slots: Slots,
    /// Depth of the agent's PID namespace: `qc_record.pids[level]` is the number the agent knows a thread by.
    pub own_pid_level: usize,
    pub adopted: bool,
    /// `None`: private to this process, see private.rs.
    root: Option<PathBuf>,
    /// Of a private guard; a pinned one's links are in the bpffs.
    _links: Vec<OwnedFd>,
}

impl Guard {
    pub fn start(root: &Path) -> Result<Guard, GuardError> {
        let kernel = Kernel::probe()?;
        kernel.can_guard()?;
        fs::create_dir_all(root).map_err(|source| GuardError::PinDir { path: root.to_owned(), source })?;
        let dir = pins::dir_of(root, OBJECT);
        pins::remove_others(root, &dir)?;
        let adopted = dir.exists() && may_adopt(&kernel, &dir)?;
        if !adopted {
            load_and_pin(&kernel, &dir)?;
        }
        Guard::new(&kernel, pins::open(&dir)?, Some(root.to_owned()), Vec::new(), adopted)
    }

    pub(super) fn new(
        kernel: &Kernel,
        pinned: Pinned,
        root: Option<PathBuf>,
        links: Vec<OwnedFd>,
        adopted: bool,
    ) -> Result<Guard, GuardError> {
        let slots = Slots::map(&pinned).map_err(GuardError::Map)?;
        let own_pid_level = own_pid_level(kernel)?;
        Ok(Guard { pinned, slots, own_pid_level, adopted, root, _links: links })
    }

    pub fn watch(&self, pid: i32, slot: Slot) -> Result<usize, GuardError> {
        Ok(watch::watch(&self.pinned.threads, pid, slot, self.slots.generation(slot))?)
    }

    pub fn records(&self) -> Result<RecordReader, GuardError> {
        let ring = MapHandle::try_from(&self.pinned.records).map_err(GuardError::Ring)?;
        Ok(RecordReader { ring })
    }

    /// Gives the node back: removes the pins, and with the last of them the programs. Asked for explicitly,
    /// never on exit.
    pub fn unpin(&self) -> Result<(), GuardError> {
        self.root.as_deref().map_or(Ok(()), pins::remove)
    }
}

/// Somebody may have removed a link's pin, and with it the program behind it: half a guard is none.
fn may_adopt(kernel: &Kernel, dir: &Path) -> Result<bool, GuardError> {
    let object = ObjectBuilder::default().open_memory(OBJECT).map_err(GuardError::Load)?;
    let missing = object.progs().find_map(|program| {
        let section = program.section().to_string_lossy().into_owned();
        let link = dir.join(pins::link_of(&program.name().to_string_lossy()));
        let attached = section.strip_prefix(TRACEPOINT).is_some_and(|name| kernel.has_tracepoint(name));
        (attached && !link.exists()).then_some(link)
    });
    match missing {
        None => Ok(true),
        Some(link) if pins::in_use(dir)? => Err(GuardError::Incomplete { link }),
        Some(_) => pins::remove(dir).map(|()| false),
    }
}

pub(super) fn open_object(kernel: &Kernel, wanted: impl Fn(&str) -> bool) -> Result<Object, GuardError> {
    let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(GuardError::Load)?;
    for mut program in open.progs_mut() {
        let section = program.section().to_string_lossy().into_owned();
        let exists =
            section.strip_prefix(TRACEPOINT).is_none_or(|tracepoint| kernel.has_tracepoint(tracepoint));
        let named = wanted(&program.name().to_string_lossy());
        program.set_autoload(exists && named);
    }
    open.load().map_err(GuardError::Load)
}

/// What fails half-way, or fails its test, leaves nothing behind.
fn load_and_pin(kernel: &Kernel, dir: &Path) -> Result<(), GuardError> {
    let partial = pins::partial(dir);
    let at = |path: &Path| {
        let path = path.to_owned();
        |source| GuardError::PinDir { path, source }
    };
    fs::create_dir(&partial).map_err(at(&partial))?;
    let done = attach_all(kernel, &partial).and_then(|object| {
        let slots = Slots::map(&pins::open(&partial)?).map_err(GuardError::Map)?;
        self_test::run(&object, &slots)?;
        fs::rename(&partial, dir).map_err(at(dir))
    });
    if done.is_err() {
        pins::remove(&partial)?;
    }
    done
}

fn attach_all(kernel: &Kernel, dir: &Path) -> Result<Object, GuardError> {
    let mut object = open_object(kernel, |name| name != PID_LEVEL)?;
    let pin = |path: &Path| {
        let path = path.to_owned();
        |source| GuardError::Pin { path, source }
    };
    for mut map in object.maps_mut() {
        let path = dir.join(pins::name_of(&map.name().to_string_lossy()));
        map.pin(&path).map_err(pin(&path))?;
    }
    for mut program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if !program.autoload() || name == WATCH_SELF {
            continue;
        }
        let path = dir.join(&name);
        program.pin(&path).map_err(pin(&path))?;
        let mut link: Link =
            program.attach().map_err(|source| GuardError::Attach { program: name.clone(), source })?;
        let path = dir.join(pins::link_of(&name));
        link.pin(&path).map_err(pin(&path))?;
    }
    Ok(object)
}

/// Asked of the kernel by a program that runs once in the agent's own context: /proc shows a process's
/// numbers only from the reader's namespace inwards.
fn own_pid_level(kernel: &Kernel) -> Result<usize, GuardError> {
    let object = open_object(kernel, |name| name == PID_LEVEL)?;
    let program = object.progs_mut().find(|program| program.name() == PID_LEVEL);
    let Some(program) = program else { return Ok(0) };
    let output = program.test_run(ProgramInput::default()).map_err(GuardError::PidLevel)?;
    Ok(output.return_value as usize)
}
