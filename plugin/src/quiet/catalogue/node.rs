//! Step 3: what the kernel does on every CPU of the node unless it is told otherwise.

use std::path::Path;

use super::{All, Area, Format, Kernel, Setting, Want};

const WORKQUEUES: &str = "/sys/devices/virtual/workqueue";
const MACHINE_CHECKS: &str = "/sys/devices/system/machinecheck";

/// Seconds. Each pass of vmstat_update (mm/vmstat.c) is work on every CPU that has something to fold.
const STAT_INTERVAL: u64 = 120;

pub(super) fn settings(kernel: &impl Kernel, all: &All<'_>) -> Vec<Setting> {
    let node =
        |name: &str, file: &Path, want: Want| all.setting(Area::Node, name.to_owned(), file.to_owned(), want);
    let sysctl =
        |name: &str, want: Want| node(name, &Path::new("/proc/sys").join(name.replacen('.', "/", 1)), want);
    let mut settings = workqueues(kernel, all);
    settings.extend([
        // Documentation/admin-guide/lockup-watchdogs.rst
        sysctl("kernel.watchdog_cpumask", all.without(Format::List)),
        // A timer that an idle CPU would run goes to a busy one; with 0 it stays where it was armed.
        sysctl("kernel.timer_migration", Want::Text("1".to_owned())),
        sysctl("vm.stat_interval", Want::AtLeast(STAT_INTERVAL)),
        // Never kernel.sched_rt_runtime_us: even its read rebuilds the scheduling domains (6.12, sched_rt_handler), after
        // which a deadline server cannot be switched off any more.
    ]);
    // One value for all CPUs, which each of them shows (arch/x86/kernel/cpu/mce/core.c). The write interrupts every
    // CPU, so it is never written while another core is granted already: the first grant does, and the last release.
    let first = kernel.list(Path::new(MACHINE_CHECKS)).unwrap_or_default().into_iter().next();
    if let Some(first) = first {
        let file = Path::new(MACHINE_CHECKS).join(first).join("check_interval");
        settings.push(node("machine check poll", &file, Want::Text("0".to_owned())));
    }
    settings
}

/// Of unbound work, and of the queues that have a mask of their own.
fn workqueues(kernel: &impl Kernel, all: &All<'_>) -> Vec<Setting> {
    let folder = Path::new(WORKQUEUES);
    let mask = |name: &str, file: &Path| {
        all.setting(Area::Node, name.to_owned(), file.to_owned(), all.without(Format::Mask))
    };
    let mut settings = vec![mask("unbound workqueues", &folder.join("cpumask"))];
    for queue in kernel.list(folder).unwrap_or_default() {
        let file = folder.join(&queue).join("cpumask");
        // Many queues have no folder of their own, and most folders no mask.
        if kernel.read(&file).is_ok() {
            settings.push(mask(&format!("workqueue {queue}"), &file));
        }
    }
    settings
}
