//! What one peer does must cost nobody else anything: callers that break their own requests, readers
//! that never read, servers that hang up, heads and trailers that claim too much.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Channel};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    BOUND,
    app::{Answer, App, echo, text},
    bounded,
    client::{self, Client, call, channel, whole},
    until,
    world::{HOUR, World, grpc, loopback, pair, policy, settings},
};
use crate::{proxy::EndpointState, task::Tasks};

/// Sends bytes and reads until the other side ends.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    bounded(async {
        let mut stream = TcpStream::connect(to).await.expect("connected");
        stream.write_all(bytes).await.expect("open");
        let mut answer = Vec::new();
        // It may end by a reset, because not all was read.
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}

#[tokio::test]
async fn an_application_that_hangs_up_at_once_is_not_dialled_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let dialled = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&dialled);
    let mut tasks = Tasks::new();
    tasks.spawn("hangs up", async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    let (_world, _orders, web) = pair(address, "").await;
    let mut client = Client::http2(web.outbound()).await;
    let answer = client.unary("orders:9090", b"").await;
    assert_eq!(answer.grpc(), "14", "{answer:?}");
    let dialled = dialled.load(std::sync::atomic::Ordering::SeqCst);
    // Three attempts by each of two sidecars.
    assert!(dialled <= 9, "{dialled} connections for one call: {answer:?}");
}

#[tokio::test]
async fn a_caller_that_breaks_its_own_body_ejects_nobody() {
    let app = App::http2(|mut request: Request<Incoming>| async move {
        while let Some(Ok(_)) = request.body_mut().frame().await {}
        text(200, "read")
    })
    .await;
    let spec = "outlierDetection: {consecutiveFailures: 2, maxEjected: 100%}";
    let (_world, _orders, web) = pair(app.address, &policy("orders", spec)).await;
    for _ in 0..5 {
        let broken = b"POST / HTTP/1.1\r\nHost: orders:9090\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\nnot a length\r\n";
        exchange(web.outbound(), broken).await;
    }
    let endpoints = web.proxy.endpoints();
    assert!(endpoints.iter().all(|one| one.state == EndpointState::Ready), "{endpoints:?}");
    assert!(endpoints.iter().all(|one| one.failures_in_row == 0), "{endpoints:?}");
    until("nothing is under way", || web.proxy.in_flight() == 0).await;
    let log = web.log().await;
    assert!(log.iter().all(|line| line["reason"] == "caller_gone"), "{log:?}");
}

/// A response that never ends.
fn endless() -> Answer {
    let (mut sender, body) = Channel::new(1);
    let _runs_on = crate::task::spawn("endless", async move {
        while sender.send_data(Bytes::from(vec![7; 64 * 1024])).await.is_ok() {}
    });
    let mut response = http::Response::new(body.boxed());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

#[tokio::test]
async fn while_too_much_waits_for_slow_readers_new_requests_are_refused() {
    let app = App::http2(|request: Request<Incoming>| async move {
        if request.headers().contains_key("endless") { endless() } else { echo(request).await }
    })
    .await;
    let world = World::new();
    let orders = world.server("orders", app.address).await;
    // Each worker has its part, and one process is bounded.
    let mut settings = settings("web");
    (settings.outbound, settings.waiting_bytes_max) = (Some(loopback()), 256 * 1024);
    let web = world.start(settings, HOUR).await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&yaml).await;

    // One on each worker: what it holds itself a worker knows to the byte, what others do in steps.
    let mut slow = [Client::http2(web.outbound()).await, Client::http2(web.outbound()).await];
    let mut unread = Vec::new();
    for client in &mut slow {
        let refusal = bounded(async {
            loop {
                let request = call("orders:9090").header("endless", "1");
                let request = request.body(client::empty()).expect("a request");
                let response = client.send(request).await.expect("a head");
                if response.headers().contains_key("outrigger-reason") {
                    return whole(response).await.expect("an answer");
                }
                unread.push(response);
            }
        });
        let refusal = refusal.await;
        assert_eq!((refusal.grpc(), refusal.reason()), ("14", "overloaded"));
    }
    drop(unread);
    for client in &mut slow {
        let answer = bounded(async {
            loop {
                let answer = client.unary("orders:9090", b"").await;
                if answer.reason() != "overloaded" {
                    return answer;
                }
            }
        });
        assert_eq!(answer.await.grpc(), "0");
    }
}

#[tokio::test]
async fn a_reader_that_never_reads_holds_nothing_past_its_deadline() {
    let app = App::http2(|_| async { endless() }).await;
    let (_world, _orders, web) = pair(app.address, "").await;
    let mut client = Client::http2(web.outbound()).await;
    let request = call("orders:9090").header("grpc-timeout", "300m");
    let request = request.body(client::empty()).expect("a request");
    let unread = bounded(client.send(request)).await.expect("a head");
    until("nothing is under way", || web.proxy.in_flight() == 0).await;
    let log = web.log().await;
    assert_eq!(log[0]["reason"], "deadline", "{log:?}");
    // What had come before is read, and then why there is no more.
    let answer = bounded(whole(unread)).await.expect("an orderly end");
    assert_eq!((answer.grpc(), answer.reason()), ("4", "deadline"));
}

#[tokio::test]
async fn a_stream_that_ends_by_its_own_time_ejects_nobody() {
    let app = App::echo().await;
    let spec = "timeouts: {maxStream: 50ms}\noutlierDetection: {consecutiveFailures: 2}";
    let (_world, _orders, web) = pair(app.address, &policy("orders", spec)).await;
    let mut client = Client::http2(web.outbound()).await;
    for _ in 0..3 {
        let (_sender, body) = channel();
        let request = call("orders:9090").body(body).expect("a request");
        let response = bounded(client.send(request)).await.expect("a head");
        let answer = bounded(whole(response)).await.expect("an orderly end");
        assert_eq!((answer.grpc(), answer.reason()), ("4", "request_timeout"));
    }
    let endpoints = web.proxy.endpoints();
    assert!(endpoints.iter().all(|one| one.failures_in_row == 0), "{endpoints:?}");
}

#[tokio::test]
async fn trailers_claim_no_identity_and_nothing_of_a_hop() {
    let (sender, mut trailers) = tokio::sync::mpsc::channel(16);
    let app = App::http2(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let whole = request.into_body().collect().await;
            let trailers = whole.ok().and_then(|whole| whole.trailers().cloned());
            sender.try_send(trailers).expect("the test runs");
            text(200, "read")
        }
    })
    .await;
    let (_world, _orders, web) = pair(app.address, "").await;
    let mut client = Client::http2(web.outbound()).await;
    let (mut body, request) = channel();
    let request = call("orders:9090").body(request).expect("a request");
    let mut fields = HeaderMap::new();
    for name in ["x-forwarded-client-cert", "outrigger-unseen", "x-mine"] {
        fields.insert(name, http::HeaderValue::from_static("1"));
    }
    let sending = async { body.send(Frame::trailers(fields)).await.expect("open") };
    let (answer, ()) = tokio::join!(client.ask(request), sending);
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let seen = bounded(trailers.recv()).await.expect("a request").expect("trailers");
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["x-mine"]);

    let chunked = b"POST / HTTP/1.1\r\nHost: orders:9090\r\nTransfer-Encoding: chunked\r\n\
        Trailer: x-mine\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\nX-Mine: 1\r\n\
        Connection: close\r\nX-Forwarded-Client-Cert: evil\r\nKeep-Alive: 9\r\n\r\n";
    let answer = exchange(web.outbound(), chunked).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = bounded(trailers.recv()).await.expect("a request").expect("trailers");
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["x-mine"]);
}

#[tokio::test]
async fn cookies_are_one_field_where_http1_is_spoken() {
    let app = App::http1(|_| async { text(200, "ok") }).await;
    let (_world, orders, web) = pair(app.address, "").await;
    let yaml = "---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 9090, appProtocol: http}]}
";
    let yaml = format!("{yaml}{}", super::world::workload("orders", 1, orders.inbound()));
    orders.configure(&yaml).await;
    web.configure(&yaml).await;
    let mut client = Client::http2(web.outbound()).await;
    let answer = client.get("http://orders:9090/", &[("cookie", "a=1"), ("cookie", "b=2")]).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let seen = app.seen();
    let cookies: Vec<_> = seen[0].fields.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

#[tokio::test]
async fn a_connection_that_asks_first_while_draining_is_served_once() {
    let world = World::new();
    let web = world.client("web").await;
    web.configure("").await;
    let mut stream = TcpStream::connect(web.outbound()).await.expect("connected");
    // Enough to be taken for HTTP/1.1, so that the connection is being served.
    stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("open");
    until("it is open", || {
        web.metrics()
            .contains("outrigger_connections_open{direction=\"outbound\",protocol=\"http/1.1\"")
    })
    .await;
    let draining = web.proxy.drain(BOUND);
    let asking = async {
        until("nobody accepts any more", || std::net::TcpStream::connect(web.outbound()).is_err())
            .await;
        stream.write_all(b"Host: nobody.shop.mesh\r\n\r\n").await.expect("open");
        let mut answer = String::new();
        bounded(stream.read_to_string(&mut answer)).await.expect("an orderly end");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    };
    let (left, ()) = tokio::join!(draining, asking);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn one_length_reaches_the_application() {
    let (sender, mut bodies) = tokio::sync::mpsc::channel(16);
    let app = App::http2(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let length = request.headers().get("content-length").cloned();
            let whole = request.into_body().collect().await.map(|whole| whole.to_bytes());
            sender.try_send((length, whole.ok())).expect("the test runs");
            text(200, "read")
        }
    })
    .await;
    let (_world, _orders, web) = pair(app.address, "").await;
    for refused in [
        &b"POST / HTTP/1.1\r\nHost: orders:9090\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: orders:9090\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: orders:9090\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: orders:9090\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: orders:9090\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: orders:9090\r\nX: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: orders:9090\r\nHost: other\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: orders:9090\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = exchange(web.outbound(), refused).await;
        let text = String::from_utf8_lossy(refused);
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "), "{text}: {answer}");
    }
    assert!(bodies.try_recv().is_err(), "nothing more reached the application");
}
