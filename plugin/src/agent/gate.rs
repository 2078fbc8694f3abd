//! Steps 2 to 4b in one place: what the agent answers when the runtime creates, starts, changes or ends a
//! container. Decides from memory; the only IO is /proc/PID/status, a small file that is not synced, and the guard's
//! own memory and maps.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use quietcore_proto::nri::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources, PodSandbox};
use tokio::sync::watch::Sender;

use super::{containers::Containers, cpus_file::CpusFiles, ends::Ends, quieting::tell_shortcomings};
use crate::{
    arm::plan::{SHIM_PATH, shim_plan},
    coexist::watch::Coexistence,
    cores::{
        device,
        grants::Grants,
        ledger::{Grant, Holder, Place},
        set::CpuSet,
        shared,
        token::{self, Token},
        topology::live::Live,
    },
    guard::{load::Guard, rules::rules, slots::Slot},
    nri::{
        adjust::{self, TRIPWIRE, Wanted},
        handler::{Handler, Refusal},
        validate::Validated,
        verify::{init_facts, verify},
        version::{Runtime, WITH_ARGS},
    },
    policy::{
        accept::node_default,
        effective::Effective,
        resolve::{Choice, CoresOf, resolve},
        store::PolicyStore,
    },
    quiet::{judge::refuse_ticking, worker::Quiet},
    report::{ContainerInfo, Reason, Reporter, Subject},
};

/// The part of the node's state that others read: readiness, the DataplaneNode.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    pub runtime: Option<Runtime>,
    /// The node was asked to let go: nothing strict starts here, and what runs goes on.
    pub cordoned: bool,
    /// The node was given back: nothing strict starts here any more.
    pub released: bool,
}

/// Of the time that the runtime gives for a start.
const SAVED_WITHIN: Duration = Duration::from_millis(500);

impl Seen {
    /// Does it take new strict containers?
    pub fn serves(&self) -> bool {
        !self.cordoned && !self.released
    }

    /// In one step, as a claim is made: nobody strict is here, and nothing strict starts from now on. false: somebody is,
    /// or may be, and all stays as it was. `watched` are the slots that the guard watches.
    pub fn release(seen: &Sender<Seen>, grants: &Grants, watched: impl Iterator<Item = Slot>) -> bool {
        grants.read(|ledger| {
            let nobody = ledger.held().next().is_none() && ledger.knows_all(watched);
            if nobody {
                seen.send_modify(|seen| seen.released = true);
            }
            nobody
        })
    }
}

#[expect(missing_debug_implementations, reason = "the reporter has none")]
pub struct Gate {
    pub grants: Arc<Grants>,
    pub topology: Live,
    pub policies: Arc<PolicyStore>,
    pub guard: Arc<Guard>,
    pub containers: Arc<Containers>,
    pub reporter: Reporter,
    pub shim_on_node: PathBuf,
    pub cpus_files: CpusFiles,
    pub quiet: Quiet,
    pub seen: Sender<Seen>,
    /// Who else sets cpusets here.
    pub coexistence: Coexistence,
}

#[derive(Debug, thiserror::Error)]
enum GateRefusal {
    #[error("this node does not know its container runtime yet; the kubelet tries again by itself")]
    NoRuntime,
    #[error(
        "quietcore is about to leave this node: the kubelet tries again by itself in case it stays; delete the pod so \
         that it is scheduled elsewhere"
    )]
    Cordoned,
    #[error("quietcore was released from this node: delete the pod so that it is scheduled elsewhere")]
    Released,
    #[error(
        "strict pods need NRI {WITH_ARGS} or newer (containerd >= 2.2, CRI-O >= 1.34); this node runs {0}: upgrade \
         the runtime, or keep strict pods off this node"
    )]
    RuntimeTooOld(Runtime),
    #[error(
        "the container has quietcore's mount but no grant token: delete the pod so that it is admitted anew"
    )]
    NoToken,
    #[error(
        "this strict container was not created through quietcore's agent: delete the pod so that it is made anew"
    )]
    NotClaimed,
    #[error(
        "this node answers the prctl by a seccomp filter, which would tell also a thread on a shared CPU that it is \
         armed: use arm.at: Settled in the policy, sharedCpus: 0, or a node that has bpf among the lsm= of its kernel"
    )]
    Misled,
    #[error(
        "CPU {0} of this pod's cores is offline: turn it on again (chcpu -e {0}), or delete the pod so that it gets other \
         cores"
    )]
    Offline(CpuSet),
    #[error("look at the container's first process {pid}: {why}")]
    Process { pid: u32, why: String },
}

impl Gate {
    fn decide_create(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Option<ContainerAdjustment>, Box<dyn std::error::Error>> {
        let has_cores = container.annotations.contains_key(token::ANNOTATION) || has_tripwire(container);
        let (policy, cores_of) = match resolve(&pod.annotations, &container.name, has_cores)? {
            Choice::Untouched => {
                self.quiet.somebody_comes();
                return Ok(None);
            }
            Choice::NodeDefault => (node_default(), CoresOf::Devices),
            Choice::Policy(named) => {
                let policy = self.policies.find(&pod.namespace, &named.policy)?;
                let cores_of = named.cores(&policy)?;
                (policy, cores_of)
            }
        };
        let by_runtime = match cores_of {
            CoresOf::Nobody => return Ok(None),
            CoresOf::Devices => false,
            CoresOf::Runtime => true,
        };
        self.check_runtime()?;
        let topology = self.topology.known();
        let (token, cores) = self.allotted(pod, container, by_runtime)?;
        let cpus = device::cpus_for(policy.cores.one_thread, &topology, &cores);
        let online = self.topology.online();
        if let Some(missing) = cores.without(&online) {
            return Err(GateRefusal::Offline(missing).into());
        }
        refuse_ticking(policy.cores.nohz, &cpus, self.quiet.boot())?;
        if self.guard.provider.misleads(self.guard.detector, &policy) {
            return Err(GateRefusal::Misled.into());
        }
        let housekeeping = self.grants.read(|ledger| ledger.housekeeping(&online));
        let shared = shared::nearest(&topology, &housekeeping, &cpus, policy.cores.shared)?;
        let all = shared::with(&cpus, shared.as_ref());
        let plan = shim_plan(&cpus, shared.as_ref(), &policy, self.guard.provider);
        let mems = topology.mems_of(&all);
        let cpus_on_node = self.cpus_files.write(&cpus, shared.as_ref())?;
        let wanted = Wanted {
            cpus: &cpus,
            shared: shared.as_ref(),
            mems: mems.as_deref(),
            by_runtime,
            shim_on_node: &self.shim_on_node.to_string_lossy(),
            cpus_on_node: &cpus_on_node.to_string_lossy(),
            plan: &plan,
        };
        let adjustment = adjust::adjust(container, &wanted)?;
        let holder = Holder {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            container: container.name.clone(),
        };
        let place = Place {
            cpus: Some(cpus).filter(|cpus| *cpus != cores),
            shared,
            cgroup: cgroups_path(container).to_owned(),
        };
        let claimed = self.grants.change(|ledger| {
            // Once more under the ledger's lock, as the node is released under it.
            self.check_runtime()?;
            let claimed = match token {
                Some(token) => ledger.claim(&token, &holder, &container.id, &plan, &policy),
                None => ledger.claim_of_runtime(cores, &holder, &container.id, &plan, &policy),
            }?;
            ledger.placed(&container.id, place);
            Ok::<_, Box<dyn std::error::Error>>(claimed)
        })?;
        if let Some(replaced) = claimed.replaced {
            self.ends().forget(&replaced);
        }
        self.coexistence.peers().asked(&container.id, &holder, cpus_of(container), &all);
        Ok(Some(adjustment))
    }

    /// Whole cores, and the kubelet's token for them unless another allocator chose.
    fn allotted(
        &self,
        pod: &PodSandbox,
        container: &Container,
        by_runtime: bool,
    ) -> Result<(Option<Token>, CpuSet), Box<dyn std::error::Error>> {
        if by_runtime {
            let topology = self.topology.known();
            let isolated = self.grants.read(|ledger| ledger.isolated().clone());
            let siblings = |cpu| topology.siblings_of(cpu);
            return Ok((None, self.coexistence.runtime_cpus(pod, container, &isolated, siblings)?));
        }
        let token = container.annotations.get(token::ANNOTATION);
        let token = Token::of(token.ok_or(GateRefusal::NoToken)?);
        let cores = self.grants.read(|ledger| ledger.cpus_of(&token))?;
        Ok((Some(token), cores))
    }

    fn check_runtime(&self) -> Result<(), GateRefusal> {
        let seen = self.seen.borrow();
        let runtime = seen.runtime.as_ref().ok_or(GateRefusal::NoRuntime)?;
        match runtime.supports_args() {
            _ if seen.released => Err(GateRefusal::Released),
            _ if seen.cordoned => Err(GateRefusal::Cordoned),
            false => Err(GateRefusal::RuntimeTooOld(runtime.clone())),
            true => Ok(()),
        }
    }

    fn decide_start(&self, container: &Container) -> Result<(), Box<dyn std::error::Error>> {
        let Some(grant) = self.grants.read(|ledger| ledger.grant(&container.id)) else {
            if looks_strict(container) {
                return Err(GateRefusal::NotClaimed.into());
            }
            self.quiet.somebody_comes();
            return Ok(());
        };
        if self.seen.borrow().released {
            return Err(GateRefusal::Released.into());
        }
        let pid = container.pid;
        let process = |why: String| GateRefusal::Process { pid, why };
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| process(error.to_string()))?;
        let facts = init_facts(&status).map_err(|error| process(error.to_string()))?;
        let Grant { cpus, claim, .. } = &grant;
        let given = shared::with(cpus, claim.place.shared.as_ref());
        verify(container, &claim.plan, &given, &claim.policy, self.guard.provider, &facts)?;
        let pid = i32::try_from(pid).map_err(|error| process(error.to_string()))?;
        // The rest of its time is for what comes after, and for the way.
        let patience = self.seen.borrow().runtime.as_ref().map(|runtime| runtime.patience / 2);
        let patience = patience.unwrap_or_default();
        let lacking = self.quiet.ready(&container.id, claim.policy.cores.nohz, patience)?;
        self.grants.wait_saved(SAVED_WITHIN)?;
        let info = self.watch(&grant, &claim.policy, pid)?;
        tell_shortcomings(&self.reporter, info, &lacking);
        self.grants.change(|ledger| ledger.started(&container.id, pid));
        Ok(())
    }

    fn watch(
        &self,
        grant: &Grant,
        policy: &Effective,
        pid: i32,
    ) -> Result<Arc<ContainerInfo>, Box<dyn std::error::Error>> {
        let slot = grant.claim.slot;
        self.guard.slots.open(slot, rules(policy, &grant.cpus));
        let info = self.containers.started((slot, self.guard.slots.generation(slot)), grant);
        self.tell_if_stale(Arc::clone(&info));
        match self.guard.watch(pid, slot) {
            Ok(_threads) => Ok(info),
            Err(error) => {
                self.guard.slots.close(slot);
                Err(error.into())
            }
        }
    }

    /// The API server may know a later generation. Says so rather than wait: that is what the memory is for.
    fn tell_if_stale(&self, info: Arc<ContainerInfo>) {
        let Some(policy) = info.policy.as_ref().filter(|_| !self.policies.is_fresh()) else { return };
        let note = format!(
            "container {} starts under DataplanePolicy {} as this node remembers it (generation {}): the API server is \
             not reached at the moment",
            info.container, policy.name, policy.generation
        );
        self.reporter.event(Subject::Container(info), Reason::PolicyStale, note);
    }

    pub fn ends(&self) -> Ends {
        Ends {
            grants: Arc::clone(&self.grants),
            containers: Arc::clone(&self.containers),
            guard: Arc::clone(&self.guard),
            coexistence: self.coexistence.clone(),
        }
    }

    /// What the ledger says runs here, for the time until the runtime tells.
    pub fn remember_running(&self) {
        for grant in self.grants.read(|ledger| ledger.grants().collect::<Vec<_>>()) {
            let slot = grant.claim.slot;
            if self.guard.slots.is_live(slot) {
                self.containers.started((slot, self.guard.slots.generation(slot)), &grant);
            }
        }
    }
}

impl Handler for Gate {
    fn configured(&mut self, runtime: Runtime) {
        tracing::info!(step = 4, %runtime, "connected to the container runtime");
        self.seen.send_modify(|seen| seen.runtime = Some(runtime));
    }

    fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: Vec<Container>) {
        self.synchronized(&pods, &containers);
    }

    fn create(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, Refusal> {
        self.coexistence.peers().created(&pod, &container);
        self.decide_create(&pod, &container).map_err(|refusal| {
            tracing::warn!(step = 4, namespace = pod.namespace, pod = pod.name, container = container.name, %refusal, "not created");
            Refusal::of(&*refusal)
        })
    }

    fn create_abandoned(&mut self, container: Container) {
        self.ends().end(&container.id);
    }

    fn start(&mut self, pod: PodSandbox, container: Container) -> Result<(), Refusal> {
        self.decide_start(&container).map_err(|refusal| {
            tracing::warn!(step = 4, namespace = pod.namespace, pod = pod.name, container = container.name, %refusal, "not started");
            Refusal::of(&*refusal)
        })
    }

    fn update(&mut self, container: Container, requested: LinuxResources) -> Option<ContainerUpdate> {
        let grant = self.grants.read(|ledger| ledger.grant(&container.id))?;
        let cpus = shared::with(&grant.cpus, grant.claim.place.shared.as_ref());
        let mems = self.topology.known().mems_of(&cpus);
        let asked = requested.cpu.as_ref().map_or("", |cpu| cpu.cpus.as_str());
        self.coexistence.peers().asked(&container.id, &grant.holder, asked, &cpus);
        let by_runtime = grant.claim.policy.cores.from_runtime;
        Some(adjust::keep(&container.id, requested, (!by_runtime).then_some(&cpus), mems.as_deref()))
    }

    fn stop(&mut self, container: Container) {
        self.ends().end(&container.id);
    }

    fn remove(&mut self, container: Container) {
        self.ends().end(&container.id);
    }

    fn validated(&mut self, seen: Validated) {
        self.coexistence.peers().validated(seen);
    }
}

/// Where its cgroup will be; empty where the runtime does not tell.
pub(super) fn cgroups_path(container: &Container) -> &str {
    container.linux.as_ref().map(|linux| linux.cgroups_path.as_str()).unwrap_or_default()
}

fn cpus_of(container: &Container) -> &str {
    let resources = container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    resources.and_then(|resources| resources.cpu.as_ref()).map_or("", |cpu| cpu.cpus.as_str())
}

fn has_tripwire(container: &Container) -> bool {
    container.mounts.iter().any(|mount| mount.destination == TRIPWIRE)
}

pub(super) fn looks_strict(container: &Container) -> bool {
    container.annotations.contains_key(token::ANNOTATION)
        || has_tripwire(container)
        || container.args.first().is_some_and(|first| first == SHIM_PATH)
}
