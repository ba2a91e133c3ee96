//! Upstream connections of one worker, by where they lead and how. HTTP/2 requests share as few
//! connections as carry them; HTTP/1.1 requests have one each, and the one used last is taken first,
//! which is the least likely to be closed by its peer. A connection that is retired (age, certificate,
//! GOAWAY, idle) takes no new requests and closes when its last stream has ended.

use std::{
    cell::{Cell, OnceCell, RefCell},
    hash::{BuildHasher as _, Hash, Hasher},
    io,
    ops::Deref,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use rustc_hash::{FxBuildHasher, FxHashMap};
use rustls_pki_types::CertificateDer;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    codec::Codec,
    dial::{DialError, Dialer, Dialled, Expected, Proof, Where},
    ends::OwnSocket,
    expiry,
    host::{End, Outlook},
    hub::Hub,
    link::Link,
    settings::{
        HELD_UP_CONNECTIONS_MAX, HTTP1_IDLE_CONNECTIONS_MAX, HTTP1_IDLE_MAX, HTTP2_CONNECTIONS_MAX,
        HTTP2_IDLE_MAX, http1_client, http2_client,
    },
    stream::Lease,
    wire::Wire,
};
use crate::{clock, http1, http2, reason::Reason, task, tls};

/// Connections with one key are interchangeable. Made once for an endpoint, and looked up for each of
/// its requests; clones are the same key, which is seen without reading it.
#[derive(Debug, Clone, Eq)]
pub(super) struct Key(Arc<Way>);

/// Where connections lead, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: Where,
    pub(super) how: How,
    hash: u64,
}

impl Key {
    pub(super) fn new(to: Where, how: How) -> Self {
        let hash = FxBuildHasher.hash_one((&to, &how));
        Self(Arc::new(Way { to, how, hash }))
    }
}

impl Deref for Key {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// HTTP/1.1 in plaintext.
    Http1,
    /// HTTP/1.1 in plaintext to a proxy, with targets in absolute form.
    Proxy,
    /// HTTP/2 in plaintext.
    Http2,
    /// HTTP/2 in mutual TLS to a sidecar.
    Mesh(Expected),
}

impl How {
    fn is_http2(&self) -> bool {
        matches!(self, Self::Http2 | Self::Mesh(_))
    }
}

/// One worker's connections.
pub(super) struct Pool {
    hub: Rc<Hub>,
    dialer: Arc<Dialer>,
    age_max: Duration,
    places: RefCell<FxHashMap<Key, Rc<Place>>>,
}

/// All connections with one key.
struct Place {
    key: Key,
    /// HTTP/2: all of them. HTTP/1.1: those without a request.
    links: RefCell<Vec<Rc<Link>>>,
    /// One HTTP/2 connection is opened at a time; whoever needs it waits for the same outcome.
    opening: RefCell<Option<Rc<Opening>>>,
    /// Told when a stream ends while all connections are full.
    freed: Notify,
    waiting: Cell<usize>,
}

/// A connection on its way.
#[derive(Default)]
struct Opening {
    outcome: OnceCell<Result<Rc<Link>, DialError>>,
    done: Notify,
}

/// What a connection that was dialled knows of itself.
pub(super) struct Far {
    place: Weak<Place>,
    dialer: Arc<Dialer>,
    proof: Option<Proof>,
    retire_at: Instant,
    idle_since: Cell<Instant>,
    /// Places that were given out and not used yet.
    leased: Cell<usize>,
    refused: OnceCell<String>,
    /// Told when the peer has said what it permits, or never will.
    settled: Box<Notify>,
    settling: Cell<bool>,
    _own: Option<OwnSocket>,
}

impl Pool {
    pub(super) fn new(hub: Rc<Hub>, dialer: Arc<Dialer>, age_max: Duration) -> Self {
        Self { hub, dialer, age_max, places: RefCell::default() }
    }

    /// A place on a connection that is open and has room, if there is one.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Lease> {
        self.places.borrow().get(key)?.take(now).map(lease)
    }

    /// A place on an open connection, or on a new one that is open within `bound`. May be cancelled;
    /// an HTTP/2 connection is opened on for others that wait.
    ///
    /// # Errors
    /// When there is no connection within the bound.
    pub(super) async fn lease(&self, key: &Key, bound: Duration) -> Result<Lease, DialError> {
        let place = self.place(key);
        let found = place.take(Instant::now());
        match found {
            Some(link) => Ok(lease(link)),
            None => self.lease_new(&place, bound).await,
        }
    }

    async fn lease_new(&self, place: &Rc<Place>, bound: Duration) -> Result<Lease, DialError> {
        if !place.key.how.is_http2() {
            let link = open(&self.hub, &self.dialer, place, bound, self.age_max).await?;
            return Ok(lease(link));
        }
        loop {
            if place.is_full() {
                place.freed().await;
            } else {
                let opened = self.opening(place, bound).wait().await?;
                // Else a server that hangs up at once would be dialled again and again.
                if is_over(&opened, Instant::now()) {
                    return Err(over(&opened, &place.key));
                }
            }
            if let Some(link) = place.take(Instant::now()) {
                return Ok(lease(link));
            }
        }
    }

    fn place(&self, key: &Key) -> Rc<Place> {
        if let Some(place) = self.places.borrow().get(key) {
            return Rc::clone(place);
        }
        let place = Rc::new(Place {
            key: key.clone(),
            links: RefCell::default(),
            opening: RefCell::default(),
            freed: Notify::new(),
            waiting: Cell::new(0),
        });
        self.places.borrow_mut().insert(key.clone(), Rc::clone(&place));
        place
    }

    /// Joins the opening of a connection, or begins it. It runs on when this is cancelled.
    fn opening(&self, place: &Rc<Place>, bound: Duration) -> Rc<Opening> {
        if let Some(opening) = place.opening.borrow().as_ref() {
            return Rc::clone(opening);
        }
        let opening = Rc::new(Opening::default());
        *place.opening.borrow_mut() = Some(Rc::clone(&opening));
        let (hub, dialer) = (Rc::clone(&self.hub), Arc::clone(&self.dialer));
        let (age_max, place) = (self.age_max, Rc::clone(place));
        let ending = Opened { place: Rc::clone(&place), opening: Rc::clone(&opening) };
        let _runs_on = task::spawn_local("connect", async move {
            let outcome = open(&hub, &dialer, &place, bound, age_max).await;
            if let Ok(link) = &outcome {
                place.links.borrow_mut().push(Rc::clone(link));
            }
            // It is empty: this is the only one that fills it.
            let _filled = ending.opening.outcome.set(outcome);
        });
        opening
    }

    /// Forgets places without connections; the connections look after themselves.
    pub(super) fn sweep(&self) {
        self.places.borrow_mut().retain(|_, place| {
            let busy = place.opening.borrow().is_some() || Rc::strong_count(place) > 1;
            busy || !place.links.borrow().is_empty()
        });
    }
}

fn lease(link: Rc<Link>) -> Lease {
    if let End::Far(far) = &link.end {
        far.leased.set(far.leased.get() + 1);
    }
    Lease::new(link)
}

impl Opening {
    async fn wait(&self) -> Result<Rc<Link>, DialError> {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            self.done.notified().await;
        }
    }
}

/// However the task that opens a connection ends, those that wait hear of it and the next one begins
/// anew.
struct Opened {
    place: Rc<Place>,
    opening: Rc<Opening>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.place.opening.borrow_mut().take();
        self.opening.outcome.get_or_init(|| {
            let what = format!("connecting to {} broke off", self.place.key.to);
            Err(DialError { reason: Reason::Internal, what })
        });
        self.opening.done.notify_waiters();
    }
}

impl Place {
    fn take(&self, now: Instant) -> Option<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        if self.key.how.is_http2() {
            // The first with room, so that the last ones become idle.
            let fits = |link: &&Rc<Link>| !is_over(link, now) && link.room() > leased(link);
            let found = links.iter().find(|link| fits(link) && !link.codec.borrow().is_held_up());
            // What reads slowly on every connection does not read faster on many.
            let many = || links.len() >= HELD_UP_CONNECTIONS_MAX;
            return found.or_else(|| links.iter().find(fits).filter(|_| many())).map(Rc::clone);
        }
        std::iter::from_fn(|| links.pop()).find(|link| !is_over(link, now) && link.room() > 0)
    }

    /// Whether no more connections may be opened, or would be of no use.
    fn is_full(&self) -> bool {
        let now = Instant::now();
        let links = self.links.borrow();
        let counts = |link: &&Rc<Link>| !is_over(link, now) && !link.codec.borrow().is_spent();
        let mut counted = links.iter().filter(counts);
        counted.clone().any(|link| link.codec.borrow().is_shut())
            || counted.nth(HTTP2_CONNECTIONS_MAX - 1).is_some()
    }

    /// Waits until there may be room.
    async fn freed(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let _waits = Waits(&self.waiting);
        self.freed.notified().await;
    }

    fn forget(&self, link: &Rc<Link>) {
        self.links.borrow_mut().retain(|other| !Rc::ptr_eq(other, link));
    }
}

/// Somebody waits for room.
struct Waits<'a>(&'a Cell<usize>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

fn leased(link: &Link) -> usize {
    match &link.end {
        End::Far(far) => far.leased.get(),
        End::Near(_) => 0,
    }
}

/// Whether it takes no new requests.
fn is_over(link: &Link, now: Instant) -> bool {
    let End::Far(far) = &link.end else { return true };
    link.is_over() || link.is_draining() || now >= far.retire_at
}

/// Why a connection that has just been opened can not be used.
fn over(link: &Link, key: &Key) -> DialError {
    let refused = match &link.end {
        End::Far(far) => far.refused(),
        End::Near(_) => None,
    };
    match refused {
        Some(why) => DialError { reason: Reason::PeerIdentity, what: why },
        None => DialError {
            reason: Reason::ConnectFailed,
            what: format!("{} closed the connection at once", key.to),
        },
    }
}

impl Far {
    /// Why the peer refused our certificate, once it has.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.get().cloned()
    }

    /// The connection broke.
    pub(super) fn broke(&self, error: &io::Error) {
        tracing::debug!(%error, "an upstream connection broke");
        if let Some(why) = tls::identity_failure(error) {
            // The first one stands.
            let _later = self.refused.set(why);
        }
    }

    /// A place was used or given back.
    pub(super) fn unlease(&self, link: &Rc<Link>) {
        self.leased.set(self.leased.get().saturating_sub(1));
        self.changed(link);
    }

    /// Streams have ended, or more may be opened, or the connection is over.
    pub(super) fn changed(&self, link: &Rc<Link>) {
        if self.settling.get() && (link.is_over() || link.codec.borrow().is_settled()) {
            self.settling.set(false);
            self.settled.notify_waiters();
        }
        let Some(place) = self.place.upgrade() else { return };
        if link.is_over() {
            place.forget(link);
        } else if self.leased.get() == 0 && link.is_idle() {
            self.idle_since.set(link.hub.moment());
            if !link.is_http2 {
                self.rest(&place, link);
            }
        }
        if place.waiting.get() > 0 {
            place.freed.notify_one();
        }
    }

    /// An HTTP/1.1 connection waits for its next request, if there may be one.
    fn rest(&self, place: &Place, link: &Rc<Link>) {
        let mut links = place.links.borrow_mut();
        if links.iter().any(|other| Rc::ptr_eq(other, link)) {
            return;
        }
        let full = links.len() >= HTTP1_IDLE_CONNECTIONS_MAX;
        if full || link.room() == 0 || is_over(link, link.hub.moment()) {
            drop(links);
            link.drain();
        } else {
            links.push(Rc::clone(link));
        }
    }

    /// Whether the connection may go on.
    pub(super) fn outlook(&self, link: &Link) -> Outlook {
        let (now, wall) = (Instant::now(), clock::now());
        if self.proof.as_ref().is_some_and(|proof| wall >= proof.not_after) {
            return Outlook::Cut;
        }
        let idle_max = if link.is_http2 { HTTP2_IDLE_MAX } else { HTTP1_IDLE_MAX };
        let unused = self.leased.get() == 0 && link.is_idle();
        if link.codec.borrow().is_spent()
            || now >= self.retire_at
            || (unused && now >= self.idle_since.get() + idle_max)
        {
            return Outlook::Retire;
        }
        Outlook::Stay
    }

    /// Waits until the peer has said what it permits, or never will.
    pub(super) async fn settled(&self, link: &Link) {
        while !(link.codec.borrow().is_settled() || link.is_over()) {
            self.settled.notified().await;
        }
    }

    /// Whether the certificates that its peer has shown would still be accepted.
    pub(super) fn standing(&self, shown: &[CertificateDer<'_>]) -> Outlook {
        if self.proof.is_none() {
            return Outlook::Stay;
        }
        Outlook::of(self.dialer.standing(shown, clock::now()))
    }
}

/// Opens a connection and lets it run.
async fn open(
    hub: &Rc<Hub>,
    dialer: &Arc<Dialer>,
    place: &Rc<Place>,
    bound: Duration,
    age_max: Duration,
) -> Result<Rc<Link>, DialError> {
    let end = Instant::now() + bound;
    let expected = match &place.key.how {
        How::Mesh(expected) => Some(expected),
        How::Http1 | How::Proxy | How::Http2 => None,
    };
    let dialled = hub.paced(dialer.dial(&place.key.to, expected, bound)).await?;
    let Dialled { socket, tls, proof, own } = dialled;
    let not_after = proof.as_ref().map(|proof| proof.not_after);
    let sidecar = proof.is_some();
    let far = Far {
        place: Rc::downgrade(place),
        dialer: Arc::clone(dialer),
        proof,
        retire_at: expiry::retirement(age_max, not_after, fastrand::u64(..)),
        idle_since: Cell::new(Instant::now()),
        leased: Cell::new(0),
        refused: OnceCell::new(),
        settled: Box::default(),
        settling: Cell::new(true),
        _own: own,
    };
    let wire = match tls {
        Some(tls) => Wire::sealed(socket, tls.into(), Vec::new()),
        None => Wire::plain(socket, Vec::new()),
    };
    let now = hub.now().into_std();
    let codec = if place.key.how.is_http2() {
        Codec::Http2(Box::new(http2::Connection::client(&http2_client(sidecar), now)))
    } else {
        let config = http1_client(place.key.how == How::Proxy);
        Codec::Http1(Box::new(http1::Connection::client(&config, now)))
    };
    let link = Link::new(hub, End::Far(Box::new(far)), codec, wire);
    let _runs_on = task::spawn_local("upstream", Rc::clone(&link).run());
    if !sidecar && let End::Far(far) = &link.end {
        // What is opened before an application says how many streams it takes, it may refuse. One that
        // says nothing in time is taken as it is: its requests have limits of their own.
        let _in_time = timeout_at(end, far.settled(&link)).await;
    }
    Ok(link)
}
