//! The API server taken away and given back, on a node that runs it as a static pod.

use std::time::Duration;

use anyhow::Result;

use crate::command::run;
use crate::node::Node;
use crate::testbed::Testbed;
use crate::wait::{Seen, try_until, until};

/// The kubelet runs what is in this folder: a file moved out of it is a pod stopped.
const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
const STOPPED_MANIFEST: &str = "/etc/kubernetes/kube-apiserver.stopped.yaml";

/// The kubelet backs off from a container that it saw die a moment ago.
const BACK_WITHIN: Duration = Duration::from_secs(120);

impl Testbed {
    /// Takes the API server away until the returned guard is dropped.
    #[track_caller]
    pub fn stop_api_server(&self) -> StoppedApiServer<'_> {
        let node = self.control_plane();
        node.run(&["mv", MANIFEST, STOPPED_MANIFEST]);
        let stopped = StoppedApiServer { testbed: self, node };
        until("the API server to stop", Duration::from_secs(90), || {
            let running = stopped.node.try_run(&["crictl", "ps", "-q", "--name", "kube-apiserver"])?;
            for container in running.split_whitespace() {
                // the kubelet would let it drain its watches for 30 s
                stopped.node.try_run(&["crictl", "stop", "--timeout=1", container])?;
            }
            Ok(if running.trim().is_empty() { Seen::Done(()) } else { Seen::NotYet(running) })
        });
        stopped
    }
}

/// The API server is away while this lives.
#[derive(Debug)]
pub struct StoppedApiServer<'a> {
    testbed: &'a Testbed,
    node: Node<'a>,
}

impl<'a> StoppedApiServer<'a> {
    /// The node it ran on: the API cannot be asked for nodes now.
    pub fn node(&self) -> &Node<'a> {
        &self.node
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) {
        drop(self);
    }
}

impl StoppedApiServer<'_> {
    fn try_start(&self) -> Result<()> {
        self.node.try_run(&["mv", STOPPED_MANIFEST, MANIFEST])?;
        try_until("the API server to answer", BACK_WITHIN, || {
            let ready = run(&mut self.testbed.kubectl(&["get", "--raw", "/readyz"]))?;
            Ok(if ready == "ok" { Seen::Done(()) } else { Seen::NotYet(ready) })
        })?;
        // without it they lose their lease and exit; no pod is scheduled until they have it again
        for controller in ["kube-scheduler", "kube-controller-manager"] {
            let renewed = || {
                let words =
                    ["get", "lease", "-n", "kube-system", controller, "-o", "jsonpath={.spec.renewTime}"];
                run(&mut self.testbed.kubectl(&words))
            };
            let before = renewed()?;
            try_until(&format!("{controller} to renew its lease"), BACK_WITHIN, || {
                let now = renewed()?;
                Ok(if now == before { Seen::NotYet(now) } else { Seen::Done(()) })
            })?;
        }
        Ok(())
    }
}

impl Drop for StoppedApiServer<'_> {
    fn drop(&mut self) {
        let started = self.try_start();
        if !std::thread::panicking() {
            started.unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}
