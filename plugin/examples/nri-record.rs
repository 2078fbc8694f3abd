//! Holds a conversation with a real NRI runtime and writes it down, for plugin/tests/data/nri.
//!
//! `nri-record NRI-SOCKET OUTPUT`: runs the agent's session, with the tests' scripted handler, through a proxy.
//! Ends when the runtime goes away, or on Ctrl-C.

#[path = "../tests/nri_peer/scripted.rs"]
mod scripted;

use std::{error::Error, io::Write as _, time::Duration};

use quietcore::nri::session;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [_, socket, output] =
        std::env::args().collect::<Vec<_>>().try_into().map_err(|_| "usage: nri-record NRI-SOCKET OUTPUT")?;
    let folder = tempfile::tempdir()?;
    let proxy = folder.path().join("nri.sock");
    let listener = UnixListener::bind(&proxy)?;
    let journal = scripted::Journal::default();
    let handler = scripted::Scripted { journal: journal.clone(), slow: Duration::from_secs(3) };
    let (state, _states) = watch::channel(session::State::default());
    tokio::spawn(session::run(proxy, handler, state));
    let (recorded, mut pieces) = mpsc::unbounded_channel();
    let conversation = async {
        let (plugin, _) = listener.accept().await?;
        let runtime = UnixStream::connect(&socket).await?;
        let (from_plugin, to_plugin) = plugin.into_split();
        let (from_runtime, to_runtime) = runtime.into_split();
        tokio::spawn(copy(b'P', from_plugin, to_runtime, recorded.clone()));
        copy(b'R', from_runtime, to_plugin, recorded).await
    };
    tokio::select! {
        ended = conversation => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    journal.go_on();
    let mut file = std::fs::File::create(output)?;
    while let Ok((from, bytes)) = pieces.try_recv() {
        file.write_all(&[from])?;
        file.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
        file.write_all(&bytes)?;
    }
    for call in journal.calls() {
        writeln!(std::io::stdout(), "{call}")?;
    }
    Ok(())
}

/// Written down before it is passed on, so that the answer never comes before the question.
async fn copy(
    from: u8,
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    recorded: mpsc::UnboundedSender<(u8, Vec<u8>)>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let length = reader.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        let piece = bytes[..length].to_vec();
        let _ = recorded.send((from, piece.clone()));
        writer.write_all(&piece).await?;
    }
}
