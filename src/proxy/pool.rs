//! Upstream connections of one worker, by where they lead and how. HTTP/2 requests share as few
//! connections as their stream limits allow; HTTP/1.1 requests have one each and hand it back.
//!
//! hyper hands nothing back of a request that failed, and does not say how many streams are under
//! way, so both are counted here: a [`Lease`] is a stream's place on a connection and lives until the
//! last byte of its response. A connection that is retired (age, certificate, GOAWAY) takes no new
//! requests and closes when its last lease is gone.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::{
    dial::{DialError, Dialer, Expected, Proof, Where},
    exec::LocalExec,
    expiry,
    io::Ear,
    settings::{
        CANCELLED_KNOWN_MAX, CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, HTTP1_FIELDS_MAX,
        HTTP1_IDLE_CONNECTIONS_MAX, HTTP1_IDLE_MAX, HTTP2_CONNECTIONS_MAX, HTTP2_IDLE_MAX,
        LATE_FRAMES_MAX, PING_AFTER, PONG_WITHIN, SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES,
        STREAMS_MAX,
    },
};
use crate::{clock, http::ReplayBody, reason::Reason, task, tls::Standing};

/// How long a used HTTP/1.1 connection may take to be ready for the next request.
const HTTP1_READY_MAX: Duration = Duration::from_secs(1);
/// hyper's assumption until the peer says how many streams it permits.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// Connections with one key are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) to: Where,
    pub(super) how: How,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// HTTP/1.1 in plaintext.
    Http1,
    /// HTTP/2 in plaintext.
    Http2,
    /// HTTP/2 in mutual TLS to a sidecar.
    Mesh(Expected),
}

/// One worker's connections.
pub(super) struct Pool {
    dialer: Arc<Dialer>,
    age_max: Duration,
    places: RefCell<FxHashMap<Key, Rc<Place>>>,
}

/// All connections with one key.
struct Place {
    key: Key,
    http2: RefCell<Vec<Rc<Http2>>>,
    http1: RefCell<Vec<Http1>>,
    /// One HTTP/2 connection is opened at a time; whoever needs it waits for the same outcome.
    connecting: RefCell<Option<Opening>>,
}

/// A connection on its way.
type Opening = Shared<LocalBoxFuture<'static, Result<Rc<Http2>, DialError>>>;

struct Http2 {
    sender: http2::SendRequest<ReplayBody<Incoming>>,
    streams: Cell<usize>,
    streams_max: Rc<Cell<usize>>,
    retire_at: Instant,
    idle_since: Cell<Instant>,
    closing: Cell<bool>,
    proof: Option<Proof>,
    ear: Option<Arc<Ear>>,
}

struct Http1 {
    sender: http1::SendRequest<ReplayBody<Incoming>>,
    retire_at: Instant,
    idle_since: Instant,
}

/// A place on a connection, until the last byte of the response.
pub(super) struct Lease(LeaseOf);

enum LeaseOf {
    Http2(Rc<Http2>),
    Http1 { place: Rc<Place>, connection: Option<Http1> },
}

/// Why no response head came.
#[derive(Debug)]
pub(super) struct SendError {
    /// What hyper says.
    pub(super) error: hyper::Error,
    /// Whether the request was handed back whole, or never left the queue.
    pub(super) unsent: bool,
    /// Why the peer refused our certificate, if that is why.
    pub(super) refused: Option<String>,
}

impl Pool {
    pub(super) fn new(dialer: Arc<Dialer>, age_max: Duration) -> Self {
        Self { dialer, age_max, places: RefCell::default() }
    }

    /// A place on an open connection, or on a new one that is open within `bound`. May be cancelled;
    /// an HTTP/2 connection is opened on for others that wait.
    pub(super) async fn lease(&self, key: &Key, bound: Duration) -> Result<Lease, DialError> {
        let place = self.place(key);
        if key.how == How::Http1 {
            return self.lease_http1(place, bound).await;
        }
        loop {
            if let Some(connection) = place.take_http2(Instant::now()) {
                return Ok(Lease(LeaseOf::Http2(connection)));
            }
            let opened = self.connecting(&place, bound).await?;
            // Else a server that hangs up at once would be dialled again and again.
            if opened.is_over(Instant::now()) {
                return Err(opened.over(key));
            }
        }
    }

    fn place(&self, key: &Key) -> Rc<Place> {
        if let Some(place) = self.places.borrow().get(key) {
            return Rc::clone(place);
        }
        let place = Rc::new(Place {
            key: key.clone(),
            http2: RefCell::default(),
            http1: RefCell::default(),
            connecting: RefCell::default(),
        });
        self.places.borrow_mut().insert(key.clone(), Rc::clone(&place));
        place
    }

    async fn lease_http1(&self, place: Rc<Place>, bound: Duration) -> Result<Lease, DialError> {
        let now = Instant::now();
        let idle = place.take_http1(now);
        let connection = match idle {
            Some(connection) => connection,
            // Boxed, so that the futures of requests that find one stay small.
            None => Box::pin(open_http1(&self.dialer, &place.key.to, bound, self.age_max)).await?,
        };
        Ok(Lease(LeaseOf::Http1 { place, connection: Some(connection) }))
    }

    /// Joins the opening of a connection, or begins it. It runs on when this is cancelled.
    fn connecting(&self, place: &Rc<Place>, bound: Duration) -> Opening {
        if let Some(connecting) = place.connecting.borrow().as_ref() {
            return connecting.clone();
        }
        let (dialer, age_max) = (Arc::clone(&self.dialer), self.age_max);
        let held = Rc::clone(place);
        let connecting = async move {
            let opened = open_http2(&dialer, &held.key, bound, age_max).await;
            held.connecting.borrow_mut().take();
            let opened = Rc::new(opened?);
            held.http2.borrow_mut().push(Rc::clone(&opened));
            Ok(opened)
        };
        let connecting = connecting.boxed_local().shared();
        *place.connecting.borrow_mut() = Some(connecting.clone());
        let _runs_on = task::spawn_local("connect", connecting.clone());
        connecting
    }

    /// Lets go of connections that are closed, aged or idle, and of places without any.
    pub(super) fn sweep(&self, now: Instant) {
        self.places.borrow_mut().retain(|_, place| {
            place.http2.borrow_mut().retain(|connection| {
                let idle = connection.streams.get() == 0
                    && now >= connection.idle_since.get() + HTTP2_IDLE_MAX;
                !idle && !connection.is_over(now)
            });
            place.http1.borrow_mut().retain(|connection| !connection.is_over(now));
            let busy = place.connecting.borrow().is_some() || Rc::strong_count(place) > 1;
            busy || !place.http2.borrow().is_empty() || !place.http1.borrow().is_empty()
        });
    }

    /// Cuts connections whose peers would not be accepted any more; those whose peers' root is about
    /// to be dropped take no more requests.
    pub(super) fn recheck(&self) {
        let now = clock::now();
        for place in self.places.borrow().values() {
            for connection in place.http2.borrow().iter() {
                let Some(proof) = &connection.proof else { continue };
                let standing = self.dialer.standing(&proof.chain, now);
                if standing != Some(Standing::Good) {
                    connection.closing.set(true);
                }
                if let Some(ear) = connection.ear.as_ref().filter(|_| standing.is_none()) {
                    ear.cut();
                }
            }
        }
    }
}

impl Place {
    /// The first connection with room; where no more may be opened, the emptiest.
    fn take_http2(&self, now: Instant) -> Option<Rc<Http2>> {
        let mut connections = self.http2.borrow_mut();
        connections.retain(|connection| !connection.is_over(now));
        let with_room = connections.iter().find(|connection| connection.has_room());
        let full = connections.len() >= HTTP2_CONNECTIONS_MAX;
        let emptiest = || {
            let fewest = connections.iter().min_by_key(|connection| connection.streams.get());
            fewest.filter(|_| full)
        };
        let connection = with_room.or_else(emptiest)?;
        connection.streams.set(connection.streams.get() + 1);
        Some(Rc::clone(connection))
    }

    /// The connection used last, which is the least likely to be closed by the peer.
    fn take_http1(&self, now: Instant) -> Option<Http1> {
        let mut connections = self.http1.borrow_mut();
        std::iter::from_fn(|| connections.pop())
            .find(|connection| !connection.is_over(now) && connection.sender.is_ready())
    }
}

impl Http2 {
    fn is_over(&self, now: Instant) -> bool {
        self.closing.get() || self.sender.is_closed() || now >= self.retire_at
    }

    /// Why one that has just been opened can not be used.
    fn over(&self, key: &Key) -> DialError {
        match self.ear.as_ref().and_then(|ear| ear.refused()) {
            Some(why) => DialError { reason: Reason::PeerIdentity, what: why.to_owned() },
            None => DialError {
                reason: Reason::ConnectFailed,
                what: format!("{} closed the connection at once", key.to),
            },
        }
    }

    fn has_room(&self) -> bool {
        self.streams.get() < self.streams_max.get()
    }
}

impl Http1 {
    fn is_over(&self, now: Instant) -> bool {
        self.sender.is_closed() || now >= self.retire_at || now >= self.idle_since + HTTP1_IDLE_MAX
    }
}

impl Lease {
    /// Whether requests on it have a `:authority` and no `Host`.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.0, LeaseOf::Http2(_))
    }

    /// Sends the request and waits for the response's head. Cancelling it resets the stream.
    pub(super) async fn send(
        &mut self,
        request: Request<ReplayBody<Incoming>>,
    ) -> Result<Response<Incoming>, SendError> {
        let sent = match &mut self.0 {
            LeaseOf::Http2(connection) => connection.sender.clone().try_send_request(request).await,
            LeaseOf::Http1 { connection, .. } => {
                let connection =
                    connection.as_mut().expect("the connection is taken out only by drop");
                connection.sender.try_send_request(request).await
            }
        };
        sent.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            let error = failed.into_error();
            SendError { unsent, refused: self.refused(&error), error }
        })
    }

    /// Notes what an error says about the connection as a whole.
    fn refused(&self, error: &hyper::Error) -> Option<String> {
        let LeaseOf::Http2(connection) = &self.0 else { return None };
        let of_stream = super::fault::h2_error(error).is_some_and(h2::Error::is_reset);
        if !of_stream {
            connection.closing.set(true);
        }
        connection.ear.as_ref()?.refused().map(str::to_owned)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &mut self.0 {
            LeaseOf::Http2(connection) => {
                connection.streams.set(connection.streams.get().saturating_sub(1));
                connection.idle_since.set(Instant::now());
            }
            LeaseOf::Http1 { place, connection } => {
                if let Some(connection) = connection.take() {
                    give_back(Rc::clone(place), connection);
                }
            }
        }
    }
}

/// hyper is ready for the next request a moment after the last byte, or never when the connection is
/// not to be used again.
fn give_back(place: Rc<Place>, mut connection: Http1) {
    let _given_back = task::spawn_local("give back", async move {
        let ready = tokio::time::timeout(HTTP1_READY_MAX, connection.sender.ready()).await;
        let mut idle = place.http1.borrow_mut();
        if matches!(ready, Ok(Ok(()))) && idle.len() < HTTP1_IDLE_CONNECTIONS_MAX {
            connection.idle_since = Instant::now();
            idle.push(connection);
        }
    });
}

async fn open_http1(
    dialer: &Dialer,
    to: &Where,
    bound: Duration,
    age_max: Duration,
) -> Result<Http1, DialError> {
    let dialled = dialer.dial(to, None, bound).await?;
    let mut builder = http1::Builder::new();
    builder.max_headers(HTTP1_FIELDS_MAX);
    let (sender, connection) = builder
        .handshake(TokioIo::new(dialled.io))
        .await
        .map_err(|error| super::fault::handshake(to, &error))?;
    let own = dialled.own;
    let _runs_on = task::spawn_local("upstream http/1.1", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection broke");
        }
        drop(own);
    });
    let retire_at = expiry::retirement(age_max, None, fastrand::u64(..));
    Ok(Http1 { sender, retire_at, idle_since: Instant::now() })
}

async fn open_http2(
    dialer: &Dialer,
    key: &Key,
    bound: Duration,
    age_max: Duration,
) -> Result<Http2, DialError> {
    let expected = match &key.how {
        How::Mesh(expected) => Some(expected),
        How::Http1 | How::Http2 => None,
    };
    let dialled = dialer.dial(&key.to, expected, bound).await?;
    let mut builder = http2::Builder::new(LocalExec);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .max_concurrent_reset_streams(CANCELLED_KNOWN_MAX)
        .max_local_error_reset_streams(LATE_FRAMES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX);
    let (sender, mut connection) = builder
        .handshake(TokioIo::new(dialled.io))
        .await
        .map_err(|error| super::fault::handshake(&key.to, &error))?;
    let not_after = dialled.proof.as_ref().map(|proof| proof.not_after);
    let streams_max = Rc::new(Cell::new(STREAMS_BEFORE_SETTINGS));
    let (permitted, ear, own) = (Rc::clone(&streams_max), dialled.ear.clone(), dialled.own);
    let _runs_on = task::spawn_local("upstream http/2", async move {
        let most = usize::try_from(STREAMS_MAX).unwrap_or(usize::MAX);
        let mut driven = std::future::poll_fn(|cx| {
            let driven = connection.poll_unpin(cx);
            permitted.set(connection.current_max_send_streams().clamp(1, most));
            driven
        });
        let driven = tokio::select! {
            driven = &mut driven => driven,
            () = expiry::wall(not_after) => {
                if let Some(ear) = ear {
                    ear.cut();
                }
                driven.await
            }
        };
        if let Err(error) = driven {
            tracing::debug!(%error, "an upstream connection broke");
        }
        drop(own);
    });
    Ok(Http2 {
        sender,
        streams: Cell::new(0),
        streams_max,
        retire_at: expiry::retirement(age_max, not_after, fastrand::u64(..)),
        idle_since: Cell::new(Instant::now()),
        closing: Cell::new(false),
        proof: dialled.proof,
        ear: dialled.ear,
    })
}
