//! Step 3: registers the device plugin with the kubelet, and again whenever the kubelet restarts: it wipes
//! the folder of sockets then, ours included.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use quietcore_proto::deviceplugin::{
    RegisterRequest, device_plugin_server::DevicePluginServer, registration_client::RegistrationClient,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server, Uri};

use super::device_plugin::{Cores, OPTIONS, RESOURCE};

const OWN_SOCKET: &str = "quietcore.sock";
const KUBELET_SOCKET: &str = "kubelet.sock";
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(16);

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("watch {path}")]
    Watch { path: PathBuf, source: io::Error },
    #[error("listen on {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("connect to the kubelet at {path}")]
    Connect { path: PathBuf, source: tonic::transport::Error },
    #[error("the kubelet refused the device plugin: {0}")]
    Refused(String),
    #[error("the kubelet does not answer the registration")]
    Silent,
    #[error("the device plugin's server on {path} ended")]
    ServerEnded { path: PathBuf },
}

/// Runs for the life of the agent. `registered` is for readiness.
pub async fn run(folder: PathBuf, cores: Cores, registered: watch::Sender<bool>) {
    let mut n_failures = 0;
    loop {
        let failure = match Folder::watch(&folder) {
            Err(error) => Some((error, None)),
            Ok(mut watched) => match serve_until_restart(&mut watched, cores.clone(), &registered).await {
                Ok(()) => None,
                Err(error) => Some((error, Some(watched))),
            },
        };
        if registered.send_replace(false) {
            n_failures = 0;
        }
        let Some((error, watched)) = failure else {
            tracing::info!(step = 3, "the kubelet restarted; registering again");
            continue;
        };
        tracing::warn!(step = 3, error = &error as &dyn std::error::Error, "not registered with the kubelet");
        let kubelet_starts = async {
            match watched {
                Some(mut watched) => watched.kubelet_starts().await,
                None => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(retry_after(n_failures), kubelet_starts).await;
        n_failures += 1;
    }
}

fn retry_after(n_failures: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(2u32.saturating_pow(n_failures)).min(MAX_RETRY_AFTER)
}

/// Watched before anything in it is looked at, so that no restart of the kubelet falls between.
struct Folder {
    path: PathBuf,
    events: EventStream<[u8; 1024]>,
}

impl Folder {
    fn watch(path: &Path) -> Result<Folder, KubeletError> {
        let watch = |source| KubeletError::Watch { path: path.to_owned(), source };
        let inotify = Inotify::init().map_err(watch)?;
        inotify.watches().add(path, WatchMask::CREATE | WatchMask::DELETE).map_err(watch)?;
        let events = inotify.into_event_stream([0; 1024]).map_err(watch)?;
        Ok(Folder { path: path.to_owned(), events })
    }

    /// What counts is that our socket is gone now, or that the kubelet made a new one: an event of our own
    /// removal of a stale socket may still be in the queue.
    async fn kubelet_restarts(&mut self) -> Result<(), KubeletError> {
        while let Some(event) = self.events.next().await {
            let event = event.map_err(|source| KubeletError::Watch { path: self.path.clone(), source })?;
            if is_new_kubelet(event.mask, event.name.as_deref()) || !self.path.join(OWN_SOCKET).exists() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn kubelet_starts(&mut self) {
        while let Some(Ok(event)) = self.events.next().await {
            if is_new_kubelet(event.mask, event.name.as_deref()) {
                return;
            }
        }
        // No folder any more: only time helps.
        std::future::pending().await
    }
}

fn is_new_kubelet(mask: EventMask, name: Option<&std::ffi::OsStr>) -> bool {
    mask.contains(EventMask::CREATE) && name.is_some_and(|name| name == KUBELET_SOCKET)
}

async fn serve_until_restart(
    folder: &mut Folder,
    cores: Cores,
    registered: &watch::Sender<bool>,
) -> Result<(), KubeletError> {
    let own = folder.path.join(OWN_SOCKET);
    let mut server = AbortOnDrop(serve(&own, cores)?);
    tokio::time::timeout(REGISTER_WITHIN, register(&folder.path.join(KUBELET_SOCKET)))
        .await
        .map_err(|_elapsed| KubeletError::Silent)??;
    tracing::info!(step = 3, resource = RESOURCE, "registered with the kubelet");
    registered.send_replace(true);
    tokio::select! {
        restarted = folder.kubelet_restarts() => restarted,
        _ = &mut server.0 => Err(KubeletError::ServerEnded { path: own }),
    }
}

fn serve(own: &Path, cores: Cores) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, KubeletError> {
    let listen = |source| KubeletError::Listen { path: own.to_owned(), source };
    match fs::remove_file(own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
        _ => {}
    }
    let listener = UnixListener::bind(own).map_err(listen)?;
    let service = Server::builder().add_service(DevicePluginServer::new(cores));
    Ok(tokio::spawn(service.serve_with_incoming(UnixListenerStream::new(listener))))
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn register(kubelet: &Path) -> Result<(), KubeletError> {
    let path = kubelet.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is never resolved: the connector goes to the socket.
    let channel = Endpoint::from_static("http://kubelet").connect_with_connector(connector).await;
    let channel = channel.map_err(|source| KubeletError::Connect { path: kubelet.to_owned(), source })?;
    let request = RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: OWN_SOCKET.to_owned(),
        resource_name: RESOURCE.to_owned(),
        options: Some(OPTIONS),
    };
    match RegistrationClient::new(channel).register(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(KubeletError::Refused(status.message().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_that_stays_away_is_asked_less_and_less_often() {
        let seconds: Vec<u64> = (0..7).map(|n| retry_after(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 16, 16]);
        assert_eq!(retry_after(u32::MAX), MAX_RETRY_AFTER);
    }
}
