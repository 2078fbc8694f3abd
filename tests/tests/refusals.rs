//! Steps 1, 2 and 4b: bad input gets a clear answer, in the place where its author looks.

use std::time::Duration;

use quietcore_tests::kube::Namespace;
use quietcore_tests::pod::Pod;
use quietcore_tests::product::{ENFORCE, Strict, apply_policy, policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

/// The container waits for this reason, and `kubectl describe pod` has the words.
#[track_caller]
fn check<'n>(namespace: &'n Namespace<'n>, pod: &Strict<'_>, reason: &str, words: &str) -> Pod<'n> {
    let pod = pod.apply(namespace);
    pod.wait_waiting("app", reason);
    let description = pod.describe();
    assert!(description.contains(words), "{description}");
    pod
}

const NOT_CREATED: &str = "CreateContainerError";

#[test]
fn a_policy_that_does_not_exist_is_named_and_the_pod_starts_when_it_does() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("missing");
    let words = format!("DataplanePolicy {}/p does not exist: create it", namespace.name());
    let pod = check(&namespace, &Strict::day("missing", "syscall"), NOT_CREATED, &words);
    apply_policy(&namespace, "p", ENFORCE);
    assert_eq!(pod.wait_exit_code("app"), 0);
}

/// What `kubectl get dataplanepolicies` shows of it.
#[track_caller]
fn wait_accepted(namespace: &Namespace<'_>, name: &str, status: &str, words: &str) {
    until(&format!("policy {name} to be Accepted={status}"), Duration::from_secs(30), || {
        let conditions = namespace.get("dataplanepolicy", name)["status"]["conditions"].clone();
        let told = conditions[0]["type"] == "Accepted" && conditions[0]["status"] == status;
        Ok(if told && conditions.to_string().contains(words) {
            Seen::Done(())
        } else {
            Seen::NotYet(conditions)
        })
    });
}

#[test]
fn what_is_not_built_yet_is_refused_and_never_ignored() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("not-yet");
    apply_policy(&namespace, "p", "{onUnprotected: Kill}");
    wait_accepted(&namespace, "p", "False", "spec.onUnprotected: Kill is not supported");
    apply_policy(&namespace, "good", ENFORCE);
    wait_accepted(&namespace, "good", "True", "PolicyAccepted");
    check(
        &namespace,
        &Strict::day("kill", "syscall"),
        NOT_CREATED,
        "spec.onUnprotected: Kill is not supported by quietcore",
    );
}

#[test]
fn annotations_that_cannot_be_meant_are_refused() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("annotations");
    apply_policy(&namespace, "p", ENFORCE);
    let no_cores = Strict {
        annotations: "{policy.quietcore.io/container.app: p}",
        n_cores: 0,
        ..Strict::day("no-cores", "syscall")
    };
    check(&namespace, &no_cores, NOT_CREATED, "it requests no cores");
    let typo = Strict { annotations: "{policy.quietcore.io/pods: p}", ..Strict::day("typo", "syscall") };
    check(&namespace, &typo, NOT_CREATED, "policy.quietcore.io/pods is unknown").delete();
    let empty = Strict { annotations: "{policy.quietcore.io/pod: \"\"}", ..Strict::day("empty", "syscall") };
    check(&namespace, &empty, NOT_CREATED, "is empty");
}

#[test]
fn a_pod_that_may_gain_privileges_is_told_which_line_to_change() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("privileges");
    apply_policy(&namespace, "p", ENFORCE);
    namespace.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: gains, annotations: {policy.quietcore.io/pod: p}}
spec:
  restartPolicy: Never
  containers:
    - {name: app, image: "localhost/workload:dev", imagePullPolicy: Never, args: [syscall], resources: {limits: {quietcore.io/core: 1}}}
"#,
    );
    let pod = namespace.pod("gains");
    pod.wait_phase("Failed");
    let description = pod.describe();
    assert!(description.contains("set securityContext.allowPrivilegeEscalation: false"), "{description}");
}

#[test]
fn the_api_server_refuses_a_policy_that_contradicts_itself() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("schema");
    let signal = |signal: &str| format!("{{entries: {{syscall: {{action: Signal, signal: {signal}}}}}}}");
    for (spec, words) in [
        (
            "{entries: {syscall: {action: Signal}}}".to_owned(),
            "signal is required exactly when action is Signal",
        ),
        (signal("SIGSTOP"), "signal is a name such as SIGUSR1"),
        (signal("SIGCHLD"), "signal is a name such as SIGUSR1"),
        (signal("10"), "signal is a name such as SIGUSR1"),
        ("{entries: {machineCheck: {action: Signal, signal: SIGUSR1}}}".to_owned(), "hardware's doing"),
        ("{arm: {at: Exec, settleFor: 1s}}".to_owned(), "settleFor is only for arm.at Settled"),
        ("{enforceFor: 24h}".to_owned(), "enforceFor is only for mode Enforce"),
        ("{mode: Loud}".to_owned(), "Unsupported value"),
        ("{entries: {syscall: {action: Report, except: ['rm -rf']}}}".to_owned(), "should match"),
    ] {
        let refusal = namespace.try_apply(&policy("bad", &spec)).expect_err(&spec);
        assert!(refusal.contains(words), "{spec}: {refusal}");
    }
    for (name, spec) in
        [("numbered", signal("40")), ("killing", signal("SIGKILL")), ("empty", "{}".to_owned())]
    {
        apply_policy(&namespace, name, &spec);
    }
    let defaults = namespace.get("dataplanepolicy", "empty")["spec"].to_string();
    assert!(defaults.contains("Audit") && defaults.contains("OneShot"), "{defaults}");
}

#[test]
fn the_chart_refuses_values_that_cannot_be() {
    let testbed = Testbed::from_env();
    let install = |set: &[&str]| {
        testbed
            .try_helm_install("wrong", "wrong", "charts/quietcore", set)
            .map(drop)
            .expect_err("values are refused")
    };
    assert!(install(&["image.tag=dev"]).contains("isolatedCpus"));
    assert!(install(&["isolatedCpus=all"]).contains("isolatedCpus"));
    assert!(install(&["isolatedCpus=1", "isolatedCores=2"]).contains("isolatedCores"));
}
