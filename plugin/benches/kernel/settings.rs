//! How long it takes to make cores quiet and to give them back, on a node of 256 cores and 1,000 interrupts: real files
//! in a folder, with the journal on its disk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use quietcore::{
    cores::set::{CpuId, CpuSet},
    quiet::{
        catalogue::{self, Demand, Quieted},
        journal::{self, Journal},
        keeper::Keeper,
        kernel::Host,
    },
};
use rustix::time::{ClockId, clock_gettime};

use crate::line::{Line, percentile, round};

const CORES: u32 = 256;
const INTERRUPTS: u32 = 1_000;
const PODS: usize = 200;
/// Of one core each, at a time.
const AT_ONCE: usize = 64;
/// As the worker does (quiet/worker.rs).
const LOOKS_PER_HOUR: f64 = 360.0;

pub fn lines() -> Vec<Line> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("host");
    make_node(&root);
    let journal = folder.path().join("settings.json");
    let mut keeper = Keeper::new(Host::new(root), journal::File(journal), Journal::default());
    let mut grants: Vec<Quieted> = Vec::new();
    let (mut granted, mut released) = (Vec::new(), Vec::new());
    for pod in 0..PODS {
        // The oldest goes when the next comes.
        if grants.len() == AT_ONCE {
            grants.remove(0);
            released.push(milliseconds(pass(&mut keeper, &grants)));
        }
        grants.push(grant(1 + u32::try_from(pod).unwrap() % (CORES - 1)));
        granted.push(milliseconds(pass(&mut keeper, &grants)));
    }
    let before = clock_gettime(ClockId::ThreadCPUTime);
    const LOOKS: u32 = 20;
    for _ in 0..LOOKS {
        pass(&mut keeper, &grants);
    }
    let after = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = (after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec;
    let look = nanoseconds as f64 / 1e6 / f64::from(LOOKS);
    let seconds = round(look * LOOKS_PER_HOUR / 1e3);
    let what = "settings of one more core, or one less, p99 (256 cores, 1,000 interrupts)";
    vec![
        Line::new("settings.pass", what, "ms")
            .value("grant", round(percentile(&granted, 99)))
            .value("release", round(percentile(&released, 99))),
        Line::new("settings.look", "CPU time of looking whether anything was changed", "s an hour")
            .value("there", seconds)
            .budget("< 0.1 % of a CPU", seconds < 3.6),
    ]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn pass(keeper: &mut Keeper<Host, journal::File>, grants: &[Quieted]) -> Duration {
    let start = Instant::now();
    let demand = Demand {
        grants: grants.to_vec(),
        online: format!("0-{}", CORES - 1).parse().unwrap(),
        housekeeping: CpuSet::from(CpuId::new(0).unwrap()),
        boot_isolated: None,
        no_partition: None,
    };
    let settings = catalogue::settings(keeper.kernel(), &demand);
    keeper.keep(&settings).unwrap();
    start.elapsed()
}

fn grant(cpu: u32) -> Quieted {
    let cpus = CpuSet::from(CpuId::new(cpu).unwrap());
    Quieted { cores: cpus.clone(), cpus, shared: None, cgroup: None, wakeup_latency_us: None, governor: None }
}

fn make_node(root: &Path) {
    let put = |path: &str, text: &str| {
        let file: PathBuf = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let all = format!("0-{}", CORES - 1);
    let mask = ["ffffffff"; 8].join(",");
    put("proc/irq/default_smp_affinity", &mask);
    for number in 0..INTERRUPTS {
        put(&format!("proc/irq/{number}/smp_affinity_list"), &all);
    }
    put("proc/sys/kernel/watchdog_cpumask", &all);
    put("proc/sys/kernel/timer_migration", "1");
    put("proc/sys/vm/stat_interval", "1");
    put("sys/devices/virtual/workqueue/cpumask", &mask);
    for queue in 0..32 {
        put(&format!("sys/class/net/eth0/queues/rx-{queue}/rps_cpus"), "0");
        put(&format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), &mask);
    }
    for cpu in 0..CORES {
        put(&format!("sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime"), "50000000");
    }
}
