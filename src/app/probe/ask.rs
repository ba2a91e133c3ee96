//! One question to an application, on a connection of its own: one that stays open would not notice
//! that nobody else gets one any more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{self, AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;

use super::How;
use crate::{proxy::Address, task::Tasks};

/// How applications can tell these requests from their callers'.
const USER_AGENT: &str = concat!("outrigger-check/", env!("CARGO_PKG_VERSION"));

/// Why an application is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// It answers, but not to this question.
    Unserved(String),
    /// It does not answer, or that it is not well.
    Wrong(String),
}

/// Where an application is asked that listens there: one on all addresses, on the loopback.
pub(super) fn reached(address: &Address) -> Address {
    let Address::Tcp(address) = address else { return address.clone() };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Address::Tcp(SocketAddr::new(ip, address.port()))
}

/// Asks it. Takes as long as the application does. May be cancelled.
pub(super) async fn ask(address: &Address, how: &How) -> Result<(), Asked> {
    let io = |error: io::Error| Asked::Wrong(error.kind().to_string());
    match address {
        Address::Tcp(address) => {
            ask_on(TcpStream::connect(address).await.map_err(io)?, &address.to_string(), how).await
        }
        Address::Unix(path) => {
            ask_on(UnixStream::connect(path).await.map_err(io)?, "localhost", how).await
        }
    }
}

async fn ask_on<S>(stream: S, host: &str, how: &How) -> Result<(), Asked>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match how {
        How::Grpc(service) => grpc(stream, host, service).await,
        How::Http(path) => http(stream, host, path).await,
        How::Auto | How::Tcp | How::Never => Ok(()),
    }
}

/// gRPC's health service (`grpc.health.v1.Health/Check`).
async fn grpc<S>(stream: S, host: &str, service: &str) -> Result<(), Asked>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wrong = |error: tonic::transport::Error| Asked::Wrong(error.to_string());
    let endpoint = Endpoint::from_shared(format!("http://{host}")).map_err(wrong)?;
    let endpoint = endpoint.user_agent(USER_AGENT).map_err(wrong)?;
    let mut stream = Some(stream);
    let once = service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint.connect_with_connector(once).await;
    let channel = channel.map_err(|_| Asked::Wrong("does not speak HTTP/2".to_owned()))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(Asked::Wrong(format!("says {}", other.as_str_name()))),
        },
        Err(status) => {
            let said = format!("{} {}", code_name(status.code()), status.message());
            let said = said.trim().to_owned();
            match status.code() {
                // It does not answer, or says that it can not.
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                    Err(Asked::Wrong(said))
                }
                _ => Err(Asked::Unserved(format!("health check: {said}"))),
            }
        }
    }
}

fn code_name(code: Code) -> &'static str {
    let number = u32::try_from(i32::from(code)).ok();
    let code = number.and_then(crate::reason::GrpcCode::from_number);
    code.unwrap_or(crate::reason::GrpcCode::Unknown).name()
}

async fn http<S>(stream: S, host: &str, path: &str) -> Result<(), Asked>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wrong = |error: &dyn std::fmt::Display| Asked::Wrong(error.to_string());
    let uri: Uri = path.parse().map_err(|error| wrong(&error))?;
    let host = HeaderValue::from_str(host).map_err(|error| wrong(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| wrong(&error))?;
    // Ends with this function.
    let mut tasks = Tasks::new();
    tasks.spawn("application check", async move {
        let _ended = connection.await;
    });
    let request = Request::get(uri)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| wrong(&error))?;
    let response = sender.send_request(request).await;
    match response.map_err(|error| wrong(&error))?.status() {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(Asked::Wrong(format!("GET {path} answers {}", status.as_u16()))),
    }
}
