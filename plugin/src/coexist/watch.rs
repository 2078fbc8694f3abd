//! Gathers the facts where they lie, and asks `conflicts`. The one file here that knows the node's paths.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quietcore_proto::nri::{Container, PodSandbox};
use tokio::sync::{Notify, watch};

use super::{
    Conflict, Facts, conflicts,
    cpu_manager::{self, CpuManager},
    peers::Peers,
    runtime_cpus::{Asked, RuntimeCoresRefusal, runtime_cpus},
};
use crate::cores::{
    pod_resources::View,
    replay,
    set::{CpuId, CpuSet},
};

/// Where a kubelet keeps what we read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletFiles {
    pub pod_resources: PathBuf,
    pub device_checkpoint: PathBuf,
    pub cpu_manager_state: PathBuf,
}

impl KubeletFiles {
    /// `device_plugins` is below the kubelet's root folder. The CPU manager's state lies in that folder itself,
    /// which holds every pod's secrets as well: instead of a mount of it, one file is read through the root of
    /// the node's first process, as the agent may (hostPID, `CAP_SYS_PTRACE`).
    pub fn beside(device_plugins: &Path) -> KubeletFiles {
        let root = device_plugins.parent().unwrap_or(device_plugins);
        let of_node = root.strip_prefix("/").unwrap_or(root);
        KubeletFiles {
            pod_resources: root.join("pod-resources/kubelet.sock"),
            device_checkpoint: device_plugins.join(replay::FILE),
            cpu_manager_state: Path::new("/proc/1/root").join(of_node).join(cpu_manager::FILE),
        }
    }
}

/// Shared by the gate, which tells what NRI shows, and by whoever publishes the node's conditions.
#[derive(Debug, Clone)]
pub struct Coexistence {
    pub files: KubeletFiles,
    pub view: watch::Receiver<Option<View>>,
    /// Asks for the next view at once.
    pub sooner: Arc<Notify>,
    pub peers: Arc<Mutex<Peers>>,
}

impl Coexistence {
    /// As of now: the kubelet replaces the file before it creates a container.
    pub fn cpu_manager(&self) -> CpuManager {
        cpu_manager::read(&self.files.cpu_manager_state)
    }

    pub fn peers(&self) -> MutexGuard<'_, Peers> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a container under `cores.from: Runtime`, in CreateContainer. Where nobody vouches yet, the kubelet is
    /// asked anew for the next attempt.
    pub fn runtime_cpus(
        &self,
        pod: &PodSandbox,
        container: &Container,
        isolated: &CpuSet,
        siblings: impl Fn(CpuId) -> CpuSet,
    ) -> Result<CpuSet, RuntimeCoresRefusal> {
        let drivers = {
            let view = self.view.borrow();
            let known = view.as_ref().and_then(|view| view.of(&pod.namespace, &pod.name, &container.name));
            known.map(|known| known.drivers.clone()).unwrap_or_default()
        };
        let resources = container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let asked = Asked {
            cpus: resources.and_then(|resources| resources.cpu.as_ref()).map_or("", |cpu| &cpu.cpus),
            pod_uid: &pod.uid,
            container: &container.name,
            cpu_manager: &self.cpu_manager(),
            drivers: &drivers,
            isolated,
        };
        runtime_cpus(&asked, siblings).inspect_err(|refusal| {
            if matches!(refusal, RuntimeCoresRefusal::NobodyVouches { .. }) {
                self.sooner.notify_one();
            }
        })
    }

    /// `published` and `from_runtime` are as in `Facts`.
    pub fn conflicts(&self, published: Option<&CpuSet>, from_runtime: &[(String, String)]) -> Vec<Conflict> {
        let cpu_manager = self.cpu_manager();
        let allocatable = self.view.borrow().as_ref().and_then(|view| view.allocatable.clone());
        let peers = self.peers();
        let allocatable = allocatable.as_ref();
        conflicts(&Facts { published, cpu_manager: &cpu_manager, allocatable, from_runtime, peers: &peers })
    }
}

#[cfg(test)]
mod tests {
    use quietcore_proto::nri::{LinuxContainer, LinuxCpu, LinuxResources};

    use super::*;
    use crate::cores::pod_resources::PodCores;

    #[tokio::test]
    async fn a_claim_that_the_kubelet_was_not_asked_about_yet_vouches_at_the_next_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let files = KubeletFiles {
            cpu_manager_state: folder.path().join("cpu_manager_state"),
            ..KubeletFiles::beside(Path::new("/var/lib/kubelet/device-plugins"))
        };
        let (kubelet, view) = watch::channel(None);
        let coexistence = Coexistence { files, view, sooner: Arc::default(), peers: Arc::default() };
        let [namespace, name] = ["n", "p"].map(str::to_owned);
        let pod = PodSandbox { namespace, name, ..PodSandbox::default() };
        let cpu = LinuxCpu { cpus: "3".to_owned(), ..LinuxCpu::default() };
        let resources = Some(LinuxResources { cpu: Some(cpu), ..LinuxResources::default() });
        let linux = Some(LinuxContainer { resources, ..LinuxContainer::default() });
        let container = Container { name: "app".to_owned(), linux, ..Container::default() };
        let isolated: CpuSet = "2-3".parse().unwrap();
        let decide = || coexistence.runtime_cpus(&pod, &container, &isolated, CpuSet::from);
        assert!(matches!(decide(), Err(RuntimeCoresRefusal::NobodyVouches { .. })));
        coexistence.sooner.notified().await;
        let [namespace, pod_, container_] = ["n", "p", "app"].map(str::to_owned);
        let drivers = vec!["dra.cpu".to_owned()];
        let (devices, exclusive) = (Vec::new(), None);
        let claimed = PodCores { namespace, pod: pod_, container: container_, devices, exclusive, drivers };
        kubelet.send_replace(Some(View { containers: vec![claimed], allocatable: None }));
        assert_eq!(decide(), "3".parse().map_err(|_| unreachable!()));
    }

    #[test]
    fn the_files_lie_where_the_kubelet_has_its_root() {
        let files = KubeletFiles::beside(Path::new("/data/kubelet/device-plugins"));
        let path = PathBuf::from;
        let expected = KubeletFiles {
            pod_resources: path("/data/kubelet/pod-resources/kubelet.sock"),
            device_checkpoint: path("/data/kubelet/device-plugins/kubelet_internal_checkpoint"),
            cpu_manager_state: path("/proc/1/root/data/kubelet/cpu_manager_state"),
        };
        assert_eq!(files, expected);
    }

    /// Before: everything reserved strictly. After the restart: nothing reserved.
    #[test]
    fn a_kubelet_that_was_restarted_with_another_reservation_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cpu_manager_state");
        let files = KubeletFiles {
            cpu_manager_state: file.clone(),
            ..KubeletFiles::beside(Path::new("/var/lib/kubelet/device-plugins"))
        };
        let (_kubelet, view) = watch::channel(None);
        let coexistence = Coexistence { files, view, sooner: Arc::default(), peers: Arc::default() };
        let published: CpuSet = "2-3".parse().unwrap();
        let n_conflicts = || coexistence.conflicts(Some(&published), &[]).len();
        assert_eq!(n_conflicts(), 0);
        std::fs::write(&file, r#"{"policyName":"static","defaultCpuSet":"0-1","checksum":1}"#).unwrap();
        assert_eq!(n_conflicts(), 0);
        std::fs::write(&file, r#"{"policyName":"static","defaultCpuSet":"0-3","checksum":1}"#).unwrap();
        assert_eq!(n_conflicts(), 1);
        std::fs::write(&file, "half a file").unwrap();
        assert_eq!(n_conflicts(), 1);
    }
}
