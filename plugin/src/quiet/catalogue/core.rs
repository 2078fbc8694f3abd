//! Step 3: what is set for each granted core by itself.

use std::path::{Path, PathBuf};

use super::{Area, Demand, Kernel, Setting, Want};
use crate::cores::set::{CpuId, CpuSet};

/// Linux 6.12 and later give ordinary tasks 50 ms of each second beside a real-time one (kernel/sched/deadline.c,
/// fair_server): its timer costs a core without a tick two entries a second, with nobody to serve.
const FAIR_SERVER: &str = "/sys/kernel/debug/sched/fair_server";

pub(super) fn settings(kernel: &impl Kernel, demand: &Demand) -> Vec<Setting> {
    let mut settings = Vec::new();
    for grant in &demand.grants {
        for cpu in grant.cores.iter() {
            let number = cpu.number();
            let server = Path::new(FAIR_SERVER).join(format!("cpu{number}/runtime"));
            settings.push(of(cpu, "deadline server", server, "0".to_owned()));
            if let Some(latency) = grant.wakeup_latency_us {
                // Documentation/power/pm_qos_interface.rst: "n/a" asks for none at all, and "0" for nothing.
                let text = if latency == 0 { "n/a".to_owned() } else { latency.to_string() };
                settings.push(of(cpu, "wakeup latency", sysfs(cpu, "power/pm_qos_resume_latency_us"), text));
            }
            if let Some(governor) = &grant.governor {
                settings.push(of(
                    cpu,
                    "frequency governor",
                    sysfs(cpu, "cpufreq/scaling_governor"),
                    governor.clone(),
                ));
                settings.extend(limit(kernel, cpu));
            }
        }
    }
    settings
}

/// A governor rules below it (Documentation/admin-guide/pm/cpufreq.rst).
fn limit(kernel: &impl Kernel, cpu: CpuId) -> Option<Setting> {
    let most = kernel.read(&sysfs(cpu, "cpufreq/cpuinfo_max_freq")).ok()?.trim().parse().ok()?;
    let file = sysfs(cpu, "cpufreq/scaling_max_freq");
    let setting = of(cpu, "frequency limit", file, String::new());
    Some(Setting { want: Want::AtLeast(most), ..setting })
}

fn sysfs(cpu: CpuId, file: &str) -> PathBuf {
    Path::new("/sys/devices/system/cpu").join(format!("cpu{}", cpu.number())).join(file)
}

fn of(cpu: CpuId, name: &str, file: PathBuf, text: String) -> Setting {
    let name = format!("{name} of CPU {}", cpu.number());
    Setting { area: Area::Core, name, file, want: Want::Text(text), effective: None, cpus: CpuSet::from(cpu) }
}
