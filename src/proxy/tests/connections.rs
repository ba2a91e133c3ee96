//! Connections: how many are opened, how old they grow, and who notices.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    BOUND,
    app::App,
    bounded,
    client::{Client, call, empty, whole},
    until,
    world::{World, grpc, loopback, settings},
};

#[tokio::test]
async fn more_streams_than_one_connection_takes_open_another() {
    const CALLS: usize = 400;
    let world = World::new();
    let app = App::http2(|_| std::future::pending()).await;
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

    let mut clients = vec![Client::http2(web.outbound()).await];
    let end = Instant::now() + BOUND;
    while clients.len() <= 3 || opened(&orders.metrics()) <= 3 {
        assert!(Instant::now() < end, "{} {}", clients.len(), orders.metrics());
        let client = clients.last_mut().expect("one");
        let request = call("orders:9090").body(empty()).expect("a request");
        match bounded(client.send(request)).await {
            Ok(response) => {
                let answer = bounded(whole(response)).await.expect("a whole answer");
                assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{answer:?}");
            }
            // It came after the GOAWAY, which gRPC's clients try again by themselves.
            Err(_) => clients.push(Client::http2(web.outbound()).await),
        }
    }
}
