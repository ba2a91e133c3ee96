//! Applications of the tests' own, in this process: an echo service with all four kinds of gRPC call
//! that also answers plain HTTP, on one port. It tells what it was asked, so that a test can say
//! what reached it.
//!
//! A caller steers it by metadata: `echo-delay` (milliseconds before each message of an answer) and
//! `echo-fail` (a gRPC code to end with). `echo-id` is remembered.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request as HttpRequest, Response as HttpResponse, body::Incoming, service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::{KeyAndValueRef, MetadataMap},
    transport::{Channel, Endpoint, Uri},
};
use tower::ServiceExt as _;

/// Messages, client and server of `tests/interop/echo.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    reason = "generated code"
)]
pub(crate) mod echo {
    tonic::include_proto!("echo");
}

/// A client that dials `outbound` and asks for `authority`, as an application beside a sidecar.
pub(crate) fn echo_client(
    outbound: SocketAddr,
    authority: &str,
) -> echo::echo_client::EchoClient<Channel> {
    let origin: Uri = format!("http://{authority}").parse().expect("an authority");
    let endpoint = Endpoint::from_shared(format!("http://{outbound}")).expect("an address");
    echo::echo_client::EchoClient::new(endpoint.origin(origin).tcp_nodelay(true).connect_lazy())
}

/// One running application; it is gone, with its connections, when this is dropped.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    heard: Arc<Heard>,
    serving: JoinHandle<()>,
}

/// What an application was asked.
struct Heard {
    name: String,
    calls: Mutex<BTreeMap<String, u32>>,
}

impl App {
    /// Starts it on a free port of the loopback.
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::new(Heard { name: name.into(), calls: Mutex::default() });
        let serving = tokio::spawn(serve(listener, Arc::clone(&heard)));
        Self { address, heard, serving }
    }

    /// How often each `echo-id` came.
    pub(crate) fn calls(&self) -> BTreeMap<String, u32> {
        self.heard.calls.lock().unwrap().clone()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Accepts until it is aborted; the connections go with it.
async fn serve(listener: TcpListener, heard: Arc<Heard>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("accepts");
        while connections.try_join_next().is_some() {}
        socket.set_nodelay(true).expect("a socket");
        let heard = Arc::clone(&heard);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&heard)));
            let server = auto::Builder::new(TokioExecutor::new());
            // A caller that goes away is no trouble of the application's.
            let _gone = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(
    request: HttpRequest<Incoming>,
    heard: Arc<Heard>,
) -> Result<HttpResponse<Body>, Infallible> {
    let kind = request.headers().get("content-type").map_or(&b""[..], |kind| kind.as_bytes());
    if kind.starts_with(b"application/grpc") {
        return echo::echo_server::EchoServer::from_arc(Arc::new(Echo(heard)))
            .oneshot(request)
            .await;
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: BTreeMap<_, _> =
        head.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    let told = json!({
        "instance": heard.name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let body = Full::new(Bytes::from(told.to_string()));
    let answer = HttpResponse::builder().header("content-type", "application/json");
    Ok(answer.body(Body::new(body)).expect("a response"))
}

/// The gRPC service.
struct Echo(Arc<Heard>);

/// How a caller wants to be answered.
struct Wish {
    delay: Duration,
    fail: Option<Status>,
}

impl Echo {
    fn hear(&self, metadata: &MetadataMap) -> Wish {
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        if let Some(id) = text("echo-id") {
            *self.0.calls.lock().unwrap().entry(id.into()).or_default() += 1;
        }
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        Wish {
            delay: Duration::from_millis(number("echo-delay").unwrap_or(0)),
            fail: number("echo-fail").and_then(|code| i32::try_from(code).ok()).map(|code| {
                Status::new(Code::from_i32(code), format!("{} was asked to fail", self.0.name))
            }),
        }
    }

    /// The response's metadata: who answers, and what of the request's was `echo-*` or the mesh's.
    fn respond<T>(&self, asked: &MetadataMap, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let metadata = response.metadata_mut();
        metadata.insert("echo-instance", self.0.name.parse().expect("ASCII"));
        for entry in asked.iter() {
            let KeyAndValueRef::Ascii(key, value) = entry else { continue };
            let shown = ["traceparent", "x-forwarded-client-cert", "grpc-timeout"];
            if key.as_str().starts_with("echo-") || shown.contains(&key.as_str()) {
                let name = key.as_str().trim_start_matches("echo-");
                let name: tonic::metadata::AsciiMetadataKey =
                    format!("echoed-{name}").parse().expect("a name");
                metadata.append(name, value.clone());
            }
        }
        response
    }
}

type Texts = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// The texts with the wished delay before each, and the wished end.
fn slowly(texts: impl Stream<Item = Result<String, Status>> + Send + 'static, wish: Wish) -> Texts {
    let Wish { delay, fail } = wish;
    let texts = texts.then(move |text| async move {
        time::sleep(delay).await;
        text
    });
    Box::pin(texts.chain(futures_util::stream::iter(fail.map(Err))))
}

#[tonic::async_trait]
impl echo::echo_server::Echo for Echo {
    async fn unary(&self, request: Request<String>) -> Result<Response<String>, Status> {
        let (metadata, _, text) = request.into_parts();
        let wish = self.hear(&metadata);
        time::sleep(wish.delay).await;
        match wish.fail {
            Some(status) => Err(status),
            None => Ok(self.respond(&metadata, text)),
        }
    }

    type CountStream = Texts;

    async fn count(&self, request: Request<String>) -> Result<Response<Texts>, Status> {
        let (metadata, _, text) = request.into_parts();
        let wish = self.hear(&metadata);
        let end: u32 = text.parse().map_err(|_| Status::invalid_argument("not a number"))?;
        let texts = futures_util::stream::iter((0..end).map(|number| Ok(number.to_string())));
        Ok(self.respond(&metadata, slowly(texts, wish)))
    }

    async fn join(&self, request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
        let (metadata, _, mut texts) = request.into_parts();
        let wish = self.hear(&metadata);
        let mut all = Vec::new();
        while let Some(text) = texts.message().await? {
            all.push(text);
        }
        time::sleep(wish.delay).await;
        match wish.fail {
            Some(status) => Err(status),
            None => Ok(self.respond(&metadata, all.join(","))),
        }
    }

    type ChatStream = Texts;

    async fn chat(&self, request: Request<Streaming<String>>) -> Result<Response<Texts>, Status> {
        let (metadata, _, texts) = request.into_parts();
        let wish = self.hear(&metadata);
        Ok(self.respond(&metadata, slowly(texts, wish)))
    }
}

#[tokio::test]
async fn the_echo_application_answers_all_kinds_of_call() {
    let app = App::start("one").await;
    let mut client = echo_client(app.address, "echo:9090");
    let mut request = Request::new("hello".to_owned());
    request.metadata_mut().insert("echo-id", "7".parse().expect("ASCII"));
    let response = client.unary(request).await.expect("answered");
    assert_eq!(response.metadata().get("echo-instance").expect("told"), "one");
    assert_eq!(response.metadata().get("echoed-id").expect("told"), "7");
    assert_eq!(response.into_inner(), "hello");
    assert_eq!(app.calls()["7"], 1);

    let counted = client.count("3".to_owned()).await.expect("answered").into_inner();
    let counted: Vec<_> = counted.map(|text| text.expect("a text")).collect().await;
    assert_eq!(counted, ["0", "1", "2"]);
    let texts = || futures_util::stream::iter(["a", "b"].map(str::to_owned));
    assert_eq!(client.join(texts()).await.expect("answered").into_inner(), "a,b");
    let chat = client.chat(texts()).await.expect("answered").into_inner();
    assert_eq!(chat.map(|text| text.expect("a text")).collect::<Vec<_>>().await, ["a", "b"]);

    let mut request = Request::new(String::new());
    request.metadata_mut().insert("echo-fail", "5".parse().expect("ASCII"));
    assert_eq!(client.unary(request).await.expect_err("refused").code(), Code::NotFound);

    let plain = super::get(app.address, "/buy?x=1").await.expect("answered");
    let plain: serde_json::Value = serde_json::from_str(&plain).expect("JSON");
    assert_eq!((plain["method"].as_str(), plain["path"].as_str()), (Some("GET"), Some("/buy?x=1")));
}
