//! Draining, and what one broken request costs.

use std::{sync::Arc, time::Duration};

use super::{
    BOUND,
    app::App,
    bounded,
    client::{Client, call, channel, whole},
    until,
    world::{World, grpc, loopback, settings},
};
use crate::{proxy::Discover, units::ServiceName};

#[tokio::test]
async fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let world = World::new();
    let (one_app, other_app) = (App::echo().await, App::echo().await);
    let one = world.server("orders", one_app.address).await;
    let web = world.client("web").await;
    one.configure(&grpc("orders", &[])).await;
    web.configure(&grpc("orders", &[one.inbound()])).await;
    let mut client = Client::http2(web.outbound()).await;
    let (sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let under_way = bounded(client.send(request)).await.expect("a head");

    // From now on there is another one, which takes what the first does not.
    let other = world.server("orders", other_app.address).await;
    other.configure(&grpc("orders", &[])).await;
    web.configure(&grpc("orders", &[one.inbound(), other.inbound()])).await;
    let draining = one.proxy.drain(BOUND);
    let calling = async {
        until("nobody accepts any more", || std::net::TcpStream::connect(one.inbound()).is_err())
            .await;
        for _ in 0..30 {
            let answer = client.unary("orders:9090", b"").await;
            assert_eq!((answer.grpc(), answer.reason()), ("0", ""), "{answer:?}");
        }
        assert_eq!(one_app.seen().len(), 1, "nothing new came to the one that drains");
        drop(sender);
        let answer = bounded(whole(under_way)).await.expect("a whole answer");
        assert_eq!(answer.grpc(), "0");
    };
    let (left, ()) = tokio::join!(draining, calling);
    assert_eq!(left, 0);
    assert_eq!(other_app.seen().len(), 30);
}

#[tokio::test]
async fn draining_is_bounded_and_who_is_left_is_told() {
    let world = World::new();
    let app = App::http2(|request: http::Request<hyper::body::Incoming>| async move {
        if request.headers().contains_key("x-hangs") {
            std::future::pending::<()>().await;
        }
        super::app::echo(request).await
    })
    .await;
    let orders = world.server("orders", app.address).await;
    let web = world.client("web").await;
    orders.configure(&grpc("orders", &[])).await;
    web.configure(&grpc("orders", &[orders.inbound()])).await;
    let mut client = Client::http2(web.outbound()).await;
    let (_sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let under_way = bounded(client.send(request)).await.expect("a head");
    let request = call("orders:9090").header("x-hangs", "1").body(super::client::empty());
    client.begin(request.expect("a request")).await;
    until("both are under way", || orders.proxy.in_flight() == 2).await;
    assert_eq!(orders.proxy.drain(Duration::from_millis(100)).await, 1);
    let answer = bounded(whole(under_way)).await.expect("trailers");
    assert_eq!((answer.grpc(), answer.reason()), ("14", "draining"), "{answer:?}");
    for log in [orders.log().await, web.log().await] {
        let reasons: Vec<_> = log.iter().map(|line| line["reason"].clone()).collect();
        assert_eq!(reasons, ["draining", "draining"], "{log:?}");
    }
}

#[tokio::test]
async fn a_request_for_which_there_is_no_time_any_more_is_told_so() {
    let world = World::new();
    let app = App::http1(|_| std::future::pending()).await;
    let orders = world.server("orders", app.address).await;
    let yaml =
        grpc("orders", &[]).replace("appProtocol: grpc", "appProtocol: http, mtls: Disabled");
    orders.configure(&yaml).await;
    let mut client = Client::http1(orders.inbound()).await;
    let asking = async { client.get("/", &[("host", "orders:9090")]).await };
    let draining = async {
        until("it is under way", || app.under_way() == 1).await;
        orders.proxy.drain(Duration::from_millis(20)).await
    };
    let (answer, left) = tokio::join!(asking, draining);
    assert_eq!((answer.status.as_u16(), answer.reason(), left), (503, "draining", 1));
    assert_eq!(answer.field("connection"), "close");
    until("the connection has ended", || client.is_closed()).await;
}

#[tokio::test]
async fn an_application_that_ends_before_its_sidecar_is_draining_and_others_take_over() {
    let world = World::new();
    let (one_app, other_app) = (App::echo().await, App::echo().await);
    let one = world.server("orders", one_app.address).await;
    let other = world.server("orders", other_app.address).await;
    for sidecar in [&one, &other] {
        sidecar.configure(&grpc("orders", &[])).await;
    }
    // It goes on calling the one that drains, by a connection that it has already.
    let identity = world.identity(&super::world::service("web"), Duration::from_secs(3600));
    let mut direct = super::security::mesh_client(one.inbound(), &identity, "orders").await;
    let (_sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let _under_way = bounded(direct.send(request)).await.expect("a head");
    let addresses = [one.inbound(), other.inbound()];
    drop(one_app);
    let asked = async { direct.unary("orders:9090", b"").await };
    let draining = async {
        let _left = one.proxy.drain_inbound(Duration::from_millis(1)).await;
    };
    let ((), answer) = tokio::join!(draining, asked);
    assert_eq!((answer.grpc(), answer.reason()), ("14", "draining"), "{answer:?}");
    assert_eq!(answer.field("outrigger-unseen"), "1");
    let web = world.client("web").await;
    web.configure(&grpc("orders", &addresses)).await;
    let mut client = Client::http2(web.outbound()).await;
    for _ in 0..10 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    }
}

#[tokio::test]
async fn an_application_is_asked_to_end_its_connections_too() {
    let world = World::new();
    let web = world.client("web").await;
    web.configure("").await;
    let (mut http1, mut http2) =
        (Client::http1(web.outbound()).await, Client::http2(web.outbound()).await);
    let answer = http1.get("/", &[("host", "nobody.shop.mesh")]).await;
    assert_eq!(answer.reason(), "unknown_service");
    assert_eq!(http2.unary("nobody.shop.mesh", b"").await.reason(), "unknown_service");
    assert_eq!(web.proxy.drain(BOUND).await, 0);
    until("both have ended", || http1.is_closed() && http2.is_closed()).await;
}

/// Breaks on purpose.
struct Broken;

impl Discover for Broken {
    fn want(&self, service: &ServiceName) {
        panic!("on purpose: {service}");
    }
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    orders.configure(&grpc("orders", &[])).await;
    let mut wanted = settings("web");
    wanted.outbound = Some(loopback());
    let web = world.start_with(wanted, Arc::new(Broken)).await;
    web.configure_with(&grpc("orders", &[orders.inbound()]), &[("orders", true)]).await;
    let mut client = Client::http2(web.outbound()).await;
    let (sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let under_way = bounded(client.send(request)).await.expect("a head");
    let request = call("other:9090").body(super::client::empty()).expect("a request");
    assert!(bounded(client.send(request)).await.is_err(), "its stream is reset");
    drop(sender);
    assert_eq!(bounded(whole(under_way)).await.expect("a whole answer").grpc(), "0");
    assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    let log = web.log().await;
    assert!(log.iter().any(|line| line["reason"] == "internal"), "{log:?}");
    assert_eq!(web.proxy.in_flight(), 0);
}
