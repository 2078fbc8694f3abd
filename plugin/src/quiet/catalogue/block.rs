//! Step 3: writeback throttling of block devices (Documentation/ABI/stable/sysfs-block, wbt_lat_usec).
//!
//! Its timer (block/blk-stat.c, `blk_stat_timer_fn`) is set again every 100 ms by itself, and so stays with the CPU that
//! wrote first, which is kicked each time, long after everybody left it: without throttling there is no timer.

use std::path::Path;

use super::{All, Area, Kernel, Setting, Want};

const FOLDER: &str = "/sys/block";

pub(super) fn settings(kernel: &impl Kernel, all: &All<'_>) -> Vec<Setting> {
    let folder = Path::new(FOLDER);
    let devices = kernel.list(folder).unwrap_or_default();
    let setting = |device: String| {
        let file = folder.join(&device).join("queue/wbt_lat_usec");
        all.setting(Area::Node, format!("wbt_lat_usec of {device}"), file, Want::Text("0".to_owned()))
    };
    devices.into_iter().map(setting).collect()
}
