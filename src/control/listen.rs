//! Connections of the control plane's port: TCP, the TLS handshake, and what the handshake proved.
//!
//! Handshakes run beside each other and within a bounded time. They have places of their own, in which
//! the oldest makes room for the next, so that whoever opens connections and says nothing keeps nobody
//! out. Connections are bounded as a whole, and for each identity, so that none takes all the places.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
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
/// Connections of one identity: a service may have hundreds of instances with a few each.
const CONNECTIONS_PER_IDENTITY_MAX: u32 = 2_500;
/// Handshakes at once.
const HANDSHAKES_MAX: usize = 1_024;
/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// For how long one that failed is heard out.
const HEARD_OUT_MAX: Duration = Duration::from_secs(1);
/// Up to how much.
const HEARD_OUT_BYTES_MAX: usize = 64 << 10;
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
    _place_of_identity: Option<PlaceOfIdentity>,
}

/// How many connections each identity has.
#[derive(Debug, Default)]
struct Identities {
    counts: Mutex<HashMap<String, u32>>,
}

/// A place among the connections of one identity.
#[derive(Debug)]
struct PlaceOfIdentity {
    identities: Arc<Identities>,
    id: String,
}

impl Identities {
    /// `None` when it has too many already.
    fn take(self: &Arc<Self>, id: &str) -> Option<PlaceOfIdentity> {
        let mut counts = lock(&self.counts);
        let count = counts.entry(id.to_owned()).or_default();
        if *count >= CONNECTIONS_PER_IDENTITY_MAX {
            return None;
        }
        *count += 1;
        Some(PlaceOfIdentity { identities: Arc::clone(self), id: id.to_owned() })
    }
}

impl Drop for PlaceOfIdentity {
    fn drop(&mut self) {
        let mut counts = lock(&self.identities.counts);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

/// Handshakes under way, in the order in which they began.
#[derive(Debug, Default)]
struct Handshakes {
    under_way: Mutex<(u64, BTreeMap<u64, CancellationToken>)>,
}

/// One of them.
#[derive(Debug)]
struct Handshake {
    of: Arc<Handshakes>,
    number: u64,
    /// Cancelled when another one needs the place.
    cut: CancellationToken,
}

impl Handshakes {
    fn begin(self: &Arc<Self>) -> Handshake {
        let mut under_way = lock(&self.under_way);
        let (number, all) = &mut *under_way;
        *number += 1;
        if all.len() >= HANDSHAKES_MAX
            && let Some((_, oldest)) = all.pop_first()
        {
            oldest.cancel();
        }
        let cut = CancellationToken::new();
        all.insert(*number, cut.clone());
        Handshake { of: Arc::clone(self), number: *number, cut }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        lock(&self.of.under_way).1.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places of a port.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    identities: Arc<Identities>,
}

impl TlsConnection {
    /// Why the connection may not be: it speaks another protocol, or there is no place for it.
    fn new(
        stream: TlsStream<TcpStream>,
        remote: SocketAddr,
        places: &Places,
    ) -> Result<Self, String> {
        let connection = stream.get_ref().1;
        tls::require_alpn(connection).map_err(|wrong| wrong.to_string())?;
        let owned = |chain: &[CertificateDer<'_>]| {
            chain.iter().map(|der| der.clone().into_owned()).collect()
        };
        let certificates: Option<Arc<[_]>> = connection.peer_certificates().map(owned);
        let place = |of: &Arc<Semaphore>, whose: &str| {
            let place = Arc::clone(of).try_acquire_owned();
            place.map_err(|_| format!("too many connections {whose}"))
        };
        let all = place(&places.all, "")?;
        let (ends, stranger, own) = match &certificates {
            Some(chain) => {
                let id = tls::peer(chain).map_err(|wrong| wrong.to_string())?.id;
                let own = places.identities.take(id.as_str());
                let own = own.ok_or_else(|| format!("too many connections of {id}"))?;
                (None, None, Some(own))
            }
            None => {
                let stranger = place(&places.strangers, "without a certificate")?;
                (Some(Box::pin(sleep(STRANGER_MAX))), Some(stranger), None)
            }
        };
        let (verdict, end) = (Arc::default(), Arc::default());
        let info = Connection { remote, certificates, verdict, end };
        Ok(Self { stream, info, ends, _places: [Some(all), stranger], _place_of_identity: own })
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
    let places = Arc::new(Places {
        all: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        identities: Arc::default(),
    });
    let handshakes = Arc::<Handshakes>::default();
    loop {
        let (stream, remote) = match net::accept(listener).await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let (config, sender) = (config.load_full(), sender.clone());
        let (places, handshake) = (Arc::clone(&places), handshakes.begin());
        let _detached = task::spawn("control plane handshake", async move {
            let accepting = timeout(HANDSHAKE_MAX, handshake_with(stream, config));
            let accepted = tokio::select! {
                accepted = accepting => accepted,
                () = handshake.cut.cancelled() => {
                    tracing::debug!(%remote, "handshake cut: too many are under way");
                    return;
                }
            };
            drop(handshake);
            match accepted {
                Ok(Ok(stream)) => match TlsConnection::new(stream, remote, &places) {
                    // Nobody takes it when the server has ended.
                    Ok(connection) => {
                        let _taken = sender.send(Ok(connection)).await;
                    }
                    Err(why) => tracing::warn!(%remote, why, "connection refused"),
                },
                Ok(Err(error)) => tracing::debug!(%remote, %error, "handshake failed"),
                Err(_) => tracing::debug!(%remote, "handshake took too long"),
            }
        });
    }
}

/// One that fails is heard out: a client proves itself with its last message and goes on with its first
/// request. To close upon that would reset the connection, and the alert that says why would be lost.
async fn handshake_with(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible().await;
    let (error, mut stream) = match accepted {
        Ok(accepted) => return Ok(accepted),
        Err(failed) => failed,
    };
    let hear_out = async {
        stream.shutdown().await?;
        let mut heard = [0; 4096];
        let mut left = HEARD_OUT_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut heard).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    // It is refused in any case.
    let _heard = timeout(HEARD_OUT_MAX, hear_out).await;
    Err(error)
}

impl Connected for TlsConnection {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.info.clone()
    }
}

impl Drop for TlsConnection {
    fn drop(&mut self) {
        self.info.end.ended();
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
        let before = buffer.remaining();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(read) = &read {
            self.info.end.note(read.as_ref().map(|()| before - buffer.remaining()), before);
        }
        read
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CONNECTIONS_PER_IDENTITY_MAX, HANDSHAKES_MAX, Handshakes, Identities};

    #[test]
    fn the_oldest_handshake_makes_room() {
        let handshakes = Arc::<Handshakes>::default();
        let mut all: Vec<_> = (0..HANDSHAKES_MAX).map(|_| handshakes.begin()).collect();
        assert!(all.iter().all(|handshake| !handshake.cut.is_cancelled()));
        drop(all.remove(7));
        let _room = handshakes.begin();
        assert!(!all[0].cut.is_cancelled(), "there was room");
        let _next = handshakes.begin();
        assert!(all[0].cut.is_cancelled() && !all[1].cut.is_cancelled());
    }

    #[test]
    fn one_identity_does_not_take_every_place() {
        let identities = Arc::<Identities>::default();
        let places: Vec<_> =
            (0..CONNECTIONS_PER_IDENTITY_MAX).filter_map(|_| identities.take("a")).collect();
        assert_eq!(places.len(), 2_500);
        assert!(identities.take("a").is_none() && identities.take("b").is_some());
        drop(places);
        assert!(identities.take("a").is_some());
    }
}
