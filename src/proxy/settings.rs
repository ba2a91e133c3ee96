//! What a proxy is started with, and every fixed limit of the data plane with its reason. What may
//! change while it runs is in the snapshot.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use super::pressure;
use crate::{http1, http2, units::ServiceName};

/// What a proxy is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The service beside it.
    pub service: ServiceName,
    /// Where other sidecars come in; `None`: nobody does.
    pub inbound: Option<SocketAddr>,
    /// Where the application goes out; `None`: only by `upstreams`.
    pub outbound: Option<SocketAddr>,
    /// Local addresses that lead to one service each.
    pub upstreams: Vec<Upstream>,
    /// Where the application listens.
    pub apps: Vec<App>,
    /// How many threads serve; at least one.
    pub workers: usize,
    /// The longest life of a connection, after which it ends in order. Each one gets up to a tenth
    /// less, so that they do not end together.
    pub connection_age_max: Duration,
    /// The proxy through which names outside the mesh are reached, `host:port`, from the environment
    /// that the application would have used.
    pub external_proxy: Option<String>,
    /// Hosts, or with a leading dot domains, that are reached without `external_proxy`.
    pub external_direct: Vec<String>,
    /// Bytes of bodies that may wait in the process for slow readers or for another attempt. By
    /// default a quarter of the memory that the system lets it have, and at most 256 MiB.
    pub waiting_bytes_max: usize,
}

impl Settings {
    /// Of a sidecar without listeners, with every other default.
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            inbound: None,
            outbound: None,
            upstreams: Vec::new(),
            apps: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            connection_age_max: CONNECTION_AGE_MAX,
            external_proxy: None,
            external_direct: Vec::new(),
            waiting_bytes_max: pressure::waiting_max(),
        }
    }

    /// Where the application's own port `local` is, which callers name `number`.
    pub(super) fn app(&self, number: u16, local: u16) -> Address {
        let by_address = self.apps.iter().find(|app| app.address.port() == Some(local));
        let by_number =
            || self.apps.iter().find(|app| app.port.parse().is_ok_and(|own: u16| own == number));
        let only = || match self.apps.as_slice() {
            [app] if app.address.port().is_none() => Some(app),
            _ => None,
        };
        let app = by_address.or_else(by_number).or_else(only);
        app.map_or_else(
            || Address::Tcp(SocketAddr::from(([127, 0, 0, 1], local))),
            |app| app.address.clone(),
        )
    }
}

/// A local address that leads to one port of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Where the application dials.
    pub listen: Address,
}

/// One port of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// The service port's name, or its number in decimal.
    pub port: String,
    /// Where the application listens.
    pub address: Address,
}

/// Where somebody listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The longest life of a connection by default.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long a peer may take to say which protocol it speaks, and for the TLS handshake.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a refused connection is read from, so that its peer hears why.
pub(super) const LINGER_MAX: Duration = Duration::from_secs(1);
/// And how much is read of it.
pub(super) const LINGER_BYTES_MAX: u64 = 64 * 1024;
/// How long a connection may be open without a whole first request head.
pub(super) const FIRST_HEAD_MAX: Duration = Duration::from_secs(15);
/// How long an HTTP/1.1 connection may be silent between requests, or take for a head: longer than
/// the 60 s after which most clients let go, so that it is rarely we who close under a request.
pub(super) const HTTP1_SILENCE_MAX: Duration = Duration::from_secs(75);
/// How long a connection of ours to an HTTP/1.1 application stays without a request: shorter than the
/// keep-alive of most servers (Node 5 s, most others 60 s or more). gunicorn's 2 s are shorter still:
/// there it may be the application that closes first.
pub(super) const HTTP1_IDLE_MAX: Duration = Duration::from_secs(4);
/// How long an HTTP/2 connection of ours stays without a stream.
pub(super) const HTTP2_IDLE_MAX: Duration = Duration::from_secs(90);
/// What a sender may have under way on one stream, and so the most of it that waits here.
pub(super) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same while much waits: what a slow reader costs then, and with a thousand of them all the rest.
pub(super) const STREAM_WINDOW_TIGHT_BYTES: u32 = 32 * 1024;
/// Bytes of bodies that may wait in the process where its memory has no limit.
pub(super) const WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a tunnel may be silent in both directions.
pub(super) const TUNNEL_IDLE_MAX: Duration = Duration::from_secs(3600);
/// Streams that a peer may open on one connection.
pub(super) const STREAMS_MAX: u32 = 256;
/// The greatest request or response head.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// After so long without a frame a peer is asked whether it is still there.
pub(super) const PING_AFTER: Duration = Duration::from_secs(20);
/// How long it may take to answer that.
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(10);
/// How much of a request body is kept for another attempt.
pub(super) const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// How long a request waits for configuration or for the first answer about a service.
pub(super) const FIRST_ANSWER_MAX: Duration = Duration::from_secs(2);
/// HTTP/2 connections of one worker to one endpoint; beyond that streams wait on the emptiest one.
pub(super) const HTTP2_CONNECTIONS_MAX: usize = 64;
/// HTTP/2 connections of one worker to one endpoint beyond which none is opened only because the windows
/// of the others are spent.
pub(super) const HELD_UP_CONNECTIONS_MAX: usize = 8;
/// Idle HTTP/1.1 connections of one worker to one endpoint.
pub(super) const HTTP1_IDLE_CONNECTIONS_MAX: usize = 64;
/// How often idle and aged connections are looked for.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long before a peer's certificate ends its connection takes no new requests.
pub(super) const EXPIRY_GRACE: Duration = Duration::from_secs(30);
/// Connections that one side takes at a time.
pub(super) const CONNECTIONS_MAX: usize = 16 * 1024;
/// Sockets that a worker has been handed and not looked at.
pub(super) const HANDED_MAX: usize = 256;
/// How long an acceptor pauses after an error that is no single connection's.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a limit that is exceeded again and again is told.
pub(super) const WARN_EVERY: Duration = Duration::from_secs(10);
/// How long those that are left when draining ends have to hear of it.
pub(super) const CUT_OFF_MAX: Duration = Duration::from_millis(500);
/// TCP to the own application, which is on the same machine.
pub(super) const APP_CONNECT_MAX: Duration = Duration::from_secs(1);
/// TCP to names outside the mesh.
pub(super) const EXTERNAL_CONNECT_MAX: Duration = Duration::from_secs(10);

/// How HTTP/2 is spoken to those who call. `sidecar`: they proved who they are, and one connection is
/// that of many callers.
pub(super) fn http2_server(sidecar: bool) -> http2::Config {
    http2::Config {
        many_callers: sidecar,
        streams_max: STREAMS_MAX,
        stream_window: STREAM_WINDOW_BYTES,
        keepalive_after: Some(PING_AFTER),
        answer_time: PONG_WITHIN,
        // Only strangers are asked to hurry; `Served` sees to them.
        first_request_time: Duration::MAX,
        head_max: HEAD_BYTES_MAX,
        ..http2::Config::default()
    }
}

/// How HTTP/2 is spoken to those who are called; a sidecar takes many cancels. Applications are sent no
/// PING: gRPC's servers take more than one in five minutes without data for abuse, and would end every
/// stream that is silent for longer than a minute (gRFC A8, "server enforcement"). The kernel finds out
/// when they are gone.
pub(super) fn http2_client(sidecar: bool) -> http2::Config {
    let keepalive_after = sidecar.then_some(PING_AFTER);
    http2::Config { keepalive_after, ..http2_server(sidecar) }
}

/// How HTTP/1.1 is spoken to those who call.
pub(super) fn http1_server() -> http1::Config {
    http1::Config {
        head_bytes_max: HEAD_BYTES_MAX,
        head_max: FIRST_HEAD_MAX,
        idle_max: HTTP1_SILENCE_MAX,
        half_close: false,
        ..http1::Config::default()
    }
}

/// How HTTP/1.1 is spoken to those who are called.
pub(super) fn http1_client(to_proxy: bool) -> http1::Config {
    http1::Config {
        head_bytes_max: HEAD_BYTES_MAX,
        absolute_form: to_proxy,
        ..http1::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, App, Settings};
    use crate::units::ServiceName;

    fn app(port: &str, address: Address) -> App {
        App { port: port.into(), address }
    }

    fn tcp(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn a_port_leads_to_the_application_that_serves_it() {
        let unix = Address::Unix("/run/orders".into());
        let mut settings = Settings::new(ServiceName::new("orders", "shop"));
        assert_eq!(settings.app(80, 9090), tcp(9090));
        settings.apps = vec![app("9090", unix.clone())];
        assert_eq!(settings.app(80, 9090), unix, "the only one there is");
        settings.apps = vec![app("grpc", tcp(7001)), app("80", unix.clone())];
        for (number, local, expected) in
            [(9090, 7001, tcp(7001)), (80, 80, unix), (81, 7003, tcp(7003))]
        {
            assert_eq!(settings.app(number, local), expected, "{number} {local}");
        }
    }
}
