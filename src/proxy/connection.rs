//! The way of one connection: accept → detect what it speaks → identify the peer → serve its requests
//! until it ends, is drained, grows too old, or its peer's certificate ends.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    acceptor::Counted,
    detect::{Spoken, detect},
    exec::LocalExec,
    expiry,
    io::AnyIo,
    request,
    settings::{
        CONNECTION_WINDOW_BYTES, FIRST_HEAD_MAX, HANDSHAKE_MAX, HEAD_BYTES_MAX, HTTP1_FIELDS_MAX,
        HTTP1_SILENCE_MAX, LATE_FRAMES_MAX, LINGER_BYTES_MAX, LINGER_MAX, PING_AFTER, PONG_WITHIN,
        RESET_STREAMS_MAX, SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
    },
    worker::Worker,
};
use crate::{
    clock,
    task::{self, DrainGuard},
    telemetry::Direction,
    tls::{self, Identity, Peer, Role, Sni, Standing},
    units::ServiceName,
};

/// From where a connection's requests come, for as long as it lives.
pub(super) struct Origin {
    pub(super) worker: Rc<Worker>,
    pub(super) side: Side,
    /// Who dialled.
    pub(super) address: Arc<str>,
    /// `web.shop`: the caller's service, if its identity names one.
    pub(super) caller: Arc<str>,
    /// Whether this process itself dialled.
    pub(super) looped: bool,
    pub(super) http2: bool,
    /// When it could begin to speak.
    pub(super) opened: Instant,
    /// Requests so far.
    pub(super) requests: Cell<u64>,
    pub(super) counts: Rc<Counts>,
}

/// On which side of the proxy a connection came in.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// From the application.
    Outbound {
        /// The service and port that the listener leads to.
        fixed: Option<(ServiceName, u16)>,
    },
    /// To the application; by mutual TLS or, without `peer`, in plaintext.
    Inbound { peer: Option<Peer>, sni: Option<Sni> },
}

impl Side {
    pub(super) fn direction(&self) -> Direction {
        match self {
            Self::Outbound { .. } => Direction::Outbound,
            Self::Inbound { .. } => Direction::Inbound,
        }
    }

    pub(super) fn fixed(&self) -> Option<&(ServiceName, u16)> {
        match self {
            Self::Outbound { fixed } => fixed.as_ref(),
            Self::Inbound { .. } => None,
        }
    }

    pub(super) fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Outbound { .. } => None,
            Self::Inbound { peer, .. } => peer.as_ref(),
        }
    }

    pub(super) fn sni(&self) -> Option<&Sni> {
        match self {
            Self::Outbound { .. } => None,
            Self::Inbound { sni, .. } => sni.as_ref(),
        }
    }
}

impl Origin {
    /// Of what is spoken inside a tunnel on it.
    pub(super) fn inside(&self, spoken: Spoken) -> Rc<Self> {
        Rc::new(Self {
            worker: Rc::clone(&self.worker),
            side: self.side.clone(),
            address: Arc::clone(&self.address),
            caller: Arc::clone(&self.caller),
            looped: self.looped,
            http2: spoken == Spoken::Http2,
            opened: Instant::now(),
            requests: Cell::new(0),
            counts: Rc::clone(&self.counts),
        })
    }

    /// Whether nobody knows who dialled: such a connection must not stay without a request.
    fn is_stranger(&self) -> bool {
        matches!(self.side, Side::Inbound { peer: None, .. })
    }

    /// As in records.
    pub(super) fn protocol(&self) -> &'static str {
        if self.http2 { "h2" } else { "http/1.1" }
    }
}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) io: AnyIo,
    pub(super) side: Side,
    pub(super) address: Arc<str>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) counts: Counts,
}

/// What counts a connection as open, tunnels in it included.
pub(super) struct Counts {
    pub(super) guard: DrainGuard,
    pub(super) _of_side: Counted,
    pub(super) _of_worker: Counted,
}

/// Serves one connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { io, side, address, peer, counts } = accepted;
    let (counts, opened) = (Rc::new(counts), Instant::now());
    let (spoken, io) = match detect(io).await {
        Ok(detected) => detected,
        Err(error) => return tracing::debug!(%address, %error, "no request came"),
    };
    // Not before it has spoken: the one who dials notes its socket only once it is connected.
    let looped = peer.is_some_and(|peer| worker.core.own_sockets.contains(peer));
    let origin = |side: Side, spoken| {
        let caller = side.peer().map_or_else(String::new, |peer| {
            peer.id.service().map_or_else(|| peer.id.to_string(), |service| service.to_string())
        });
        Rc::new(Origin {
            worker: Rc::clone(&worker),
            side,
            address: Arc::clone(&address),
            caller: caller.into(),
            looped,
            http2: spoken == Spoken::Http2,
            opened,
            requests: Cell::new(0),
            counts: Rc::clone(&counts),
        })
    };
    match (&side, spoken) {
        (_, Spoken::Http1 | Spoken::Http2) => {
            http(origin(side, spoken), Box::new(io), spoken, None).await;
        }
        (Side::Inbound { .. }, Spoken::Tls) => {
            match identify(&worker, Box::new(io), opened + HANDSHAKE_MAX).await {
                Ok(identified) => {
                    let Identified { io, peer, sni, proof } = identified;
                    let side = Side::Inbound { peer: Some(peer), sni: Some(sni) };
                    http(origin(side, Spoken::Http2), io, Spoken::Http2, Some(proof)).await;
                }
                Err(error) => tracing::info!(%address, %error, "a connection was refused"),
            }
        }
        (Side::Outbound { .. }, Spoken::Tls) => {
            refuse_tls(Box::new(io)).await;
            tracing::warn!(%address, "the application speaks TLS to the sidecar; mesh names take \
                plaintext, the sidecar encrypts");
        }
        (_, Spoken::Other) => tracing::info!(%address, "a connection spoke neither HTTP nor TLS"),
    }
}

/// Tells a TLS client that there is none here (RFC 8446 section 6: a fatal `handshake_failure`).
pub(super) async fn refuse_tls(mut io: AnyIo) {
    let alert = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];
    // Whether it is heard changes nothing: the connection ends.
    drop(timeout(HANDSHAKE_MAX, io.write_all(&alert)).await);
    linger(io).await;
}

/// Ends a connection so that its peer hears the last word. Closing a socket with unread bytes resets
/// it, and a peer that writes then sees the reset before the alert that says why.
async fn linger(mut io: AnyIo) {
    let read = async {
        io.shutdown().await?;
        let mut rest = io.take(LINGER_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    drop(timeout(LINGER_MAX, read).await);
}

struct Identified {
    io: AnyIo,
    peer: Peer,
    sni: Sni,
    proof: Proof,
}

/// What keeps a TLS connection alive.
pub(super) struct Proof {
    identity: Arc<Identity>,
    chain: Vec<CertificateDer<'static>>,
    not_after: std::time::SystemTime,
}

#[derive(Debug, thiserror::Error)]
enum IdentifyError {
    #[error("this sidecar has no certificate")]
    NoCertificate,
    #[error("the TLS handshake took too long")]
    Silent,
    #[error("the TLS handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error(transparent)]
    Peer(#[from] tls::PeerError),
    #[error("the server name {0:?} {1}")]
    Sni(String, tls::SniError),
}

/// Mutual TLS, and who the peer is.
async fn identify(worker: &Worker, io: AnyIo, by: Instant) -> Result<Identified, IdentifyError> {
    let metrics = worker.core.telemetry.metrics();
    let identified = handshake(worker, io, by).await;
    let failure = identified.as_ref().err().map(|error| match error {
        IdentifyError::NoCertificate => "no_certificate",
        IdentifyError::Silent => "timeout",
        IdentifyError::Handshake(error) if tls::identity_failure(error).is_some() => "identity",
        IdentifyError::Handshake(_) => "handshake",
        IdentifyError::Peer(_) => "peer",
        IdentifyError::Sni(..) => "server_name",
    });
    metrics.handshake(Direction::Inbound, failure);
    identified
}

async fn handshake(worker: &Worker, io: AnyIo, by: Instant) -> Result<Identified, IdentifyError> {
    let identity = worker.core.identity.as_ref().ok_or(IdentifyError::NoCertificate)?;
    let acceptor = TlsAcceptor::from(identity.server_config());
    let accepted = timeout_at(by, acceptor.accept(io).into_fallible()).await;
    let stream = match accepted.map_err(|_| IdentifyError::Silent)? {
        Ok(stream) => stream,
        Err((error, io)) => {
            let _runs_on = task::spawn_local("linger", linger(io));
            return Err(IdentifyError::Handshake(error));
        }
    };
    let (_, connection) = stream.get_ref();
    tls::require_alpn(connection)?;
    let chain = connection.peer_certificates().unwrap_or_default().to_vec();
    let peer = tls::peer(&chain)?;
    let name = connection.server_name().unwrap_or_default();
    let sni = name.parse().map_err(|error| IdentifyError::Sni(name.to_owned(), error))?;
    let proof = Proof { identity: Arc::clone(identity), chain, not_after: peer.not_after };
    Ok(Identified { io: Box::new(stream), peer, sni, proof })
}

/// Serves HTTP of either version.
pub(super) async fn http(origin: Rc<Origin>, io: AnyIo, spoken: Spoken, proof: Option<Proof>) {
    let metrics = origin.worker.core.telemetry.metrics();
    let _open = metrics.connection(origin.side.direction(), origin.protocol(), proof.is_some());
    let io = TokioIo::new(io);
    let service = {
        let origin = Rc::clone(&origin);
        service_fn(move |request| request::serve(Rc::clone(&origin), request))
    };
    if spoken == Spoken::Http2 {
        let connection = http2_server().serve_connection(io, service);
        live(&origin, connection, http2::Connection::graceful_shutdown, proof).await;
    } else {
        let mut server = http1_server();
        // A connection that comes in while draining has its one request served first.
        server.keep_alive(!origin.counts.guard.draining());
        let connection = server.serve_connection(io, service).with_upgrades();
        live(&origin, connection, http1::UpgradeableConnection::graceful_shutdown, proof).await;
    }
}

fn http2_server() -> http2::Builder<LocalExec> {
    let mut server = http2::Builder::new(LocalExec);
    server
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(LATE_FRAMES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .auto_date_header(false);
    server
}

fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP1_SILENCE_MAX)
        .max_headers(HTTP1_FIELDS_MAX)
        .max_header_size(usize::try_from(HEAD_BYTES_MAX).unwrap_or(usize::MAX))
        .auto_date_header(false);
    server
}

/// Drives a connection until it has ended, and asks it to end in order when it is time.
async fn live<C>(
    origin: &Origin,
    connection: C,
    end_in_order: impl Fn(Pin<&mut C>),
    proof: Option<Proof>,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let not_after = proof.as_ref().map(|proof| proof.not_after);
    let age_max = origin.worker.core.settings.connection_age_max;
    let retire_at = expiry::retirement(age_max, not_after, fastrand::u64(..));
    let first_head_by = origin.opened + FIRST_HEAD_MAX;
    let mut connection = pin!(connection);
    let (mut draining, mut retiring) =
        (pin!(origin.counts.guard.signalled()), pin!(sleep_until(retire_at)));
    let (mut ended, mut distrusted) = (pin!(expiry::wall(not_after)), pin!(distrusted(&proof)));
    let mut unwanted = pin!(unwanted(&proof));
    let mut first_head = pin!(sleep_until(first_head_by));
    let (mut asked, mut waiting) = (false, true);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(address = %origin.address, %error, "a connection broke");
                }
                return;
            }
            () = &mut draining, if !asked => {
                asked = true;
                // hyper would close an HTTP/1.1 connection whose first request is still on its way;
                // that one ends with `keep_alive` off.
                if origin.http2 || origin.requests.get() > 0 {
                    end_in_order(connection.as_mut());
                }
            }
            () = &mut retiring, if !asked => {
                asked = true;
                end_in_order(connection.as_mut());
            }
            () = &mut unwanted, if !asked => {
                asked = true;
                end_in_order(connection.as_mut());
            }
            () = &mut first_head, if waiting => {
                waiting = false;
                if origin.requests.get() == 0 && (!origin.http2 || origin.is_stranger()) {
                    return;
                }
            }
            () = &mut ended => return,
            () = &mut distrusted => {
                tracing::info!(address = %origin.address, "a peer is not trusted any more");
                return;
            }
        }
    }
}

/// Waits until the peer's root is about to be dropped: the connection is to be replaced before.
async fn unwanted(proof: &Option<Proof>) {
    let Some(proof) = proof else { return std::future::pending().await };
    let mut changed = proof.identity.subscribe();
    while changed.changed().await.is_ok() {
        let standing = proof.identity.standing(&proof.chain, Role::Client, clock::now());
        if standing == Ok(Standing::Retiring) {
            return;
        }
    }
    // Nobody exchanges the identity any more.
    sleep(std::time::Duration::MAX).await;
}

/// Waits until the peer's certificates would not be accepted any more.
async fn distrusted(proof: &Option<Proof>) {
    let Some(proof) = proof else { return std::future::pending().await };
    let mut changed = proof.identity.subscribe();
    while changed.changed().await.is_ok() {
        if proof.identity.trusts(&proof.chain, Role::Client, clock::now()).is_err() {
            return;
        }
    }
    // Nobody exchanges the identity any more.
    sleep(std::time::Duration::MAX).await;
}
