//! Step 3: registers the device plugin with the kubelet, and again whenever the kubelet restarts: it wipes
//! the folder of sockets then, ours included.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use inotify::{Inotify, WatchMask};
use quietcore_proto::deviceplugin::{
    DevicePluginOptions, RegisterRequest, device_plugin_server::DevicePluginServer,
    registration_client::RegistrationClient,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server, Uri};

use super::device_plugin::{Cores, RESOURCE};

const OWN_SOCKET: &str = "quietcore.sock";
const KUBELET_SOCKET: &str = "kubelet.sock";
const RETRY_AFTER: Duration = Duration::from_secs(1);
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

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
}

/// Runs for the life of the agent. `registered` is for readiness.
pub async fn run(folder: PathBuf, cores: Cores, registered: watch::Sender<bool>) {
    loop {
        match serve_until_restart(&folder, cores.clone(), &registered).await {
            Ok(()) => tracing::info!(step = 3, "the kubelet restarted; registering again"),
            Err(error) => {
                tracing::warn!(
                    step = 3,
                    error = &error as &dyn std::error::Error,
                    "not registered with the kubelet"
                );
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        registered.send_replace(false);
    }
}

async fn serve_until_restart(
    folder: &Path,
    cores: Cores,
    registered: &watch::Sender<bool>,
) -> Result<(), KubeletError> {
    let watch = |source| KubeletError::Watch { path: folder.to_owned(), source };
    let own = folder.join(OWN_SOCKET);
    let inotify = Inotify::init().map_err(watch)?;
    // Before anything is looked at, so that no restart falls between.
    inotify.watches().add(folder, WatchMask::CREATE | WatchMask::DELETE).map_err(watch)?;
    let mut events = inotify.into_event_stream([0; 1024]).map_err(watch)?;

    let listen = |source| KubeletError::Listen { path: own.clone(), source };
    match fs::remove_file(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&own).map_err(listen)?;
    let service = Server::builder().add_service(DevicePluginServer::new(cores));
    let server = tokio::spawn(service.serve_with_incoming(UnixListenerStream::new(listener)));
    let stop = AbortOnDrop(server);
    tokio::time::timeout(REGISTER_WITHIN, register(&folder.join(KUBELET_SOCKET)))
        .await
        .map_err(|_elapsed| KubeletError::Silent)??;
    tracing::info!(step = 3, resource = RESOURCE, "registered with the kubelet");
    registered.send_replace(true);
    // Our own removal of a stale socket may still be in the queue: what counts is that ours is gone now, or
    // that the kubelet made a new one.
    while let Some(event) = events.next().await {
        let event = event.map_err(watch)?;
        let new_kubelet = event.mask.contains(inotify::EventMask::CREATE)
            && event.name.as_deref().is_some_and(|name| name == KUBELET_SOCKET);
        if new_kubelet || !own.exists() {
            break;
        }
    }
    drop(stop);
    Ok(())
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

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
        options: Some(DevicePluginOptions::default()),
    };
    match RegistrationClient::new(channel).register(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(KubeletError::Refused(status.message().to_owned())),
    }
}
