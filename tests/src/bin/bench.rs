//! `make bench`, the part that needs a cluster: what the agent adds to containers that are not ours, how soon an
//! Event is visible, and what the agent weighs. Prints a table and writes bench/cluster.json.
#![expect(clippy::print_stdout, reason = "it shows figures")]

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use quietcore_tests::kube::Namespace;
use quietcore_tests::node::Node;
use quietcore_tests::product::{ENFORCE, Strict, WORKLOAD, apply_policy};
use quietcore_tests::testbed::Testbed;
use serde_json::{Value, json};

/// With the agent and without it in turn, so that whatever else the machine does falls on both.
const ROUNDS: usize = 5;
const CONTAINERS: usize = 20;
const VIOLATIONS: usize = 20;

fn main() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let node = testbed.node();
    let rss_kib = agent_rss_kib(&node);
    let namespace = testbed.namespace("bench");
    let visible = time_to_event(&namespace);
    let strict = agent_answers_ms(&node, "Strict");
    let mut ordinary = Value::Null;
    let (mut with, mut without) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        container_times(&node, &mut with);
        ordinary = agent_answers_ms(&node, "Untouched");
        let removed = testbed.remove_agents();
        container_times(&node, &mut without);
        removed.restore();
    }

    let added = |pick: fn(&Times) -> &Vec<f64>| {
        let (with, without) = (Percentiles::of(pick(&with)), Percentiles::of(pick(&without)));
        json!({"with": with.json(), "without": without.json(),
               "added_p50": with.p50 - without.p50, "added_p99": with.p99 - without.p99})
    };
    let result = json!({
        "command": "make bench",
        "ordinary_container_ms": {"create": added(|times| &times.create), "start": added(|times| &times.start)},
        "agent_answers_ms_at_most": {"strict_container": strict, "ordinary_container": ordinary},
        "violation_to_event_ms": Percentiles::of(&visible).json(),
        "agent_rss_kib": rss_kib,
    });
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/cluster.json");
    let text = serde_json::to_string_pretty(&result).expect("numbers serialize");
    std::fs::write(file, text + "\n").unwrap_or_else(|error| panic!("write {file}: {error}"));
    println!("{}", serde_json::to_string_pretty(&result).expect("numbers serialize"));
}

struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(values: &[f64]) -> Percentiles {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
        Percentiles { p50: at(50), p99: at(99) }
    }

    fn json(&self) -> Value {
        json!({"p50": self.p50, "p99": self.p99})
    }
}

#[derive(Default)]
struct Times {
    create: Vec<f64>,
    start: Vec<f64>,
}

/// By the runtime's own client on the node: the same processes around the call, with the agent and without. The
/// kubelet would remove a sandbox that it does not know; it is away for these three seconds.
fn container_times(node: &Node<'_>, times: &mut Times) {
    let script = format!(
        r#"set -e; cd /tmp
        trap 'systemctl start kubelet' EXIT
        systemctl stop kubelet
        echo '{{"metadata":{{"name":"bench","uid":"bench","namespace":"default","attempt":1}},"log_directory":"/tmp","linux":{{"cgroup_parent":"system.slice","security_context":{{"namespace_options":{{"network":2}}}}}}}}' > pod.json
        echo '{{"metadata":{{"name":"c"}},"image":{{"image":"{WORKLOAD}"}},"args":["sleep"],"log_path":"c.log","linux":{{}}}}' > c.json
        pod=$(crictl runp pod.json)
        for i in $(seq {CONTAINERS}); do
          a=$(date +%s%N); c=$(crictl create $pod c.json pod.json)
          b=$(date +%s%N); crictl start $c > started
          e=$(date +%s%N); crictl rm -f $c > removed
          echo $((b - a)) $((e - b))
        done
        crictl rmp -f $pod > removed"#
    );
    let output = node.sh(&script);
    let before = times.create.len();
    for line in output.lines() {
        let mut values = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        if let (Some(created), Some(started)) = (values.next(), values.next()) {
            times.create.push(created / 1e6);
            times.start.push(started / 1e6);
        }
    }
    assert_eq!(times.create.len(), before + CONTAINERS, "{output}");
}

/// Of the agent's own histogram: the smallest bucket that holds 99 % of its answers. A strict container without the
/// agent is not created, so there is nothing to compare it with.
fn agent_answers_ms(node: &Node<'_>, result: &str) -> Value {
    let get = r"exec 3<>/dev/tcp/127.0.0.1/9753; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3";
    let text = node.run(&["bash", "-c", get]);
    let p99 = |request: &str| {
        let labels = format!(",request=\"{request}\",result=\"{result}\"}} ");
        let buckets: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("quietcore_nri_request_seconds_bucket{le=\"")?.split_once(&labels)
            })
            .filter_map(|(limit, count)| {
                Some((
                    limit.trim_end_matches('"').replace("+Inf", "inf").parse().ok()?,
                    count.trim().parse().ok()?,
                ))
            })
            .collect();
        let all = buckets.last().map_or(0.0, |(_, count)| *count);
        assert!(all > 0.0, "no {request} with result {result} in {text}");
        buckets.iter().find(|(_, count)| *count >= 0.99 * all).map(|(limit, _)| limit * 1e3)
    };
    json!({"create_p99": p99("CreateContainer"), "start_p99": p99("StartContainer")})
}

/// From the guard's own time stamp to the moment when a watcher of the API has the Event.
fn time_to_event(namespace: &Namespace<'_>) -> Vec<f64> {
    apply_policy(namespace, "p", ENFORCE);
    let mut watch = namespace.kubectl(&["get", "events.events.k8s.io", "--watch", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("watch: {error}"));
    let stdout = watch.stdout.take().expect("it was just piped");
    let watch = KilledOnDrop(watch);
    let mut events = serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>();
    let mut times = Vec::new();
    for n in 0..VIOLATIONS {
        let name = format!("v{n}");
        let pod = Strict::day(&name, "syscall").apply(namespace);
        let event = events.by_ref().map_while(Result::ok).find(|event| event["reason"] == "KernelEntry");
        let seen = now_ms();
        let event = event.expect("the watch ended before the Event");
        times.push(seen - milliseconds(event["eventTime"].as_str().unwrap_or_default()));
        pod.delete();
    }
    drop(watch);
    times
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1e3
}

/// Of a MicroTime such as 2026-11-23T13:31:54.123456Z, with the date command's help.
fn milliseconds(micro_time: &str) -> f64 {
    let output = std::process::Command::new("date").args(["-d", micro_time, "+%s%N"]).output();
    let output = output.unwrap_or_else(|error| panic!("date: {error}"));
    let nanoseconds: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(f64::NAN);
    nanoseconds / 1e6
}

fn agent_rss_kib(node: &Node<'_>) -> u64 {
    let status = node.sh(&format!("grep VmRSS /proc/{}/status", node.agent().pid()));
    status.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
