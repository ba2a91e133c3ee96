//! Who may call whom, who is believed to be whom, and for how long.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::{
    app::App,
    bounded,
    client::{Client, call, channel, empty},
    until,
    world::{Sidecar, World, grpc, loopback, service, settings},
};
use crate::{
    proxy::{self, Address},
    spiffe::SpiffeId,
    tls::{Identity, Sni},
};

const HOUR: Duration = Duration::from_secs(3600);

async fn client_of(sidecar: &Sidecar) -> Client {
    Client::http2(sidecar.outbound()).await
}

/// A connection as another sidecar makes it.
pub(super) async fn mesh_client(to: SocketAddr, identity: &Identity, service: &str) -> Client {
    let expected = SpiffeId::of_service("mesh.local", &super::world::service(service));
    let connector = TlsConnector::from(identity.client_config(&expected.expect("an identity")));
    let sni = Sni { port: 9090, service: super::world::service(service) };
    let stream = TcpStream::connect(to).await.expect("connected");
    let name = sni.server_name().expect("a name");
    Client::http2_on(connector.connect(name, stream).await.expect("a handshake")).await
}

#[tokio::test]
async fn a_caller_that_may_not_is_denied_with_the_policy_that_says_so() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    let (web, thief) = (world.client("web").await, world.client("thief").await);
    let yaml = format!(
        "{}---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: orders}}]
  action: Allow
  rules:
    - from: [{{services: [web]}}]
      to: [{{grpc: [echo.Echo/Echo]}}]
",
        grpc("orders", &[orders.inbound()])
    );
    for sidecar in [&orders, &web, &thief] {
        sidecar.configure(&yaml).await;
    }
    assert_eq!(client_of(&web).await.unary("orders:9090", b"").await.grpc(), "0");
    let answer = client_of(&thief).await.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("7", "denied"));
    let message = answer.field("grpc-message");
    assert!(message.contains("svc/thief may not, says shop/orders; trace "), "{message}");
    assert_eq!(app.seen().len(), 1);
    let log = orders.log().await;
    assert_eq!((&log[1]["reason"], &log[1]["policy"]), (&"denied".into(), &"shop/orders".into()));
    // It is not retried, though nobody saw it: it would be denied everywhere.
    assert_eq!(thief.log().await[0]["attempts"].as_array().map(Vec::len), Some(1));
    assert!(
        orders.metrics().contains("outrigger_authorization_decisions_total{decision=\"denied\"} 1")
    );
}

#[tokio::test]
async fn an_endpoint_that_proves_another_identity_gets_nothing() {
    let world = World::new();
    let app = App::echo().await;
    let payments = world.server("payments", app.address).await;
    payments.configure(&grpc("payments", &[])).await;
    let web = world.client("web").await;
    web.configure(&grpc("orders", &[payments.inbound()])).await;
    let answer = client_of(&web).await.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", "peer_identity"), "{answer:?}");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn meshes_with_other_roots_do_not_speak_to_each_other() {
    let (world, other) = (World::new(), World::new());
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    orders.configure(&grpc("orders", &[])).await;
    let yaml = grpc("orders", &[orders.inbound()]);
    let stranger = other.client("web").await;
    stranger.configure(&yaml).await;
    let answer = client_of(&stranger).await.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", "peer_identity"), "{answer:?}");

    // One that trusts it, but that it does not trust.
    let mixed =
        Identity::new(other.svid(&service("web"), HOUR), orders.identity.bundle().as_ref().clone());
    let mut wanted = settings("web");
    wanted.outbound = Some(loopback());
    let web = world.start_as(wanted, Arc::new(mixed.expect("of one trust domain"))).await;
    web.configure(&yaml).await;
    let answer = client_of(&web).await.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", "peer_identity"), "{answer:?}");
    assert!(app.seen().is_empty());
    let metrics = orders.metrics();
    assert!(metrics.contains("outrigger_tls_handshakes_total{"), "{metrics}");
}

#[tokio::test]
async fn a_connection_ends_with_its_peers_certificate() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    orders.configure(&grpc("orders", &[])).await;
    let short = world.identity(&service("web"), Duration::from_secs(3));
    let mut client = mesh_client(orders.inbound(), &short, "orders").await;
    let (_sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let mut body = bounded(client.send(request)).await.expect("a head").into_body();
    let end = bounded(body.frame()).await.expect("no orderly end");
    assert!(end.is_err(), "{end:?}");
    until("the connection has ended", || client.is_closed()).await;
}

#[tokio::test]
async fn dropping_a_root_ends_the_connections_that_it_vouched_for() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    let web = world.client("web").await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&yaml).await;
    let mut client = client_of(&web).await;
    let (_sender, body) = channel();
    let request = call("orders:9090").body(body).expect("a request");
    let mut body = bounded(client.send(request)).await.expect("a head").into_body();
    let other = World::new();
    let bundle = other.identity(&service("web"), HOUR).bundle().as_ref().clone();
    orders.identity.replace_bundle(bundle).expect("of the trust domain");
    let end = bounded(body.frame()).await.expect("trailers").expect("in order");
    let trailers = end.into_trailers().expect("trailers");
    assert_eq!(trailers.get("outrigger-reason").expect("why"), "upstream_reset");
    let answer = client.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", "peer_identity"), "{answer:?}");
}

#[tokio::test]
async fn sni_names_a_port_and_nothing_else() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    orders.configure(&grpc("orders", &[])).await;
    let web = world.identity(&service("web"), HOUR);
    let mut client = mesh_client(orders.inbound(), &web, "orders").await;
    assert_eq!(client.unary("anything:1", b"").await.grpc(), "0");
    let request = http::Request::connect("orders:9090").body(empty()).expect("a request");
    let answer = client.ask(request).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (400, "malformed"));
}

#[tokio::test]
async fn a_sidecar_without_a_certificate_refuses_and_says_so() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    let mut wanted = settings("web");
    wanted.outbound = Some(loopback());
    wanted.inbound = Some(loopback());
    wanted.apps = vec![proxy::App { port: "9090".into(), address: Address::Tcp(app.address) }];
    let web = world.start_without(wanted).await;
    web.configure(&yaml).await;
    let answer = client_of(&web).await.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("14", "not_ready"), "{answer:?}");
    let identity = world.identity(&service("orders"), HOUR);
    let expected = SpiffeId::of_service("mesh.local", &service("web")).expect("an identity");
    let connector = TlsConnector::from(identity.client_config(&expected));
    let stream = TcpStream::connect(web.inbound()).await.expect("connected");
    let name = Sni { port: 9090, service: service("web") }.server_name().expect("a name");
    assert!(bounded(connector.connect(name, stream)).await.is_err());
}

#[tokio::test]
async fn what_is_neither_http_nor_tls_is_closed() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    orders.configure("").await;
    for garbage in [&b"\0\0\0\0garbage\r\n"[..], b"GETT\x01", b"\x16\x03\x01\x00\x05hello"] {
        let mut stream = TcpStream::connect(orders.inbound()).await.expect("connected");
        stream.write_all(garbage).await.expect("open");
        let mut rest = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        // An alert or nothing, and then the end, by a reset if not all was read.
        drop(bounded(read).await);
        assert!(rest.len() <= 7, "{rest:?}");
    }
}
