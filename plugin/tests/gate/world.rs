//! What the tests of the gate stand on: a gate with the real guard, and a runtime's containers as far as it sees them.
#![allow(unreachable_pub, reason = "each test binary is a crate of its own")]

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use quietcore::{
    agent::{
        cpus_file::CpusFiles,
        gate::{Gate, Seen},
    },
    coexist::watch::{Coexistence, KubeletFiles},
    cores::{
        grants::Grants,
        set::CpuSet,
        token::Token,
        topology::{Topology, live::Live},
    },
    guard::{detector::Detector, load::Guard},
    metrics::Metrics,
    nri::{adjust::TRIPWIRE, handler::Handler as _, version::Runtime},
    policy::{dir, effective::Nohz, store::PolicyStore},
    quiet::{
        judge::Boot,
        kernel::Host,
        worker::{Quiet, Start},
    },
    report::{Config, Destination, Reason, Reporter, Subject},
    violation::symbolize::{Symbolizer, parent::Children},
};
use quietcore_proto::nri::{
    Container, ContainerAdjustment, ContainerState, LinuxContainer, LinuxCpu, LinuxResources, Mount,
    PodSandbox,
};

pub struct World {
    pub gate: Gate,
    online: CpuSet,
    isolated: CpuSet,
    state: tempfile::TempDir,
    log: Log,
}

impl World {
    /// One core is offered, CPU 1, and the runtime is not known yet.
    pub fn new() -> World {
        World::of("0-1", "1")
    }

    /// On a node of four cores, whatever this machine has: only containers on CPU 1 can be started here.
    pub fn offering(isolated: &str) -> World {
        World::of("0-3", isolated)
    }

    fn of(online: &str, isolated: &str) -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pins = PathBuf::from(format!("/sys/fs/bpf/quietcore-gate-{}-{number}", std::process::id()));
        let (state, online, isolated) = (tempfile::tempdir().unwrap(), cpus(online), cpus(isolated));
        let symbolizer = Symbolizer::new("/proc".into(), Children::new("/bin/false".into(), Duration::ZERO));
        let config = Config::new("node".to_owned(), |_| None);
        let (metrics, log) = (Arc::new(Metrics::default()), Log::default());
        let out = Box::new(log.clone());
        let (reporter, reporting) = Reporter::new(config, Destination::LogOnly, symbolizer, metrics, out);
        tokio::spawn(reporting);
        let nodes = vec![(0, cpus("0")), (1, online.without(&cpus("0")).unwrap())];
        let topology = Topology::new(online.clone(), nodes, vec![]);
        let grants = Arc::new(Grants::open(ledger(&state), &isolated).unwrap());
        let quiet = quiet(state.path(), &grants, &online, &isolated);
        let gate = Gate {
            grants,
            topology: Live::new(topology),
            policies: Arc::new(PolicyStore::open(None)),
            guard: Arc::new(Guard::start(Path::new(&pins), Detector::Tracepoint, &cpus("1")).unwrap()),
            containers: Arc::default(),
            reporter,
            shim_on_node: "/var/lib/quietcore/shim/quietcore-shim".into(),
            cpus_files: CpusFiles::open(state.path(), std::iter::empty()),
            quiet,
            seen: tokio::sync::watch::Sender::default(),
            coexistence: coexistence(state.path()),
        };
        World { gate, online, isolated, state, log }
    }

    pub fn connected(mut self) -> World {
        self.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
        self
    }

    /// The next agent, with what is on disk after `meanwhile`, and what is pinned.
    pub fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        let gate = &mut self.gate;
        gate.grants.wait_saved(Duration::from_secs(60)).unwrap();
        meanwhile(&ledger(&self.state));
        gate.grants = Arc::new(Grants::open(ledger(&self.state), &self.isolated).unwrap());
        gate.quiet = quiet(self.state.path(), &gate.grants, &self.online, &self.isolated);
        gate.containers = Arc::default();
        gate.coexistence = coexistence(self.state.path());
        gate.remember_running();
    }

    /// As the kubelet's Allocate leaves it, on CPU 1.
    pub async fn strict(&self) -> Container {
        self.strict_on("1", "0123").await
    }

    pub async fn strict_on(&self, on: &str, id: &str) -> Container {
        let token = Token::random().unwrap();
        self.gate.grants.allocate(token.clone(), cpus(on)).await.unwrap();
        let tripwire = Mount { destination: TRIPWIRE.to_owned(), ..Mount::default() };
        Container {
            id: id.to_owned(),
            annotations: HashMap::from([("grant.quietcore.io/token".to_owned(), token.as_str().to_owned())]),
            mounts: vec![tripwire],
            ..ordinary()
        }
    }

    /// Created and started on CPU 1, as the runtime tells of it from then on.
    pub fn run(&mut self, strict: &Container) -> (Container, Init) {
        let adjustment = self.gate.create(pod(), strict.clone()).unwrap().unwrap();
        let init = Init::on("1");
        let container = made(strict, &adjustment, &init);
        self.gate.start(pod(), container.clone()).unwrap();
        (container, init)
    }

    pub fn is_watched(&self, container: &Container) -> bool {
        let grant = self.gate.grants.read(|ledger| ledger.grant(&container.id));
        grant.is_some_and(|grant| self.gate.guard.slots.is_live(grant.claim.slot))
    }

    pub fn n_live_slots(&self) -> usize {
        self.gate.guard.slots.live().count()
    }

    pub fn n_grants(&self) -> usize {
        self.gate.grants.read(|ledger| ledger.grants().count())
    }

    /// Asks for the node's release.
    pub fn release(&self) -> bool {
        Seen::release(&self.gate.seen, &self.gate.grants, self.gate.guard.slots.live())
    }

    /// What somebody holds, as the node's release sees it.
    pub fn held(&self) -> Vec<String> {
        self.gate.grants.read(|ledger| ledger.held().map(ToString::to_string).collect())
    }

    /// Notes of `Unprotected` since the last time.
    pub async fn unprotected(&self) -> Vec<String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let last = format!("last {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.gate.reporter.event(Subject::Node, Reason::RecordsLost, last.clone());
        // Told in order: whatever was told before is there when this is.
        while !self.log.text().contains(&last) {
            tokio::task::yield_now().await;
        }
        let lines = std::mem::take(&mut *self.log.0.lock().unwrap());
        let lines = String::from_utf8(lines).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let told = lines.filter(|line| line["reason"] == "Unprotected");
        told.map(|line| line["note"].as_str().unwrap().to_owned()).collect()
    }

    /// A pod under a policy of its namespace.
    pub fn pod_under(&self, spec: &str) -> PodSandbox {
        let folder = tempfile::tempdir().unwrap();
        let policy = format!(
            "apiVersion: quietcore.io/v1alpha1\nkind: DataplanePolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
        );
        fs::write(folder.path().join("p.yaml"), policy).unwrap();
        dir::load(folder.path(), &self.gate.policies).unwrap();
        let annotation = ("policy.quietcore.io/pod".to_owned(), "p".to_owned());
        PodSandbox { annotations: HashMap::from([annotation]), ..pod() }
    }

    /// One that granted cores are kept out of; the kernel of these tests has no other.
    pub fn setting(&self) -> PathBuf {
        self.state.path().join("host/proc/irq/default_smp_affinity")
    }

    /// What it says once what was last said to the gate has been looked at.
    pub fn kept(&self) -> String {
        // The worker answers after a look, also about whom it does not know.
        let _ = self.gate.quiet.ready("", Nohz::Preferred, Duration::from_secs(60));
        fs::read_to_string(self.setting()).unwrap().trim().to_owned()
    }

    /// Where no ledger can be written until it is gone: a folder that has the name of the unfinished file.
    pub fn full_disk(&self) -> PathBuf {
        let in_the_way = ledger(&self.state).with_extension("unfinished");
        fs::create_dir(&in_the_way).unwrap();
        in_the_way
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.gate.guard.unpin().unwrap();
    }
}

#[derive(Debug, Default, Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A process on the grant, as the runtime's init waits there for the start.
pub struct Init(Child);

impl Init {
    pub fn on(cpus: &str) -> Init {
        let init = Init(Command::new("taskset").args(["-c", cpus, "sleep", "600"]).spawn().unwrap());
        let status = format!("/proc/{}/status", init.pid());
        let line = format!("Cpus_allowed_list:\t{cpus}\n");
        while !fs::read_to_string(&status).unwrap().contains(&line) {
            std::thread::yield_now();
        }
        init
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ledger(state: &tempfile::TempDir) -> PathBuf {
    state.path().join("ledger.json")
}

/// Of a kubelet that is not there.
fn coexistence(state: &Path) -> Coexistence {
    let (_, view) = tokio::sync::watch::channel(None);
    let files = KubeletFiles::beside(&state.join("device-plugins"));
    Coexistence { files, view, sooner: Arc::default(), peers: Arc::default() }
}

/// Of a kernel that has no settings but those that a test makes.
fn quiet(state: &Path, grants: &Arc<Grants>, online: &CpuSet, isolated: &CpuSet) -> Quiet {
    let host = state.join("host");
    let boot_id = host.join("proc/sys/kernel/random/boot_id");
    fs::create_dir_all(boot_id.parent().unwrap()).unwrap();
    fs::write(boot_id, "boot\n").unwrap();
    let start = Start {
        host: Host::new(host),
        journal: state.join("settings.json"),
        grants: Arc::clone(grants),
        online: online.clone(),
        housekeeping: online.without(isolated).unwrap(),
        boot: Boot::default(),
    };
    start.spawn(Box::new(|_| {})).unwrap()
}

pub fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

pub fn ordinary() -> Container {
    Container {
        id: "0123".to_owned(),
        pod_sandbox_id: "sandbox".to_owned(),
        name: "app".to_owned(),
        args: vec!["/app".to_owned(), "--poll".to_owned()],
        ..Container::default()
    }
}

pub fn pod() -> PodSandbox {
    PodSandbox {
        id: "sandbox".to_owned(),
        uid: "uid".to_owned(),
        name: "poller".to_owned(),
        namespace: "default".to_owned(),
        ..PodSandbox::default()
    }
}

pub fn on(cpus: &str) -> LinuxResources {
    let cpu = LinuxCpu { cpus: cpus.to_owned(), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

/// As the runtime made it.
pub fn made(strict: &Container, adjustment: &ContainerAdjustment, init: &Init) -> Container {
    let resources = adjustment.linux.clone().unwrap().resources;
    Container {
        args: adjustment.args.clone(),
        mounts: vec![],
        pid: init.pid(),
        state: ContainerState::ContainerRunning.into(),
        linux: Some(LinuxContainer { resources, ..LinuxContainer::default() }),
        ..strict.clone()
    }
}
