//! Step 3: where device interrupts may go (Documentation/core-api/irq/irq-affinity.rst).

use std::path::Path;

use super::{All, Area, Format, Kernel, Setting, Want};
use crate::quiet::irqbalance;

const FOLDER: &str = "/proc/irq";

/// Each interrupt that there is now: one that a driver asks for later is found at a later look, and follows the
/// default until then.
pub(super) fn settings(kernel: &impl Kernel, all: &All<'_>) -> Vec<Setting> {
    let folder = Path::new(FOLDER);
    let default = all.setting(
        Area::Node,
        "default interrupt affinity".to_owned(),
        folder.join("default_smp_affinity"),
        all.without(Format::Mask),
    );
    let mut numbers: Vec<u32> =
        kernel.list(folder).unwrap_or_default().iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    let interrupts = numbers.into_iter().map(|number| {
        let own = folder.join(number.to_string());
        let file = own.join("smp_affinity_list");
        let setting =
            all.setting(Area::Interrupt, format!("interrupt {number}"), file, all.without(Format::List));
        Setting { effective: Some(own.join("effective_affinity_list")), ..setting }
    });
    balancers(kernel, all).into_iter().chain([default]).chain(interrupts).collect()
}

/// First: else it puts interrupts back at its next look.
fn balancers(kernel: &impl Kernel, all: &All<'_>) -> Vec<Setting> {
    let folder = Path::new(irqbalance::FOLDER);
    let names = kernel.list(folder).unwrap_or_default();
    let sockets = names.iter().filter(|name| name.ends_with(".sock"));
    let setting = |name: &String| {
        let what = format!("CPUs banned by {}", name.trim_end_matches(".sock"));
        all.setting(Area::Node, what, folder.join(name), Want::Including(all.cores.clone()))
    };
    sockets.map(setting).collect()
}

/// What an interrupt's folder has besides its handlers (kernel/irq/proc.c).
const FILES: [&str; 8] = [
    "affinity_hint",
    "effective_affinity",
    "effective_affinity_list",
    "node",
    "smp_affinity",
    "smp_affinity_list",
    "spurious",
    "actions",
];

/// Whose it is: "24 (nvme0q1)".
pub(crate) fn with_handler(kernel: &impl Kernel, setting: &Setting) -> String {
    let folder = setting.file.parent().unwrap_or(&setting.file);
    let number = folder.file_name().unwrap_or_default().to_string_lossy();
    let names = kernel.list(folder).unwrap_or_default();
    let handlers: Vec<&str> = names.iter().map(String::as_str).filter(|name| !FILES.contains(name)).collect();
    if handlers.is_empty() { number.into_owned() } else { format!("{number} ({})", handlers.join(", ")) }
}
