//! `CONNECT`: gRPC and HTTP clients that were told of a proxy open a tunnel to a name first. To a name
//! of the mesh the tunnel ends here: what is spoken inside is detected again, and its requests are
//! routed by their own authority. To every other name it passes bytes that nobody looks at.

use std::{future::poll_fn, io, rc::Rc, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use super::{
    bytes::Bytes,
    connection::{self, Origin, Side},
    destination::EXTERNAL,
    detect::{Spoken, detect},
    dial::{DialError, Dialled, Where},
    exchange::Exchange,
    headers,
    io::{Rewind, Socket},
    opaque::{self, Limits, Near, Target},
    outbound::{self, Destination},
    relay::{Passed, Relay},
    settings::{EXTERNAL_CONNECT_MAX, HEAD_BYTES_MAX, TUNNEL_IDLE_MAX},
    stream::{Caller, Incoming},
    wire::Wire,
};
use crate::{
    http::{HeaderBlock, Token, answer::Rejection},
    reason::Reason,
    routing::{Authority, choose_port},
    task,
    telemetry::Place,
};

/// Answers a `CONNECT`.
pub(super) async fn connect(origin: Rc<Origin>, incoming: Incoming) {
    let Incoming { head, caller, .. } = incoming;
    let mut exchange = Exchange::begin(&origin, head, Instant::now());
    match open(&origin, &mut exchange).await {
        Ok(To::Mesh(target)) if target.is_opaque() => {
            let near = Near::Tunnel(caller);
            let _runs_on = task::spawn_local("tunnel", opaque::outbound(exchange, target, near));
        }
        Ok(to) => {
            let mut head = HeaderBlock::new();
            head.push_token(Token::Status, b"200");
            caller.respond(&head, false);
            let _runs_on = match to {
                To::Mesh(target) => {
                    task::spawn_local("tunnel", inside(origin, exchange, target, caller))
                }
                To::External(dialled) => {
                    task::spawn_local("tunnel", pass(origin, exchange, *dialled, caller))
                }
            };
        }
        Err(rejection) => exchange.refuse(&caller, &rejection),
    }
}

/// Where a tunnel leads.
enum To {
    Mesh(Target),
    External(Box<Dialled>),
}

async fn open(origin: &Origin, exchange: &mut Exchange) -> Result<To, Rejection> {
    if origin.looped {
        let what = "the connection comes from this proxy itself: an address leads back to it";
        return Err(Rejection::unseen(Reason::Loop, what));
    }
    let Side::Outbound { fixed: None } = &origin.side else {
        let what = "there are tunnels only through the outbound listener";
        return Err(Rejection::unseen(Reason::Malformed, what));
    };
    let core = &origin.worker.core;
    let authority = headers::authority(&exchange.record.head)?.to_owned();
    let resolved = outbound::resolve(core, None, &authority).await;
    if let (Err(_), Some(service)) = (&resolved, outbound::meant(core, None, &authority)) {
        exchange.record.destination = service.to_string().into();
    }
    match resolved? {
        Destination::Mesh { running, service, port } => {
            exchange.record.destination = service.to_string().into();
            exchange.record.revision = running.snapshot.revision;
            let unknown =
                || Rejection::unseen(Reason::UnknownService, format!("{service} is gone"));
            let entry = running.table.destination(&service).ok_or_else(unknown)?;
            let chosen = choose_port(&entry.destination, port)
                .map_err(|no_port| Rejection::unseen(Reason::NoRoute, no_port.to_string()))?;
            exchange.record.port = chosen.number;
            Ok(To::Mesh(Target { running, service, port }))
        }
        Destination::External { running, authority } => {
            exchange.record.destination = EXTERNAL.into();
            exchange.record.revision = running.snapshot.revision;
            let port = authority.port.unwrap_or(443);
            exchange.record.port = port;
            let dialled = external(origin, exchange, &authority, port).await?;
            Ok(To::External(Box::new(dialled)))
        }
    }
}

/// Serves what is spoken inside a tunnel to the mesh.
async fn inside(origin: Rc<Origin>, mut exchange: Exchange, target: Target, caller: Caller) {
    let (spoken, io) = match detect(Socket::Other(Box::new(Bytes::new(caller)))).await {
        Ok(detected) => detected,
        Err(error) => return tracing::debug!(address = %origin.address, %error, "no request came"),
    };
    match spoken {
        Spoken::Http1 | Spoken::Http2 => {
            // Its requests are counted, each by itself.
            exchange.forget();
            drop(exchange);
            let inside = origin.inside(spoken);
            connection::http(inside, connection::plain(io), spoken, None).run().await;
        }
        Spoken::Tls => {
            let what = "the mesh encrypts by itself: let the client speak plaintext to this name";
            tracing::warn!(address = %origin.address, "TLS inside the proxy: {what}");
            exchange.refused(&Rejection::unseen(Reason::TlsInsideProxy, what));
            exchange.end();
            connection::refuse_tls(io.into_parts().1).await;
        }
        Spoken::Other => {
            let near = Near::Open(connection::plain(io));
            Box::pin(opaque::outbound(exchange, target, near)).await;
        }
    }
}

/// Passes bytes both ways until both sides have ended or neither says anything for too long.
async fn pass(origin: Rc<Origin>, mut exchange: Exchange, dialled: Dialled, caller: Caller) {
    let worker = &origin.worker;
    let metrics = worker.core.telemetry.metrics();
    let direction = origin.side.direction();
    let _open = metrics.connection(direction, "tcp", false);
    let passed = Passed::new(metrics.tcp_bytes(direction, EXTERNAL));
    let Dialled { socket, own, .. } = dialled;
    let near = Wire::plain(Socket::Other(Box::new(Bytes::new(caller))), Vec::new());
    let far = Wire::plain(socket, Vec::new());
    let mut relay = Relay::new(&worker.hub, near, far, false, &passed);
    let limits = Limits { idle: TUNNEL_IDLE_MAX, end: None };
    let ended = tokio::select! {
        ended = poll_fn(|cx| relay.poll(cx)) => ended.map_err(|broken| broken.rejection(false)),
        rejection = limits.over(&passed) => Err(rejection),
    };
    drop((relay, own));
    let record = &mut exchange.record;
    record.http_status = 200;
    record.protocol = "tcp";
    (record.request_bytes, record.response_bytes) = (passed.up.get(), passed.down.get());
    if let Err(Rejection { reason, what, .. }) = ended {
        tracing::debug!(address = %origin.address, %reason, what, "a tunnel broke");
        if reason == Reason::IdleTimeout {
            record.reason = Some(reason);
        }
    }
    exchange.end();
}

/// Connects to a name outside the mesh, by the inherited proxy where there is one.
async fn external(
    origin: &Origin,
    exchange: &mut Exchange,
    authority: &Authority,
    port: u16,
) -> Result<Dialled, Rejection> {
    let core = &origin.worker.core;
    let to = Authority { port: Some(port), ..authority.clone() }.to_string();
    let end = Instant::now() + EXTERNAL_CONNECT_MAX;
    let by_proxy = outbound::proxy_for(core, &authority.host);
    let first = by_proxy.as_deref().unwrap_or(&to).to_owned();
    let place = Place { endpoint: EXTERNAL.into(), address: first.as_str().into() };
    exchange.attempt(Arc::new(place), Duration::ZERO, Instant::now());
    let dialled = core.dialer.dial(&Where::Name(first), None, EXTERNAL_CONNECT_MAX).await;
    let opened = match (dialled, by_proxy) {
        (Ok(dialled), Some(proxy)) => {
            let asked = timeout_at(end, ask_proxy(dialled, &to)).await;
            asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
                let what = format!("the proxy {proxy} opens no tunnel to {to}: {error}");
                DialError { reason: Reason::ConnectFailed, what }
            })
        }
        (dialled, _) => dialled,
    };
    let reason = opened.as_ref().err().map(|error| error.reason);
    let status = if reason.is_none() { 200 } else { 0 };
    exchange.attempted(status, None, reason, Instant::now());
    opened.map_err(|error| Rejection::unseen(error.reason, error.what))
}

/// Opens a tunnel through another proxy (RFC 9110 section 9.3.6).
async fn ask_proxy(mut dialled: Dialled, to: &str) -> io::Result<Dialled> {
    let request = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    dialled.socket.write_all(request.as_bytes()).await?;
    let mut head = BytesMut::with_capacity(1024);
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() >= HEAD_BYTES_MAX || dialled.socket.read_buf(&mut head).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not answer"));
        }
    };
    let status = head[..].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if !(head.starts_with(b"HTTP/1.") && status.len() >= 3 && status[0] == b'2') {
        let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
    }
    head.advance(end);
    let socket = Socket::Other(Box::new(Rewind::new(head.freeze(), dialled.socket)));
    Ok(Dialled { socket, ..dialled })
}
