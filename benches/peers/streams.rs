//! Load that h2load can not make: streams on which one message follows the answer to the last, and
//! requests at even distances.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::Request;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    backend::{PLAIN, STREAM, UNARY},
    load::{Count, message},
};

const CONNECTIONS: usize = 4;
const STREAMS: usize = 25;
/// Clients of the even load, and how far its requests are apart.
const CLIENTS: usize = 8;
const DISTANCE: Duration = Duration::from_micros(250);
/// How long after the end of the load answers are waited for.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(5);
/// How many of them may be unanswered.
const UNANSWERED_MAX: usize = 128;

async fn connect(
    address: SocketAddr,
    tasks: &mut JoinSet<Result<Count>>,
) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake(socket).await?;
    tasks.spawn(async move {
        // Its end is told by the streams on it.
        let _ended = connection.await;
        Ok(Count::default())
    });
    Ok(sender)
}

fn request(path: &str) -> Result<Request<()>> {
    let request = Request::post(format!("http://echo:9090{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "grpc-go/1.70.0");
    Ok(request.body(())?)
}

/// A hundred streams; on each, one message of so many bytes after the other, and each comes back
/// before the next is sent. Counts messages.
pub(crate) async fn ping_pong(address: SocketAddr, time: Duration, length: u32) -> Result<Count> {
    let mut tasks = JoinSet::new();
    let until = Instant::now() + time;
    for _ in 0..CONNECTIONS {
        let sender = connect(address, &mut tasks).await?;
        for _ in 0..STREAMS {
            tasks.spawn(echo(sender.clone(), Bytes::from(message(length)), until));
        }
    }
    let (mut all, mut left) = (Count::default(), CONNECTIONS * STREAMS);
    let counting = async {
        while left > 0
            && let Some(ended) = tasks.join_next().await
        {
            let count = ended??;
            all.done += count.done;
            left -= usize::from(count.done > 0);
        }
        anyhow::Ok(())
    };
    // A proxy may forget a stream; the table is for what it does with the others.
    let counted = timeout_at(until + LAST_ANSWER_MAX, counting).await;
    tasks.abort_all();
    match counted {
        Ok(counted) => counted?,
        Err(_) => all.failed += u64::try_from(left)?,
    }
    Ok(all)
}

async fn echo(sender: SendRequest<Bytes>, message: Bytes, until: Instant) -> Result<Count> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request(STREAM)?, false)?;
    stream.send_data(message.clone(), false)?;
    let mut body = response.await?.into_body();
    let mut count = Count::default();
    loop {
        let mut left = message.len();
        while left > 0 {
            let data = body.data().await.context("the stream ended")??;
            body.flow_control().release_capacity(data.len())?;
            left = left.saturating_sub(data.len());
        }
        count.done += 1;
        if Instant::now() >= until {
            stream.send_data(Bytes::new(), true)?;
            return Ok(count);
        }
        stream.send_data(message.clone(), false)?;
    }
}

/// One unary call and one plain request, which must succeed: h2load takes a gRPC error for a success.
pub(crate) async fn check(grpc: SocketAddr, plain: SocketAddr) -> Result<()> {
    let mut connections = JoinSet::new();
    let sender = connect(grpc, &mut connections).await?;
    call(sender, Bytes::from(message(100))).await.context("a gRPC call fails")?;
    let mut socket = TcpStream::connect(plain).await?;
    let request = format!("GET {PLAIN} HTTP/1.1\r\nhost: echo:8080\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    socket.read_to_end(&mut response).await?;
    let response = String::from_utf8_lossy(&response);
    ensure!(response.starts_with("HTTP/1.1 200"), "a plain request fails: {response}");
    Ok(())
}

/// Unary calls at even distances, spread over some connections. Counts calls.
pub(crate) async fn paced(address: SocketAddr, time: Duration) -> Result<Count> {
    let (mut connections, mut calls) = (JoinSet::new(), JoinSet::new());
    let mut senders = Vec::new();
    for _ in 0..CLIENTS {
        senders.push(connect(address, &mut connections).await?);
    }
    let (mut timer, mut expired) = (every(DISTANCE)?, [0; 256]);
    let (message, until) = (Bytes::from(message(100)), Instant::now() + time);
    let mut next = 0;
    let mut all = Count::default();
    let mut first = None;
    let mut count = |ended: Result<()>| match ended {
        Ok(()) => all.done += 1,
        Err(error) => {
            all.failed += 1;
            first.get_or_insert(error);
        }
    };
    while Instant::now() < until {
        let due = timer.read(&mut expired).await?;
        ensure!(due > 0, "the timer ended");
        // What is too slow for the load gets as much of it as it can take.
        for _ in 0..due.min(UNANSWERED_MAX.saturating_sub(calls.len())) {
            calls.spawn(call(senders[next % CLIENTS].clone(), message.clone()));
            next += 1;
        }
        while let Some(ended) = calls.try_join_next() {
            count(ended?);
        }
    }
    while let Some(ended) = calls.join_next().await {
        count(ended?);
    }
    connections.abort_all();
    match first {
        Some(error) if all.done == 0 => Err(error),
        _ => Ok(all),
    }
}

/// A byte at even distances until it is dropped: a thread waits for a timer of the
/// kernel's, since the runtime's own are a millisecond coarse.
fn every(distance: Duration) -> Result<UnixStream> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let distance = Timespec { tv_sec: 0, tv_nsec: distance.subsec_nanos().into() };
    let setting = Itimerspec { it_interval: distance, it_value: distance };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    let (reader, mut writer) = std::os::unix::net::UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    std::thread::spawn(move || {
        let mut expired = [0; 8];
        while rustix::io::read(&timer, &mut expired).is_ok() {
            let due = u64::from_ne_bytes(expired).min(255);
            let bytes = vec![1; usize::try_from(due).unwrap_or(1)];
            if writer.write_all(&bytes).is_err() {
                break;
            }
        }
    });
    Ok(UnixStream::from_std(reader)?)
}

async fn call(sender: SendRequest<Bytes>, message: Bytes) -> Result<()> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request(UNARY)?, false)?;
    stream.send_data(message, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{response:?}");
    ensure!(!response.headers().contains_key("grpc-status"), "{response:?}");
    whole(response.into_body()).await
}

async fn whole(mut body: RecvStream) -> Result<()> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let trailers = body.trailers().await?.context("no trailers")?;
    ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
    Ok(())
}
