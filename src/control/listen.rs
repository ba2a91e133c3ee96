//! Connections of the control plane's port: TCP, the TLS handshake, and what the handshake proved.
//!
//! Handshakes run beside each other and within a bounded time, so that one that hangs keeps nobody
//! waiting; the number of connections is bounded.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep, timeout},
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

/// Connections without a client certificate at once: whoever joins needs one for a moment. Beyond
/// that strangers would take the sidecars' places.
pub(super) const STRANGERS_MAX: usize = 256;
/// How long a connection without a client certificate lives.
const STRANGER_MAX: Duration = Duration::from_secs(30);

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct TlsConnection {
    stream: TlsStream<TcpStream>,
    info: Connection,
    /// When a connection without a certificate ends.
    ends: Option<Pin<Box<Sleep>>>,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

impl TlsConnection {
    /// `None` when the connection may not be: it speaks another protocol, or there are too many
    /// strangers.
    fn new(
        stream: TlsStream<TcpStream>,
        remote: SocketAddr,
        place: OwnedSemaphorePermit,
        strangers: &Arc<Semaphore>,
    ) -> Option<Self> {
        let connection = stream.get_ref().1;
        if let Err(wrong) = tls::require_alpn(connection) {
            tracing::debug!(%remote, %wrong, "connection refused");
            return None;
        }
        let owned = |chain: &[CertificateDer<'_>]| {
            chain.iter().map(|der| der.clone().into_owned()).collect()
        };
        let certificates: Option<Arc<[_]>> = connection.peer_certificates().map(owned);
        let (ends, stranger) = match certificates {
            Some(_) => (None, None),
            None => {
                let Ok(place) = Arc::clone(strangers).try_acquire_owned() else {
                    tracing::warn!(%remote, "too many connections without a certificate");
                    return None;
                };
                (Some(Box::pin(sleep(STRANGER_MAX))), Some(place))
            }
        };
        let info = Connection { remote, certificates, verdict: Arc::default() };
        Some(Self { stream, info, ends, _places: [Some(place), stranger] })
    }
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
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return io::Error::other("the semaphore was closed");
        };
        let (stream, remote) = match net::accept(listener).await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let (config, sender) = (config.load_full(), sender.clone());
        let strangers = Arc::clone(&strangers);
        let _detached = task::spawn("control plane handshake", async move {
            match timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => {
                    let connection = TlsConnection::new(stream, remote, place, &strangers);
                    let Some(connection) = connection else { return };
                    // Nobody takes it when the server has ended.
                    let _taken = sender.send(Ok(connection)).await;
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
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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
