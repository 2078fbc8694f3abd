//! Cores that go while they are granted. The last tests, by their name: Linux 6.12 rebuilds its scheduling domains then,
//! and lets no deadline server be switched off any more.

use std::fs;

use quietcore_tests::wait::{Seen, until};

use crate::node::{Node, SOON};
use crate::others::core_of;

/// A core is put back whatever happens.
struct Offline(String);

impl Offline {
    #[track_caller]
    fn take(core: &str) -> Offline {
        let file = format!("/sys/devices/system/cpu/cpu{core}/online");
        fs::write(&file, "0").expect("a CPU can be taken offline");
        Offline(file)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "1");
    }
}

#[track_caller]
fn wait_agents_word(node: &Node, since: usize, words: &str) {
    until(words, SOON, || {
        let log = node.agent_log();
        let new = log.get(since..).unwrap_or_default();
        Ok(if new.contains(words) { Seen::Done(()) } else { Seen::NotYet(new.to_owned()) })
    });
}

#[test]
fn a_core_that_goes_offline_is_told_to_its_owner_and_offered_to_nobody_until_it_is_back() {
    let node = Node::get();
    let pod = node.pod("offline", "report", "spin");
    let core = core_of(&pod);
    let before = node.agent_log().len();
    let offline = Offline::take(&core);
    let told = pod.wait_told("that its core is gone", |note| {
        note.starts_with(&format!("CPU {core} of container app is offline"))
    });
    assert_eq!(told["reason"], "CoresUnavailable");
    wait_agents_word(node, before, &format!("why=\"core {core} is offline\""));
    drop(offline);
    wait_agents_word(node, before, "this core is fit again");
    drop(pod);
}
