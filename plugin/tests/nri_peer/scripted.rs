//! A handler that decides by the container's name, and tells what it was asked.
//!
//! The recorded conversations in tests/data/nri were held with it, so a replay can be compared.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use quietcore::nri::{
    handler::{Handler, Refusal},
    validate::Validated,
    version::Runtime,
};
use quietcore_proto::nri::{
    Container, ContainerAdjustment, ContainerUpdate, LinuxContainerAdjustment, LinuxContainerUpdate,
    LinuxCpu, LinuxResources, Mount, PodSandbox,
};

#[derive(Debug, Default)]
struct Shared {
    calls: Vec<String>,
    busy: bool,
}

/// What the handler was asked, and the brake of containers named "slow".
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<(Mutex<Shared>, Condvar)>);

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self, call: String) {
        self.lock().calls.push(call);
        self.0.1.notify_all();
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// Lets the handler that is in a slow call go on.
    pub(crate) fn go_on(&self) {
        self.lock().busy = false;
        self.0.1.notify_all();
    }

    fn be_slow(&self, at_most: Duration) {
        let mut shared = self.lock();
        shared.busy = true;
        drop(self.0.1.wait_timeout_while(shared, at_most, |shared| shared.busy));
    }
}

#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) journal: Journal,
    /// How long a container named "slow" takes if nobody says `go_on`.
    pub(crate) slow: Duration,
}

impl Handler for Scripted {
    fn configured(&mut self, runtime: Runtime) {
        self.journal.note(format!("configured by {runtime}"));
    }

    fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: Vec<Container>) {
        self.journal.note(format!("synchronize {} pods, {} containers", pods.len(), containers.len()));
    }

    fn create(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, Refusal> {
        let cpu = container.linux.as_ref().and_then(|linux| linux.resources.as_ref()?.cpu.as_ref());
        let cpus = cpu.map(|cpu| cpu.cpus.as_str()).filter(|cpus| !cpus.is_empty());
        let on_cpus = cpus.map(|cpus| format!(" on cpus {cpus}")).unwrap_or_default();
        self.journal.note(format!("create {}/{}{on_cpus}", pod.name, container.name));
        match container.name.as_str() {
            "refused" => Err(Refusal("quietcore: no policy of this name; name one that exists".to_owned())),
            "slow" => {
                self.journal.be_slow(self.slow);
                Ok(Some(adjustment(&container)))
            }
            "strict" => Ok(Some(adjustment(&container))),
            _ => Ok(None),
        }
    }

    fn create_abandoned(&mut self, container: Container) {
        self.journal.note(format!("create_abandoned {}", container.name));
    }

    fn start(&mut self, _pod: PodSandbox, container: Container) -> Result<(), Refusal> {
        self.journal.note(format!("start {}", container.name));
        match container.name.as_str() {
            "unstartable" => Err(Refusal("quietcore: its first process is not the shim".to_owned())),
            _ => Ok(()),
        }
    }

    fn update(&mut self, container: Container, requested: LinuxResources) -> Option<ContainerUpdate> {
        let cpus = requested.cpu.map(|cpu| cpu.cpus).unwrap_or_default();
        self.journal.note(format!("update {} to cpus {cpus:?}", container.name));
        (container.name == "strict").then(|| ContainerUpdate {
            container_id: container.id,
            linux: Some(LinuxContainerUpdate { resources: Some(cpus_of_strict()) }),
            ignore_failure: false,
        })
    }

    fn stop(&mut self, container: Container) {
        self.journal.note(format!("stop {}", container.name));
    }

    fn remove(&mut self, container: Container) {
        self.journal.note(format!("remove {}", container.name));
    }

    fn validated(&mut self, seen: Validated) {
        let plugins = seen.consulted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let owners = seen.cpuset_owners.iter().map(|(id, owner)| format!(", cpus of {id} by {owner}"));
        self.journal.note(format!("validated by {plugins}{}", owners.collect::<String>()));
    }
}

fn cpus_of_strict() -> LinuxResources {
    let cpu = LinuxCpu { cpus: "1".to_owned(), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

fn adjustment(container: &Container) -> ContainerAdjustment {
    let shim = container.args.first().cloned().into_iter();
    ContainerAdjustment {
        args: shim.chain(["--".to_owned()]).chain(container.args.iter().cloned()).collect(),
        mounts: vec![Mount {
            destination: "/.quietcore/shim".to_owned(),
            r#type: "bind".to_owned(),
            source: "/dev/null".to_owned(),
            options: vec!["bind".to_owned(), "ro".to_owned()],
        }],
        linux: Some(LinuxContainerAdjustment {
            resources: Some(cpus_of_strict()),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    }
}
