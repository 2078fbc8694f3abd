//! Step 4: the one thread on which the handler decides, and the clock that does not wait for it.
//!
//! NRI fails open: an answer that comes after the runtime's timer is no answer, and the container is created
//! without us. So `ask` gives up first and says no. Whether an answer counts is settled once, by the channel:
//! either it was sent before `ask` closed it, or the handler is told that its yes reached nobody.

use std::{sync::mpsc, thread, time::Duration};

use quietcore_proto::ttrpc::{Request, Status};
use tokio::{sync::oneshot, time::timeout};

use super::{
    dispatch::{self, Answer, Dispatcher},
    handler::Handler,
    ttrpc::FAILED_PRECONDITION,
};

#[derive(Debug)]
enum Job {
    Call {
        request: Request,
        answer: oneshot::Sender<Answer>,
    },
    /// Nobody waits for it.
    Told {
        request: Request,
    },
    Disconnected {
        done: oneshot::Sender<()>,
    },
}

#[derive(Debug, Clone)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    pub fn spawn<H: Handler + 'static>(handler: H) -> Worker {
        let (jobs, queue) = mpsc::channel();
        thread::spawn(move || work(handler, &queue));
        Worker { jobs }
    }

    pub async fn ask(&self, request: Request, deadline: Duration) -> Answer {
        let method = request.method.clone();
        let (answer, mut answered) = oneshot::channel();
        self.put(Job::Call { request, answer });
        if let Ok(Ok(answer)) = timeout(deadline, &mut answered).await {
            return answer;
        }
        answered.close();
        answered.try_recv().unwrap_or_else(|_| {
            tracing::error!(method, ?deadline, "no decision in time; refused");
            Err(too_late(&method, deadline))
        })
    }

    /// For what the runtime was answered already.
    pub fn tell(&self, request: Request) {
        self.put(Job::Told { request });
    }

    /// Returns when the handler has nothing of the old connection left to do: a runtime must not wait for it
    /// in the middle of the next registration.
    pub async fn disconnected(&self) {
        let (done, finished) = oneshot::channel();
        self.put(Job::Disconnected { done });
        let _ = finished.await;
    }

    fn put(&self, job: Job) {
        // The thread ends when the last Worker is gone; a panic on it ends the agent (panic = "abort").
        let _ = self.jobs.send(job);
    }
}

fn work<H: Handler>(handler: H, queue: &mpsc::Receiver<Job>) {
    let mut dispatcher = Dispatcher::new(handler);
    while let Ok(job) = queue.recv() {
        match job {
            // Refused while it waited behind a slow one. An end is told nevertheless: it happened.
            Job::Call { request, answer } if answer.is_closed() && !dispatch::is_an_end(&request) => {
                tracing::warn!(method = request.method, "refused before the handler came to it");
            }
            Job::Call { request, answer } => {
                if let Err(Ok(_yes)) = answer.send(dispatcher.call(&request)) {
                    tracing::warn!(method = request.method, "decided too late: taken back");
                    dispatcher.abandoned(&request);
                }
            }
            Job::Told { request } => dispatcher.told(&request),
            Job::Disconnected { done } => {
                dispatcher.disconnected();
                let _ = done.send(());
            }
        }
    }
}

fn too_late(method: &str, deadline: Duration) -> Status {
    let message = format!(
        "quietcore: the node's agent did not decide on {method} within {:.1} s; the kubelet tries again by itself, and \
         the agent's log says what it was busy with",
        deadline.as_secs_f32()
    );
    Status { code: FAILED_PRECONDITION, message }
}
