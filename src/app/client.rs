//! Calls to a control plane: one TLS connection with the caller's credential, and around every call
//! a deadline and, for what may safely be asked twice, a jittered retry.
//!
//! Commands and sidecars use the same stack; they differ by credential only.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceBuilder, ServiceExt as _, retry::Policy};

use super::context::Context;
use crate::{
    identity::disk::{self, DiskError},
    net,
    resource::pb::{
        admin_service_client::AdminServiceClient, config_service_client::ConfigServiceClient,
        discovery_service_client::DiscoveryServiceClient,
        identity_service_client::IdentityServiceClient,
    },
    spiffe::{BundleError, Svid, SvidError, TrustBundle},
    tls::{self, ControlTrust},
};

/// TCP and TLS together; a control plane that takes longer is as good as none.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A call that answers once; generous, because an Apply may wait for a disk.
const CALL_MAX: Duration = Duration::from_secs(15);
/// The largest call that is kept for a retry. An Apply is not retried, so this is far above.
const RETRIED_BYTES_MAX: usize = 1 << 20;
/// The largest answer taken: a `List` page of a thousand resources.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Between two signs of life on an idle connection; a stream must notice a dead peer.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long a sign of life is waited for.
const KEEPALIVE_MAX: Duration = Duration::from_secs(5);
/// The largest file of a key that is read.
const KEY_BYTES_MAX: u64 = 1 << 20;
/// Retries beyond the first try.
const RETRIES_MAX: u32 = 3;
/// The pause before the first retry is random up to this; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(100);

/// Why a context's credential can not be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file of it can not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key can not be read, or others can read it.
    #[error(transparent)]
    Key(#[from] DiskError),
    /// The client certificate or its key.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        source: SvidError,
    },
    /// The roots.
    #[error("{}: {source}", path.display())]
    Roots {
        /// The roots' file.
        path: PathBuf,
        /// What is wrong with them.
        source: BundleError,
    },
}

/// What a context's files hold: who calls, and whom to believe.
#[derive(Debug)]
pub struct Credential {
    /// Who calls.
    pub svid: Svid,
    /// The roots that the control plane's certificate may come from.
    pub bundle: Arc<TrustBundle>,
}

impl Credential {
    /// Reads a context's PEM files.
    ///
    /// # Errors
    /// When one can not be read or does not hold what it should.
    pub fn load(context: &Context) -> Result<Self, CredentialError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| CredentialError::Read { path: path.to_owned(), source })
        };
        let path = context.client_certificate.clone();
        let key = disk::read_private(&context.client_key, KEY_BYTES_MAX)?;
        let missing = || CredentialError::Read {
            path: context.client_key.clone(),
            source: ErrorKind::NotFound.into(),
        };
        let svid = Svid::from_pem(&read(&path)?, &key.ok_or_else(missing)?, tls::provider())
            .map_err(|source| CredentialError::Certificate { path, source })?;
        let path = context.certificate_authority.clone();
        let bundle = TrustBundle::from_pem(svid.id().trust_domain(), &read(&path)?)
            .map_err(|source| CredentialError::Roots { path, source })?;
        Ok(Self { svid, bundle: Arc::new(bundle) })
    }

    /// For [`Client::new`].
    pub fn tls(&self) -> TlsSource {
        let trust = ControlTrust::Bundle(Arc::clone(&self.bundle));
        let config = tls::control_client(trust, Some(&self.svid));
        Arc::new(move || Arc::clone(&config))
    }
}

/// Where the TLS configuration comes from: asked anew for each connection, so that a renewed
/// credential is used by the next one.
pub type TlsSource = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// Why the control plane could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The text is no `HOST:PORT`.
    #[error("{0:?} is no HOST:PORT")]
    Address(String),
    /// The host's name has no address, or nothing listens there.
    #[error("no control plane at {server}: {}", innermost(.source))]
    Tcp {
        /// The address as written.
        server: String,
        /// What the system said.
        source: net::ConnectError,
    },
    /// No way leads there.
    #[error("no way to {server}: {source}")]
    Route {
        /// The address as written.
        server: String,
        /// What the system said.
        source: io::Error,
    },
    /// What listens there is not our control plane, or does not accept us.
    #[error("{server} is not the control plane that this credential belongs to: {source}")]
    Tls {
        /// The address as written.
        server: String,
        /// What was wrong.
        source: io::Error,
    },
    /// It closed the connection before it had proved anything: one that is too busy does so, and
    /// what is no TLS server at all.
    #[error("{server} closed the connection during the TLS handshake; is it very busy?")]
    Closed {
        /// The address as written.
        server: String,
    },
    /// It took too long.
    #[error("no control plane at {server}: no TLS answer within {}s", CONNECT_MAX.as_secs())]
    Timeout {
        /// The address as written.
        server: String,
    },
}

/// What the system said, below what we said about it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// `HOST:PORT` taken apart; an IPv6 address stands in brackets.
fn split_address(server: &str) -> Option<(&str, u16)> {
    let (host, port) = server.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// Opens one TLS connection to the control plane.
///
/// # Errors
/// When it can not be reached or does not prove who it is.
pub async fn connect(
    server: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let (host, _) =
        split_address(server).ok_or_else(|| ConnectError::Address(server.to_owned()))?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| ConnectError::Address(server.to_owned()))?;
    let stream = net::connect_host(server, CONNECT_MAX)
        .await
        .map_err(|source| ConnectError::Tcp { server: server.to_owned(), source })?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    let late = |_| ConnectError::Timeout { server: server.to_owned() };
    time::timeout(CONNECT_MAX, handshake).await.map_err(late)?.map_err(|source| {
        match source.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                ConnectError::Closed { server: server.to_owned() }
            }
            _ => ConnectError::Tls { server: server.to_owned(), source: tls::explained(source) },
        }
    })
}

/// This machine's address on the way to the control plane, found without sending anything: where
/// peers most likely reach it too.
///
/// # Errors
/// When the address does not resolve or there is no route.
pub async fn local_address_towards(server: &str) -> Result<IpAddr, ConnectError> {
    let route = |source| ConnectError::Route { server: server.to_owned(), source };
    let (host, port) =
        split_address(server).ok_or_else(|| ConnectError::Address(server.to_owned()))?;
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(route)?;
    let target = addresses.next().ok_or_else(|| route(ErrorKind::NotFound.into()))?;
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).map_err(route)?;
    socket.connect(target).map_err(route)?;
    Ok(socket.local_addr().map_err(route)?.ip())
}

/// A control plane and a credential for it. Cheap to clone; connects at the first call and again
/// when the connection is lost.
#[derive(Clone)]
pub struct Client {
    calls: Calls,
}

impl Client {
    /// Connects to `server` (`HOST:PORT`) at the first call.
    ///
    /// # Errors
    /// When `server` is no address.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(server: &str, tls: TlsSource) -> Result<Self, ConnectError> {
        let address = || ConnectError::Address(server.to_owned());
        split_address(server).ok_or_else(address)?;
        let server: Arc<str> = server.into();
        let connector = {
            let server = Arc::clone(&server);
            tower::service_fn(move |_: Uri| {
                let (server, config) = (Arc::clone(&server), tls());
                async move { connect(&server, config).await.map(TokioIo::new) }
            })
        };
        // The scheme only fills `:scheme` and `:authority`: TLS is the connector's.
        let channel = Endpoint::from_shared(format!("https://{server}"))
            .map_err(|_| address())?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_MAX)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        Ok(Self { calls: Calls { channel } })
    }

    /// Configuration and status.
    pub fn config(&self) -> ConfigServiceClient<Calls> {
        ConfigServiceClient::new(self.calls.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Tokens.
    pub fn admin(&self) -> AdminServiceClient<Calls> {
        AdminServiceClient::new(self.calls.clone())
    }

    /// Certificates and trust bundles.
    pub fn identity(&self) -> IdentityServiceClient<Calls> {
        IdentityServiceClient::new(self.calls.clone())
    }

    /// Configuration for a sidecar.
    pub fn discovery(&self) -> DiscoveryServiceClient<Calls> {
        DiscoveryServiceClient::new(self.calls.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// How a method may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Lives as long as it lives; whoever reads it comes again.
    Stream,
    /// Answers once, and asking twice does no more than asking once.
    Repeatable,
    /// Answers once and changes something.
    Once,
}

impl Manner {
    fn of(path: &str) -> Self {
        match path.rsplit('/').next().unwrap_or_default() {
            "Subscribe" | "Watch" | "TrustBundle" | "Diff" | "Backup" => Self::Stream,
            // Renew signs a key of the caller's: a second signature for it harms nobody.
            "Get" | "List" | "Status" | "History" | "GetGuard" | "ListTokens" | "RevokeToken"
            | "Renew" | "GetAuthority" | "ListCredentials" | "ListAudit" => Self::Repeatable,
            _ => Self::Once,
        }
    }
}

/// The client side's stack below the generated clients.
#[derive(Clone)]
pub struct Calls {
    channel: Channel,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        // Each call takes a clone of the channel and waits for that one.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let channel = self.channel.clone();
        let manner = Manner::of(request.uri().path());
        if manner == Manner::Stream {
            return Box::pin(async move { channel.oneshot(request).await.map_err(unreachable) });
        }
        let milliseconds = CALL_MAX.as_millis();
        let timeout = HeaderValue::try_from(format!("{milliseconds}m")).expect("digits and m");
        request.headers_mut().insert("grpc-timeout", timeout);
        Box::pin(async move {
            let answer = async {
                match manner {
                    Manner::Repeatable => repeat(channel, request).await,
                    Manner::Once | Manner::Stream => {
                        channel.oneshot(request).await.map_err(unreachable)
                    }
                }
            };
            let late = |_| {
                let seconds = CALL_MAX.as_secs();
                Status::deadline_exceeded(format!("the control plane took longer than {seconds}s"))
            };
            time::timeout(CALL_MAX, answer).await.map_err(late)?
        })
    }
}

async fn repeat(channel: Channel, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let body = http_body_util::Limited::new(body, RETRIED_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Status::internal(format!("call too large: {error}")))?;
    ServiceBuilder::new()
        .retry(Unavailable { tried: 0 })
        .map_request(|request: Request<Full<Bytes>>| request.map(Body::new))
        .service(channel)
        .oneshot(Request::from_parts(head, Full::new(body.to_bytes())))
        .await
        .map_err(unreachable)
}

/// Says what the connector said, which tonic keeps as the innermost cause.
fn unreachable(error: tonic::transport::Error) -> Status {
    let message =
        connect_error_below(&error).map_or_else(|| innermost(&error), ToString::to_string);
    let mut status = Status::unavailable(message);
    status.set_source(Arc::new(error));
    status
}

/// Why a call did not get through, if that is why it failed.
pub fn connect_error(status: &Status) -> Option<&ConnectError> {
    std::error::Error::source(status).and_then(|cause| connect_error_below(cause))
}

/// How rustls says that the other end has sent an alert.
const ALERT: &str = "received fatal alert";

/// Whether the control plane ended the connection because of our certificate, which it sees after
/// our side of the handshake is done.
pub fn is_credential_refused(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        // An `io::Error` does not count what it wraps among its sources.
        let failed = error.downcast_ref::<io::Error>();
        let wrapped = failed.and_then(io::Error::get_ref);
        let tls = wrapped.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        // Of an alert on a connection that carries requests h2 keeps the text alone.
        let told = |error: &io::Error| error.to_string().starts_with(ALERT);
        if matches!(tls, Some(rustls::Error::AlertReceived(_))) || failed.is_some_and(told) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn connect_error_below<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e ConnectError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(connect) = error.downcast_ref() {
            return Some(connect);
        }
        cause = error.source();
    }
    None
}

/// Tries again what failed with UNAVAILABLE or did not get through.
#[derive(Debug, Clone)]
struct Unavailable {
    tried: u32,
}

impl<E> Policy<Request<Full<Bytes>>, Response<Body>, E> for Unavailable {
    type Future = time::Sleep;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Response<Body>, E>,
    ) -> Option<time::Sleep> {
        let failed = match result {
            Err(_) => true,
            // An answer without messages has its status in the head.
            Ok(response) => Status::from_header_map(response.headers())
                .is_some_and(|status| status.code() == Code::Unavailable),
        };
        if !failed || self.tried >= RETRIES_MAX {
            return None;
        }
        let pause = BACKOFF * (1 << self.tried);
        self.tried += 1;
        Some(time::sleep(pause.mul_f64(fastrand::f64())))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        Client, ConnectError, Manner, connect_error, local_address_towards, split_address,
    };
    use crate::resource::pb;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:15010", Some(("127.0.0.1", 15010))),
            ("[::1]:80", Some(("::1", 80))),
            ("mesh.example:1", Some(("mesh.example", 1))),
            ("mesh.example", None),
            (":80", None),
            ("a:70000", None),
        ] {
            assert_eq!(split_address(text), expected, "{text}");
        }
    }

    #[test]
    fn only_what_may_be_asked_twice_is() {
        for (path, expected) in [
            ("/outrigger.v1.ConfigService/List", Manner::Repeatable),
            ("/outrigger.v1.ConfigService/Apply", Manner::Once),
            ("/outrigger.v1.ConfigService/Delete", Manner::Once),
            ("/outrigger.v1.AdminService/CreateToken", Manner::Once),
            ("/outrigger.v1.IdentityService/Join", Manner::Once),
            ("/outrigger.v1.DiscoveryService/Subscribe", Manner::Stream),
        ] {
            assert_eq!(Manner::of(path), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = free.local_addr().expect("bound").to_string();
        drop(free);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = Arc::new(config);
        let client = Client::new(&server, Arc::new(move || Arc::clone(&config))).expect("address");
        let status = client.config().status(pb::StatusRequest::default()).await;
        let status = status.expect_err("nobody listens");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        let expected = format!("no control plane at {server}: ");
        assert!(status.message().starts_with(&expected), "{status:?}");
        let cause = connect_error(&status);
        assert!(matches!(cause, Some(ConnectError::Tcp { .. })), "{cause:?}");
    }

    #[tokio::test]
    async fn the_own_address_is_that_of_the_route() {
        let local = local_address_towards("127.0.0.1:9").await.expect("loopback");
        assert!(local.is_loopback());
    }
}
