//! The server behind the sidecars, a process of its own: HTTP/1.1 and HTTP/2 without TLS, gRPC by its
//! frames only. It is made to be cheap and to be the same for every pair.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::process::{Place, Process};

/// Echoes its one message.
pub(crate) const UNARY: &str = "/bench.Echo/Unary";
/// Echoes what comes, as it comes.
pub(crate) const STREAM: &str = "/bench.Echo/Stream";
/// Answers after a second.
pub(crate) const SLOW: &str = "/bench.Echo/Slow";
/// Plain HTTP: a hundred bytes.
pub(crate) const PLAIN: &str = "/plain/hundred";

const PAUSE: Duration = Duration::from_secs(1);

/// The server's process.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    _process: Process,
}

/// Starts this program once more, as the server.
pub(crate) async fn start(place: &Place) -> Result<Backend> {
    let program = std::env::current_exe()?.display().to_string();
    let mut process = place.start("backend", place.load_cpu, &[program, "--serve".into()])?;
    let log = process.log().to_owned();
    let address = process.line(&log).await?.parse().context("the server says its address")?;
    Ok(Backend { address, _process: process })
}

/// Serves until it is killed; says its address first.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(100_000).initial_stream_window_size(1 << 20);
    builder.http2().initial_connection_window_size(1 << 24);
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let builder = builder.clone();
        connections.spawn(async move {
            // A connection that breaks off is the client's business.
            builder.serve_connection(TokioIo::new(socket), service_fn(answer)).await.is_ok()
        });
        while connections.try_join_next().is_some() {}
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    if path.starts_with("/plain") {
        return Ok(Response::new(full(Bytes::from_static(&[b'x'; 100]))));
    }
    if path == STREAM {
        return Ok(grpc(request.into_body().boxed()));
    }
    let is_ours = path.starts_with("/bench.");
    if path == SLOW {
        tokio::time::sleep(PAUSE).await;
    }
    let asked = request.into_body().collect().await;
    // Exported spans are answered with an empty message.
    let empty = Bytes::from_static(&[0; 5]);
    let message = asked.map(|body| if is_ours { body.to_bytes() } else { empty });
    Ok(grpc(full(message.unwrap_or_default())))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A gRPC response with a body and trailers.
fn grpc(body: Body) -> Response<Body> {
    let trailers = || {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers
    };
    let frames = body.into_data_stream().map(|data| data.map(Frame::data));
    let frames = frames.chain(stream::iter([Ok(Frame::trailers(trailers()))]));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}
