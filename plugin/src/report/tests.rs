//! What a scripted API server gets, in which order, whatever it answers.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use crate::{
    guard::abi::{QC_F_SIGNALLED, QC_KIND_ARMED, QC_KIND_DISARMED, qc_record},
    report::{Destination, Reason, Subject},
};

mod world;

use world::{Answer, pod, world, world_with};

#[tokio::test(start_paused = true)]
async fn what_happened_is_told_in_order_and_once() {
    let world = world(&[]);
    world.tell("a", "one");
    world.tell("a", "two");
    world.reporter.event(Subject::Node, Reason::Unprotected, "three".into());
    assert_eq!(world.requests_after(60).await, ["POST ns one", "POST ns two", "POST default three"]);
    assert_eq!(world.metrics.events_sent.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_tell_is_radio_silence() {
    let world = world(&[]);
    assert_eq!(world.requests_after(3600).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_was_away_gets_everything_in_order_and_once() {
    let world = world(&[
        Answer::Status(500, "etcd has no leader"),
        Answer::Silence,
        Answer::AcceptInSilence,
        Answer::Status(429, "slow down"),
        Answer::Status(503, "starting"),
    ]);
    world.tell("a", "one");
    world.tell("a", "two");
    world.tell("a", "three");
    let requests = world.requests_after(600).await;
    // The third try arrived without an answer; the server then knows the name: no second Event.
    assert_eq!(
        requests,
        ["POST ns one"; 6].into_iter().chain(["POST ns two", "POST ns three"]).collect::<Vec<_>>()
    );
    assert_eq!((world.metrics.events_sent.get(), world.metrics.events_retried.get()), (3, 5));
}

#[tokio::test(start_paused = true)]
async fn repeats_become_one_update_of_the_series() {
    let world = world(&[]);
    world.tell("a", "one");
    assert_eq!(world.requests_after(1).await, ["POST ns one"]);
    for _ in 0..5000 {
        world.tell("a", "one");
    }
    assert_eq!(world.requests_after(60).await, ["PATCH ns x5001"]);
    assert_eq!(world.metrics.events_patched.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn repeats_during_an_outage_arrive_with_the_event() {
    let world = world(&[Answer::Status(500, "away")]);
    for _ in 0..7 {
        world.tell("a", "one");
    }
    let requests = world.requests_after(60).await;
    assert_eq!(requests.last().map(String::as_str), Some("POST ns one x7"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn an_overflow_is_counted_and_told_when_telling_works_again() {
    let world = world(&[Answer::Silence; 3]);
    for n in 0..20 {
        world.tell("a", &format!("note {n}"));
    }
    let requests = world.requests_after(600).await;
    let mut told: Vec<&str> = requests.iter().map(String::as_str).collect();
    told.dedup();
    assert_eq!(
        told,
        [
            "POST ns note 0",
            "POST default 12 Events of this node were dropped because the API server did not take them in \
             time; the agent's metrics and log have the violations",
            "POST ns note 1",
            "POST ns note 2",
            "POST ns note 3",
            "POST ns note 4",
            "POST ns note 5",
            "POST ns note 6",
            "POST ns note 7",
        ]
    );
    let log = String::from_utf8(world.log.lock().unwrap().clone()).unwrap();
    assert_eq!(log.lines().count(), 20, "the log has all of them");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_gone_costs_one_try() {
    let world = world(&[
        Answer::Status(404, "namespaces \"ns\" not found"),
        Answer::Status(403, "unable to create new content in namespace ns because it is being terminated"),
        Answer::Status(403, "User \"agent\" cannot create resource \"events\""),
    ]);
    for note in ["one", "two", "three", "four"] {
        world.tell("a", note);
    }
    assert_eq!(
        world.requests_after(60).await,
        ["POST ns one", "POST ns two", "POST ns three", "POST ns four"]
    );
    assert_eq!(world.metrics.events_sent.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_expired_is_created_anew() {
    let world = world(&[Answer::Accept, Answer::Status(404, "events \"a.1\" not found")]);
    world.tell("a", "one");
    world.requests_after(1).await;
    world.tell("a", "one");
    assert_eq!(world.requests_after(60).await, ["PATCH ns x2", "POST ns one x2"]);
}

#[tokio::test(start_paused = true)]
async fn a_noisy_node_costs_the_api_server_one_request_a_second() {
    let world = world(&[]);
    for n in 0..300 {
        world.tell(&n.to_string(), "one");
        sleep(Duration::from_millis(100)).await;
    }
    // 20 at once, then one for each of the 30 seconds.
    let requests = world.requests_after(0).await.len();
    assert!((45..=51).contains(&requests), "{requests}");
}

fn write_call() -> qc_record {
    let mut record = qc_record {
        flags: QC_F_SIGNALLED,
        ip: 0x40_101c,
        detail: 1,
        cpu: 5,
        pids: [4711, 31, 0, 0],
        tgids: [4711, 31, 0, 0],
        pid_level: 1,
        signal: 10,
        args: [1, 2, 3, 0, 0, 0],
        ..Default::default()
    };
    for (to, from) in record.comm.iter_mut().zip(b"l2fwd") {
        *to = from.cast_signed();
    }
    record
}

const WRITE_NOTE: &str = "syscall 1 at 0x40101c [memory map not readable] (l2fwd, tid 31, cpu 5): SIGUSR1 sent; \
                          args 0x1 0x2 0x3";

#[tokio::test(start_paused = true)]
async fn a_record_becomes_an_event_and_its_repeats_a_series() {
    let world = world(&[]);
    let Subject::Container(info) = pod("a") else { panic!() };
    for _ in 0..500 {
        world.reporter.violation(&info, &write_call(), None);
    }
    assert_eq!(world.requests_after(60).await, [format!("POST ns {WRITE_NOTE} x500")]);
    world.reporter.violation(&info, &qc_record { ip: 0x50_0000, ..write_call() }, None);
    assert_eq!(world.requests_after(60).await.len(), 1, "another place is another Event");
}

#[tokio::test(start_paused = true)]
async fn arming_is_not_an_event_and_an_unknown_record_only_a_number() {
    let world = world(&[]);
    let Subject::Container(info) = pod("a") else { panic!() };
    for kind in [QC_KIND_ARMED, QC_KIND_DISARMED, 77] {
        let record = qc_record { kind: kind.try_into().unwrap(), ..write_call() };
        world.reporter.violation(&info, &record, None);
    }
    assert_eq!(world.requests_after(60).await, [""; 0]);
    assert_eq!(world.metrics.records_unknown.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_kubernetes_the_log_tells_events_and_series() {
    let world = world_with(Destination::LogOnly, Arc::default(), tokio::spawn(async {}));
    let Subject::Container(info) = pod("a") else { panic!() };
    for _ in 0..3 {
        world.reporter.violation(&info, &write_call(), None);
    }
    world.requests_after(1).await;
    world.reporter.violation(&info, &write_call(), None);
    world.requests_after(60).await;
    let log = String::from_utf8(world.log.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for (name, value) in [
        ("reason", "KernelEntry"),
        ("node", "node-1"),
        ("namespace", "ns"),
        ("pod", "a"),
        ("container", "app"),
        ("note", WRITE_NOTE),
        ("comm", "l2fwd"),
        ("ip", "0x40101c"),
    ] {
        assert_eq!(lines[0][name], value, "{log}");
    }
    assert_eq!(
        (&lines[0]["count"], &lines[1]["count"], &lines[2]["count"]),
        (&Value::Null, &3.into(), &4.into())
    );
}
