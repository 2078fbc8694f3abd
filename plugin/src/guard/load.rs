//! Step 7: loads, attaches and pins the guard once, or adopts what an agent before us pinned.
//!
//! Attaching sends IPIs to every core (text patching), so it happens at agent start only, and not at all
//! when the same programs are pinned already.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use libbpf_rs::{Link, MapCore as _, Object};

use super::{
    detector::{Detector, Variant},
    maps::Maps,
    object, pins, prctl,
    ring::RecordReader,
    seats::Seats,
    self_test::{self, SelfTestError},
    slots::{Slot, Slots},
    support::{Kernel, SupportError},
    tax::{self, Tax},
    watch::{self, WatchError},
};
use crate::{
    arm::plan::Provider,
    cores::{set::CpuSet, topology::TopologyError},
};

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(transparent)]
    Support(#[from] SupportError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("load the guard's BPF programs (they need CAP_BPF and CAP_PERFMON)")]
    Load(#[source] libbpf_rs::Error),
    #[error("the guard has no BPF program {0}")]
    NoProgram(String),
    #[error("attach BPF program {program}")]
    Attach { program: String, source: libbpf_rs::Error },
    #[error("pin {path}: is it on a bpffs? (mount -t bpf bpf /sys/fs/bpf)")]
    Pin { path: PathBuf, source: libbpf_rs::Error },
    #[error("adopt {path}")]
    Adopt { path: PathBuf, source: libbpf_rs::Error },
    #[error("change pins at {path}")]
    PinDir { path: PathBuf, source: io::Error },
    #[error(
        "strict containers run under the guard of another quietcore version, or of another --detector (pinned at \
         {path}): drain this node's strict pods, then restart the agent"
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
    #[error("the guard has no BPF map {0}")]
    NoMap(&'static str),
    #[error("map the guard's memory")]
    Map(#[source] io::Error),
    #[error("read the ring of records")]
    Ring(#[source] libbpf_rs::Error),
    #[error("keep what a system call costs under the guard")]
    Tax(#[source] libbpf_rs::Error),
    #[error("find the agent's PID namespace")]
    PidLevel(#[source] libbpf_rs::Error),
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    #[error(transparent)]
    Watch(#[from] WatchError),
}

#[derive(Debug)]
pub struct Guard {
    maps: Maps,
    pub slots: Slots,
    pub seats: Seats,
    /// Depth of the agent's PID namespace: `qc_record.pids[level]` is the number the agent knows a thread by.
    pub own_pid_level: usize,
    pub adopted: bool,
    pub detector: Detector,
    pub provider: Provider,
    /// `None`: nobody measured it.
    pub tax: Option<Tax>,
    /// Those of a guard that is not pinned: it ends with this.
    _links: Vec<Link>,
    root: Option<PathBuf>,
}

impl Guard {
    /// Of an agent: outlives it. `cores` are those that it will be asked to watch.
    pub fn start(root: &Path, detector: Detector, cores: &CpuSet) -> Result<Guard, GuardError> {
        let kernel = Kernel::probe()?;
        kernel.can_guard(detector)?;
        fs::create_dir_all(root).map_err(|source| GuardError::PinDir { path: root.to_owned(), source })?;
        let pinned = prctl::BY_BPF.map(|provider| Variant { detector, provider });
        let pinned = pinned.map(|variant| (variant, pins::dir_of(root, object::OBJECT, variant)));
        let pinned = pinned.into_iter().find(|(_, dir)| dir.exists());
        pins::remove_others(root, pinned.as_ref().map(|(_, dir)| dir.as_path()))?;
        let adopted = match pinned {
            Some((variant, dir)) => may_adopt(&kernel, variant, &dir)?.then_some((variant, dir)),
            None => None,
        };
        let was_pinned = adopted.is_some();
        let (variant, dir) = match adopted {
            Some(adopted) => adopted,
            None => {
                let variant = Variant { detector, provider: prctl::choose(detector, cores)? };
                let dir = pins::dir_of(root, object::OBJECT, variant);
                load_and_pin(&kernel, variant, &dir, cores)?;
                (variant, dir)
            }
        };
        let guard = Guard::over(Maps::pinned(&dir)?, variant)?;
        let tax = Tax::read(&guard.maps.tax)?;
        Ok(Guard { adopted: was_pinned, root: Some(root.to_owned()), tax, ..guard })
    }

    /// Of one command: ends with it, needs no bpffs, and adopts nothing.
    pub fn start_private(detector: Detector, cores: &CpuSet) -> Result<Guard, GuardError> {
        Guard::private(detector, cores, prctl::choose_private)
    }

    /// The same for threads that are armed from outside: nobody's prctl needs an answer, so no LSM program is tried.
    pub fn start_counting(detector: Detector, cores: &CpuSet) -> Result<Guard, GuardError> {
        Guard::private(detector, cores, |_detector, _cores| Ok(Provider::Seccomp))
    }

    fn private(
        detector: Detector,
        cores: &CpuSet,
        provider: impl FnOnce(Detector, &CpuSet) -> Result<Provider, GuardError>,
    ) -> Result<Guard, GuardError> {
        let kernel = Kernel::probe()?;
        kernel.can_guard(detector)?;
        let variant = Variant { detector, provider: provider(detector, cores)? };
        let object = object::load(&kernel, variant)?;
        let mut links = Vec::new();
        for name in object::attached_by(&kernel, variant)? {
            links.push(attach(&object, &name)?);
        }
        let maps = Maps::of(&object)?;
        let slots = Slots::map(&maps).map_err(GuardError::Map)?;
        self_test::run(&object, &slots, detector, cores)?;
        Ok(Guard { _links: links, ..Guard::over(maps, variant)? })
    }

    fn over(maps: Maps, Variant { detector, provider }: Variant) -> Result<Guard, GuardError> {
        Ok(Guard {
            slots: Slots::map(&maps).map_err(GuardError::Map)?,
            seats: Seats::map(&maps).map_err(GuardError::Map)?,
            maps,
            own_pid_level: object::own_pid_level()?,
            adopted: false,
            detector,
            provider,
            tax: None,
            _links: Vec::new(),
            root: None,
        })
    }

    pub fn watch(&self, pid: i32, slot: Slot) -> Result<usize, GuardError> {
        Ok(watch::watch(&self.maps.threads, pid, slot, self.slots.generation(slot))?)
    }

    /// Did the program of this holder of the slot start the process, or is it its first? `None`: it is gone.
    pub fn is_watched(&self, pid: i32, (slot, generation): (Slot, u32)) -> Result<Option<bool>, GuardError> {
        Ok(watch::is_watched(&self.maps.threads, pid, slot, generation)?)
    }

    pub fn records(&self) -> Result<RecordReader, GuardError> {
        Ok(RecordReader { ring: self.maps.records()? })
    }

    /// Gives the node back: removes the pins, and with the last of them the programs. Asked for explicitly,
    /// never on exit.
    pub fn unpin(&self) -> Result<(), GuardError> {
        self.root.as_deref().map_or(Ok(()), pins::remove)
    }
}

/// Somebody may have removed a link's pin, and with it the program behind it: half a guard is none.
fn may_adopt(kernel: &Kernel, variant: Variant, dir: &Path) -> Result<bool, GuardError> {
    let links = object::attached_by(kernel, variant)?.into_iter().map(|name| dir.join(pins::link_of(&name)));
    let missing = links.into_iter().find(|link| !link.exists());
    match missing {
        None => Ok(true),
        Some(link) if pins::in_use(dir)? => Err(GuardError::Incomplete { link }),
        Some(_) => pins::remove(dir).map(|()| false),
    }
}

/// What fails half-way, or fails its test, leaves nothing behind.
fn load_and_pin(kernel: &Kernel, variant: Variant, dir: &Path, cores: &CpuSet) -> Result<(), GuardError> {
    let partial = pins::partial(dir);
    let at = |path: &Path| {
        let path = path.to_owned();
        |source| GuardError::PinDir { path, source }
    };
    fs::create_dir(&partial).map_err(at(&partial))?;
    let without = tax::null_call();
    let done = attach_all(kernel, variant, &partial).and_then(|object| {
        let maps = Maps::of(&object)?;
        Tax { without, with: tax::null_call() }.keep(&maps.tax)?;
        let slots = Slots::map(&maps).map_err(GuardError::Map)?;
        self_test::run(&object, &slots, variant.detector, cores)?;
        fs::rename(&partial, dir).map_err(at(dir))
    });
    if done.is_err() {
        pins::remove(&partial)?;
    }
    done
}

fn attach_all(kernel: &Kernel, variant: Variant, dir: &Path) -> Result<Object, GuardError> {
    let mut object = object::load(kernel, variant)?;
    let pin = |path: &Path| {
        let path = path.to_owned();
        |source| GuardError::Pin { path, source }
    };
    for mut map in object.maps_mut() {
        let path = dir.join(pins::name_of(&map.name().to_string_lossy()));
        map.pin(&path).map_err(pin(&path))?;
    }
    for name in object::attached_by(kernel, variant)? {
        if let Some(mut program) = object::program(&object, &name) {
            let path = dir.join(&name);
            program.pin(&path).map_err(pin(&path))?;
        }
        let path = dir.join(pins::link_of(&name));
        attach(&object, &name)?.pin(&path).map_err(pin(&path))?;
    }
    Ok(object)
}

fn attach(object: &Object, name: &str) -> Result<Link, GuardError> {
    let program = object::program(object, name).ok_or_else(|| GuardError::NoProgram(name.to_owned()))?;
    program.attach().map_err(|source| GuardError::Attach { program: name.to_owned(), source })
}
