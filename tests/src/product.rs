//! The product on the testbed: installed once for a test binary, and a strict pod in a line.

use std::time::Duration;

use crate::agent::NAMESPACE;
use crate::kube::Namespace;
use crate::pod::Pod;
use crate::testbed::Testbed;
use crate::wait::{Seen, until};

pub const RESOURCE: &str = "quietcore.io/core";
pub const WORKLOAD: &str = "localhost/workload:dev";

/// What `make up` and the tests install: the image that the testbed made, and this machine's second CPU.
pub const VALUES: [&str; 2] = ["image.tag=dev", "isolatedCpus=1"];

/// Signals for both classes that a program causes; the tick of this machine is counted.
pub const ENFORCE: &str = "{mode: Enforce, entries: {syscall: {action: Signal, signal: SIGUSR1}, \
                           exception: {action: Signal, signal: SIGUSR2}, interrupt: {action: Count}}}";

impl Testbed {
    /// Installs the chart, or leaves it as it is, and the workload's image. Stays for the tests that follow.
    #[track_caller]
    pub fn install_product(&self) {
        self.helm_install("quietcore", NAMESPACE, "charts/quietcore", &VALUES).keep();
        self.wait_cores(1);
        self.load_c_program(WORKLOAD, &["tests/workloads/workload.c"], &[]);
    }

    /// The kubelet tells the API server of a changed resource with its next status, up to ten seconds later.
    #[track_caller]
    pub fn wait_cores(&self, n_cores: u64) {
        until(&format!("{n_cores} {RESOURCE} on some node"), Duration::from_secs(60), || {
            let offered: u64 = self.nodes().iter().map(|node| node.allocatable(RESOURCE)).sum();
            Ok(if offered == n_cores { Seen::Done(()) } else { Seen::NotYet(offered) })
        });
    }
}

/// A strict pod of the workload, hardened as every pod should be.
#[derive(Debug, Clone)]
pub struct Strict<'a> {
    pub name: &'a str,
    pub day: &'a str,
    /// Of the pod: `{key: value}`
    pub annotations: &'a str,
    pub n_cores: u8,
    pub restart: &'a str,
    pub image: &'a str,
    /// Lines of the container, two spaces in, e.g. `command: [..]`.
    pub container: &'a str,
}

impl<'a> Strict<'a> {
    /// Under the policy `p`.
    pub fn day(name: &'a str, day: &'a str) -> Strict<'a> {
        let annotations = "{policy.quietcore.io/pod: p}";
        Strict { name, day, annotations, n_cores: 1, restart: "Never", image: WORKLOAD, container: "" }
    }

    #[track_caller]
    pub fn apply<'n>(&self, namespace: &'n Namespace<'n>) -> Pod<'n> {
        let Strict { name, day, annotations, n_cores, restart, image, container } = self;
        let limits = match n_cores {
            0 => String::new(),
            n => format!("{RESOURCE}: {n}"),
        };
        namespace.apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {annotations}}}
spec:
  restartPolicy: {restart}
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: {image}
      imagePullPolicy: Never
      args: [{day}]
      resources: {{limits: {{{limits}}}}}
      securityContext:
        allowPrivilegeEscalation: false
        runAsNonRoot: true
        runAsUser: 65534
        readOnlyRootFilesystem: true
        capabilities: {{drop: [ALL]}}
        seccompProfile: {{type: RuntimeDefault}}
{container}
"#
        ));
        namespace.pod(name)
    }
}

/// Applies a policy of this name with the given spec, in flow style.
#[track_caller]
pub fn apply_policy(namespace: &Namespace<'_>, name: &str, spec: &str) {
    namespace.apply(&policy(name, spec));
}

pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: quietcore.io/v1alpha1, kind: DataplanePolicy, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}
