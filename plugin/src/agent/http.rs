//! What the kubelet and Prometheus ask the agent: /healthz, /readyz, /metrics.
//!
//! Answers from memory only, so a probe never waits for a step. Bounded in connections, time and size:
//! anybody who reaches the node may connect.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

const CONNECTIONS: usize = 16;
/// The kubelet's probes wait for one second.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const HEADER_BYTES: usize = 8192;
/// accept(2) fails at once and again while the node is out of descriptors.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// Which parts of the agent do their work, and what keeps the others from it.
#[derive(Debug, Default)]
pub struct Readiness {
    parts: Mutex<BTreeMap<&'static str, Result<(), String>>>,
}

impl Readiness {
    /// An agent is ready when all of `parts` have been set to `Ok`.
    pub fn of(parts: &[&'static str]) -> Readiness {
        let not_yet = parts.iter().map(|part| (*part, Err("starting".to_owned())));
        Readiness { parts: Mutex::new(not_yet.collect()) }
    }

    /// `Err` says in words what is missing.
    pub fn set(&self, part: &'static str, state: Result<(), String>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part, state);
    }

    /// One line a part.
    fn tell(&self) -> (StatusCode, String) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = parts.values().all(Result::is_ok);
        let lines = parts.iter().map(|(part, state)| match state {
            Ok(()) => format!("{part}: ok\n"),
            Err(why) => format!("{part}: {why}\n"),
        });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, lines.collect())
    }
}

#[derive(Debug)]
pub struct Pages {
    pub registry: Registry,
    pub readiness: Arc<Readiness>,
}

#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for probes and metrics")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

pub async fn serve(listener: TcpListener, pages: Arc<Pages>) -> Infallible {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Beyond the limit connections wait in the kernel's backlog. The semaphore is never closed.
        let permit = Arc::clone(&free).acquire_owned().await;
        match listener.accept().await {
            Ok((connection, _)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    answer_one(connection, pages).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection for probes and metrics");
                sleep(AFTER_FAILED_ACCEPT).await;
            }
        }
    }
}

async fn answer_one(connection: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request| {
        let response = respond(&request, &pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(connection), service);
    // Whether somebody hung up or never spoke HTTP does not concern the agent.
    let _ = timeout(CONNECTION_TIME, connection).await;
}

fn respond(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    // https://prometheus.io/docs/specs/om/open_metrics_spec/#overall-structure
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => {
            let (status, body) = pages.readiness.tell();
            (status, PLAIN, body)
        }
        (&Method::GET, "/metrics") => {
            let mut body = String::new();
            match text::encode(&mut body, &pages.registry) {
                Ok(()) => (StatusCode::OK, OPEN_METRICS, body),
                Err(error) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("encode metrics: {error}\n"))
                }
            }
        }
        (&Method::GET, _) => {
            (StatusCode::NOT_FOUND, PLAIN, "there are /healthz, /readyz and /metrics\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(readiness: Arc<Readiness>, request: &[u8]) -> String {
        let mut registry = Registry::default();
        registry.register("sheep", "Sheep counted", Counter::<u64>::default());
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Pages { registry, readiness })));
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A server that hangs up on nonsense may reset the connection.
        let _ = connection.read_to_end(&mut answer).await;
        server.abort();
        let answer = String::from_utf8(answer).unwrap();
        answer.lines().filter(|line| !line.starts_with("date: ")).map(|line| format!("{line}\n")).collect()
    }

    async fn check(readiness: Readiness, request: &str, expect: Expect) {
        expect.assert_eq(&ask(Arc::new(readiness), request.as_bytes()).await);
    }

    #[tokio::test]
    async fn an_agent_that_answers_is_healthy() {
        check(
            Readiness::of(&["nri"]),
            "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
            expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/plain; charset=utf-8
            connection: close
            content-length: 3

            ok
        "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn an_agent_is_ready_when_all_its_parts_are() {
        let request = "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
        let readiness = Readiness::of(&["nri", "guard"]);
        readiness.set("guard", Ok(()));
        readiness.set("nri", Err("containerd does not listen on /var/run/nri/nri.sock".into()));
        check(
            readiness,
            request,
            expect![[r#"
            HTTP/1.1 503 Service Unavailable
            content-type: text/plain; charset=utf-8
            connection: close
            content-length: 67

            guard: ok
            nri: containerd does not listen on /var/run/nri/nri.sock
        "#]],
        )
        .await;
        let readiness = Readiness::of(&["nri"]);
        readiness.set("nri", Ok(()));
        check(
            readiness,
            request,
            expect![[r#"
            HTTP/1.1 200 OK
            content-type: text/plain; charset=utf-8
            connection: close
            content-length: 8

            nri: ok
        "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn metrics_are_those_of_the_registry() {
        check(
            Readiness::default(),
            "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
            expect![[r#"
            HTTP/1.1 200 OK
            content-type: application/openmetrics-text; version=1.0.0; charset=utf-8
            connection: close
            content-length: 69

            # HELP sheep Sheep counted.
            # TYPE sheep counter
            sheep_total 0
            # EOF
        "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn other_pages_and_methods_are_refused_in_words() {
        let status = |answer: String| answer.lines().next().unwrap_or_default().to_owned();
        let none = || Arc::new(Readiness::default());
        assert_eq!(status(ask(none(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await), "HTTP/1.1 404 Not Found");
        assert_eq!(
            status(ask(none(), b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await),
            "HTTP/1.1 405 Method Not Allowed"
        );
    }

    #[tokio::test]
    async fn nonsense_does_not_stop_the_server() {
        ask(Arc::default(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await;
        let long = [b"GET /", "a".repeat(100_000).as_bytes(), b" HTTP/1.1\r\n\r\n"].concat();
        ask(Arc::default(), &long).await;
    }
}
