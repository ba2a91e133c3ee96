//! Every way into a sidecar: tunnels, fixed upstreams, plaintext where it is permitted, and every way
//! out of it to the application.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Version};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    app::{self, App, text},
    bounded,
    client::Client,
    world::{World, grpc, loopback, pair, service, settings},
};
use crate::{
    proxy::{Address, Upstream},
    task::Tasks,
};

/// Opens a tunnel and returns the answer's head and the rest of the stream.
pub(super) async fn tunnel(proxy: SocketAddr, to: &str) -> (String, TcpStream) {
    bounded(async {
        let mut stream = TcpStream::connect(proxy).await.expect("connected");
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("open");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        (String::from_utf8(head).expect("text"), stream)
    })
    .await
}

/// A server that sends back bytes.
async fn bytes_back() -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = Tasks::new();
    tasks.spawn("bytes back", async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let (mut reader, mut writer) = stream.split();
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        }
    });
    (address, tasks)
}

/// A server that sends back bytes once it was asked to change the protocol, and otherwise says yes.
async fn changes_protocol() -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = Tasks::new();
    tasks.spawn("changes protocol", async move {
        let mut connections = Tasks::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            connections.spawn("changes protocol", async move {
                while let Some(head) = read_head(&mut stream).await {
                    if !head.to_ascii_lowercase().contains("upgrade: echo") {
                        let yes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(yes).await.expect("open");
                        continue;
                    }
                    let changed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: echo\r\n\r\n";
                    stream.write_all(changed).await.expect("open");
                    let (mut reader, mut writer) = stream.split();
                    drop(tokio::io::copy(&mut reader, &mut writer).await);
                    return;
                }
            });
        }
    });
    (address, tasks)
}

/// `None` at the end.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

#[tokio::test]
async fn a_protocol_change_goes_through_both_sidecars() {
    let (app, _serving) = changes_protocol().await;
    let world = World::new();
    let orders = world.server("orders", app).await;
    let web = world.client("web").await;
    let yaml = "---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 9090, appProtocol: http}]}
";
    let yaml = format!("{yaml}{}", super::world::workload("orders", 1, orders.inbound()));
    orders.configure(&yaml).await;
    web.configure(&yaml).await;
    bounded(async {
        // It is the first request of all: the far sidecar has not said yet that it takes such ones.
        let mut stream = TcpStream::connect(web.outbound()).await.expect("connected");
        let ask = b"GET /chat HTTP/1.1\r\nHost: orders:9090\r\nConnection: Upgrade\r\n\
            Upgrade: echo\r\n\r\n";
        stream.write_all(ask).await.expect("open");
        let head = read_head(&mut stream).await.expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream.write_all(b"not HTTP").await.expect("open");
        let mut back = [0; 8];
        stream.read_exact(&mut back).await.expect("the same back");
        assert_eq!(&back, b"not HTTP");
        stream.shutdown().await.expect("open");
        assert!(stream.read_u8().await.is_err(), "the end goes through too");
    })
    .await;
}

#[tokio::test]
async fn a_name_that_leads_back_to_the_proxy_is_a_loop() {
    let app = App::echo().await;
    let (_world, _orders, web) = pair(app.address, "").await;
    bounded(async {
        let mut stream = TcpStream::connect(web.outbound()).await.expect("connected");
        let port = web.outbound().port();
        let ask = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.expect("open");
        let head = read_head(&mut stream).await.expect("a head");
        assert!(head.starts_with("HTTP/1.1 508 "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn grpc_travels_through_a_tunnel_to_a_mesh_name() {
    let app = App::echo().await;
    let (_world, _orders, web) = pair(app.address, "").await;
    let (head, stream) = tunnel(web.outbound(), "orders:9090").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut client = Client::http2_on(stream).await;
    for _ in 0..2 {
        assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    }
    // The tunnel itself is no request.
    assert_eq!(web.log().await.len(), 2);
}

#[tokio::test]
async fn tls_inside_a_tunnel_to_a_mesh_name_is_refused() {
    let app = App::echo().await;
    let (_world, _orders, web) = pair(app.address, "").await;
    let (_, mut stream) = tunnel(web.outbound(), "orders:9090").await;
    stream.write_all(&[0x16, 0x03, 0x01, 0x00, 0x05]).await.expect("open");
    let mut alert = Vec::new();
    // It may end by a reset, because not all was read.
    drop(bounded(stream.read_to_end(&mut alert)).await);
    assert_eq!(alert, [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28]);
    let log = web.log().await;
    assert_eq!(log[0]["reason"], "tls_inside_proxy", "{log:?}");
}

#[tokio::test]
async fn a_tunnel_to_nowhere_is_refused_with_a_reason() {
    let app = App::echo().await;
    let (_world, _orders, web) = pair(app.address, "").await;
    for (to, status, reason) in [
        ("nobody.shop.mesh:80", "503", "unknown_service"),
        ("orders:1234", "404", "no_route"),
        ("orders:99999", "400", "malformed"),
    ] {
        let (head, _) = tunnel(web.outbound(), to).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{to}: {head}");
        assert!(head.contains(&format!("outrigger-reason: {reason}\r\n")), "{to}: {head}");
    }
}

#[tokio::test]
async fn names_outside_the_mesh_pass_opaquely_unless_egress_is_denied() {
    let app = App::echo().await;
    let (_world, _orders, web) = pair(app.address, "").await;
    let (far, _serving) = bytes_back().await;
    let (head, mut stream) = tunnel(web.outbound(), &far.to_string()).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(b"\x16\x03 not HTTP").await.expect("open");
    stream.shutdown().await.expect("open");
    let mut back = Vec::new();
    bounded(stream.read_to_end(&mut back)).await.expect("an orderly end");
    assert_eq!(back, b"\x16\x03 not HTTP");
    super::until("it is recorded", || {
        web.metrics().contains(
            "outrigger_tcp_bytes_total{direction=\"outbound\",destination=\"external\"} 22",
        )
    })
    .await;
    let log = web.log().await;
    assert_eq!(log[0]["destination"], "external", "{log:?}");

    web.configure(
        "---
apiVersion: outrigger.dev/v1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomain: mesh.local, egress: Deny}
",
    )
    .await;
    let (head, _) = tunnel(web.outbound(), &far.to_string()).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(head.contains("outrigger-reason: denied\r\n"), "{head}");
    let mut client = Client::http1(web.outbound()).await;
    let answer = client.get(&format!("http://{far}/"), &[("host", &far.to_string())]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (403, "denied"));
}

#[tokio::test]
async fn an_inherited_proxy_is_respected() {
    let world = World::new();
    // It opens tunnels to what it is asked for, and answers requests itself.
    let other = world.client("other").await;
    other.configure("").await;
    let (far, _serving) = bytes_back().await;
    let app = App::http1(|_| async { text(200, "by hand") }).await;
    let mut wanted = settings("web");
    wanted.outbound = Some(loopback());
    wanted.external_proxy = Some(other.outbound().to_string());
    wanted.external_direct = vec![".0.0.2".to_owned()];
    let web = world.start(wanted, std::time::Duration::from_secs(3600)).await;
    web.configure("").await;

    let (head, mut stream) = tunnel(web.outbound(), &far.to_string()).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(b"hello").await.expect("open");
    let mut back = [0; 5];
    bounded(stream.read_exact(&mut back)).await.expect("open");
    assert_eq!(&back, b"hello");
    drop(stream);

    let mut client = Client::http1(web.outbound()).await;
    let host = app.address.to_string();
    let answer = client.get(&format!("http://{host}/x"), &[("host", &host)]).await;
    assert_eq!((answer.status.as_u16(), &answer.data[..]), (200, &b"by hand"[..]));
    super::until("both went by the other proxy", || {
        other.metrics().contains("outrigger_requests_total")
    })
    .await;
    let lines = other.log().await;
    assert!(lines.iter().any(|line| line["path"] == "/x"), "{lines:?}");
}

#[tokio::test]
async fn an_upstream_listener_leads_to_one_service() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("orders.sock");
    let mut wanted = settings("web");
    let upstream = |listen| Upstream { service: service("orders"), port: 9090, listen };
    wanted.upstreams =
        vec![upstream(Address::Tcp(loopback())), upstream(Address::Unix(path.clone()))];
    let web = world.start(wanted, std::time::Duration::from_secs(3600)).await;
    web.configure(&yaml).await;

    let listen = web.proxy.addresses().upstreams[0].listen.clone();
    let Address::Tcp(address) = listen else { panic!("an address: {listen}") };
    let mut client = Client::http2(address).await;
    assert_eq!(client.unary(&address.to_string(), b"").await.grpc(), "0");
    assert_eq!(app.seen()[0].uri, "http://orders.shop:9090/echo.Echo/Echo");
    let stream = tokio::net::UnixStream::connect(&path).await.expect("connected");
    let mut client = Client::http2_on(stream).await;
    assert_eq!(client.unary("localhost", b"").await.grpc(), "0");
    // With all that there is known, nobody is asked and waited for.
    web.configure("").await;
    assert_eq!(client.unary("localhost", b"").await.reason(), "unknown_service");
    drop(web);
    super::until("the socket's file is gone", || !path.exists()).await;
}

#[tokio::test]
async fn plaintext_comes_in_where_it_is_permitted() {
    let world = World::new();
    let (http, h2c) = (App::http1(|_| async { text(200, "plain") }).await, App::echo().await);
    let ports = [("8080", Address::Tcp(http.address)), ("9090", Address::Tcp(h2c.address))];
    let orders = world.server_of("orders", &ports).await;
    let yaml = |mode: &str| {
        format!(
            "---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {{name: orders, namespace: shop}}
spec: {{ports: [{{name: http, port: 8080, mtls: {mode}}}, {{name: grpc, port: 9090, mtls: {mode}}}]}}
"
        )
    };
    orders.configure(&yaml("Permissive")).await;
    let mut client = Client::http1(orders.inbound()).await;
    let answer = client.get("/", &[("host", "orders:8080")]).await;
    assert_eq!((answer.status.as_u16(), &answer.data[..]), (200, &b"plain"[..]));
    assert_eq!(http.seen()[0].field("x-forwarded-client-cert"), None);
    let answer = client.get("/", &[("host", "orders:7")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (404, "no_route"));
    assert_eq!(answer.field("outrigger-unseen"), "", "a stranger is not told");
    let mut grpc = Client::http2(orders.inbound()).await;
    assert_eq!(grpc.unary("orders:9090", b"").await.grpc(), "0");

    orders.configure(&yaml("Strict")).await;
    let answer = client.get("/", &[("host", "orders:8080")]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (401, "unauthenticated"));
    let answer = grpc.unary("orders:9090", b"").await;
    assert_eq!((answer.grpc(), answer.reason()), ("16", "unauthenticated"));
}

#[tokio::test]
async fn the_application_may_listen_on_a_unix_socket() {
    let world = World::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let app = App::unix(&path).await;
    let orders = world.server_of("orders", &[("9090", Address::Unix(path))]).await;
    let web = world.client("web").await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&yaml).await;
    let mut client = Client::http2(web.outbound()).await;
    assert_eq!(client.unary("orders", b"").await.grpc(), "0");
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn an_undeclared_port_is_spoken_to_as_the_request_is() {
    let world = World::new();
    let app = App::http2(|request: Request<hyper::body::Incoming>| app::echo(request)).await;
    let plain = App::http1(|_| async { text(200, Bytes::from_static(b"ok")) }).await;
    let ports = [("9090", Address::Tcp(app.address)), ("8080", Address::Tcp(plain.address))];
    let orders = world.server_of("orders", &ports).await;
    let web = world.client("web").await;
    let yaml = super::world::workload("orders", 1, orders.inbound());
    orders.configure(&yaml).await;
    web.configure(&yaml).await;
    let mut client = Client::http2(web.outbound()).await;
    assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0");
    let answer = client.get("http://orders:8080/", &[]).await;
    assert_eq!((answer.status.as_u16(), plain.seen()[0].version), (200, Version::HTTP_11));
}

#[tokio::test]
async fn an_address_that_leads_back_is_a_loop() {
    let world = World::new();
    let web = world.client("web").await;
    web.configure("").await;
    let own = web.outbound();
    let mut client = Client::http1(own).await;
    let answer = client.get("/", &[("host", &own.to_string())]).await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (404, "no_route"), "{answer:?}");
    let name = format!("localhost:{}", own.port());
    let answer = client.get("/", &[("host", &name)]).await;
    assert_eq!(answer.status.as_u16(), 508, "{answer:?}");
    let reasons: Vec<_> = web.log().await.into_iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(reasons[..2], ["no_route", "loop"]);
}

#[tokio::test]
async fn heads_are_bounded() {
    let app = App::echo().await;
    let (_world, _orders, web) = pair(app.address, "").await;
    let long = "x".repeat(80 * 1024);
    let answer = Client::http1(web.outbound())
        .await
        .get("/", &[("host", "orders:9090"), ("x-long", &long)])
        .await;
    assert_eq!(answer.status.as_u16(), 431);
    let many: Vec<String> = (0..200).map(|number| format!("x-{number}")).collect();
    let mut fields: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    fields.push(("host", "orders:9090"));
    let answer = Client::http1(web.outbound()).await.get("/", &fields).await;
    assert_eq!(answer.status.as_u16(), 431);
    let mut client = Client::http2(web.outbound()).await;
    let request = super::client::call("orders:9090").header("x-long", &long);
    let request = request.body(super::client::empty()).expect("a request");
    // Or the client already knows the limit.
    if let Ok(refused) = bounded(client.send(request)).await {
        let reason = refused.headers().get("outrigger-reason").expect("an answer of the mesh");
        assert_eq!(reason, "headers_too_large");
    }
    assert_eq!(client.unary("orders:9090", b"").await.grpc(), "0", "the connection goes on");
    assert_eq!(app.seen().len(), 1);
}
