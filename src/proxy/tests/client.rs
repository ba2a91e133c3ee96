//! Clients that applications would be: one connection of HTTP/1.1 or HTTP/2 each.

use std::{convert::Infallible, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Channel, Empty, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::task::Tasks;

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// A connection.
pub(super) struct Client {
    sender: Sender,
    driving: Tasks,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) data: Bytes,
    pub(super) trailers: HeaderMap,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> &str {
        let value = self.fields.get(name).or_else(|| self.trailers.get(name));
        value.map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The gRPC status, in head or trailers.
    pub(super) fn grpc(&self) -> &str {
        self.field("grpc-status")
    }

    /// Why the mesh answered.
    pub(super) fn reason(&self) -> &str {
        self.field("outrigger-reason")
    }
}

impl Client {
    pub(super) async fn http2(address: SocketAddr) -> Self {
        Self::http2_on(connect(address).await).await
    }

    pub(super) async fn http2_on<I>(io: I) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.expect("HTTP/2");
        let mut driving = Tasks::new();
        driving.spawn("client", async move { drop(connection.await) });
        Self { sender: Sender::Http2(sender), driving }
    }

    pub(super) async fn http1(address: SocketAddr) -> Self {
        let io = TokioIo::new(connect(address).await);
        let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
        let mut driving = Tasks::new();
        driving.spawn("client", async move { drop(connection.with_upgrades().await) });
        Self { sender: Sender::Http1(sender), driving }
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends and waits for the answer as long as this lives.
    pub(super) async fn begin(&mut self, request: Request<Body>) {
        let Sender::Http2(sender) = &mut self.sender else { panic!("HTTP/2 only") };
        sender.ready().await.expect("open");
        let answer = sender.send_request(request);
        self.driving.spawn("call", async move { drop(answer.await) });
    }

    /// Sends and reads everything.
    pub(super) async fn ask(&mut self, request: Request<Body>) -> Answer {
        super::bounded(async {
            let response = self.send(request).await.expect("a head");
            whole(response).await.expect("a whole body")
        })
        .await
    }

    /// A gRPC call with one message.
    pub(super) async fn unary(&mut self, authority: &str, message: &'static [u8]) -> Answer {
        self.ask(call(authority).body(full(message)).expect("a request")).await
    }

    /// A GET whose target is `uri`.
    pub(super) async fn get(&mut self, uri: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.ask(request.body(empty()).expect("a request")).await
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("open");
    stream
}

/// The head of a gRPC call of `echo.Echo/Echo`.
pub(super) fn call(authority: &str) -> http::request::Builder {
    Request::post(format!("http://{authority}/echo.Echo/Echo"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Reads a response to its end.
pub(super) async fn whole(response: Response<Incoming>) -> hyper::Result<Answer> {
    let (parts, mut body) = response.into_parts();
    let (mut data, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(more) => data.extend_from_slice(&more),
            Err(other) => trailers = other.into_trailers().unwrap_or_default(),
        }
    }
    Ok(Answer { status: parts.status, fields: parts.headers, data: data.freeze(), trailers })
}

pub(super) fn empty() -> Body {
    Empty::new().boxed()
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body that is sent piece by piece.
pub(super) fn channel() -> (http_body_util::channel::Sender<Bytes, Infallible>, Body) {
    let (sender, body) = Channel::new(1);
    (sender, body.boxed())
}
