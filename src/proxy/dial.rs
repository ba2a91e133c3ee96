//! Opening a connection to an endpoint: TCP or a Unix socket, and mutual TLS where the endpoint is a
//! sidecar, all within one bound. What goes wrong becomes the reason that the caller is told.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::ClientConnection;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    ends::{Ends, OwnSocket, OwnSockets},
    io::Socket,
    settings::Address,
};
use crate::{
    net::{self, ConnectError},
    reason::Reason,
    spiffe::SpiffeId,
    telemetry::{Direction, Metrics},
    tls::{self, Carried, Identity, Sni, Standing},
    units::ServiceName,
};

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Where {
    /// An address.
    Ip(SocketAddr),
    /// `host:port`, looked up when dialled.
    Name(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<&Address> for Where {
    fn from(address: &Address) -> Self {
        match address {
            Address::Tcp(address) => Self::Ip(*address),
            Address::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whom TLS must find there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Expected {
    /// What the peer must prove.
    pub(super) identity: SpiffeId,
    /// Which service is meant.
    pub(super) service: ServiceName,
    /// Which of its ports.
    pub(super) port: u16,
}

/// Who a connection's peer has proved to be.
#[derive(Debug)]
pub(super) struct Proof {
    /// When its certificate ends.
    pub(super) not_after: SystemTime,
}

/// An open connection.
pub(super) struct Dialled {
    pub(super) socket: Socket,
    /// Whose handshake is done.
    pub(super) tls: Option<ClientConnection>,
    /// With TLS only.
    pub(super) proof: Option<Proof>,
    /// Kept as long as the connection.
    pub(super) own: Option<OwnSocket>,
}

/// Why there is none.
#[derive(Debug, Clone)]
pub(super) struct DialError {
    pub(super) reason: Reason,
    pub(super) what: String,
}

/// Opens connections for one process.
#[derive(Debug)]
pub(super) struct Dialer {
    identity: Option<Arc<Identity>>,
    own: Arc<OwnSockets>,
    metrics: Metrics,
}

impl Dialer {
    pub(super) fn new(
        identity: Option<Arc<Identity>>,
        own: Arc<OwnSockets>,
        metrics: Metrics,
    ) -> Self {
        Self { identity, own, metrics }
    }

    /// How a peer that showed `chain` stands; `None` when it would not be accepted any more.
    pub(super) fn standing(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Option<Standing> {
        self.identity.as_ref()?.standing(chain, tls::Role::Server, now).ok()
    }

    /// Connects within `bound`, for requests.
    pub(super) async fn dial(
        &self,
        to: &Where,
        expected: Option<&Expected>,
        bound: Duration,
    ) -> Result<Dialled, DialError> {
        self.dial_for(Carried::Requests, to, expected, bound).await
    }

    /// Connects within `bound`, for what is said.
    pub(super) async fn dial_for(
        &self,
        carried: Carried,
        to: &Where,
        expected: Option<&Expected>,
        bound: Duration,
    ) -> Result<Dialled, DialError> {
        let end = Instant::now() + bound;
        let tcp = match to {
            Where::Ip(address) => net::connect(*address, bound).await,
            Where::Name(name) => net::connect_host(name, bound).await,
            Where::Unix(path) => return self.unix(path, expected, bound).await,
        };
        let tcp = tcp.map_err(|error| connect_error(&error))?;
        let Some(expected) = expected else {
            let own = Ends::of(&tcp).map(|ends| OwnSocket::new(&self.own, ends));
            return Ok(Dialled { socket: Socket::Tcp(tcp), tls: None, proof: None, own });
        };
        let handshake = self.handshake(carried, to, tcp, expected);
        let dialled = timeout_at(end, handshake).await.unwrap_or_else(|_| {
            let what = format!("no TLS with {to} within {}s", bound.as_secs_f64());
            Err(DialError { reason: Reason::ConnectTimeout, what })
        });
        let failure = dialled.as_ref().err().map(|error| match error.reason {
            Reason::NotReady => "no_certificate",
            Reason::ConnectTimeout => "timeout",
            Reason::PeerIdentity => "identity",
            _ => "handshake",
        });
        self.metrics.handshake(Direction::Outbound, failure);
        dialled
    }

    async fn unix(
        &self,
        path: &Path,
        expected: Option<&Expected>,
        bound: Duration,
    ) -> Result<Dialled, DialError> {
        debug_assert!(expected.is_none(), "sidecars are reached by TCP");
        let to = path.display();
        match timeout(bound, UnixStream::connect(path)).await {
            Ok(Ok(unix)) => {
                Ok(Dialled { socket: Socket::Unix(unix), tls: None, proof: None, own: None })
            }
            Ok(Err(error)) => Err(DialError {
                reason: Reason::ConnectFailed,
                what: format!("can not connect to unix:{to}: {error}"),
            }),
            Err(_) => Err(DialError {
                reason: Reason::ConnectTimeout,
                what: format!("no connection to unix:{to} within {}s", bound.as_secs_f64()),
            }),
        }
    }

    async fn handshake(
        &self,
        carried: Carried,
        to: &Where,
        tcp: TcpStream,
        expected: &Expected,
    ) -> Result<Dialled, DialError> {
        let identity = self.identity.as_ref().ok_or_else(|| DialError {
            reason: Reason::NotReady,
            what: "this sidecar has no certificate".to_owned(),
        })?;
        let wrong = |what: String| DialError {
            reason: Reason::PeerIdentity,
            what: format!("{to}: {what}"),
        };
        let sni = Sni { port: expected.port, service: expected.service.clone() };
        let name = sni.server_name().map_err(|error| wrong(error.to_string()))?;
        let connector = TlsConnector::from(identity.client_config(&expected.identity));
        let connector = connector.with_alpn(vec![carried.alpn().to_vec()]);
        let stream = connector.connect(name, tcp).await.map_err(|error| {
            tls::identity_failure(&error).map_or_else(
                || DialError {
                    reason: Reason::ConnectFailed,
                    what: format!("no TLS with {to}: {error}"),
                },
                wrong,
            )
        })?;
        let (_, connection) = stream.get_ref();
        match tls::carried(connection) {
            Ok(agreed) if agreed == carried => {}
            Ok(_) => return Err(wrong(tls::PeerError::Alpn.to_string())),
            Err(error) => return Err(wrong(error.to_string())),
        }
        let chain = connection.peer_certificates().unwrap_or_default();
        let peer = tls::peer(chain).map_err(|error| wrong(error.to_string()))?;
        let (tcp, tls) = stream.into_inner();
        Ok(Dialled {
            socket: Socket::Tcp(tcp),
            tls: Some(tls),
            proof: Some(Proof { not_after: peer.not_after }),
            own: None,
        })
    }
}

fn connect_error(error: &ConnectError) -> DialError {
    match error {
        ConnectError::Timeout { .. } => {
            DialError { reason: Reason::ConnectTimeout, what: error.to_string() }
        }
        ConnectError::Name { to, source } if !to.contains('.') => {
            let what = format!("{error}: {source}; no service of the mesh has this name either");
            DialError { reason: Reason::ConnectFailed, what }
        }
        ConnectError::Refused { source, .. } | ConnectError::Name { source, .. } => {
            DialError { reason: Reason::ConnectFailed, what: format!("{error}: {source}") }
        }
    }
}
