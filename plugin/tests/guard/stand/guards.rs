//! The guard of a test. Most share one of their process: it is loaded once, and nothing keeps it longer. Tests of
//! what outlives an agent have one with pins of its own.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use quietcore::{
    cores::topology::Topology,
    guard::{
        detector::Detector,
        load::{Guard, GuardError},
        support::Kernel,
    },
};

const NO_AGENT: &str = "a guard without pins has no agent: use Stand::of_an_agent";

pub enum TestGuard {
    Shared(&'static Guard, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>),
    Private(Box<Guard>),
    Pinned(Box<Agent>),
}

pub struct Agent {
    root: PathBuf,
    detector: Detector,
    core: &'static str,
    guard: Option<Guard>,
}

pub fn chosen(core: &str) -> Detector {
    let nohz_full = Topology::read(Path::new("/sys")).unwrap().nohz_full;
    Detector::choose(&Kernel::probe().unwrap(), &core.parse().unwrap(), nohz_full.as_ref())
}

impl TestGuard {
    /// For one test at a time: they use the same slot, ring and core.
    pub fn shared(detector: Detector, core: &'static str) -> TestGuard {
        static IN_USE: Mutex<()> = Mutex::new(());
        static EDGE: OnceLock<Guard> = OnceLock::new();
        static TRACEPOINT: OnceLock<Guard> = OnceLock::new();
        let in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = match detector {
            Detector::Edge => &EDGE,
            Detector::Tracepoint => &TRACEPOINT,
        };
        let start = || Guard::start_private(detector, &core.parse().unwrap()).unwrap();
        TestGuard::Shared(guard.get_or_init(start), in_use)
    }

    /// Beside an agent's that is there already.
    pub fn private(detector: Detector, core: &'static str) -> TestGuard {
        let guard = Guard::start_private(detector, &core.parse().unwrap()).unwrap();
        TestGuard::Private(Box::new(guard))
    }

    pub fn pinned(detector: Detector, core: &'static str) -> TestGuard {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/sys/fs/bpf/quietcore-test-{}-{number}", std::process::id()));
        let mut agent = Agent { root, detector, core, guard: None };
        agent.start().unwrap();
        TestGuard::Pinned(Box::new(agent))
    }

    pub fn get(&self) -> &Guard {
        self.now().unwrap()
    }

    /// None while its agent is gone.
    pub fn now(&self) -> Option<&Guard> {
        match self {
            TestGuard::Shared(guard, _) => Some(guard),
            TestGuard::Private(guard) => Some(guard),
            TestGuard::Pinned(agent) => agent.guard.as_ref(),
        }
    }

    pub fn agent(&self) -> &Agent {
        match self {
            TestGuard::Pinned(agent) => agent,
            _ => panic!("{NO_AGENT}"),
        }
    }

    pub fn agent_mut(&mut self) -> &mut Agent {
        match self {
            TestGuard::Pinned(agent) => agent,
            _ => panic!("{NO_AGENT}"),
        }
    }
}

impl Agent {
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All that an agent's death closes; the pins stay.
    pub fn lose(&mut self) {
        self.guard = None;
    }

    pub fn start(&mut self) -> Result<(), GuardError> {
        self.guard = Some(self.another()?);
        Ok(())
    }

    pub fn another(&self) -> Result<Guard, GuardError> {
        Guard::start(&self.root, self.detector, &self.core.parse().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            guard.unpin().unwrap();
        }
    }
}
