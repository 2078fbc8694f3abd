//! Step 9: what is to be told, as an events.k8s.io/v1 Event.
//!
//! Pure. Keeps the API server's rules (pkg/apis/core/validation/events.go): lengths, the namespace of what the
//! Event regards, `default` for what has none, a series of at least two.

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use sha2::{Digest, Sha256};

use crate::{
    report::{Reason, Subject},
    violation::text::fit_note,
};

pub const CONTROLLER: &str = "quietcore.io/agent";
/// Of `reportingInstance`.
const INSTANCE_MAX: usize = 128;
/// Of a name, less "." and the 16 digits that make ours unique.
const NAME_MAX: usize = 253 - 17;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub subject: Subject,
    pub reason: Reason,
    /// What was done about it, in one word for machines.
    pub action: &'static str,
    pub note: String,
    /// When it first happened.
    pub at: Timestamp,
}

/// How often, if more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub count: u64,
    pub last: Timestamp,
}

impl Draft {
    pub fn namespace(&self) -> &str {
        match &self.subject {
            Subject::Container(info) => &info.namespace,
            // What an Event on a cluster-scoped object must have.
            Subject::Node => "default",
        }
    }

    /// The same for every try to send it, so that a second try cannot make a second Event.
    pub fn name(&self, node: &str, sequence: u64) -> String {
        let (object, uid) = match &self.subject {
            Subject::Container(info) => (&*info.pod, &*info.pod_uid),
            Subject::Node => (node, ""),
        };
        let mut hash = Sha256::new();
        for part in [node, uid, &self.at.as_nanosecond().to_string(), &sequence.to_string()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let unique: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let object = &object[..object.floor_char_boundary(NAME_MAX)];
        format!("{}.{unique}", object.trim_end_matches(['-', '.']))
    }

    pub fn event(&self, name: &str, node: &str, times: Times) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(self.namespace().into()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(self.at)),
            type_: Some(self.reason.event_type().into()),
            reason: Some(self.reason.text().into()),
            action: Some(self.action.into()),
            note: Some(fit_note(self.note.clone())),
            regarding: Some(self.regarding(node)),
            related: self.related(),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(node[..node.floor_char_boundary(INSTANCE_MAX)].into()),
            series: series(times),
            ..Event::default()
        }
    }

    fn regarding(&self, node: &str) -> ObjectReference {
        match &self.subject {
            Subject::Container(info) => ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(info.namespace.to_string()),
                name: Some(info.pod.to_string()),
                uid: Some(info.pod_uid.to_string()),
                field_path: Some(format!("spec.containers{{{}}}", info.container)),
                ..ObjectReference::default()
            },
            Subject::Node => ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.into()),
                // As the kubelet does it: `kubectl describe node` looks for the name in this place.
                uid: Some(node.into()),
                ..ObjectReference::default()
            },
        }
    }

    fn related(&self) -> Option<ObjectReference> {
        let Subject::Container(info) = &self.subject else {
            return None;
        };
        info.policy.as_ref().map(|policy| ObjectReference {
            api_version: Some("quietcore.io/v1alpha1".into()),
            kind: Some("DataplanePolicy".into()),
            namespace: Some(policy.namespace.clone()),
            name: Some(policy.name.clone()),
            uid: Some(policy.uid.clone()),
            ..ObjectReference::default()
        })
    }
}

/// The API server refuses a series of one.
pub fn series(times: Times) -> Option<EventSeries> {
    (1 < times.count).then(|| EventSeries {
        count: i32::try_from(times.count).unwrap_or(i32::MAX),
        last_observed_time: MicroTime(times.last),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{policy::effective::PolicyRef, report::ContainerInfo};

    fn draft() -> Draft {
        let info = ContainerInfo {
            namespace: "fastpath".into(),
            pod: "l2fwd-0".into(),
            pod_uid: "1b9d".into(),
            container: "app".into(),
            container_id: "c0ffee".into(),
            policy: Some(PolicyRef {
                namespace: "fastpath".into(),
                name: "poll-loop".into(),
                uid: "77aa".into(),
                generation: 3,
            }),
        };
        Draft {
            subject: Subject::Container(info.into()),
            reason: Reason::KernelEntry,
            action: "Signal",
            note: "syscall write(2)".into(),
            at: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    fn once() -> Times {
        Times { count: 1, last: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn an_event_regards_the_container_and_relates_to_its_policy() {
        let event = draft().event("l2fwd-0.1", "node-1", once());
        expect![[r#"
            {
              "action": "Signal",
              "apiVersion": "events.k8s.io/v1",
              "eventTime": "2023-11-14T22:13:20.000000Z",
              "kind": "Event",
              "metadata": {
                "name": "l2fwd-0.1",
                "namespace": "fastpath"
              },
              "note": "syscall write(2)",
              "reason": "KernelEntry",
              "regarding": {
                "apiVersion": "v1",
                "fieldPath": "spec.containers{app}",
                "kind": "Pod",
                "name": "l2fwd-0",
                "namespace": "fastpath",
                "uid": "1b9d"
              },
              "related": {
                "apiVersion": "quietcore.io/v1alpha1",
                "kind": "DataplanePolicy",
                "name": "poll-loop",
                "namespace": "fastpath",
                "uid": "77aa"
              },
              "reportingController": "quietcore.io/agent",
              "reportingInstance": "node-1",
              "type": "Warning"
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&serde_json::to_value(&event).unwrap()).unwrap());
    }

    #[test]
    fn an_event_on_the_node_lies_in_the_default_namespace() {
        let draft = Draft { subject: Subject::Node, reason: Reason::EventsDropped, ..draft() };
        let event = draft.event("node-1.1", "node-1", once());
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.namespace), (Some("Node"), None));
        assert_eq!(event.related, None);
    }

    #[test]
    fn a_series_begins_at_two() {
        assert_eq!(series(once()), None);
        assert_eq!(series(Times { count: 2, ..once() }).unwrap().count, 2);
        assert_eq!(series(Times { count: u64::MAX, ..once() }).unwrap().count, i32::MAX);
    }

    #[test]
    fn names_are_stable_distinct_and_short_enough() {
        let long = ContainerInfo {
            pod: "a-".repeat(126).into(),
            ..match draft().subject {
                Subject::Container(info) => (*info).clone(),
                Subject::Node => unreachable!(),
            }
        };
        let draft = Draft { subject: Subject::Container(long.into()), ..draft() };
        let name = draft.name("node-1", 1);
        assert_eq!(name, draft.name("node-1", 1));
        assert_ne!(name, draft.name("node-1", 2));
        assert_ne!(name, draft.name("node-2", 1));
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }
}
