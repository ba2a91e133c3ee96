//! What a caller does not notice of failures, and what it is told of those that it must.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    app::{self, App, grpc_status, text},
    bounded,
    client::{Client, call, channel, empty, full, whole},
    until,
    world::{Sidecar, World, grpc, policy},
};
use crate::{proxy::EndpointState, task::Tasks};

/// An address on which nobody listens.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("bound")
}

/// `web`, which calls `orders` at these endpoints under these policies.
async fn caller(world: &World, endpoints: &[SocketAddr], policies: &str) -> Sidecar {
    let web = world.client("web").await;
    web.configure(&format!("{}{policies}", grpc("orders", endpoints))).await;
    web
}

/// A sidecar of `orders` beside an application.
async fn instance(world: &World, app: SocketAddr) -> Sidecar {
    let orders = world.server("orders", app).await;
    orders.configure(&grpc("orders", &[])).await;
    orders
}

/// The reasons of each request's attempts.
fn attempts(log: &[Value]) -> Vec<Vec<String>> {
    let reason = |attempt: &Value| attempt["reason"].as_str().unwrap_or_default().to_owned();
    let of = |line: &Value| {
        line["attempts"].as_array().expect("attempts").iter().map(reason).collect::<Vec<_>>()
    };
    log.iter().map(of).collect()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// As [`frames_after`], at once.
async fn frames(answer: Frames) -> (SocketAddr, Tasks) {
    frames_after(0, answer).await
}

/// Frames for a stream.
type Frames = fn(stream: [u8; 4]) -> Vec<u8>;

/// Speaks just enough HTTP/2 to answer HEADERS with the frame for that stream, after so many bytes of
/// body.
async fn frames_after(bytes: usize, answer: Frames) -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = Tasks::new();
    tasks.spawn("frames", async move {
        let mut connections = Tasks::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            connections.spawn("connection", async move {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.expect("a preface");
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("open");
                let (mut head, mut read) = ([0; 9], 0);
                while stream.read_exact(&mut head).await.is_ok() {
                    let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                    stream.read_exact(&mut vec![0; length]).await.expect("a frame");
                    let enough = match head[3] {
                        DATA => {
                            read += length;
                            read >= bytes && bytes > 0
                        }
                        HEADERS => {
                            read = 0;
                            bytes == 0
                        }
                        _ => false,
                    };
                    if enough {
                        let id = [head[5], head[6], head[7], head[8]];
                        stream.write_all(&answer(id)).await.expect("open");
                    }
                }
            });
        }
    });
    (address, tasks)
}

const INTERNAL_ERROR: u8 = 2;

/// RST_STREAM.
fn reset(id: [u8; 4], code: u8) -> Vec<u8> {
    [&[0, 0, 4, 3, 0][..], &id, &[0, 0, 0, code]].concat()
}

/// GOAWAY before the first stream.
fn goaway() -> Vec<u8> {
    vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[tokio::test]
async fn what_no_application_saw_is_retried_on_another_endpoint() {
    let world = World::new();
    let app = App::echo().await;
    let good = instance(&world, app.address).await;
    let dead = instance(&world, closed().await).await;
    for (bad, reason) in [(closed().await, "connect_failed"), (dead.inbound(), "app_unreachable")] {
        let web = caller(&world, &[bad, good.inbound()], "").await;
        let mut client = Client::http2(web.outbound()).await;
        for _ in 0..10 {
            let answer = client.unary("orders:9090", b"").await;
            assert_eq!((answer.grpc(), answer.reason()), ("0", ""));
        }
        let attempts = attempts(&web.log().await);
        assert!(attempts.iter().any(|one| *one == [reason, ""]), "{attempts:?}");
        assert!(attempts.iter().all(|one| one.len() <= 2), "{attempts:?}");
    }
}

#[tokio::test]
async fn streams_that_were_refused_or_beyond_a_goaway_are_retried() {
    let world = World::new();
    let app = App::echo().await;
    let good = instance(&world, app.address).await;
    let frames_of: [(Frames, &str); 2] =
        [(|id| reset(id, 7), "stream_refused"), (|_| goaway(), "connection_closing")];
    for (answer, reason) in frames_of {
        let (address, _serving) = frames(answer).await;
        let bad = instance(&world, address).await;
        let web = caller(&world, &[bad.inbound(), good.inbound()], "").await;
        let mut client = Client::http2(web.outbound()).await;
        for _ in 0..10 {
            let answer = client.unary("orders:9090", b"message").await;
            assert_eq!((answer.grpc(), &answer.data[..]), ("0", &b"message"[..]), "{answer:?}");
        }
        // The sidecar beside it says that nobody saw it, and leaves the retry to the caller's.
        let inner = attempts(&bad.log().await);
        assert!(!inner.is_empty() && inner.iter().all(|one| *one == [reason]), "{inner:?}");
        let attempts = attempts(&web.log().await);
        assert!(attempts.iter().any(|one| *one == [reason, ""]), "{attempts:?}");
    }
}

#[tokio::test]
async fn an_unseen_request_is_tried_three_times_and_then_refused() {
    let world = World::new();
    let endpoints = [closed().await, closed().await, closed().await, closed().await];
    let web = caller(&world, &endpoints, "").await;
    let mut client = Client::http2(web.outbound()).await;
    let answer = client.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", "connect_failed"));
    let log = web.log().await;
    let mut tried: Vec<_> = log[0]["attempts"].as_array().expect("attempts").clone();
    assert_eq!(tried.len(), 3);
    tried.dedup_by_key(|attempt| attempt["endpoint"].clone());
    assert_eq!(tried.len(), 3, "each on another endpoint: {log:?}");
}

/// An application that fails so many times, and then sends back what it gets.
async fn recovering(failures: usize) -> (App, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(failures));
    let counter = Arc::clone(&left);
    let app = App::http2(move |request| {
        let fails = counter
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        async move { if fails { grpc_status("14") } else { app::echo(request).await } }
    });
    (app.await, left)
}

#[tokio::test]
async fn what_the_application_answered_is_retried_only_where_asked() {
    let world = World::new();
    let (app, left) = recovering(1).await;
    let orders = instance(&world, app.address).await;
    let web = caller(&world, &[orders.inbound()], "").await;
    let mut client = Client::http2(web.outbound()).await;
    let answer = client.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", ""), "the application's own answer");

    let asked = "retry: {attempts: 2, on: {grpc: [UNAVAILABLE]}, backoff: {base: 1ms, max: 2ms}}";
    let yaml = grpc("orders", &[orders.inbound()]);
    web.configure(&format!("{yaml}{}", policy("orders", asked))).await;
    left.store(2, Ordering::SeqCst);
    assert_eq!(client.unary("orders:9090", b"message").await.data, "message");
    left.store(3, Ordering::SeqCst);
    assert_eq!(client.unary("orders:9090", b"").await.grpc(), "14", "at most two retries");
    assert_eq!(attempts(&web.log().await).iter().map(Vec::len).collect::<Vec<_>>(), [1, 3, 3]);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let world = World::new();
    let app = App::http2(|_| async { grpc_status("14") }).await;
    let orders = instance(&world, app.address).await;
    let spec = "\
retry:
  attempts: 2
  on: {grpc: [UNAVAILABLE]}
  backoff: {base: 1ms, max: 1ms}
  budget: {ratio: 20%, minRate: 1/s, interval: 10s}
outlierDetection: {consecutiveFailures: 0}";
    let web = caller(&world, &[orders.inbound()], &policy("orders", spec)).await;
    let mut client = Client::http2(web.outbound()).await;
    for _ in 0..100 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "14");
    }
    let seen = app.seen().len();
    assert!((110..=131).contains(&seen), "{seen} calls reached the application");
    let metrics = web.metrics();
    let exhausted = "outrigger_retry_budget_exhausted_total{destination=\"orders.shop\"}";
    assert!(metrics.contains(exhausted), "{metrics}");
}

#[tokio::test]
async fn times_of_a_rule_end_what_takes_too_long() {
    let world = World::new();
    let app = App::http2(|_| std::future::pending()).await;
    let orders = instance(&world, app.address).await;
    for (spec, reason, calls) in [
        ("timeouts: {request: 1s}", "request_timeout", 1),
        ("timeouts: {attempt: 1s}", "attempt_timeout", 1),
    ] {
        let before = app.seen().len();
        let web = caller(&world, &[orders.inbound()], &policy("orders", spec)).await;
        let mut client = Client::http2(web.outbound()).await;
        let answer = client.unary("orders:9090", b"").await;
        assert_eq!((answer.grpc(), answer.reason()), ("4", reason));
        assert_eq!(app.seen().len() - before, calls, "{reason}");
    }
    until("the calls are cancelled", || app.under_way() == 0).await;
}

#[tokio::test]
async fn silent_and_endless_streams_are_ended() {
    let world = World::new();
    let app = App::echo().await;
    let orders = instance(&world, app.address).await;
    for (spec, reason) in [
        ("timeouts: {streamIdle: 100ms}", "idle_timeout"),
        ("timeouts: {maxStream: 100ms}", "request_timeout"),
    ] {
        let web = caller(&world, &[orders.inbound()], &policy("orders", spec)).await;
        let mut client = Client::http2(web.outbound()).await;
        let (_sender, body) = channel();
        let request = call("orders:9090").body(body).expect("a request");
        let response = bounded(client.send(request)).await.expect("a head");
        let answer = bounded(whole(response)).await.expect("an orderly end");
        assert_eq!((answer.grpc(), answer.reason()), ("4", reason));
    }
}

#[tokio::test]
async fn a_place_in_the_bulkhead_is_held_to_the_last_byte() {
    let world = World::new();
    let app = App::echo().await;
    let orders = instance(&world, app.address).await;
    let spec = "bulkhead: {maxConcurrent: 2, maxQueued: 1, maxWait: 2s}";
    let web = caller(&world, &[orders.inbound()], &policy("orders", spec)).await;
    let mut client = Client::http2(web.outbound()).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let (sender, body) = channel();
        let request = call("orders:9090").body(body).expect("a request");
        open.push((sender, bounded(client.send(request)).await.expect("a head")));
    }
    // Both have their heads and hold their places.
    let mut other = Client::http2(web.outbound()).await;
    let (waited, refused) = tokio::join!(client.unary("orders:9090", b""), async {
        until("one waits", || {
            web.metrics().contains("outrigger_bulkhead_queued{destination=\"orders.shop\"} 1")
        })
        .await;
        other.unary("orders:9090", b"").await
    });
    assert_eq!((waited.grpc(), waited.reason()), ("14", "bulkhead_wait"));
    assert_eq!((refused.grpc(), refused.reason()), ("14", "bulkhead_full"));

    let (sender, response) = open.pop().expect("two");
    drop(sender);
    assert_eq!(bounded(whole(response)).await.expect("an end").grpc(), "0");
    assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");

    // Whoever waits gets the place that is given up.
    let (open_on, body) = channel();
    let held = bounded(client.send(call("orders:9090").body(body).expect("a request"))).await;
    let held = held.expect("a head");
    let (sender, response) = open.pop().expect("one");
    let (waited, ()) = tokio::join!(other.unary("orders:9090", b""), async {
        until("one waits", || {
            web.metrics().contains("outrigger_bulkhead_queued{destination=\"orders.shop\"} 1")
        })
        .await;
        drop((sender, response));
    });
    assert_eq!(waited.grpc(), "0");
    drop((open_on, held));
    until("all places are free", || {
        web.metrics().contains("outrigger_bulkhead_in_use{destination=\"orders.shop\"} 0")
    })
    .await;
}

#[tokio::test]
async fn what_the_bulkhead_refuses_earns_no_retries() {
    let world = World::new();
    let app = App::http2(|request| async move {
        if request.headers().contains_key("hold") {
            std::future::pending::<()>().await;
        }
        grpc_status("14")
    })
    .await;
    let orders = instance(&world, app.address).await;
    let spec = "\
retry:
  attempts: 5
  on: {grpc: [UNAVAILABLE]}
  backoff: {base: 1ms, max: 1ms}
  budget: {ratio: 20%, minRate: 0/s, interval: 10s}
bulkhead: {maxConcurrent: 1, maxQueued: 0, maxWait: 1ms}
outlierDetection: {consecutiveFailures: 0}";
    let web = caller(&world, &[orders.inbound()], &policy("orders", spec)).await;
    let in_use = |places| {
        let line = format!("outrigger_bulkhead_in_use{{destination=\"orders.shop\"}} {places}");
        web.metrics().lines().any(|it| it == line)
    };
    let (_open, body) = channel();
    let held = call("orders:9090").header("hold", "1").body(body).expect("a request");
    let (mut holding, mut client) =
        (Client::http2(web.outbound()).await, Client::http2(web.outbound()).await);
    tokio::select! {
        answered = holding.send(held) => panic!("{answered:?}"),
        () = async {
            until("the place is taken", || in_use(1)).await;
            for _ in 0..100 {
                assert_eq!(client.unary("orders:9090", b"").await.reason(), "bulkhead_full");
            }
        } => {}
    }
    drop(holding);
    until("the place is free", || in_use(0)).await;
    let before = app.seen().len();
    assert_eq!(client.unary("orders:9090", b"").await.grpc(), "14");
    assert_eq!(app.seen().len() - before, 1, "two calls in ten seconds earn no retry");
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_comes_back() {
    let world = World::new();
    let good = App::echo().await;
    let (bad, left) = recovering(usize::MAX).await;
    let (one, other) = (instance(&world, good.address).await, instance(&world, bad.address).await);
    let spec = "\
outlierDetection: {consecutiveFailures: 5, interval: 10s, baseEjection: 3s, maxEjected: 50%}
loadBalancing: {policy: RoundRobin}";
    let endpoints = [one.inbound(), other.inbound()];
    let web = caller(&world, &endpoints, &policy("orders", spec)).await;
    let mut client = Client::http2(web.outbound()).await;
    let ejected =
        || web.proxy.endpoints().iter().any(|endpoint| endpoint.state == EndpointState::Ejected);
    let mut failed = 0;
    while !ejected() {
        failed += usize::from(client.unary("orders:9090", b"").await.grpc() != "0");
    }
    assert_eq!(failed, 5);
    for _ in 0..10 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    }
    let seen = bad.seen().len();
    left.store(0, Ordering::SeqCst);
    until("the ejection ends", || !ejected()).await;
    for _ in 0..4 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    }
    assert!(bad.seen().len() > seen, "it is called again");
    assert!(web.metrics().contains("outrigger_ejections_total{destination=\"orders.shop\"} 1"));
}

#[tokio::test]
async fn a_route_splits_by_weight() {
    let world = World::new();
    let (one, two) = (App::echo().await, App::echo().await);
    let one_sidecar = world.server("orders-v1", one.address).await;
    let two_sidecar = world.server("orders-v2", two.address).await;
    let yaml = format!(
        "{}{}{}---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: canary, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: orders}}]
  rules:
    - matches: [{{method: {{service: echo.Echo}}}}]
      backendRefs:
        - {{name: orders-v1, port: 9090, weight: 90}}
        - {{name: orders-v2, port: 9090, weight: 10}}
",
        grpc("orders", &[]),
        grpc("orders-v1", &[one_sidecar.inbound()]),
        grpc("orders-v2", &[two_sidecar.inbound()])
    );
    let web = world.client("web").await;
    for sidecar in [&one_sidecar, &two_sidecar, &web] {
        sidecar.configure(&yaml).await;
    }
    let mut client = Client::http2(web.outbound()).await;
    for _ in 0..200 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    }
    let (one, two) = (one.seen().len(), two.seen().len());
    assert!(one + two == 200 && (4..=37).contains(&two), "{one}/{two}");
    let other = http::Request::post("http://orders:9090/echo.Other/Echo")
        .header("content-type", "application/grpc");
    let answer = client.ask(other.body(empty()).expect("a request")).await;
    assert_eq!((answer.grpc(), answer.reason()), ("12", "no_route"));
}

#[tokio::test]
async fn a_killed_endpoint_fails_nothing_but_what_it_had_under_way() {
    let world = World::new();
    let app = App::echo().await;
    let (one, other) = (instance(&world, app.address).await, instance(&world, app.address).await);
    let web = caller(&world, &[one.inbound(), other.inbound()], "").await;
    let mut client = Client::http2(web.outbound()).await;
    for _ in 0..10 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    }
    drop(one);
    let mut failed = Vec::new();
    for _ in 0..50 {
        let answer = client.unary("orders:9090", b"").await;
        if answer.grpc() != "0" {
            failed.push(answer.reason().to_owned());
        }
    }
    // It dies while the first of them is on its way; nobody can know whether that one was seen.
    assert!(failed.is_empty() || failed == ["upstream_reset"], "{failed:?}");
}

#[tokio::test]
async fn a_reset_after_the_request_was_seen_is_not_retried() {
    let world = World::new();
    let (address, _serving) = frames(|id| reset(id, INTERNAL_ERROR)).await;
    let orders = instance(&world, address).await;
    let web = caller(&world, &[orders.inbound()], "").await;
    let mut client = Client::http2(web.outbound()).await;
    let answer = client.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("13", "upstream_reset"), "{answer:?}");
    assert_eq!(attempts(&web.log().await), [["upstream_reset"]]);
    assert_eq!(attempts(&orders.log().await), [["upstream_reset"]]);
}

#[tokio::test]
async fn an_http1_application_that_closed_its_connection_is_not_noticed() {
    let world = World::new();
    let app = App::http1(|_| async {
        let mut answer = text(200, "once");
        answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
        answer
    })
    .await;
    let orders = world.server("orders", app.address).await;
    let yaml =
        grpc("orders", &[orders.inbound()]).replace("appProtocol: grpc", "appProtocol: http");
    orders.configure(&yaml).await;
    let web = world.client("web").await;
    web.configure(&yaml).await;
    let mut client = Client::http1(web.outbound()).await;
    for _ in 0..10 {
        let answer = client.get("/", &[("host", "orders:9090")]).await;
        assert_eq!((answer.status.as_u16(), &answer.data[..]), (200, &b"once"[..]), "{answer:?}");
    }
}

#[tokio::test]
async fn a_caller_learns_why_a_far_sidecar_ended_its_stream() {
    let world = World::new();
    let app = App::echo().await;
    let orders = instance(&world, app.address).await;
    let web = caller(&world, &[orders.inbound()], "").await;
    let mut client = Client::http2(web.outbound()).await;
    let (_sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let response = bounded(client.send(request)).await.expect("a head");
    drop(app);
    let answer = bounded(whole(response)).await.expect("trailers");
    assert_eq!((answer.grpc(), answer.reason()), ("14", "upstream_reset"), "{answer:?}");
    for log in [web.log().await, orders.log().await] {
        assert_eq!(log[0]["reason"], "upstream_reset", "{log:?}");
    }
}

#[tokio::test]
async fn a_storm_of_cancelled_streams_leaves_the_others_alone() {
    let world = World::new();
    let chunk = bytes::Bytes::from(vec![7; 1024]);
    let app = App::http2(move |request| {
        let chunk = chunk.clone();
        async move {
            if request.headers().contains_key("x-metadata") {
                return app::echo(request).await;
            }
            let frames = std::iter::repeat(chunk).map(|chunk| Ok(http_body::Frame::data(chunk)));
            let endless = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
            let mut answer = grpc_status("0");
            answer.headers_mut().remove("grpc-status");
            *answer.body_mut() = http_body_util::BodyExt::boxed(endless);
            answer
        }
    })
    .await;
    let orders = instance(&world, app.address).await;
    let web = caller(&world, &[orders.inbound()], "").await;
    let mut client = Client::http2(web.outbound()).await;
    let (sender, body) = channel();
    let request = call("orders:9090").header("x-metadata", "echo").body(body);
    let response = bounded(client.send(request.expect("a request"))).await.expect("a head");
    let mut other = Client::http2(web.outbound()).await;
    for _ in 0..40 {
        let request = call("orders:9090").body(empty()).expect("a request");
        let mut body = bounded(other.send(request)).await.expect("a head").into_body();
        bounded(http_body_util::BodyExt::frame(&mut body)).await.expect("data").expect("no error");
    }
    drop(sender);
    let answer = bounded(whole(response)).await.expect("a whole answer");
    assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{answer:?}");
    until("they are cancelled", || web.proxy.in_flight() + orders.proxy.in_flight() == 0).await;
}

#[tokio::test]
async fn what_does_not_fit_the_replay_buffer_is_not_sent_again() {
    // After HTTP/2's first window, when more than the buffer holds is on its way.
    const MORE_WINDOW: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let world = World::new();
    let app = App::echo().await;
    let good = instance(&world, app.address).await;
    let refuse: Frames = |id| [&reset(id, 7)[..], &MORE_WINDOW].concat();
    let (address, _serving) = frames_after(65_535, refuse).await;
    let bad = instance(&world, address).await;
    let spec = "loadBalancing: {policy: RoundRobin}\noutlierDetection: {consecutiveFailures: 0}";
    let endpoints = [bad.inbound(), good.inbound()];
    let web = caller(&world, &endpoints, &policy("orders", spec)).await;
    let mut client = Client::http2(web.outbound()).await;
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let request = call("orders:9090").body(full(vec![7; 200 * 1024])).expect("a request");
        reasons.push(client.ask(request).await.reason().to_owned());
    }
    reasons.sort();
    assert_eq!(reasons, ["", "", "stream_refused", "stream_refused"]);
    assert!(attempts(&web.log().await).iter().all(|one| one.len() == 1));
}
