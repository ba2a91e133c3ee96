//! Applications: plain HTTP/1.1 or HTTP/2 servers that know nothing of the mesh.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Channel, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::task::{self, Tasks};

pub(super) type Answer = Response<BoxBody<Bytes, Infallible>>;
type Handler =
    Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// A server that runs until it is dropped.
pub(super) struct App {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    under_way: Arc<AtomicUsize>,
    _accepting: Tasks,
}

/// A request's head as the application saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) version: Version,
    pub(super) uri: String,
    pub(super) fields: HeaderMap,
}

impl Seen {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

impl App {
    /// Speaks HTTP/2 and answers with `handler`.
    pub(super) async fn http2<F>(
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::start(true, Arc::new(move |request| Box::pin(handler(request)))).await
    }

    /// Speaks HTTP/1.1 and answers with `handler`.
    pub(super) async fn http1<F>(
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::start(false, Arc::new(move |request| Box::pin(handler(request)))).await
    }

    /// A gRPC server that sends back what it gets.
    pub(super) async fn echo() -> Self {
        Self::http2(echo).await
    }

    async fn start(h2: bool, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (app, server) = Self::new(address, h2, handler);
        let mut app = app;
        app._accepting.spawn("app", async move {
            let mut connections = Tasks::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                stream.set_nodelay(true).expect("open");
                connections.spawn("connection", serve(server.clone(), stream));
            }
        });
        app
    }

    /// As [`App::echo`], on a Unix socket.
    pub(super) async fn unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a free path");
        let handler: Handler = Arc::new(move |request| Box::pin(echo(request)));
        let (mut app, server) = Self::new(SocketAddr::from(([0, 0, 0, 0], 0)), true, handler);
        app._accepting.spawn("app", async move {
            let mut connections = Tasks::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn("connection", serve(server.clone(), stream));
            }
        });
        app
    }

    fn new(address: SocketAddr, h2: bool, handler: Handler) -> (Self, Server) {
        let app = Self {
            address,
            seen: Arc::default(),
            under_way: Arc::default(),
            _accepting: Tasks::new(),
        };
        let (seen, under_way) = (Arc::clone(&app.seen), Arc::clone(&app.under_way));
        (app, Server { h2, handler, seen, under_way })
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("whole").clone()
    }

    /// Requests whose answers have no head yet.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Server {
    h2: bool,
    handler: Handler,
    seen: Arc<Mutex<Vec<Seen>>>,
    under_way: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve<I>(server: Server, io: I)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let h2 = server.h2;
    let service = service_fn(move |request: Request<Incoming>| {
        let server = server.clone();
        async move {
            server.seen.lock().expect("whole").push(Seen {
                version: request.version(),
                uri: request.uri().to_string(),
                fields: request.headers().clone(),
            });
            server.under_way.fetch_add(1, Ordering::SeqCst);
            let _under_way = UnderWay(Arc::clone(&server.under_way));
            Ok::<_, Infallible>((server.handler)(request).await)
        }
    });
    let io = TokioIo::new(io);
    // Errors of single connections are what tests provoke.
    if h2 {
        let server = http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(io, service).await);
    } else {
        let server = http1::Builder::new().timer(TokioTimer::new()).clone();
        drop(server.serve_connection(io, service).await);
    }
}

/// gRPC: sends back every frame as it comes, then `x-trailer` and `grpc-status` of the request.
pub(super) async fn echo(request: Request<Incoming>) -> Answer {
    let (parts, mut body) = request.into_parts();
    let (mut sender, answer) = Channel::new(1);
    let status = parts.headers.get("x-status").cloned();
    let metadata = parts.headers.get("x-metadata").cloned();
    let mut response = Response::new(answer.boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("outrigger-reason", HeaderValue::from_static("internal"));
    if let Some(metadata) = metadata {
        response.headers_mut().insert("x-metadata", metadata);
    }
    let _runs_on = task::spawn("echo", async move {
        while let Some(Ok(frame)) = body.frame().await {
            if frame.is_data() && sender.send(frame).await.is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.unwrap_or(HeaderValue::from_static("0")));
        trailers.insert("x-trailer", HeaderValue::from_static("after all"));
        trailers.insert("outrigger-unseen", HeaderValue::from_static("1"));
        // The caller may be gone.
        drop(sender.send(Frame::trailers(trailers)).await);
    });
    response
}

/// A trailers-only gRPC answer.
pub(super) fn grpc_status(status: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    response
}

/// A plain answer.
pub(super) fn text(status: u16, text: impl Into<Bytes>) -> Answer {
    Response::builder().status(status).body(Full::new(text.into()).boxed()).expect("an answer")
}
