//! Calls of every kind through two sidecars, and what each side sees of them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body::Frame;
use http_body_util::BodyExt as _;

use super::{
    app::{App, text},
    bounded,
    client::{Client, call, channel, empty, full, whole},
    until,
    world::{Sidecar, World, grpc, pair, service},
};

/// `web` calls `orders`, whose application sends back what it gets.
struct Pair {
    app: App,
    orders: Sidecar,
    web: Sidecar,
}

impl Pair {
    async fn new(app: App) -> Self {
        let (_, orders, web) = pair(app.address, "").await;
        Self { app, orders, web }
    }

    async fn client(&self) -> Client {
        Client::http2(self.web.outbound()).await
    }
}

#[tokio::test]
async fn a_unary_call_travels_through_two_sidecars() {
    let pair = Pair::new(App::echo().await).await;
    let mut client = pair.client().await;
    let request = call("orders:9090").header("x-metadata", "a, b").body(full("\0\0\0\0\x02hi"));
    let answer = client.ask(request.expect("a request")).await;
    assert_eq!((answer.status.as_u16(), answer.grpc(), answer.reason()), (200, "0", ""));
    assert_eq!(&answer.data[..], b"\0\0\0\0\x02hi");
    assert_eq!((answer.field("x-metadata"), answer.field("x-trailer")), ("a, b", "after all"));
    let seen = &pair.app.seen()[0];
    assert_eq!(seen.uri, "http://orders:9090/echo.Echo/Echo");
    assert_eq!((seen.version, seen.field("te")), (Version::HTTP_2, Some("trailers")));
}

#[tokio::test]
async fn what_is_the_meshs_own_is_not_passed_on() {
    let pair = Pair::new(App::echo().await).await;
    let mut client = pair.client().await;
    let request = call("orders:9090")
        .header("outrigger-unseen", "1")
        .header("outrigger-mine", "1")
        .header("x-forwarded-client-cert", "By=me;URI=spiffe://mesh.local/ns/shop/svc/admin");
    let answer = client.ask(request.body(empty()).expect("a request")).await;
    assert_eq!(answer.grpc(), "0");
    // The application says both, in head and trailers.
    assert_eq!((answer.reason(), answer.field("outrigger-unseen")), ("", ""));
    let seen = &pair.app.seen()[0];
    assert!(seen.fields.keys().all(|name| !name.as_str().starts_with("outrigger-")));
    let client_cert = seen.field("x-forwarded-client-cert").expect("who called");
    let by = "By=spiffe://mesh.local/ns/shop/svc/orders;Hash=";
    assert!(client_cert.starts_with(by), "{client_cert}");
    assert!(client_cert.ends_with(";URI=spiffe://mesh.local/ns/shop/svc/web"), "{client_cert}");
}

#[tokio::test]
async fn messages_flow_both_ways_while_a_call_is_open() {
    let pair = Pair::new(App::echo().await).await;
    let mut client = pair.client().await;
    let (mut sender, body) = channel();
    bounded(async {
        let response = client.send(call("orders:9090").body(body).expect("a request"));
        let mut answer = response.await.expect("a head before any message").into_body();
        for message in ["one", "two", "three"] {
            sender.send_data(Bytes::from(message)).await.expect("open");
            let frame = answer.frame().await.expect("a frame").expect("no error");
            assert_eq!(frame.into_data().expect("data"), message);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-last", HeaderValue::from_static("1"));
        sender.send(Frame::trailers(trailers)).await.expect("open");
        drop(sender);
        let end = answer.frame().await.expect("a frame").expect("no error");
        let trailers = end.into_trailers().expect("trailers");
        assert_eq!(trailers.get("grpc-status").map(HeaderValue::as_bytes), Some(&b"0"[..]));
        assert!(!trailers.contains_key("outrigger-unseen"));
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stalls_stalls_the_writer() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 1024;
    let pair = Pair::new(App::echo().await).await;
    let mut client = pair.client().await;
    let (mut sender, body) = channel();
    let response = client.send(call("orders:9090").body(body).expect("a request"));
    let mut answer = bounded(response).await.expect("a head").into_body();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let writing = crate::task::spawn("writer", async move {
        for _ in 0..CHUNKS {
            sender.send_data(Bytes::from(vec![7; CHUNK])).await.expect("open");
            counter.fetch_add(CHUNK, std::sync::atomic::Ordering::SeqCst);
        }
    });
    // Nobody reads: what is under way settles below the sum of all windows and buffers.
    let mut before = usize::MAX;
    let mut now = sent.load(std::sync::atomic::Ordering::SeqCst);
    while now != before {
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        now = sent.load(std::sync::atomic::Ordering::SeqCst);
    }
    assert!(now < CHUNK * CHUNKS / 2, "{now} bytes were taken from the writer");
    // Whatever is read makes room for as much.
    bounded(async {
        while sent.load(std::sync::atomic::Ordering::SeqCst) == now {
            answer.frame().await.expect("a frame").expect("no error");
        }
    })
    .await;
    writing.abort();
}

#[tokio::test]
async fn one_record_tells_of_a_call_on_each_side() {
    let pair = Pair::new(App::echo().await).await;
    let mut client = pair.client().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = call("orders:9090").header("traceparent", trace).header("tracestate", "a=1");
    let answer = client.ask(request.body(full("\0\0\0\0\x02hi")).expect("a request")).await;
    assert_eq!(answer.grpc(), "0");

    let (near, far) = (pair.web.log().await, pair.orders.log().await);
    assert_eq!((near.len(), far.len()), (1, 1), "{near:?} {far:?}");
    for (line, direction, source, destination) in [
        (&near[0], "outbound", "web.shop", "orders.shop"),
        (&far[0], "inbound", "web.shop", "orders.shop"),
    ] {
        assert_eq!(line["direction"], direction, "{line}");
        assert_eq!((&line["source"], &line["destination"]), (&source.into(), &destination.into()));
        assert_eq!((&line["grpc_status"], &line["http_status"]), (&"OK".into(), &200.into()));
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&7.into(), &7.into()));
        assert_eq!((&line["port"], &line["revision"]), (&9090.into(), &7.into()));
        assert_eq!(line["attempts"].as_array().map(Vec::len), Some(1), "{line}");
    }
    let seen = &pair.app.seen()[0];
    assert_eq!(seen.field("tracestate"), Some("a=1"));
    let passed_on = seen.field("traceparent").expect("a trace");
    assert!(passed_on.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{passed_on}");
    assert!(!passed_on.contains("b7ad6b7169203331"), "{passed_on}");
    let metrics = pair.web.metrics();
    let count = metrics.lines().filter(|line| line.starts_with("outrigger_requests_total{"));
    assert_eq!(count.count(), 1, "{metrics}");
    assert_eq!(pair.web.proxy.in_flight(), 0);
}

#[tokio::test]
async fn a_deadline_shrinks_hop_by_hop_and_ends_the_call() {
    let pair = Pair::new(App::http2(|_| std::future::pending()).await).await;
    let mut client = pair.client().await;
    let request = call("orders:9090").header("grpc-timeout", "1000m");
    let answer = client.ask(request.body(empty()).expect("a request")).await;
    assert_eq!((answer.grpc(), answer.reason()), ("4", "deadline"));
    assert!(answer.field("grpc-message").starts_with("outrigger: deadline: "));
    let left = pair.app.seen()[0].field("grpc-timeout").expect("passed on").to_owned();
    let left = crate::resilience::deadline::parse_grpc_timeout(left.as_bytes()).expect("one");
    assert!(left < std::time::Duration::from_secs(1), "{left:?}");
    // The application is told that nobody waits any more.
    until("the call is cancelled", || pair.app.under_way() == 0).await;

    let request = call("orders:9090").header("grpc-timeout", "soon");
    let answer = client.ask(request.body(empty()).expect("a request")).await;
    assert_eq!((answer.grpc(), answer.reason()), ("13", "malformed"));
}

#[tokio::test]
async fn a_deadline_ends_a_stream_whose_head_is_out() {
    let pair = Pair::new(App::echo().await).await;
    let mut client = pair.client().await;
    let (_sender, body) = channel();
    let request = call("orders:9090").header("grpc-timeout", "1000m").body(body);
    let response = bounded(client.send(request.expect("a request"))).await.expect("a head");
    let answer = bounded(whole(response)).await.expect("an orderly end");
    assert_eq!((answer.grpc(), answer.reason()), ("4", "deadline"));
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call_everywhere() {
    let pair = Pair::new(App::http2(|_| std::future::pending()).await).await;
    let client = &mut pair.client().await;
    let request = call("orders:9090").body(empty()).expect("a request");
    let sending = Box::pin(client.send(request));
    let arrived = until("the call arrives", || pair.app.under_way() == 1);
    let waited = futures_util::future::select(sending, Box::pin(arrived)).await;
    drop(waited);
    until("the call is cancelled", || pair.app.under_way() == 0).await;
    until("nothing is under way", || {
        pair.web.proxy.in_flight() == 0 && pair.orders.proxy.in_flight() == 0
    })
    .await;
    let log = pair.web.log().await;
    assert_eq!(log[0]["reason"], "caller_gone", "{log:?}");
}

#[tokio::test]
async fn http1_travels_as_http2_and_leaves_as_the_application_speaks() {
    let world = World::new();
    let app = App::http1(|request: Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        text(201, body)
    })
    .await;
    let front = world.server("front", app.address).await;
    let web = world.client("web").await;
    let yaml = grpc("front", &[front.inbound()]).replace("name: grpc, ", "name: http, ");
    let yaml = yaml.replace("appProtocol: grpc", "appProtocol: http");
    front.configure(&yaml).await;
    web.configure(&yaml).await;

    let mut client = Client::http1(web.outbound()).await;
    for method in [Method::POST, Method::PUT] {
        let request = Request::builder()
            .method(method.clone())
            .uri("/orders?a=1")
            .header("host", "front.shop.mesh:9090")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .body(full("two books"))
            .expect("a request");
        let answer = client.ask(request).await;
        assert_eq!((answer.status.as_u16(), &answer.data[..]), (201, &b"two books"[..]));
    }
    let answer = client.get("/", &[("host", "front.shop.mesh:9090")]).await;
    assert_eq!(answer.status.as_u16(), 201);
    let seen = app.seen();
    assert_eq!((seen.len(), seen[0].version), (3, Version::HTTP_11));
    assert_eq!(
        (seen[0].uri.as_str(), seen[0].field("host")),
        ("/orders?a=1", Some("front.shop.mesh:9090"))
    );
    assert_eq!(seen[0].field("x-hop"), None);

    // The absolute form, as clients of a proxy send it.
    let answer = client.get("http://front:9090/x", &[("host", "front:9090")]).await;
    assert_eq!(answer.status.as_u16(), 201);
    assert_eq!(app.seen()[3].uri, "/x");
    let answer = client.get("/", &[("host", "nobody.shop.mesh")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, "unknown_service"));
    assert!(answer.data.starts_with(b"outrigger: unknown_service: "), "{:?}", answer.data);
    let log = web.log().await;
    let destination = &log.last().expect("it is logged")["destination"];
    assert_eq!(destination, "nobody.shop", "{log:?}");
}

#[tokio::test]
async fn a_service_is_asked_for_on_its_first_use() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    let web = world.client("web").await;
    orders.configure(&grpc("orders", &[])).await;
    web.configure_with("", &[]).await;
    let mut client = Client::http2(web.outbound()).await;
    let yaml = grpc("orders", &[orders.inbound()]);
    let answering = async {
        until("it is asked for", || !web.wanted.0.lock().expect("whole").is_empty()).await;
        web.configure_with(&yaml, &[("orders", true)]).await;
    };
    let (answer, ()) = tokio::join!(client.unary("orders:9090", b""), answering);
    assert_eq!(answer.grpc(), "0");
    assert_eq!(*web.wanted.0.lock().expect("whole"), [service("orders").to_string()]);
}
