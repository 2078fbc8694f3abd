//! Step 3 with Debian's own irqbalance: it is told which CPUs to leave alone while it runs, and left to its own
//! configuration afterwards. It runs in a mount namespace where it can move none of this machine's interrupts.
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use quietcore::quiet::{
    catalogue::{self, Demand, Quieted},
    journal::{self, Journal},
    keeper::Keeper,
    kernel::{Host, Kernel as _},
    setting::State,
};

const INSIDE: &str = r#"
mount --make-rprivate /
mkdir -p /run/irqbalance
mount -t tmpfs none /run/irqbalance
mount --bind /proc/irq /proc/irq
mount -o remount,bind,ro /proc/irq
exec irqbalance --foreground --interval=1
"#;
const SOON: Duration = Duration::from_secs(30);

/// Ends with the test.
struct Balancer(Child);

impl Balancer {
    fn start() -> Balancer {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-ec", INSIDE]).stdin(Stdio::null()).stdout(Stdio::null());
        Balancer(unshare.env_remove("IRQBALANCE_BANNED_CPULIST").spawn().unwrap())
    }

    /// unshare, sh and irqbalance are one process, each by its exec.
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn socket(&self) -> PathBuf {
        Path::new("/run/irqbalance").join(format!("irqbalance{}.sock", self.pid()))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A host of which only irqbalance is seen.
fn host_with(balancer: &Balancer) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/1")).unwrap();
    symlink(format!("/proc/{}/root", balancer.pid()), root.path().join("proc/1/root")).unwrap();
    root
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        #[expect(clippy::disallowed_methods, reason = "irqbalance looks once a second")]
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// By one who has told it nothing: what irqbalance itself says.
fn banned(bystander: &Host, balancer: &Balancer) -> Option<String> {
    bystander.read(&balancer.socket()).ok()
}

fn demand(cpus: &str) -> Demand {
    let grant = |cpus: &str| Quieted {
        cores: cpus.parse().unwrap(),
        cpus: cpus.parse().unwrap(),
        shared: None,
        cgroup: None,
        wakeup_latency_us: None,
        governor: None,
    };
    let grants = if cpus.is_empty() { Vec::new() } else { vec![grant(cpus)] };
    Demand {
        grants,
        online: "0-1".parse().unwrap(),
        housekeeping: "0".parse().unwrap(),
        boot_isolated: None,
        no_partition: None,
    }
}

#[test]
fn it_leaves_granted_cores_alone_without_a_restart_and_is_left_to_itself_afterwards() {
    let balancer = Balancer::start();
    let root = host_with(&balancer);
    let root = root.path();
    let bystander = Host::new(root.to_owned());
    until("irqbalance answers", || banned(&bystander, &balancer).is_some());
    let before = banned(&bystander, &balancer).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let book = journal::File(folder.path().join("settings.json"));
    let mut keeper = Keeper::new(Host::new(root.to_owned()), book, Journal::default());
    for grants in ["1", "1", ""] {
        let settings = catalogue::settings(keeper.kernel(), &demand(grants));
        let pass = keeper.keep(&settings).unwrap();
        assert_eq!((pass.drift, pass.not_restored), (Vec::new(), Vec::new()));
        let ours = pass.outcomes.iter().find(|outcome| outcome.setting.file == balancer.socket());
        let expected = if grants.is_empty() { before.as_str() } else { "1" };
        if let Some(outcome) = ours {
            let State::Kept { now, .. } = &outcome.state else { panic!("{outcome:?}") };
            assert_eq!(now, expected);
        }
        assert_eq!(ours.is_some(), !grants.is_empty());
        let what = format!("irqbalance takes {expected:?}");
        until(&what, || banned(&bystander, &balancer).as_deref() == Some(expected));
    }
}
