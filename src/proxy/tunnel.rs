//! `CONNECT`: gRPC and HTTP clients that were told of a proxy open a tunnel to a name first. To a name
//! of the mesh the tunnel ends here: what is spoken inside is detected again, and its requests are
//! routed by their own authority. To every other name it passes bytes that nobody looks at.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, Response};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    time::{Instant, timeout_at},
};

use super::{
    connection::{self, Origin, Side},
    destination::EXTERNAL,
    detect::{Spoken, detect},
    dial::{DialError, Dialled, Where},
    exchange::Exchange,
    headers,
    io::{AnyIo, Counting, Rewind},
    outbound::{self, Destination},
    settings::{EXTERNAL_CONNECT_MAX, HEAD_BYTES_MAX},
};
use crate::{
    http::answer::Rejection,
    reason::Reason,
    routing::{Authority, choose_port},
    snapshot::Protocol,
    task,
};

/// Answers a `CONNECT`.
pub(super) async fn connect(origin: Rc<Origin>, request: Request<Incoming>) -> Response<Bytes> {
    let (mut parts, _no_body) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let mut exchange = Exchange::begin(&origin, &parts);
    let opened = match upgrade {
        Some(upgrade) => open(&origin, &mut exchange, &parts).await.map(|to| (to, upgrade)),
        None => Err(Rejection::unseen(Reason::Internal, "the connection can not be taken over")),
    };
    match opened {
        Ok((To::Mesh, upgrade)) => {
            let _runs_on = task::spawn_local("tunnel", inside(origin, exchange, upgrade));
        }
        Ok((To::External(dialled), upgrade)) => {
            let _runs_on = task::spawn_local("tunnel", pass(origin, exchange, dialled, upgrade));
        }
        Err(rejection) => return exchange.refuse(&rejection),
    }
    Response::new(Bytes::new())
}

/// Where a tunnel leads.
enum To {
    Mesh,
    External(Dialled),
}

async fn open(
    origin: &Origin,
    exchange: &mut Exchange,
    parts: &http::request::Parts,
) -> Result<To, Rejection> {
    if origin.looped {
        let what = "the connection comes from this proxy itself: an address leads back to it";
        return Err(Rejection::unseen(Reason::Loop, what));
    }
    let Side::Outbound { fixed: None } = &origin.side else {
        let what = "there are tunnels only through the outbound listener";
        return Err(Rejection::unseen(Reason::Malformed, what));
    };
    let core = &origin.worker.core;
    let authority = headers::authority(parts)?;
    let resolved = outbound::resolve(core, None, &authority).await;
    if let (Err(_), Some(service)) = (&resolved, outbound::meant(core, None, &authority)) {
        exchange.record().destination = service.to_string().into();
    }
    match resolved? {
        Destination::Mesh { running, service, port } => {
            exchange.record().destination = service.to_string().into();
            exchange.record().revision = running.snapshot.revision;
            let unknown =
                || Rejection::unseen(Reason::UnknownService, format!("{service} is gone"));
            let entry = running.table.destination(&service).ok_or_else(unknown)?;
            let chosen = choose_port(&entry.destination, port)
                .map_err(|no_port| Rejection::unseen(Reason::NoRoute, no_port.to_string()))?;
            exchange.record().port = chosen.number;
            if chosen.port.protocol == Protocol::Opaque {
                let what = format!("{service}:{} is opaque: only HTTP is carried", chosen.number);
                return Err(Rejection::unseen(Reason::NoRoute, what));
            }
            Ok(To::Mesh)
        }
        Destination::External { running, authority } => {
            exchange.record().destination = Arc::from(EXTERNAL);
            exchange.record().revision = running.snapshot.revision;
            let port = authority.port.unwrap_or(443);
            exchange.record().port = port;
            Ok(To::External(external(origin, exchange, &authority, port).await?))
        }
    }
}

/// Serves what is spoken inside a tunnel to the mesh.
async fn inside(origin: Rc<Origin>, exchange: Exchange, upgrade: OnUpgrade) {
    let io = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        // The client went away; so says the record.
        Err(_) => return,
    };
    let (spoken, io) = match detect(io).await {
        Ok(detected) => detected,
        Err(error) => return tracing::debug!(address = %origin.address, %error, "no request came"),
    };
    let io: AnyIo = Box::new(io);
    match spoken {
        Spoken::Http1 | Spoken::Http2 => {
            // Its requests are counted, each by itself.
            exchange.forget();
            connection::http(origin.inside(spoken), io, spoken, None).await;
        }
        Spoken::Tls => {
            let what = "the mesh encrypts by itself: let the client speak plaintext to this name";
            tracing::warn!(address = %origin.address, "TLS inside the proxy: {what}");
            drop(exchange.refuse(&Rejection::unseen(Reason::TlsInsideProxy, what)));
            connection::refuse_tls(io).await;
        }
        Spoken::Other => {
            let what = "neither HTTP nor TLS was spoken inside the tunnel";
            drop(exchange.refuse(&Rejection::unseen(Reason::Malformed, what)));
        }
    }
}

/// Passes bytes both ways until both sides have ended.
async fn pass(origin: Rc<Origin>, mut exchange: Exchange, dialled: Dialled, upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let metrics = origin.worker.core.telemetry.metrics();
    let direction = origin.side.direction();
    let _open = metrics.connection(direction, "tcp", false);
    let bytes = metrics.tcp_bytes(direction, EXTERNAL);
    let Dialled { io: mut far, own, .. } = dialled;
    let mut near = Counting { io: TokioIo::new(upgraded), read: 0, written: 0, bytes };
    let ended = copy_bidirectional(&mut near, &mut far).await;
    drop(own);
    let record = exchange.record();
    record.http_status = 200;
    (record.request_bytes, record.response_bytes) = (near.read, near.written);
    if let Err(error) = ended {
        tracing::debug!(address = %origin.address, %error, "a tunnel broke");
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
    exchange.attempt(EXTERNAL, first.clone(), Duration::ZERO);
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
    exchange.attempted(if reason.is_none() { 200 } else { 0 }, None, reason);
    opened.map_err(|error| Rejection::unseen(error.reason, error.what))
}

/// Opens a tunnel through another proxy (RFC 9110 section 9.3.6).
async fn ask_proxy(mut dialled: Dialled, to: &str) -> io::Result<Dialled> {
    let request = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    dialled.io.write_all(request.as_bytes()).await?;
    let most = usize::try_from(HEAD_BYTES_MAX).unwrap_or(usize::MAX);
    let mut head = BytesMut::with_capacity(1024);
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() >= most || dialled.io.read_buf(&mut head).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not answer"));
        }
    };
    let status = head[..].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if !(head.starts_with(b"HTTP/1.") && status.len() >= 3 && status[0] == b'2') {
        let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
    }
    head.advance(end);
    let Dialled { io, proof, ear, own } = dialled;
    Ok(Dialled { io: Box::new(Rewind::new(head.freeze(), io)), proof, ear, own })
}
