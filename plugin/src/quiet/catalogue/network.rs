//! Step 3: which CPUs do a network device's work (Documentation/networking/scaling.rst: RPS, XPS).

use std::path::Path;

use super::{All, Area, Format, Kernel, Setting};

const FOLDER: &str = "/sys/class/net";

pub(super) fn settings(kernel: &impl Kernel, all: &All<'_>) -> Vec<Setting> {
    let folder = Path::new(FOLDER);
    let mut settings = Vec::new();
    for device in kernel.list(folder).unwrap_or_default() {
        let queues = folder.join(&device).join("queues");
        for queue in kernel.list(&queues).unwrap_or_default() {
            let file = if queue.starts_with("rx-") { "rps_cpus" } else { "xps_cpus" };
            let name = format!("{file} of {device} {queue}");
            settings.push(all.setting(
                Area::Node,
                name,
                queues.join(&queue).join(file),
                all.without(Format::Mask),
            ));
        }
    }
    settings
}
