//! Step 9: one line of JSON for each thing told, on standard output.
//!
//! All there is without Kubernetes, and a record that outlives the Event's hour with it. Bounded by the same
//! limits as Events.

use std::io::Write;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::{
    report::{
        Subject,
        event::{Draft, Times},
    },
    violation::happening::Happening,
};

pub struct Log {
    out: Box<dyn Write + Send>,
    node: String,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("node", &self.node).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    at: Timestamp,
    reason: &'static str,
    node: &'a str,
    #[serde(flatten)]
    container: Option<Container<'a>>,
    note: &'a str,
    /// Kernel entries only.
    #[serde(flatten)]
    thread: Option<Thread<'a>>,
    /// Updates of a series only.
    #[serde(flatten)]
    series: Option<Series>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Container<'a> {
    namespace: &'a str,
    pod: &'a str,
    pod_uid: &'a str,
    container: &'a str,
    container_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Thread<'a> {
    comm: &'a str,
    tid: u32,
    host_tid: u32,
    cpu: u32,
    /// Hexadecimal: JSON's numbers lose digits above 2^53.
    ip: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    count: u64,
    last: Timestamp,
}

impl Log {
    pub fn new(out: Box<dyn Write + Send>, node: String) -> Log {
        Log { out, node }
    }

    pub fn told(&mut self, draft: &Draft, happening: Option<&Happening>) {
        let thread = happening.map(|h| Thread {
            comm: &h.thread.comm,
            tid: h.thread.tid,
            host_tid: h.thread.host_tid,
            cpu: h.thread.cpu,
            ip: format!("{:#x}", h.ip),
        });
        self.write(draft, thread, None);
    }

    pub fn repeated(&mut self, draft: &Draft, times: Times) {
        self.write(draft, None, Some(Series { count: times.count, last: times.last }));
    }

    fn write(&mut self, draft: &Draft, thread: Option<Thread<'_>>, series: Option<Series>) {
        let container = match &draft.subject {
            Subject::Node => None,
            Subject::Container(info) => Some(Container {
                namespace: &info.namespace,
                pod: &info.pod,
                pod_uid: &info.pod_uid,
                container: &info.container,
                container_id: &info.container_id,
                policy: info.policy.as_ref().map(|p| format!("{}/{}", p.namespace, p.name)),
            }),
        };
        let line = Line {
            at: draft.at,
            reason: draft.reason.text(),
            node: &self.node,
            container,
            note: &draft.note,
            thread,
            series,
        };
        // Nobody is left to tell when standard output is closed; Events and metrics go on.
        let _ = serde_json::to_vec(&line).map(|mut bytes| {
            bytes.push(b'\n');
            self.out.write_all(&bytes).and_then(|()| self.out.flush())
        });
    }
}
