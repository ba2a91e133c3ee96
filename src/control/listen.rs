//! Connections of the control plane's port: TCP, the TLS handshake, and what the handshake proved.
//!
//! Handshakes run beside each other and within a bounded time, so that one that hangs keeps nobody
//! waiting; the number of connections is bounded.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::auth::Connection;
use crate::{net, task, tls};

/// Connections at once; each sidecar has one.
const CONNECTIONS_MAX: usize = 10_000;
/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections that are ready and not yet taken over.
const READY_MAX: usize = 64;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct TlsConnection {
    stream: TlsStream<TcpStream>,
    info: Connection,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections until `ending` is cancelled. The TLS configuration is read for each of them,
/// so that a renewed certificate is shown from then on.
pub(crate) fn accept(
    listener: TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
    ending: CancellationToken,
) -> ReceiverStream<io::Result<TlsConnection>> {
    let (sender, receiver) = mpsc::channel(READY_MAX);
    let _detached = task::spawn("accept", async move {
        tokio::select! {
            failed = accept_all(&listener, &config, &sender) => {
                tracing::error!(error = %failed, "the listener broke");
            }
            () = ending.cancelled() => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept_all(
    listener: &TcpListener,
    config: &ArcSwap<ServerConfig>,
    sender: &mpsc::Sender<io::Result<TlsConnection>>,
) -> io::Error {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return io::Error::other("the semaphore was closed");
        };
        let (stream, remote) = match net::accept(listener).await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let (config, sender) = (config.load_full(), sender.clone());
        let _detached = task::spawn("control plane handshake", async move {
            match timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => {
                    let connection = stream.get_ref().1;
                    if let Err(wrong) = tls::require_alpn(connection) {
                        tracing::debug!(%remote, %wrong, "connection refused");
                        return;
                    }
                    let certificates = connection.peer_certificates();
                    let certificates = certificates
                        .map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
                    let info = Connection { remote, certificates };
                    // Nobody takes it when the server has ended.
                    let _taken =
                        sender.send(Ok(TlsConnection { stream, info, _place: place })).await;
                }
                Ok(Err(error)) => tracing::debug!(%remote, %error, "handshake failed"),
                Err(_) => tracing::debug!(%remote, "handshake took too long"),
            }
        });
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.info.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
