use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use quietcore_crd::node::{DataplaneNodeSpec, DataplaneNodeStatus};

use super::*;

fn request(microsecond: i64) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(microsecond).unwrap())
}

/// Asked for the second time: by `request(1)`, as generation 5.
fn node(answer: Option<(&str, i64)>, strict: &[&str]) -> DataplaneNode {
    let spec = DataplaneNodeSpec { cordon: true, release: false, until: Some(request(1)) };
    let mut node = DataplaneNode::new("n", spec);
    node.metadata.generation = Some(5);
    let conditions = answer.map(|(status, generation)| Condition {
        type_: "Released".to_owned(),
        status: status.to_owned(),
        reason: String::new(),
        message: String::new(),
        observed_generation: Some(generation),
        last_transition_time: Time(Timestamp::from_second(0).unwrap()),
    });
    node.status = Some(DataplaneNodeStatus {
        strict_containers: strict.iter().map(|&name| name.to_owned()).collect(),
        conditions: conditions.into_iter().collect(),
        ..DataplaneNodeStatus::default()
    });
    node
}

#[test]
fn an_answer_counts_for_the_question_that_it_was_given_to() {
    let stand = |node: &DataplaneNode| stand(node, &request(1));
    assert_eq!(stand(&node(None, &[])), Stand::Silent);
    assert_eq!(stand(&node(Some(("False", 5)), &["a/p/c"])), Stand::Strict(vec!["a/p/c".to_owned()]));
    assert_eq!(stand(&node(Some(("False", 5)), &[])), Stand::Clear);
    assert_eq!(stand(&node(Some(("True", 5)), &[])), Stand::Released);
    // Of an uninstall that was taken back, or of this one's first question.
    assert_eq!(stand(&node(Some(("True", 4)), &[])), Stand::Silent);
    assert_eq!(stand(&node(Some(("False", 4)), &["a/p/c"])), Stand::Silent);
    let mut of_an_older_agent = node(Some(("True", 0)), &[]);
    of_an_older_agent.status.as_mut().unwrap().conditions[0].observed_generation = None;
    assert_eq!(stand(&of_an_older_agent), Stand::Silent);
    of_an_older_agent.metadata.generation = None;
    assert_eq!(stand(&of_an_older_agent), Stand::Silent);
}

#[test]
fn a_node_that_another_asked_or_nobody_is_no_answer() {
    let mut node = node(Some(("True", 5)), &[]);
    node.spec.until = Some(request(2));
    assert_eq!(stand(&node, &request(1)), Stand::AskedByAnother);
    node.spec.until = None;
    assert_eq!(stand(&node, &request(1)), Stand::NotAsked);
}

fn strict(names: &[&str]) -> Stand {
    Stand::Strict(names.iter().map(|&name| name.to_owned()).collect())
}

/// Nodes a, b, ..
#[track_caller]
fn check(stands: &[Stand], step: Step, drain: bool, expect: &str) {
    let nodes = "abc".chars().map(String::from);
    let stands: Vec<(String, Stand)> = nodes.zip(stands.iter().cloned()).collect();
    let told = match next(&stands, step, drain) {
        Ok(Next::Ask(nodes)) => format!("ask {}", nodes.join(" ")),
        Ok(Next::Wait(nodes)) => format!("wait for {}", nodes.join(" ")),
        Ok(Next::Evict(named)) => format!("evict {}", words(&named)),
        Ok(Next::Done) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(told, expect);
}

const REFUSED: &str = "strict pods still run: x/p/c on node b; delete them, then uninstall again, or evict them \
                       (uninstall.mode: Drain)";

#[test]
fn no_node_is_released_before_all_are_clear() {
    let (silent, clear) = (Stand::Silent, Stand::Clear);
    for drain in [false, true] {
        check(&[], Step::Cordon, drain, "done");
        check(&[silent.clone(), clear.clone()], Step::Cordon, drain, "wait for a");
        check(&[clear.clone(), Stand::NotAsked, silent.clone()], Step::Cordon, drain, "ask b");
        check(&[clear.clone(), clear.clone()], Step::Cordon, drain, "done");
        // Left by a hook that was killed.
        check(&[Stand::Released, clear.clone()], Step::Cordon, drain, "done");
        check(&[Stand::Released, silent.clone()], Step::Cordon, drain, "wait for b");
    }
}

#[test]
fn a_strict_pod_is_in_the_way_or_is_evicted_when_no_node_gives_cores_away_any_more() {
    let spins = strict(&["x/p/c"]);
    check(&[Stand::Silent, spins.clone()], Step::Cordon, false, REFUSED);
    check(&[Stand::Silent, spins.clone()], Step::Cordon, true, "wait for a");
    check(&[Stand::NotAsked, spins.clone()], Step::Cordon, true, "ask a");
    check(&[Stand::Clear, spins], Step::Cordon, true, "evict x/p/c on node b");
    let two = strict(&["x/p/c", "x/p/d"]);
    check(&[two, strict(&["y/q/e"])], Step::Cordon, true, "evict x/p/c, x/p/d on node a; y/q/e on node b");
}

#[test]
fn the_release_is_done_when_all_say_so_and_one_strict_pod_takes_it_back() {
    for drain in [false, true] {
        check(&[Stand::Released, Stand::Clear], Step::Release, drain, "wait for b");
        check(&[Stand::Released, Stand::Silent], Step::Release, drain, "wait for b");
        check(&[Stand::Released, strict(&["x/p/c"])], Step::Release, drain, REFUSED);
        check(&[Stand::Released, Stand::Released], Step::Release, drain, "done");
    }
}

#[test]
fn a_second_hook_ends_the_first() {
    let told = "another uninstall has asked node b since: see to that one";
    for step in [Step::Cordon, Step::Release] {
        check(&[Stand::Released, Stand::AskedByAnother], step, true, told);
    }
}

#[test]
fn what_was_not_restored_is_told_by_node() {
    let mut left = node(Some(("True", 5)), &[]);
    left.status.as_mut().unwrap().not_restored = vec!["vm.stat_interval: \"1\" again: EIO".to_owned()];
    let lines = not_restored(&[node(Some(("True", 5)), &[]), left]);
    assert_eq!(lines, ["node n: not as it was before: vm.stat_interval: \"1\" again: EIO"]);
}
