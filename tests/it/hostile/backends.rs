//! Applications that go away, reset streams and change their minds, in every state of a call: what
//! HTTP lets be saved is saved, and the calls beside a broken one succeed.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use h2::{
    Reason, RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tonic::Code;

use super::{Bystanders, check_unharmed};
use crate::{
    calls::{text, with},
    harness::{SOON, StaticPair, echo_client, heavy},
};

/// How an application treats its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// It does what a call says.
    Obedient,
    /// It says GOAWAY after every few calls, and ends those that it took.
    Leaving,
    /// It takes one stream at a time.
    OneAtATime,
    /// It gives one byte of window at a time to begin with, then much, then little.
    Windows,
}

/// After how many calls one that leaves does so.
const CALLS_PER_CONNECTION: u32 = 7;
/// How often one that changes its windows does so.
const TURN: Duration = Duration::from_millis(5);

/// An application on the wire.
struct Backend {
    address: SocketAddr,
    serving: JoinHandle<()>,
    connections: Arc<AtomicU32>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Backend {
    async fn start(habit: Habit) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        let serving = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                socket.set_nodelay(true).expect("a socket");
                serving.spawn(serve(socket, habit));
            }
        });
        Self { address, serving, connections }
    }
}

async fn serve(socket: TcpStream, habit: Habit) {
    let mut builder = Builder::new();
    if habit == Habit::OneAtATime {
        builder.max_concurrent_streams(1);
    }
    if habit == Habit::Windows {
        builder.initial_window_size(1);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    let (mut calls, mut changes, mut running) = (0, 0_usize, tokio::task::JoinSet::new());
    // By time and not by calls: all of those under way may wait for a window of none.
    let mut turns = tokio::time::interval(TURN);
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                calls += 1;
                running.spawn(answer(request, respond));
                if habit == Habit::Leaving && calls == CALLS_PER_CONNECTION {
                    connection.graceful_shutdown();
                }
            }
            _ = turns.tick(), if habit == Habit::Windows => {
                changes += 1;
                let size = [1, 70_000, 3, 65_535, 0, 16][changes % 6];
                // It refuses a second change before the first is taken.
                drop(connection.set_initial_window_size(size));
            }
        }
    }
    while running.join_next().await.is_some() {}
}

/// Answers a call as its field `x-do` says.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let wish = head.headers.get("echo-do").map_or("", |value| value.to_str().unwrap_or(""));
    let reason = head.headers.get("echo-code").and_then(|value| value.to_str().ok());
    let reason =
        reason.and_then(|code| code.parse::<u32>().ok()).map_or(Reason::CANCEL, Reason::from);
    if wish == "reset-head" {
        return respond.send_reset(reason);
    }
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        if wish == "reset-body" {
            return respond.send_reset(reason);
        }
        message.extend_from_slice(&data);
        drop(body.flow_control().release_capacity(data.len()));
    }
    let response = Response::builder().header("content-type", "application/grpc");
    let response = response.body(()).expect("a response");
    let Ok(mut sending) = respond.send_response(response, false) else { return };
    if wish == "reset-after-head" {
        return sending.send_reset(reason);
    }
    if wish == "half-message" {
        drop(sending.send_data(Bytes::copy_from_slice(&message[..3]), false));
        return sending.send_reset(reason);
    }
    if sending.send_data(Bytes::from(message), false).is_err() {
        return;
    }
    if wish == "reset-before-trailers" {
        return sending.send_reset(reason);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    drop(sending.send_trailers(trailers));
}

/// Makes so many calls, so many at a time, and returns what failed.
async fn calls(through: SocketAddr, count: u32, together: usize, size: usize) -> Vec<String> {
    let client = echo_client(through, "echo:9090");
    let calls = (0..count).map(|index| {
        let mut client = client.clone();
        let sent = format!("{index}{}", "x".repeat(size));
        async move {
            match timeout(SOON, client.unary(sent.clone())).await {
                Ok(Ok(answer)) if *answer.get_ref() == sent => None,
                Ok(Ok(answer)) => Some(format!("{index}: {} bytes", answer.get_ref().len())),
                Ok(Err(status)) => Some(format!("{index}: {status:?}")),
                Err(_) => Some(format!("{index} took too long")),
            }
        }
    });
    stream::iter(calls).buffer_unordered(together).filter_map(std::future::ready).collect().await
}

#[tokio::test]
async fn backends_that_go_away_lose_no_call() {
    let _turn = heavy().await;
    let backend = Backend::start(Habit::Leaving).await;
    let Some(pair) = StaticPair::start(backend.address).await else { return };
    let failed = calls(pair.client.address("outbound"), 300, 1, 10).await;
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
    let connections = backend.connections.load(Ordering::Relaxed);
    assert!(connections >= 300 / CALLS_PER_CONNECTION, "{connections}");
    check_unharmed(&pair).await;
    // With others under way: those that were not looked at are repeated elsewhere.
    let backend = Backend::start(Habit::Leaving).await;
    let Some(pair) = StaticPair::start(backend.address).await else { return };
    let failed = calls(pair.client.address("outbound"), 300, 8, 10).await;
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
    check_unharmed(&pair).await;
}

#[tokio::test]
async fn backends_that_change_their_limits_lose_no_call() {
    let _turn = heavy().await;
    for (habit, count, size) in [(Habit::Windows, 60, 300), (Habit::OneAtATime, 200, 100)] {
        let backend = Backend::start(habit).await;
        let Some(pair) = StaticPair::start(backend.address).await else { return };
        let failed = calls(pair.client.address("outbound"), count, 8, size).await;
        assert!(failed.is_empty(), "{habit:?}: {} failed: {}", failed.len(), failed[0]);
        check_unharmed(&pair).await;
    }
}

#[tokio::test]
async fn a_reset_in_any_state_is_the_callers_alone() {
    let _turn = heavy().await;
    let backend = Backend::start(Habit::Obedient).await;
    let Some(pair) = StaticPair::start(backend.address).await else { return };
    let outbound = pair.client.address("outbound");
    let bystanders = Bystanders::start(outbound, "echo:9090", 2);
    bystanders.go_on("before").await;
    let mut client = echo_client(outbound, "echo:9090");
    for state in
        ["reset-head", "reset-body", "reset-after-head", "half-message", "reset-before-trailers"]
    {
        // Every code there is, and some that there are not.
        for code in (0_u32..=15).chain([u32::MAX]) {
            let code = format!("{code}");
            let request = with("hello".to_owned(), &[("echo-do", state), ("echo-code", &code)]);
            let said = timeout(SOON, client.unary(request)).await.expect("told in time");
            let status = said.expect_err("it was reset");
            assert_ne!(status.code(), Code::Ok, "{state} {code}");
            let reason = text(status.metadata(), "outrigger-reason");
            assert!(!reason.is_empty(), "{state} {code}: the mesh says why: {status:?}");
        }
    }
    bystanders.end().await;
    let connections = backend.connections.load(Ordering::Relaxed);
    assert!(connections <= 4, "{connections} connections: resets cost none");
    check_unharmed(&pair).await;
}
