//! What every kind of mesh must carry: the four kinds of gRPC call with metadata, status and
//! trailers. The checks are here; the tests of each kind of mesh call them.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::Full;
use hyper::{HeaderMap, Request as HttpRequest, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::{Code, Request, metadata::MetadataMap};

use crate::harness::echo_client;

/// A request with metadata.
pub(crate) fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().expect("ASCII"));
    }
    request
}

/// A value of metadata; empty when it is not there.
pub(crate) fn text<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Makes every kind of call to `authority` through a listener of the mesh, and checks what comes
/// back; `caller` is the SPIFFE ID that the application has to be told.
pub(crate) async fn check_all_kinds(through: SocketAddr, authority: &str, caller: &str) {
    let mut client = echo_client(through, authority);
    let request = with("hello".to_owned(), &[("echo-note", "kept")]);
    let response = client.unary(request).await.expect("Unary");
    assert_eq!(text(response.metadata(), "echoed-note"), "kept");
    let told = text(response.metadata(), "echoed-x-forwarded-client-cert");
    assert!(told.contains(&format!("URI={caller}")), "{told}");
    assert!(told.contains("By=spiffe://"), "{told}");
    assert!(text(response.metadata(), "echoed-traceparent").starts_with("00-"), "a trace began");
    assert_eq!(response.into_inner(), "hello");

    let counted = client.count("100".to_owned()).await.expect("Count").into_inner();
    let counted: Vec<_> = counted.map(|text| text.expect("a message")).collect().await;
    assert_eq!(counted, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());

    // Larger than any window, so that back-pressure and credit are needed.
    let large = "x".repeat(300_000);
    let texts = vec![large.clone(); 4];
    let joined = client.join(stream::iter(texts.clone())).await.expect("Join").into_inner();
    assert_eq!(joined.len(), 4 * large.len() + 3);
    let chat = client.chat(stream::iter(texts.clone())).await.expect("Chat").into_inner();
    let chat: Vec<_> = chat.map(|text| text.expect("a message")).collect().await;
    assert!(chat == texts, "{} messages came back", chat.len());

    let failing = with(String::new(), &[("echo-fail", "5")]);
    let status = client.unary(failing).await.expect_err("asked to fail");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert!(status.message().ends_with("was asked to fail"), "{status:?}");
    assert_eq!(text(status.metadata(), "outrigger-reason"), "", "the application's own words");
    // After some messages, in the trailers.
    let failing = with("2".to_owned(), &[("echo-fail", "9")]);
    let mut counted = client.count(failing).await.expect("a head").into_inner();
    for expected in ["0", "1"] {
        assert_eq!(counted.message().await.expect("before the end").as_deref(), Some(expected));
    }
    let status = counted.message().await.expect_err("in the trailers");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
}

/// One call of `Unary` by HTTP/2 alone, without what a gRPC library adds by itself, such as a clock
/// for its deadline. Returns the head's fields, which for a refused call are the trailers.
pub(crate) async fn bare_call(
    through: SocketAddr,
    authority: &str,
    fields: &[(&str, &str)],
) -> HeaderMap {
    let socket = TcpStream::connect(through).await.expect("connects");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, connection) = handshake.await.expect("HTTP/2");
    let serving = tokio::spawn(connection);
    let mut request = HttpRequest::post(format!("http://{authority}/echo.Echo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    // One empty message, not compressed.
    let request = request.body(Full::new(Bytes::from_static(&[0; 5]))).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    serving.abort();
    answer.headers().clone()
}
