//! What a node's object asks of its agent, and the answer: whether it serves, takes nothing new, or lets go. Pure.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use quietcore_crd::{
    node::{DataplaneNodeSpec, DataplaneNodeStatus},
    reason::ConditionReason,
};

use super::node_object::condition;

/// What a look at the object asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Serve,
    Cordon,
    Release,
}

/// A wish that is over is none: whoever had it may have died before every node was asked.
pub(super) fn wish(spec: &DataplaneNodeSpec, now: Timestamp) -> Wish {
    let is_over = spec.until.as_ref().is_some_and(|until| until.0 <= now);
    match (spec.release, spec.cordon) {
        _ if is_over => Wish::Serve,
        (true, _) => Wish::Release,
        (false, true) => Wish::Cordon,
        (false, false) => Wish::Serve,
    }
}

/// To cordon or release, of the spec that was seen: who asks must not take an earlier one's for its own.
pub(super) fn answer(
    released: bool,
    strict: &[String],
    generation: Option<i64>,
    before: Option<&DataplaneNodeStatus>,
) -> Condition {
    let (status, reason, message) = match (released, strict) {
        (true, _) => ("True", ConditionReason::Released, String::new()),
        (false, []) => ("False", ConditionReason::Cordoned, "no strict container runs".to_owned()),
        (false, strict) => ("False", ConditionReason::StrictPodsRunning, strict.join(", ")),
    };
    let condition = condition("Released", status, reason, message, before);
    Condition { observed_generation: generation, ..condition }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn a_wish_holds_until_its_end_and_without_one_for_good() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let spec = |cordon, release, until: Option<i64>| DataplaneNodeSpec {
            cordon,
            release,
            until: until.map(|second| MicroTime(at(second))),
        };
        for until in [None, Some(101)] {
            assert_eq!(wish(&spec(false, false, until), at(100)), Wish::Serve);
            assert_eq!(wish(&spec(true, false, until), at(100)), Wish::Cordon);
            assert_eq!(wish(&spec(true, true, until), at(100)), Wish::Release);
            // As written by hand, and by the hook of an earlier version.
            assert_eq!(wish(&spec(false, true, until), at(100)), Wish::Release);
        }
        for (cordon, release) in [(false, false), (true, false), (true, true), (false, true)] {
            assert_eq!(wish(&spec(cordon, release, Some(100)), at(100)), Wish::Serve);
        }
    }

    #[test]
    fn the_answer_says_who_is_in_the_way_and_which_question_it_answers() {
        let told = |released, strict: &[&str]| {
            let strict: Vec<String> = strict.iter().map(|&name| name.to_owned()).collect();
            let Condition { status, reason, message, observed_generation, .. } =
                answer(released, &strict, Some(7), None);
            assert_eq!(observed_generation, Some(7));
            format!("{status} {reason} {message}")
        };
        assert_eq!(told(false, &["a/p/c", "b/q/d"]), "False StrictPodsRunning a/p/c, b/q/d");
        assert_eq!(told(false, &[]), "False Cordoned no strict container runs");
        assert_eq!(told(true, &[]), "True Released ");
    }
}
