//! Connections: how many are opened, how old they grow, and who notices.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::Request;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use super::{
    BOUND,
    app::{App, echo},
    bounded,
    client::{Client, call, empty, full, whole},
    until,
    world::{World, grpc, loopback, pair, settings},
};
use crate::task::Tasks;

#[tokio::test]
async fn more_streams_than_one_connection_takes_open_another() {
    const CALLS: usize = 400;
    let world = World::new();
    let app = App::http2(|_| pending()).await;
    let orders = world.server("orders", app.address).await;
    let web = world.client("web").await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&yaml).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::http2(web.outbound()).await);
    }
    let calls = clients.iter_mut().map(|client| async {
        for _ in 0..CALLS / 4 {
            let request = call("orders:9090").body(empty()).expect("a request");
            client.begin(request).await;
        }
    });
    bounded(join_all(calls)).await;
    until("all of them are under way", || app.under_way() == CALLS).await;
    assert_eq!((web.proxy.in_flight(), orders.proxy.in_flight()), (CALLS, CALLS));
    drop(clients);
    until("all of them are cancelled", || app.under_way() == 0).await;
    until("nothing is under way", || web.proxy.in_flight() + orders.proxy.in_flight() == 0).await;
}

/// Connections of other sidecars so far.
fn opened(metrics: &str) -> u64 {
    let labels = "direction=\"inbound\",protocol=\"h2\",tls=\"true\"";
    let line = format!("outrigger_connections_opened_total{{{labels}}} ");
    let count = metrics.lines().find_map(|one| one.strip_prefix(&line));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn connections_that_grow_old_end_without_a_failure() {
    let world = World::new();
    let app = App::echo().await;
    let mut of_orders = settings("orders");
    of_orders.inbound = Some(loopback());
    of_orders.apps = vec![crate::proxy::App {
        port: "9090".to_owned(),
        address: crate::proxy::Address::Tcp(app.address),
    }];
    let mut of_web = settings("web");
    of_web.outbound = Some(loopback());
    let age = Duration::from_millis(150);
    (of_orders.connection_age_max, of_web.connection_age_max) = (age, age);
    let orders = world.start(of_orders, Duration::from_secs(3600)).await;
    let web = world.start(of_web, Duration::from_secs(3600)).await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&yaml).await;

    // The application's own connection is left alone.
    let mut client = Client::http2(web.outbound()).await;
    let end = Instant::now() + BOUND;
    while opened(&orders.metrics()) <= 3 {
        assert!(Instant::now() < end, "{}", orders.metrics());
        let request = call("orders:9090").body(empty()).expect("a request");
        let response = bounded(client.send(request)).await.expect("it is still open");
        let answer = bounded(whole(response)).await.expect("a whole answer");
        assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_whose_window_is_spent_holds_up_no_other_call() {
    let app = App::http2(|request: Request<Incoming>| async move {
        if request.headers().contains_key("x-stalls") {
            pending::<()>().await;
        }
        echo(request).await
    })
    .await;
    let (_world, _orders, web) = pair(app.address, "").await;
    // More than the application's window for all streams of a connection.
    let mut stalled = Vec::new();
    for count in 1..=4 {
        let mut one = Client::http2(web.outbound()).await;
        let request = call("orders:9090").header("x-stalls", "1");
        let request = request.body(full(vec![0; 8 * 1024 * 1024])).expect("a request");
        one.begin(request).await;
        stalled.push(one);
        until("it is under way", || app.under_way() == count).await;
    }
    let mut client = Client::http2(web.outbound()).await;
    for _ in 0..20 {
        let answer = client.unary("orders:9090", b"\0\0\0\0\x05hello").await;
        assert_eq!((answer.grpc(), answer.data.len()), ("0", 10), "{answer:?}");
    }
}

#[tokio::test]
async fn an_application_is_asked_how_many_streams_it_takes_before_it_gets_any() {
    // It says so a moment after it was connected to, and takes one at a time.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let refused = Arc::new(AtomicUsize::new(0));
    let mut serving = Tasks::new();
    let count = Arc::clone(&refused);
    serving.spawn("one at a time", async move {
        let mut connections = Tasks::new();
        while let Ok((stream, _)) = listener.accept().await {
            let refused = Arc::clone(&count);
            connections.spawn("connection", one_at_a_time(stream, refused, None));
        }
    });
    let (_world, _orders, web) = pair(address, "").await;
    let calls = (0..8).map(|_| async {
        let mut client = Client::http2(web.outbound()).await;
        for _ in 0..10 {
            let answer = client.unary("orders:9090", b"").await;
            assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{answer:?}");
        }
    });
    bounded(join_all(calls)).await;
    assert_eq!(refused.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_application_that_takes_no_streams_for_now_is_not_connected_to_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (opens, opened) = watch::channel(false);
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let mut serving = Tasks::new();
    serving.spawn("closed for now", async move {
        let mut connections = Tasks::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let closed = Some(opened.clone());
            connections.spawn("connection", one_at_a_time(stream, Arc::default(), closed));
        }
    });
    let (_world, orders, web) = pair(address, "").await;
    let calls = join_all((0..4).map(|_| async {
        let mut client = Client::http2(web.outbound()).await;
        client.unary("orders:9090", b"").await
    }));
    let opening = async {
        until("all of them wait", || orders.proxy.in_flight() == 4).await;
        until("it is connected to", || accepted.load(Ordering::SeqCst) > 0).await;
        // Each look at its metrics takes longer than another connection.
        (0..20).for_each(|_| drop(orders.metrics()));
        // One for each worker.
        assert!(accepted.load(Ordering::SeqCst) <= 2);
        opens.send_replace(true);
    };
    let (answers, ()) = bounded(async { tokio::join!(calls, opening) }).await;
    for answer in answers {
        assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{answer:?}");
    }
}

/// Speaks just enough HTTP/2 to answer one call at a time, and at first none until it is told to.
async fn one_at_a_time(
    mut stream: TcpStream,
    refused: Arc<AtomicUsize>,
    closed: Option<watch::Receiver<bool>>,
) {
    stream.set_nodelay(true).expect("open");
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err() {
        return;
    }
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let settings = |streams| [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, streams];
    if let Some(mut closed) = closed {
        stream.write_all(&settings(0)).await.expect("open");
        drop(closed.wait_for(|open| *open).await);
    }
    stream.write_all(&settings(1)).await.expect("open");
    let mut open: Option<[u8; 4]> = None;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.expect("a frame");
        let id = [head[5], head[6], head[7], head[8]];
        let (kind, end) = (head[3], head[4] & 1 > 0);
        if kind == 1 && open.replace(id).is_some_and(|before| before != id) {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        if matches!(kind, 0 | 1) && end {
            open = None;
            // `:status: 200` and `grpc-status: 0`.
            let fields = b"\x88\x00\x0bgrpc-status\x010";
            let length = u8::try_from(fields.len()).expect("short");
            let answer = [&[0, 0, length, 1, 5], &id[..], fields].concat();
            stream.write_all(&answer).await.expect("open");
        }
    }
}

#[tokio::test]
async fn thousands_of_cancels_at_once_cost_no_other_call() {
    let app = App::echo().await;
    let (_world, orders, web) = pair(app.address, "").await;
    let mut other = Client::http2(web.outbound()).await;
    assert_eq!(other.unary("orders:9090", b"").await.grpc(), "0");
    for round in 0..20 {
        let mut rude = Client::http2(web.outbound()).await;
        for _ in 0..100 {
            rude.begin(call("orders:9090").body(empty()).expect("a request")).await;
        }
        drop(rude);
        let answer = other.unary("orders:9090", b"").await;
        assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{round}: {answer:?}");
    }
    until("nothing is under way", || web.proxy.in_flight() + orders.proxy.in_flight() == 0).await;
    until("all have ended", || app.under_way() == 0).await;
}
