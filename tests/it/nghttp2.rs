//! nghttp2's server as an application, another implementation than all that are linked here: big bodies
//! both ways, trailers, and more cancels than it bears on one connection (a thousand, and 33 more each
//! second).

use std::{future::poll_fn, net::SocketAddr};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream};
use h2::{Reason, RecvStream, client::SendRequest};
use http::{HeaderMap, Method, Request};
use tokio::{net::TcpStream, time::timeout};

use crate::harness::{Place, Program, SOON, StaticPair, eventually, free_port, heavy, metrics};

const BIG: usize = 8 * 1024 * 1024;

/// nghttpd with one big file, which sends back what it is sent; `None` where it is not there.
async fn nghttpd(place: &Place) -> Option<(Program, SocketAddr)> {
    let there = std::process::Command::new("nghttpd").arg("--version").output().is_ok();
    if !there {
        println!("skipped: no nghttpd; apt-get install nghttp2-server brings it");
        return None;
    }
    std::fs::create_dir(place.path("files")).expect("a directory");
    std::fs::write(place.path("files/big"), body()).expect("room");
    let (address, files) = (free_port(), place.path("files").display().to_string());
    let port = address.port().to_string();
    let args =
        ["-v", "--no-tls", "--echo-upload", "--trailer", "x-after: all", "-d", &files, &port];
    let program = Program::other(place, "nghttpd", "nghttpd", &args.map(str::to_owned));
    eventually(SOON, async || TcpStream::connect(address).await.map(drop)).await;
    Some((program, address))
}

fn body() -> Vec<u8> {
    (0..=250_u8).cycle().take(BIG).collect()
}

async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(to).await.expect("connects");
    socket.set_nodelay(true).expect("a socket");
    let (sender, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://echo:9090/{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

/// All of a body, and its trailers.
async fn whole(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = timeout(SOON, body.data()).await.expect("goes on") {
        let data = data.expect("whole");
        all.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).expect("taken");
    }
    (all, body.trailers().await.expect("whole"))
}

async fn get(sender: &SendRequest<Bytes>, path: &str) -> (u16, Vec<u8>, Option<HeaderMap>) {
    let mut sender = sender.clone().ready().await.expect("the connection stays");
    let (response, _) = sender.send_request(request(Method::GET, path), true).expect("open");
    let response = timeout(SOON, response).await.expect("in time").expect("a head");
    let status = response.status().as_u16();
    let (all, trailers) = whole(response.into_body()).await;
    (status, all, trailers)
}

async fn post(sender: &SendRequest<Bytes>, mut bytes: Bytes) -> Vec<u8> {
    let mut sender = sender.clone().ready().await.expect("the connection stays");
    let (response, mut stream) =
        sender.send_request(request(Method::POST, "echo"), false).expect("open");
    let send = async {
        while bytes.has_remaining() {
            stream.reserve_capacity(bytes.len());
            let given =
                poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("credit");
            let part = bytes.split_to(given.min(bytes.len()));
            stream.send_data(part, bytes.is_empty()).expect("open");
        }
    };
    let hear = async {
        let response = timeout(SOON, response).await.expect("in time").expect("a head");
        whole(response.into_body()).await.0
    };
    tokio::join!(send, hear).1
}

#[tokio::test]
async fn nghttp2_is_carried_with_big_bodies_and_trailers() {
    let _turn = heavy().await;
    let place = Place::new();
    let Some((_nghttpd, address)) = nghttpd(&place).await else { return };
    let pair = StaticPair::start_speaking(address, Some("kubernetes.io/h2c")).await;
    let Some(pair) = pair else { return };
    let sender = connect(pair.client.address("outbound")).await;
    // A busy machine may take more than one connect timeout for the first handshake.
    let ready = async || match get(&sender, "nothing").await.0 {
        404 => Ok(()),
        status => Err(status),
    };
    eventually(SOON, ready).await;
    let gets = stream::iter(0..6).map(|_| get(&sender, "big"));
    for (status, all, trailers) in gets.buffer_unordered(6).collect::<Vec<_>>().await {
        assert_eq!((status, all.len()), (200, BIG));
        assert!(all == body(), "other bytes");
        assert_eq!(trailers.expect("trailers")["x-after"], "all");
    }
    let posts = stream::iter(0..4).map(|_| post(&sender, Bytes::from(body())));
    for all in posts.buffer_unordered(4).collect::<Vec<_>>().await {
        assert!(all == body(), "{} bytes came back", all.len());
    }
}

#[tokio::test]
async fn nghttp2_closes_no_connection_over_the_cancels_of_one_caller() {
    let _turn = heavy().await;
    let place = Place::new();
    let Some((nghttpd, address)) = nghttpd(&place).await else { return };
    let pair = StaticPair::start_speaking(address, Some("kubernetes.io/h2c")).await;
    let Some(pair) = pair else { return };
    let outbound = pair.client.address("outbound");
    let (rude, honest) = (connect(outbound).await, connect(outbound).await);
    let cancels = stream::iter(0..5_000).map(|_| async {
        let mut sender = rude.clone().ready().await.expect("the connection stays");
        let (response, mut stream) =
            sender.send_request(request(Method::GET, "big"), true).expect("open");
        // When it has begun: it is no rapid reset.
        let response = timeout(SOON, response).await.expect("in time").expect("a head");
        assert_eq!(response.status(), 200);
        stream.send_reset(Reason::CANCEL);
    });
    let cancels = cancels.buffer_unordered(64).collect::<Vec<()>>();
    let honest = async {
        for _ in 0..200 {
            assert_eq!(get(&honest, "nothing").await.0, 404);
        }
    };
    tokio::join!(cancels, honest);
    // Its way to end a connection that was cancelled on too often.
    assert!(!nghttpd.log().contains("error_code=INTERNAL_ERROR"), "it closed a connection");
    eventually(SOON, async || {
        let seen = metrics(pair.server.address("metrics")).await;
        let under_way = seen.sum("outrigger_requests_in_flight", &[]);
        let broken = seen.sum("outrigger_requests_total", &[("reason", "upstream_reset")])
            + seen.sum("outrigger_requests_total", &[("reason", "connection_closing")]);
        assert!(broken < 0.5, "{broken} calls were lost to a connection that was closed");
        if under_way < 0.5 { Ok(()) } else { Err(format!("{under_way} are under way")) }
    })
    .await;
}
