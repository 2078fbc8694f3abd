//! Step 3 for the containers' owners: what their cores lack, and who changed what keeps them quiet.
//!
//! The words are pure; the worker in `quiet` does the work, and looks whenever the ledger has changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::containers::Containers;
use crate::{
    coexist::watch::Coexistence,
    cores::{
        device,
        grants::Grants,
        replay,
        set::{CpuId, CpuSet},
        stale::{Kubelet, Unheld},
        topology::{Topology, boot, live::Live},
    },
    node::{self, Missing},
    quiet::{
        judge::Boot,
        kernel::Host,
        setting::{Area, Drift},
        worker::{Quiet, Start, StartError},
    },
    report::{ContainerInfo, Reason, Reporter, Subject},
};

/// Those that are missing.
pub type BootSettings = Result<Vec<Missing>, String>;

/// They change with a boot, or by a command that a person runs.
const BOOT_SETTINGS_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum QuietingError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("no housekeeping CPU is left")]
    NoHousekeeping,
}

/// Who is told.
#[expect(missing_debug_implementations, reason = "the reporter has none")]
#[derive(Clone)]
pub struct Owners {
    pub grants: Arc<Grants>,
    pub containers: Arc<Containers>,
    pub reporter: Reporter,
}

pub fn start(
    host_root: &Path,
    state_dir: &Path,
    topology: &Topology,
    isolated: &CpuSet,
    owners: &Owners,
) -> Result<Quiet, QuietingError> {
    let start = Start {
        host: Host::new(host_root.to_owned()),
        journal: state_dir.join("settings.json"),
        grants: Arc::clone(&owners.grants),
        online: topology.online.clone(),
        housekeeping: topology.online.without(isolated).ok_or(QuietingError::NoHousekeeping)?,
        boot: Boot { nohz_full: topology.nohz_full.clone(), isolated: isolated_by_boot(host_root, topology) },
    };
    let (owners, proc) = (owners.clone(), host_root.join("proc"));
    Ok(start.spawn(Box::new(move |drifts| owners.tell(drifts, &proc)))?)
}

/// sysfs shows the boot's and, on a kernel whose partitions drive housekeeping (7.0), also ours: the command line is
/// asked first.
fn isolated_by_boot(host_root: &Path, topology: &Topology) -> Option<CpuSet> {
    let n_cpus = topology.possible.iter().last().map_or(0, CpuId::number) + 1;
    let masks =
        fs::read_to_string(host_root.join("proc/cmdline")).ok().map(|text| boot::parse(&text, n_cpus));
    match masks {
        Some(Ok(masks)) => masks.domain,
        Some(Err(error)) => {
            tracing::warn!(%error, "the kernel's command line");
            topology.isolated.clone()
        }
        None => topology.isolated.clone(),
    }
}

/// Everything that changes the ledger changes what is to be quiet.
pub async fn follow(grants: Arc<Grants>, quiet: Quiet) {
    let mut revisions = grants.revisions();
    while revisions.changed().await.is_ok() {
        quiet.look();
    }
}

/// What `quietcore node apply` wrote on this node and the running kernel was not booted with.
/// `Err`: whether it is in force is not known.
pub fn follow_boot_settings(state_dir: PathBuf, host_root: PathBuf) -> watch::Receiver<BootSettings> {
    let (sender, missing) = watch::channel(Ok(Vec::new()));
    tokio::spawn(async move {
        let mut every = tokio::time::interval(BOOT_SETTINGS_EVERY);
        loop {
            every.tick().await;
            let now = node::reboot_required(&state_dir, &host_root).map_err(|error| error.to_string());
            let news = sender.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            if let (true, Err(error)) = (news, &now) {
                tracing::warn!(%error, "whether boot settings are in force is not known");
            }
        }
    });
    missing
}

/// Of allocations that neither a container, nor the kubelet's list of pods, nor its checkpoint knows any more.
pub async fn forget_stale(grants: Arc<Grants>, coexistence: Coexistence, topology: Live) {
    let mut view = coexistence.view.clone();
    let mut unheld = Unheld::default();
    let since = tokio::time::Instant::now();
    while view.changed().await.is_ok() {
        let view = view.borrow_and_update().clone();
        let (Some(view), Ok(replays)) = (view, replay::read(&coexistence.files.device_checkpoint)) else {
            continue;
        };
        let forgotten = grants.change(|ledger| {
            let cpus_of = |ids: &[String]| device::cpus(ids, &topology.known()).ok();
            let kubelet = Kubelet { view: &view, replays: &replays };
            let stale = unheld.look(since.elapsed(), ledger.allocations(), kubelet, cpus_of);
            ledger.forget(&stale);
            stale.len()
        });
        if forgotten != 0 {
            tracing::info!(step = 3, forgotten, "allocations that nobody holds any more");
        }
    }
}

impl Owners {
    fn tell(&self, drifts: &[Drift], proc: &Path) {
        let running = running(proc).unwrap_or_default();
        for (_, info) in self.containers.running() {
            let Some(grant) = self.grants.read(|ledger| ledger.grant(&info.container_id)) else { continue };
            let concerns = drifts.iter().filter(|drift| drift.setting.cpus.overlaps(&grant.cores));
            for (reason, note) in notes(&concerns.collect::<Vec<_>>(), &running) {
                self.reporter.event(Subject::Container(Arc::clone(&info)), reason, note);
            }
        }
    }
}

/// Once, when the container starts.
pub fn tell_shortcomings(reporter: &Reporter, info: Arc<ContainerInfo>, lacking: &[String]) {
    if lacking.is_empty() {
        return;
    }
    let note = format!("the cores of container {} lack: {}", info.container, lacking.join("; "));
    reporter.event(Subject::Container(info), Reason::NotAsQuiet, note);
}

/// Interrupts that were moved together are one note: a daemon that balances them moves hundreds.
fn notes(drifts: &[&Drift], running: &[String]) -> Vec<(Reason, String)> {
    const NAMED: usize = 4;
    let repaired = |drift: &Drift| drift.setting.area == Area::Interrupt && drift.refused.is_none();
    let (moved, others): (Vec<&Drift>, Vec<&Drift>) = drifts.iter().partition(|drift| repaired(drift));
    let mut notes: Vec<_> = others.into_iter().map(|drift| words(drift, running)).collect();
    match moved[..] {
        [] => {}
        [drift] => notes.push(words(drift, running)),
        [first, ..] => {
            let names: Vec<&str> =
                moved.iter().take(NAMED).map(|drift| drift.setting.name.as_str()).collect();
            let more = match moved.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let (names, cpus) = (names.join(", "), &first.setting.cpus);
            let who = suspects(Area::Interrupt, running);
            let who = if who.is_empty() { String::new() } else { format!("; {who}") };
            let note = format!("somebody moved {names}{more} to CPU {cpus}: they are away again{who}");
            notes.push((Reason::DriftRepaired, note));
        }
    }
    notes
}

fn words(drift: &Drift, running: &[String]) -> (Reason, String) {
    let Drift { setting, found, wanted, refused } = drift;
    let who = suspects(setting.area, running);
    let who = if who.is_empty() { String::new() } else { format!("; {who}") };
    let changed =
        format!("somebody changed {} to {found:?}, which enters CPU {}", setting.name, setting.cpus);
    match refused {
        None => (Reason::DriftRepaired, format!("{changed}: it is {wanted:?} again{who}")),
        Some(why) => {
            (Reason::DriftRefused, format!("{changed}, and it cannot be {wanted:?} again: {why}{who}"))
        }
    }
}

/// No kernel tells who wrote one of its files, but few programs write these.
const KNOWN: [(Area, &str, &str); 6] = [
    (
        Area::Interrupt,
        "irqbalance",
        "where it has no socket in /run/irqbalance to be told otherwise, set IRQBALANCE_BANNED_CPULIST to the isolated CPUs",
    ),
    (
        Area::Interrupt,
        "tuned",
        "let TuneD's profile leave interrupts alone (irqbalance and scheduler plugins)",
    ),
    (Area::Node, "tuned", "take the setting out of TuneD's profile"),
    (Area::Node, "systemd-sysctl", "take the setting out of /etc/sysctl.d"),
    (Area::Core, "tuned", "take the setting out of TuneD's profile"),
    (Area::Cgroup, "koordlet", "keep koordlet from cpusets of these pods"),
];

fn suspects(area: Area, running: &[String]) -> String {
    let known =
        KNOWN.iter().filter(|(of, comm, _)| *of == area && running.iter().any(|running| running == comm));
    let words: Vec<String> =
        known.map(|(_, comm, remedy)| format!("{comm} runs here and does that: {remedy}")).collect();
    words.join("; ")
}

/// Names of the node's processes.
fn running(proc: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(proc)?.flatten();
    let comms = entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    Ok(comms.map(|comm| comm.trim_end().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::quiet::{setting::Setting, want::Want};

    fn drift(area: Area, name: &str, refused: Option<&str>) -> Drift {
        let setting = Setting {
            area,
            name: name.to_owned(),
            file: "f".into(),
            want: Want::Text(String::new()),
            effective: None,
            cpus: "2-3".parse().unwrap(),
        };
        Drift {
            setting,
            found: "0-3".to_owned(),
            wanted: "0-1".to_owned(),
            refused: refused.map(str::to_owned),
        }
    }

    #[test]
    fn a_hundred_interrupts_that_were_moved_are_one_note() {
        let moved: Vec<Drift> =
            (0..100).map(|number| drift(Area::Interrupt, &format!("interrupt {number}"), None)).collect();
        let stays = drift(Area::Interrupt, "interrupt 200", Some("input/output error"));
        let drifts: Vec<&Drift> = moved.iter().chain([&stays]).collect();
        let told =
            notes(&drifts, &[]).into_iter().map(|(reason, note)| format!("{}: {note}\n", reason.text()));
        expect![[r#"
            DriftRefused: somebody changed interrupt 200 to "0-3", which enters CPU 2-3, and it cannot be "0-1" again: input/output error
            DriftRepaired: somebody moved interrupt 0, interrupt 1, interrupt 2, interrupt 3 and 96 more to CPU 2-3: they are away again
        "#]].assert_eq(&told.collect::<String>());
    }

    #[track_caller]
    fn check(area: Area, refused: Option<&str>, running: &[&str], expect: Expect) {
        let drift = drift(area, "interrupt 24", refused);
        let running: Vec<String> = running.iter().map(|&comm| comm.to_owned()).collect();
        let (reason, note) = words(&drift, &running);
        expect.assert_eq(&format!("{}: {note}", reason.text()));
    }

    #[test]
    fn the_note_says_what_changed_and_who_is_known_for_it() {
        check(
            Area::Interrupt,
            None,
            &["systemd", "irqbalance"],
            expect![[
                r#"DriftRepaired: somebody changed interrupt 24 to "0-3", which enters CPU 2-3: it is "0-1" again; irqbalance runs here and does that: where it has no socket in /run/irqbalance to be told otherwise, set IRQBALANCE_BANNED_CPULIST to the isolated CPUs"#
            ]],
        );
        check(
            Area::Interrupt,
            Some("input/output error"),
            &[],
            expect![[
                r#"DriftRefused: somebody changed interrupt 24 to "0-3", which enters CPU 2-3, and it cannot be "0-1" again: input/output error"#
            ]],
        );
        check(
            Area::Cgroup,
            None,
            &["irqbalance"],
            expect![[
                r#"DriftRepaired: somebody changed interrupt 24 to "0-3", which enters CPU 2-3: it is "0-1" again"#
            ]],
        );
    }
}
