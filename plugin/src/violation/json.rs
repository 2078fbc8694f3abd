//! Step 8: who caused what came from elsewhere, as fields for JSON. Pure.

use serde::Serialize;

use crate::violation::{
    blame::{Blame, CameOn, Part, Relation, Sender, Task},
    scene::Scene,
};

/// Absent where nothing is known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlameFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<SenderFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    came_on: Option<CameFields<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    timers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SenderFields<'a> {
    #[serde(flatten)]
    task: TaskFields<'a>,
    cpu: u32,
    relation: &'static str,
    part: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    others: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CameFields<'a> {
    #[serde(flatten)]
    task: TaskFields<'a>,
    relation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskFields<'a> {
    comm: &'a str,
    host_pid: u32,
    host_tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
}

impl<'a> BlameFields<'a> {
    pub fn of(blame: &'a Blame, scene: &'a Scene) -> BlameFields<'a> {
        BlameFields {
            sender: blame.sender.as_ref().map(|sender| SenderFields::of(sender, scene)),
            came_on: blame.came.as_ref().map(|came| CameFields::of(came, scene)),
            timers: blame.timers.iter().filter_map(|timer| scene.function(Some(*timer))).collect(),
        }
    }
}

impl<'a> SenderFields<'a> {
    fn of(sender: &'a Sender, scene: &'a Scene) -> SenderFields<'a> {
        SenderFields {
            task: TaskFields::of(&sender.task, scene),
            cpu: sender.cpu,
            relation: relation(sender.relation),
            part: match sender.part {
                Part::Asked => "asked",
                Part::Interrupted => "interrupted",
                Part::Ran => "unknown",
            },
            function: scene.function(sender.function),
            others: sender.others,
        }
    }
}

impl<'a> CameFields<'a> {
    fn of(came: &'a CameOn, scene: &'a Scene) -> CameFields<'a> {
        CameFields {
            task: TaskFields::of(&came.task, scene),
            relation: relation(came.relation),
            function: scene.function(came.function),
        }
    }
}

impl<'a> TaskFields<'a> {
    fn of(task: &'a Task, scene: &'a Scene) -> TaskFields<'a> {
        let cgroup = task.cgroup.and_then(|id| scene.cgroups.get(&id)).map(String::as_str);
        TaskFields { comm: &task.comm, host_pid: task.tgid, host_tid: task.tid, cgroup }
    }
}

fn relation(relation: Relation) -> &'static str {
    match relation {
        Relation::SameProcess => "sameProcess",
        Relation::SameProgram => "sameProgram",
        Relation::SameContainer => "execOrProbe",
        Relation::Kernel => "kernelThread",
        Relation::Elsewhere => "elsewhere",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::violation::symbolize::place::{NoModule, Place};

    #[test]
    fn what_is_known_is_told_and_nothing_else() {
        let task = |comm: &str| Task { comm: comm.into(), tid: 78, tgid: 77, cgroup: Some(9) };
        let sender = Sender {
            task: task("sh"),
            cpu: 0,
            part: Part::Asked,
            relation: Relation::Elsewhere,
            function: Some(0xffff_ffff_8100_0000),
            others: 2,
        };
        let mut scene = Scene::at(Place::Address { ip: 0, why: NoModule::Ended });
        scene.cgroups.insert(9, "pod 1-2".into());
        let known = Blame { sender: Some(sender), ..Blame::default() };
        expect![[r#"{"sender":{"comm":"sh","hostPid":77,"hostTid":78,"cgroup":"pod 1-2","cpu":0,"relation":"elsewhere","part":"asked","function":"0xffffffff81000000","others":2}}"#]]
            .assert_eq(&serde_json::to_string(&BlameFields::of(&known, &scene)).unwrap());
        let nobody = Blame::default();
        expect!["{}"].assert_eq(&serde_json::to_string(&BlameFields::of(&nobody, &scene)).unwrap());
    }
}
