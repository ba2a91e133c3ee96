//! The way of one connection: accept → detect what it speaks → identify the peer → serve its requests
//! until it ends, is drained, grows too old, or its peer's certificate ends.

use std::{cell::Cell, rc::Rc, sync::Arc, time::SystemTime};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    acceptor::Counted,
    codec::Codec,
    detect::{DetectError, Spoken, detect},
    ends::Ends,
    expiry,
    host::{End, Host, Outlook, Refusal},
    io::{Rewind, Socket, linger},
    link::Link,
    memory::Once,
    opaque::{self, Near, Target},
    outbound::{self, Destination},
    request, room,
    settings::{FIRST_HEAD_MAX, HANDSHAKE_MAX, http1_server, http2_server},
    stream::Incoming,
    tasks::Story,
    wire::Wire,
    worker::Worker,
};
use crate::{
    clock,
    http::{StreamError, answer::Rejection},
    http1, http2,
    reason::Reason,
    task::{self, DrainGuard},
    telemetry::{Direction, metrics::InFlight},
    tls::{self, Carried, Identity, Peer, Role, Sni},
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
    pub(super) once: Once,
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
            once: Once::default(),
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
    pub(super) socket: Socket,
    pub(super) side: Side,
    pub(super) address: Arc<str>,
    pub(super) ends: Option<Ends>,
    pub(super) counts: Counts,
}

/// What counts a connection as open, tunnels in it included.
pub(super) struct Counts {
    pub(super) guard: DrainGuard,
    pub(super) _of_side: Counted,
    pub(super) _of_worker: Counted,
}

/// Serves one connection to its end. What opening it takes is in a box of its own, which is gone by
/// then: connections are idle for long, and so hold little.
pub(super) fn serve(worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> {
    let opened = Box::pin(open(worker, accepted));
    async move {
        // Counted until its peer has heard the last word.
        if let Some((link, _counts)) = opened.await {
            link.run().await;
        }
    }
}

/// Finds out what is spoken and by whom; `None`: nothing is to be served.
async fn open(worker: Rc<Worker>, accepted: Accepted) -> Option<(Rc<Link>, Rc<Counts>)> {
    let Accepted { socket, side, address, ends, counts } = accepted;
    let (counts, opened) = (Rc::new(counts), Instant::now());
    let leads_to = match side.fixed() {
        Some(fixed) => opaque_target(&worker, fixed).await,
        None => None,
    };
    let heard = hear(socket, leads_to.as_ref()).await;
    let silent = |error| tracing::debug!(%address, %error, "no request came");
    let (spoken, io) = heard.map_err(silent).ok()?;
    // Not before it has spoken: the one who dials notes its socket only once it is connected.
    let looped = ends.is_some_and(|ends| worker.core.own_sockets.contains(ends));
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
            once: Once::default(),
            counts: Rc::clone(&counts),
        })
    };
    match (&side, spoken) {
        (_, Spoken::Http1 | Spoken::Http2) => {
            return Some((http(origin(side, spoken), plain(io), spoken, None), counts));
        }
        (Side::Inbound { .. }, Spoken::Tls) => {
            match identify(&worker, io, opened + HANDSHAKE_MAX).await {
                Ok(identified) => {
                    let Identified { wire, peer, sni, proof, carried } = identified;
                    let side = Side::Inbound { peer: Some(peer), sni: Some(sni) };
                    let origin = origin(side, Spoken::Http2);
                    match carried {
                        Carried::Requests => {
                            let link = http(origin, wire, Spoken::Http2, Some(proof));
                            return Some((link, counts));
                        }
                        Carried::Bytes => Box::pin(opaque::inbound(origin, wire, proof)).await,
                    }
                }
                Err(error) => tracing::info!(%address, %error, "a connection was refused"),
            }
        }
        (Side::Outbound { .. }, Spoken::Tls) => {
            refuse_tls(io.into_parts().1).await;
            tracing::warn!(%address, "the application speaks TLS to the sidecar; mesh names take \
                plaintext, the sidecar encrypts");
        }
        (_, Spoken::Other) => {
            let Some(target) = leads_to else {
                tracing::info!(%address, "a connection spoke neither HTTP nor TLS");
                return None;
            };
            let authority = side.fixed().map(|(service, port)| format!("{service}:{port}"));
            let exchange = opaque::begin(&origin(side, spoken), &authority.unwrap_or_default());
            Box::pin(opaque::outbound(exchange, target, Near::Open(plain(io)))).await;
        }
    }
    None
}

/// What is spoken. Where bytes are taken for what they are, the server may be the first to speak.
async fn hear(
    socket: Socket,
    leads_to: Option<&Target>,
) -> Result<(Spoken, Rewind<Socket>), DetectError> {
    if leads_to.is_some_and(Target::is_opaque) {
        return Ok((Spoken::Other, Rewind::new(Bytes::new(), socket)));
    }
    detect(socket).await
}

/// What a listener leads to, if that is there.
async fn opaque_target(worker: &Worker, fixed: &(ServiceName, u16)) -> Option<Target> {
    match outbound::resolve(&worker.core, Some(fixed), "").await {
        Ok(Destination::Mesh { running, service, port }) => Some(Target { running, service, port }),
        // Whoever speaks HTTP is told why.
        Ok(Destination::External { .. }) | Err(_) => None,
    }
}

/// What was read to see what is spoken, and the rest.
pub(super) fn plain(io: Rewind<Socket>) -> Wire {
    let (first, socket) = io.into_parts();
    Wire::plain(socket, first.into())
}

/// Tells a TLS client that there is none here (RFC 8446 section 6: a fatal `handshake_failure`).
pub(super) async fn refuse_tls(mut socket: Socket) {
    let alert = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];
    // Whether it is heard changes nothing: the connection ends.
    drop(timeout(HANDSHAKE_MAX, socket.write_all(&alert)).await);
    linger(socket).await;
}

struct Identified {
    wire: Wire,
    peer: Peer,
    sni: Sni,
    proof: Proof,
    carried: Carried,
}

/// What keeps a TLS connection alive.
pub(super) struct Proof {
    pub(super) identity: Arc<Identity>,
    pub(super) not_after: SystemTime,
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
async fn identify(
    worker: &Worker,
    io: Rewind<Socket>,
    by: Instant,
) -> Result<Identified, IdentifyError> {
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

async fn handshake(
    worker: &Worker,
    io: Rewind<Socket>,
    by: Instant,
) -> Result<Identified, IdentifyError> {
    let identity = worker.core.identity.as_ref().ok_or(IdentifyError::NoCertificate)?;
    let acceptor = TlsAcceptor::from(identity.server_config());
    let accept = worker.hub.paced(acceptor.accept(io).into_fallible());
    let accepted = timeout_at(by, accept).await;
    let stream = match accepted.map_err(|_| IdentifyError::Silent)? {
        Ok(stream) => stream,
        Err((error, io)) => {
            let _runs_on = task::spawn_local("linger", linger(io.into_parts().1));
            return Err(IdentifyError::Handshake(error));
        }
    };
    let (io, connection) = stream.into_inner();
    let carried = tls::carried(&connection)?;
    let peer = tls::peer(connection.peer_certificates().unwrap_or_default())?;
    let name = connection.server_name().unwrap_or_default();
    let sni = name.parse().map_err(|error| IdentifyError::Sni(name.to_owned(), error))?;
    let proof = Proof { identity: Arc::clone(identity), not_after: peer.not_after };
    let (first, socket) = io.into_parts();
    let wire = Wire::sealed(socket, connection.into(), first.into());
    Ok(Identified { wire, peer, sni, proof, carried })
}

/// An accepted connection that carries requests.
struct Served {
    origin: Rc<Origin>,
    proof: Option<Proof>,
    /// Of a peer that has to prove anew who it is. Others are let be: a client that has no reason to
    /// expect GOAWAY may lose the call that crosses it.
    retire_at: Option<Instant>,
    _open: InFlight,
}

/// HTTP of either version, to be served by [`Link::run`].
pub(super) fn http(
    origin: Rc<Origin>,
    wire: Wire,
    spoken: Spoken,
    proof: Option<Proof>,
) -> Rc<Link> {
    let metrics = origin.worker.core.telemetry.metrics();
    let open = metrics.connection(origin.side.direction(), origin.protocol(), proof.is_some());
    let hub = Rc::clone(&origin.worker.hub);
    let now = hub.now().into_std();
    let codec = if spoken == Spoken::Http2 {
        Codec::Http2(Box::new(http2::Connection::server(&http2_server(proof.is_some()), now)))
    } else {
        Codec::Http1(Box::new(http1::Connection::server(&http1_server(), now)))
    };
    let age_max = origin.worker.core.settings.connection_age_max;
    let retire_at = proof
        .as_ref()
        .map(|proof| expiry::retirement(age_max, Some(proof.not_after), fastrand::u64(..)));
    let served = Served { origin, proof, retire_at, _open: open };
    Link::new(&hub, End::Near(Box::new(served)), codec, wire)
}

impl Host for Served {
    fn serve(&self, incoming: Incoming) -> Story {
        let rooms = &self.origin.worker.hub.tasks;
        let mut room = rooms.room().unwrap_or_else(|| room::new(request::serve));
        room.as_mut().begin(Rc::clone(&self.origin), incoming);
        Story::Usual(room)
    }

    fn refuse(&self, incoming: Incoming, why: Refusal) -> Story {
        let origin = Rc::clone(&self.origin);
        Story::Other(Box::pin(async move {
            let (reason, what) = match why {
                Refusal::Overloaded => {
                    (Reason::Overloaded, "too much waits here for slow readers".to_owned())
                }
                Refusal::Draining => (Reason::Draining, request::DRAINING.to_owned()),
                Refusal::Head(error @ StreamError::HeadTooLarge) => {
                    (Reason::HeadersTooLarge, error.to_string())
                }
                Refusal::Head(error) => (Reason::Malformed, error.to_string()),
            };
            let rejection = Rejection::unseen(reason, what);
            request::refuse(&origin, incoming.head, &incoming.caller, &rejection);
        }))
    }

    fn outlook(&self) -> Outlook {
        let origin = &self.origin;
        let expired = |proof: &Proof| clock::now() >= proof.not_after;
        if self.proof.as_ref().is_some_and(expired) {
            return Outlook::Cut;
        }
        let (now, unused) = (Instant::now(), origin.requests.get() == 0);
        if unused
            && now >= origin.opened + FIRST_HEAD_MAX
            && (!origin.http2 || origin.is_stranger())
        {
            return Outlook::Cut;
        }
        // An HTTP/1.1 connection whose first request is still on its way has it served.
        let draining = origin.counts.guard.draining() && (origin.http2 || !unused);
        let aged = self.retire_at.is_some_and(|end| now >= end);
        if draining || aged { Outlook::Retire } else { Outlook::Stay }
    }

    fn is_cut_off(&self) -> bool {
        self.origin.worker.core.cut_off.started()
    }

    fn standing(&self, shown: &[CertificateDer<'_>]) -> Outlook {
        let Some(proof) = &self.proof else { return Outlook::Stay };
        let standing = proof.identity.standing(shown, Role::Client, clock::now()).ok();
        if standing.is_none() {
            tracing::info!(address = %self.origin.address, "a peer is not trusted any more");
        }
        Outlook::of(standing)
    }

    fn name(&self) -> &str {
        &self.origin.address
    }
}
