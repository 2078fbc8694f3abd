//! The guard's own house: a thread spins on a core of a nohz_full kernel, and the agent does on the other CPUs
//! whatever it does on a day. What the kernel itself does to such a core the lab's init has turned off.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quietcore::{
    cores::{
        ledger::{Holder, Ledger},
        store,
        token::Token,
    },
    guard::abi::{QC_INTERRUPT, QC_KIND_ARMED, QC_KIND_DISARMED, qc_record},
    policy::effective::{Action, Effective},
};

use crate::{
    counts::only,
    stand::{SLOT, Stand, enforce, story},
};

const SIGUSR1: u8 = 10;
/// Of guest time; the emulator's clock runs slower than ours.
const WATCHED: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(2);
const STEPS_OF_AN_AGENT: u32 = 10;

/// The node's agent, with the container of another pod on another core: its violations are the agent's work.
struct Node {
    dir: tempfile::TempDir,
    pins: PathBuf,
}

impl Node {
    fn new(pins: &Path, policy: &Effective) -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap(), pins: pins.to_owned() };
        fs::create_dir(node.dir.path().join("policies")).unwrap();
        let token = Token::random().unwrap();
        let mut ledger = Ledger::empty("1-2".parse().unwrap());
        ledger.allocate(token.clone(), "2".parse().unwrap());
        let holder =
            Holder { namespace: "ns".into(), pod: "loud".into(), pod_uid: "u".into(), container: "c".into() };
        ledger.claim(&token, &holder, "c1", "", policy).unwrap();
        let mut saved = serde_json::to_value(ledger.saved()).unwrap();
        saved["allocations"][token.as_str()]["claim"]["slot"] = SLOT.into();
        let (file, boot_id) = (node.dir.path().join("ledger.json"), store::boot_id().unwrap());
        store::write(&file, &boot_id, &serde_json::from_value(saved).unwrap()).unwrap();
        node
    }

    fn start_agent(&self) -> Child {
        let dir = self.dir.path();
        let append = |name| File::options().create(true).append(true).open(dir.join(name)).unwrap();
        let mut agent = Command::new(env!("CARGO_BIN_EXE_quietcore"));
        agent.args(["agent", "--isolated-cpus", "1-2", "--listen", "127.0.0.1:0", "--node-name", "lab"]);
        agent.arg("--state-dir").arg(dir).arg("--pin-dir").arg(&self.pins);
        agent.arg("--policy-dir").arg(dir.join("policies")).arg("--kubelet-dir").arg(dir);
        agent.arg("--nri-socket").arg(dir.join("nri.sock"));
        agent.stdout(append("violations")).stderr(append("log")).spawn().unwrap()
    }

    fn edit_policy(&self, n: u32) {
        let policy = format!(
            "apiVersion: quietcore.io/v1alpha1\nkind: DataplanePolicy\nmetadata: {{name: p{n}}}\nspec: {{}}\n"
        );
        fs::write(self.dir.path().join("policies/p.yaml"), policy).unwrap();
    }

    fn violations(&self) -> usize {
        let log = fs::read_to_string(self.dir.path().join("violations")).unwrap();
        log.lines().filter(|line| line.contains("\"loud\"")).count()
    }

    fn stop(&self, mut agent: Child) {
        kill(Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = agent.wait().unwrap();
        assert!(status.success(), "{status}: {}", fs::read_to_string(self.dir.path().join("log")).unwrap());
    }
}

#[test]
fn nothing_the_agent_does_enters_a_granted_core() {
    let loud_policy = enforce([Action::Signal(SIGUSR1), Action::Report, Action::Count, Action::Report]);
    let loud = Stand::of_an_agent_with("2");
    let node = Node::new(loud.agent().root(), &loud_policy);
    let mut violator = loud.start(&loud_policy, "each-second");
    violator.wait_for("violated=1");
    let mut agent = node.start_agent();

    let stand = Stand::beside_an_agent();
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Report), "spin", 0);
    run.wait_for("arming");
    stand.wait_until("it is armed", |records| story(records).contains(&QC_KIND_ARMED));
    // What its own start brought, such as the page tables of a sibling's exit.
    pause(STEP);
    stand.records();
    let (began, before) = (Instant::now(), stand.counts().entries);
    let mut step = 0;
    while began.elapsed() < WATCHED {
        step += 1;
        node.edit_policy(step);
        if step % STEPS_OF_AN_AGENT == 0 {
            node.stop(agent);
            agent = node.start_agent();
        }
        pause(STEP);
    }
    let entries: Vec<qc_record> = stand.records();
    assert_eq!(stand.counts().entries, before, "{entries:?}");
    assert!(1 < node.violations(), "the agent had no work");
    node.stop(agent);
    run.kill(&stand);
    violator.kill(&loud);
}

/// The last of the published list (published.rs).
#[test]
fn a_loop_that_looks_at_the_clock_five_million_times_is_not_entered() {
    let stand = Stand::new();
    let run = stand.run_entries(&enforce([Action::Ignore; 4]), "published-jitter", 5);
    assert_eq!((run.code, run.told("signals").as_str()), (Some(0), "0"), "{:?}", run.records);
    assert_eq!(story(&run.records), [QC_KIND_ARMED, QC_KIND_DISARMED]);
}

fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a test that watches for a while")]
    std::thread::sleep(time);
}
