//! Step 9: finds the words for what is new, one after the other.
//!
//! Symbols can take a second: they are found on a thread that may block, and the handle meanwhile counts.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::jiff::Timestamp;
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    metrics::DropReason,
    report::{ContainerInfo, Reason, Subject, event::Draft, reporter::Shared},
    violation::{
        describe::describe,
        happening::{Answer, Entry, Happening, Story, Thread},
        key::Key,
        scene::Scene,
        symbolize::{
            Symbolizer,
            place::{NoModule, Place},
        },
    },
};

#[derive(Debug)]
pub(super) enum Work {
    Violation {
        key: Key,
        info: Arc<ContainerInfo>,
        happening: Box<Happening>,
        pid: Option<i32>,
        at: Timestamp,
        untold: u64,
    },
    Told {
        key: Key,
        draft: Draft,
        untold: u64,
    },
    Remember {
        container_id: Arc<str>,
        pid: i32,
        thread: Thread,
    },
    Forget {
        container_id: Arc<str>,
    },
}

pub(super) async fn run(
    mut to_do: mpsc::Receiver<Work>,
    symbolizer: Symbolizer,
    syscall_name: fn(u64) -> Option<&'static str>,
    shared: &Shared,
) -> Infallible {
    let symbolizer = Arc::new(Mutex::new(symbolizer));
    while let Some(work) = to_do.recv().await {
        match work {
            Work::Violation { key, info, happening, pid, at, untold } => {
                let scene = scene(&symbolizer, &info, &happening, pid).await;
                let note = describe(&happening, &scene, &syscall_name);
                let (reason, action) = reason_and_action(&happening.story);
                let subject = Subject::Container(info);
                let draft = Draft { subject, reason, action, note: with_untold(note, untold), at };
                tell(shared, &key, draft, Some(&happening));
            }
            Work::Told { key, mut draft, untold } => {
                draft.note = with_untold(draft.note, untold);
                tell(shared, &key, draft, None);
            }
            Work::Remember { container_id, pid, thread } => {
                blocking(&symbolizer, move |s| s.remember(&container_id, pid, &thread)).await;
            }
            Work::Forget { container_id } => {
                blocking(&symbolizer, move |s| s.forget(&container_id)).await;
            }
        }
    }
    // The last handle is gone; what waits in the queue is still sent.
    std::future::pending().await
}

fn tell(shared: &Shared, key: &Key, draft: Draft, happening: Option<&Happening>) {
    shared.log().told(&draft, happening);
    let dropped = shared.queue().fill(key, draft);
    if 0 < dropped {
        shared.metrics.event_dropped(DropReason::Overflow, dropped);
    }
    shared.measure_queue();
    shared.work.notify_one();
}

async fn scene(
    symbolizer: &Arc<Mutex<Symbolizer>>,
    info: &Arc<ContainerInfo>,
    happening: &Happening,
    pid: Option<i32>,
) -> Scene {
    let (info, looked_at) = (Arc::clone(info), happening.clone());
    let scene = blocking(symbolizer, move |s| s.scene(&info.container_id, pid, &looked_at)).await;
    scene.unwrap_or_else(|| Scene::at(Place::Address { ip: happening.ip, why: NoModule::NotReadable }))
}

/// `None`: it panicked, which ends the agent where panics abort.
async fn blocking<T: Send + 'static>(
    symbolizer: &Arc<Mutex<Symbolizer>>,
    work: impl FnOnce(&mut Symbolizer) -> T + Send + 'static,
) -> Option<T> {
    let symbolizer = Arc::clone(symbolizer);
    spawn_blocking(move || work(&mut symbolizer.lock().unwrap_or_else(PoisonError::into_inner))).await.ok()
}

fn with_untold(note: String, untold: u64) -> String {
    if untold == 0 { note } else { format!("{note}; +{untold} more of this class were not told") }
}

fn reason_and_action(story: &Story) -> (Reason, &'static str) {
    match story {
        Story::Entry(Entry { answer, .. }) => (Reason::KernelEntry, answer_action(*answer)),
        Story::CameOn => (Reason::KernelEntry, "Report"),
        Story::ArmRefused(_) => (Reason::ArmRefused, Reason::ArmRefused.action()),
        Story::LeftCore | Story::Armed | Story::Disarmed => (Reason::LeftCore, Reason::LeftCore.action()),
    }
}

fn answer_action(answer: Answer) -> &'static str {
    match answer {
        Answer::Reported | Answer::Audit(_) | Answer::Expired(_) => "Report",
        Answer::Frozen => "Freeze",
        Answer::Escalated(_) => "Kill",
        Answer::Sent(_) | Answer::Pending(_) | Answer::Ignored(_) | Answer::NotYet(_) => "Signal",
    }
}
