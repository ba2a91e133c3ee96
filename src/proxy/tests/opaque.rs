//! Connections that carry no HTTP: servers that speak first, half-closes both ways, readers that do not
//! read, and who may connect to what.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    bounded, until,
    world::{Sidecar, World, loopback, service, settings, workload},
};
use crate::{
    proxy::{Address, Upstream},
    spiffe::SpiffeId,
    task::Tasks,
    tls::{ALPN_TCP, Identity, Sni},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A TCP server whose connections are each served by `serve`.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, Tasks)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = Tasks::new();
    tasks.spawn("server", async move {
        let mut connections = Tasks::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn("connection", serve(stream));
        }
    });
    (address, tasks)
}

/// Greets, sends back what comes until its client has ended, and then says how much that was.
async fn greeting(mut stream: TcpStream) {
    let (mut reader, mut writer) = stream.split();
    writer.write_all(b"220 ready\n").await.expect("open");
    let Ok(bytes) = tokio::io::copy(&mut reader, &mut writer).await else { return };
    let last = format!("\n{bytes} bytes");
    drop(writer.write_all(last.as_bytes()).await);
    drop(writer.shutdown().await);
}

/// The service `db` with one port of this protocol.
fn db(protocol: &str, inbounds: &[SocketAddr]) -> String {
    let mut yaml = format!(
        "---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{ports: [{{name: main, port: 5432{protocol}}}]}}
"
    );
    for (number, inbound) in (1..).zip(inbounds) {
        yaml.push_str(&workload("db", number, *inbound));
    }
    yaml
}

const TCP: &str = ", appProtocol: tcp";

/// A sidecar whose application dials one local address for `db:5432`.
async fn caller(world: &World, name: &str) -> Sidecar {
    let mut wanted = settings(name);
    wanted.outbound = Some(loopback());
    let listen = Address::Tcp(loopback());
    wanted.upstreams = vec![Upstream { service: service("db"), port: 5432, listen }];
    world.start(wanted, HOUR).await
}

/// `db` beside `app`, and `web`, which calls it.
async fn pair(app: SocketAddr, protocol: &str, more: &str) -> (World, Sidecar, Sidecar) {
    let world = World::new();
    let far = world.server_of("db", &[("5432", Address::Tcp(app))]).await;
    let web = caller(&world, "web").await;
    let yaml = format!("{}{more}", db(protocol, &[far.inbound()]));
    far.configure(&yaml).await;
    web.configure(&yaml).await;
    (world, far, web)
}

async fn dial(sidecar: &Sidecar) -> TcpStream {
    try_dial(sidecar).await.expect("connected")
}

async fn try_dial(sidecar: &Sidecar) -> std::io::Result<TcpStream> {
    let listen = sidecar.proxy.addresses().upstreams[0].listen.clone();
    let Address::Tcp(address) = listen else { panic!("an address: {listen}") };
    bounded(TcpStream::connect(address)).await
}

/// A reset may come before the one who dials has seen that it is connected.
async fn dial_is_refused(sidecar: &Sidecar) -> bool {
    match try_dial(sidecar).await {
        Ok(mut stream) => is_refused(&mut stream).await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn line(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(bounded(stream.read_u8()).await.expect("a line"));
    }
    String::from_utf8(line).expect("text")
}

/// Whether it was reset, or ended without a byte.
async fn is_refused(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    bounded(stream.read_to_end(&mut rest)).await.is_err() && rest.is_empty()
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_both_halves_close_by_themselves() {
    let (app, _serving) = server(greeting).await;
    let (_world, far, web) = pair(app, TCP, "").await;
    let mut stream = dial(&web).await;
    assert_eq!(line(&mut stream).await, "220 ready\n");
    // Also what would be HTTP.
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("open");
    let mut back = [0; 18];
    bounded(stream.read_exact(&mut back)).await.expect("the same back");
    assert_eq!(&back, b"GET / HTTP/1.1\r\n\r\n");
    stream.shutdown().await.expect("open");
    let mut rest = String::new();
    bounded(stream.read_to_string(&mut rest)).await.expect("an orderly end");
    assert_eq!(rest, "\n18 bytes");

    let (near, far_log) = (web.log().await, far.log().await);
    for (line, source, tls) in [(&near[0], "web.shop", true), (&far_log[0], "web.shop", true)] {
        assert_eq!(line["protocol"], "tcp", "{line}");
        assert_eq!((&line["source"], &line["destination"]), (&source.into(), &"db.shop".into()));
        assert_eq!((&line["port"], &line["tls"]), (&5432.into(), &tls.into()), "{line}");
        assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&18.into(), &37.into()));
        assert_eq!(line["reason"], serde_json::Value::Null, "{line}");
    }
    let metrics = web.metrics();
    for line in [
        "outrigger_tcp_bytes_total{direction=\"outbound\",destination=\"db.shop\"} 55",
        "outrigger_connections_opened_total{direction=\"outbound\",protocol=\"tcp\",tls=\"false\"} 1",
        "outrigger_connections_open{direction=\"outbound\",protocol=\"tcp\",tls=\"false\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(far.metrics().contains("direction=\"inbound\",protocol=\"tcp\",tls=\"true\"} 1"));
}

#[tokio::test]
async fn a_server_that_ends_first_is_still_sent_to() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let (app, _serving) = server(move |mut stream| {
        let heard = heard.clone();
        async move {
            stream.write_all(b"bye\n").await.expect("open");
            stream.shutdown().await.expect("open");
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.expect("an orderly end");
            heard.send(rest).await.expect("awaited");
        }
    })
    .await;
    let (_world, _far, web) = pair(app, TCP, "").await;
    let mut stream = dial(&web).await;
    let mut all = String::new();
    bounded(stream.read_to_string(&mut all)).await.expect("an orderly end");
    assert_eq!(all, "bye\n");
    stream.write_all(b"one more thing").await.expect("open");
    stream.shutdown().await.expect("open");
    assert_eq!(bounded(hears.recv()).await.as_deref(), Some("one more thing"));
}

#[tokio::test]
async fn much_goes_both_ways_at_once_and_a_reader_that_stalls_holds_up_its_writer() {
    const BYTES: usize = 24 * 1024 * 1024;
    let (go, goes) = tokio::sync::watch::channel(false);
    let (app, _serving) = server(move |mut stream| {
        let mut goes = goes.clone();
        async move {
            goes.wait_for(|go| *go).await.expect("told");
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.expect("whole");
            writer.shutdown().await.expect("open");
        }
    })
    .await;
    let (_world, _far, web) = pair(app, TCP, "").await;
    let stream = dial(&web).await;
    let (mut reader, mut writer) = stream.into_split();
    let body: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let mut written = 0;
    let stalls = async {
        while written < BYTES {
            written += writer.write(&body[written..]).await.expect("open");
        }
    };
    assert!(timeout(Duration::from_millis(300), stalls).await.is_err(), "nobody reads");
    assert!(written < BYTES * 3 / 4, "{written} bytes wait somewhere");
    go.send(true).expect("awaited");
    let mut back = Vec::new();
    bounded(async {
        let rest = async {
            writer.write_all(&body[written..]).await.expect("open");
            writer.shutdown().await.expect("open");
        };
        let (_, read) = tokio::join!(rest, reader.read_to_end(&mut back));
        read.expect("an orderly end");
    })
    .await;
    assert!(back == body, "{} bytes came back", back.len());
}

#[tokio::test]
async fn a_break_is_passed_on_as_a_break() {
    let (app, _serving) = server(|mut stream| async move {
        stream.write_all(b"half\n").await.expect("open");
        drop(stream.read_u8().await);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("open");
    })
    .await;
    let (_world, far, web) = pair(app, TCP, "").await;
    let mut stream = dial(&web).await;
    assert_eq!(line(&mut stream).await, "half\n");
    stream.write_all(b"x").await.expect("open");
    assert!(is_refused(&mut stream).await, "no orderly end");
    assert_eq!(far.log().await[0]["reason"], "upstream_reset");
    assert_eq!(web.log().await[0]["reason"], "upstream_reset");
}

fn policy(action: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {{name: db, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: db}}]
  action: {action}
  rules: {rules}
"
    )
}

#[tokio::test]
async fn who_may_connect_is_decided_by_identity_and_doubt_denies() {
    for (action, rules, may) in [
        ("Allow", "[{from: [{services: [web]}]}]", true),
        ("Allow", "[{from: [{services: [other]}]}]", false),
        ("Allow", "[{from: [{services: [web]}], to: [{http: {methods: [GET]}}]}]", false),
        ("Deny", "[{to: [{grpc: [a.B/C]}]}]", false),
        ("Deny", "[{from: [{services: [other]}]}]", true),
    ] {
        let (app, _serving) = server(greeting).await;
        let (_world, far, web) = pair(app, TCP, &policy(action, rules)).await;
        let mut stream = dial(&web).await;
        if may {
            assert_eq!(line(&mut stream).await, "220 ready\n", "{action} {rules}");
            continue;
        }
        assert!(is_refused(&mut stream).await, "{action} {rules}");
        let log = far.log().await;
        assert_eq!((&log[0]["reason"], &log[0]["policy"]), (&"denied".into(), &"shop/db".into()));
        let denied = "outrigger_authorization_decisions_total{decision=\"denied\"} 1";
        assert!(far.metrics().contains(denied));
    }
}

#[tokio::test]
async fn a_connection_goes_to_another_endpoint_when_one_refuses() {
    let (app, _serving) = server(greeting).await;
    let world = World::new();
    let far = world.server_of("db", &[("5432", Address::Tcp(app))]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone = closed.local_addr().expect("bound");
    drop(closed);
    far.configure(&db(TCP, &[])).await;
    let web = caller(&world, "web").await;
    web.configure(&db(TCP, &[gone, far.inbound()])).await;
    for _ in 0..8 {
        assert_eq!(line(&mut dial(&web).await).await, "220 ready\n");
    }
    let log = web.log().await;
    let reasons: Vec<_> = log
        .iter()
        .filter(|line| line["attempts"][0]["reason"] != serde_json::Value::Null)
        .collect();
    assert!(!reasons.is_empty(), "{log:?}");
    assert_eq!(reasons[0]["attempts"][0]["reason"], "connect_failed");

    web.configure(&db(TCP, &[gone])).await;
    assert!(dial_is_refused(&web).await);
    let log = web.log().await;
    assert_eq!(log.last().expect("one")["reason"], "connect_failed");
    web.configure(&db(TCP, &[])).await;
    assert!(dial_is_refused(&web).await);
    assert_eq!(web.log().await.last().expect("one")["reason"], "no_endpoint");
}

#[tokio::test]
async fn an_application_that_is_not_there_is_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone = closed.local_addr().expect("bound");
    drop(closed);
    let (_world, far, web) = pair(gone, TCP, "").await;
    assert!(dial_is_refused(&web).await);
    assert_eq!(far.log().await[0]["reason"], "app_unreachable");
    assert_eq!(web.log().await[0]["reason"], "upstream_reset");
}

#[tokio::test]
async fn silence_and_number_are_limited_as_a_policy_says() {
    let (app, _serving) = server(greeting).await;
    let more = super::world::policy(
        "db",
        "timeouts: {streamIdle: 200ms}\nbulkhead: {maxConcurrent: 1, maxQueued: 0}",
    );
    let (_world, _far, web) = pair(app, TCP, &more).await;
    let mut stream = dial(&web).await;
    assert_eq!(line(&mut stream).await, "220 ready\n");
    assert!(dial_is_refused(&web).await, "there is one place");
    assert!(is_refused(&mut stream).await, "nothing was said");
    let log = web.log().await;
    let reasons: Vec<_> = log.iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(reasons, ["bulkhead_full", "idle_timeout"]);
    assert_eq!(line(&mut dial(&web).await).await, "220 ready\n", "the place was given back");
}

#[tokio::test]
async fn a_tunnel_leads_to_an_opaque_port_with_whatever_is_spoken_in_it() {
    let (app, _serving) = server(greeting).await;
    let (_world, _far, web) = pair(app, ", appProtocol: tls", "").await;
    let (head, mut stream) = super::entrances::tunnel(web.outbound(), "db:5432").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(line(&mut stream).await, "220 ready\n");
    stream.write_all(b"\x16\x03\x01").await.expect("open");
    stream.shutdown().await.expect("open");
    let mut rest = Vec::new();
    bounded(stream.read_to_end(&mut rest)).await.expect("an orderly end");
    assert_eq!(rest, b"\x16\x03\x01\n3 bytes");

    web.configure(&db(TCP, &[])).await;
    let (head, _) = super::entrances::tunnel(web.outbound(), "db:5432").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.contains("outrigger-reason: no_endpoint\r\n"), "{head}");
}

#[tokio::test]
async fn what_is_not_http_passes_where_no_protocol_is_declared() {
    let (app, _serving) = server(greeting).await;
    let (_world, _far, web) = pair(app, "", "").await;
    let mut direct = dial(&web).await;
    let (_, mut tunnel) = super::entrances::tunnel(web.outbound(), "db:5432").await;
    for stream in [&mut direct, &mut tunnel] {
        stream.write_all(b"PING\r\n").await.expect("open");
        assert_eq!(line(stream).await, "220 ready\n");
        assert_eq!(line(stream).await, "PING\r\n");
    }
    // Where HTTP is declared it does not.
    let (_world, _far, web) = pair(app, ", appProtocol: http", "").await;
    let mut stream = dial(&web).await;
    stream.write_all(b"PING\r\n").await.expect("open");
    let mut rest = Vec::new();
    bounded(stream.read_to_end(&mut rest)).await.expect("an orderly end");
    assert_eq!(rest, b"");
    assert_eq!(web.log().await[0]["reason"], "no_route");
}

/// A connection as another sidecar makes it for opaque bytes.
async fn opaque(to: SocketAddr, identity: &Identity) -> TlsStream<TcpStream> {
    let expected = SpiffeId::of_service("mesh.local", &service("db")).expect("an identity");
    let mut config = (*identity.client_config(&expected)).clone();
    config.alpn_protocols = vec![ALPN_TCP.to_vec()];
    let sni = Sni { port: 5432, service: service("db") };
    let stream = TcpStream::connect(to).await.expect("connected");
    let connector = TlsConnector::from(Arc::new(config));
    let name = sni.server_name().expect("a name");
    bounded(connector.connect(name, stream)).await.expect("a handshake")
}

#[tokio::test]
async fn requests_do_not_come_in_as_opaque_bytes() {
    let ask = b"GET / HTTP/1.1\r\nhost: db\r\nx-forwarded-client-cert: By=me\r\n\r\n";
    for (protocol, reason) in [(", appProtocol: http", "no_route"), ("", "denied")] {
        let (app, _serving) = server(greeting).await;
        let (world, far, _web) = pair(app, protocol, "").await;
        let web = world.identity(&service("web"), HOUR);
        let mut stream = opaque(far.inbound(), &web).await;
        // In two parts, the first of which could be anything.
        drop(stream.write_all(&ask[..2]).await);
        drop(stream.flush().await);
        drop(stream.write_all(&ask[2..]).await);
        drop(stream.flush().await);
        let mut rest = Vec::new();
        assert!(bounded(stream.read_to_end(&mut rest)).await.is_err(), "{rest:?}");
        assert!(!rest.ends_with(b"cert: By=me\r\n\r\n"), "it came through");
        let log = far.log().await;
        assert_eq!((&log[0]["reason"], &log[0]["request_bytes"]), (&reason.into(), &0.into()));
    }
}

#[tokio::test]
async fn a_request_is_not_hidden_by_what_the_application_says_meanwhile() {
    let said = Arc::new(Notify::new());
    let saying = Arc::clone(&said);
    let (app, _serving) = server(move |mut stream| {
        let saying = Arc::clone(&saying);
        async move {
            loop {
                saying.notified().await;
                stream.write_all(b"tick\n").await.expect("open");
            }
        }
    })
    .await;
    let (world, far, _web) = pair(app, "", "").await;
    let web = world.identity(&service("web"), HOUR);
    let mut stream = opaque(far.inbound(), &web).await;
    stream.write_all(b"GET").await.expect("open");
    stream.flush().await.expect("open");
    // Each of these has the sidecar look at the connection again.
    for _ in 0..10 {
        said.notify_one();
        assert_eq!(line(&mut stream).await, "tick\n");
    }
    stream.write_all(b" / HTTP/1.1\r\nhost: db\r\n\r\n").await.expect("open");
    stream.flush().await.expect("open");
    assert!(bounded(stream.read_u8()).await.is_err());
    let log = far.log().await;
    assert_eq!((&log[0]["reason"], &log[0]["request_bytes"]), (&"denied".into(), &0.into()));
}

#[tokio::test]
async fn bytes_that_were_cut_off_are_no_orderly_end() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let (app, _serving) = server(move |mut stream| {
        let heard = heard.clone();
        async move {
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest).await;
            heard.send(ended.is_ok()).await.expect("awaited");
        }
    })
    .await;
    let (world, far, _web) = pair(app, TCP, "").await;
    let web = world.identity(&service("web"), HOUR);
    let mut stream = opaque(far.inbound(), &web).await;
    stream.write_all(b"DELETE FROM orders").await.expect("open");
    stream.flush().await.expect("open");
    // The end of TCP without the end of TLS.
    let (mut tcp, _) = stream.into_inner();
    tcp.shutdown().await.expect("open");
    assert_eq!(bounded(hears.recv()).await, Some(false));
    assert_eq!(far.log().await[0]["reason"], "caller_gone");
}

#[tokio::test]
async fn an_opaque_connection_ends_with_its_peers_certificate_and_root() {
    let (app, _serving) = server(greeting).await;
    let (world, far, web) = pair(app, TCP, "").await;
    let short = world.identity(&service("web"), Duration::from_secs(3));
    let mut stream = opaque(far.inbound(), &short).await;
    assert_eq!(line(&mut stream).await, "220 ready\n");
    assert!(bounded(stream.read_u8()).await.is_err());
    until("it has ended", || far.proxy.in_flight() == 0).await;

    let mut stream = dial(&web).await;
    assert_eq!(line(&mut stream).await, "220 ready\n");
    let other = World::new().identity(&service("web"), HOUR).bundle().as_ref().clone();
    web.identity.replace_bundle(other).expect("of the trust domain");
    assert!(is_refused(&mut stream).await);
    assert_eq!(web.log().await[0]["reason"], "peer_identity");
}

#[tokio::test]
async fn a_drain_waits_for_an_opaque_connection() {
    let (app, _serving) = server(greeting).await;
    let (_world, far, web) = pair(app, TCP, "").await;
    let mut stream = dial(&web).await;
    assert_eq!(line(&mut stream).await, "220 ready\n");
    assert_eq!(far.proxy.drain_inbound(Duration::from_millis(20)).await, 1);
    stream.write_all(b"more").await.expect("open");
    stream.shutdown().await.expect("open");
    let mut rest = String::new();
    bounded(stream.read_to_string(&mut rest)).await.expect("an orderly end");
    assert_eq!(rest, "more\n4 bytes");
    assert_eq!(far.proxy.drain_inbound(super::BOUND).await, 0);
}
