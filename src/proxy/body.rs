//! A response's body on its way to the caller. It holds everything that counts a request as under
//! way (permit, load, lease, record) until the last byte, and ends the stream when its time is up:
//! a gRPC call by trailers that say why, everything else by a reset or a missing last chunk.

use std::{
    cell::RefCell,
    error::Error,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    attempt::Held,
    exchange::Exchange,
    fault,
    headers::receive_trailers,
    watch::{Watch, Watched},
};
use crate::{
    http::{
        answer::{self, Rejection},
        grpc,
    },
    reason::Reason,
    resilience::Verdict,
};

/// What a caller gets.
pub(super) enum Body {
    /// An answer of the mesh, which has been recorded already.
    Whole(Option<Bytes>),
    /// What comes from upstream.
    Forward(Rc<RefCell<Forward>>),
}

/// Until when a body may go on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// The caller's deadline.
    pub(super) deadline: Option<Instant>,
    /// The end of the stream's longest life.
    pub(super) stream_end: Option<Instant>,
    /// How long neither side may be silent.
    pub(super) idle: Option<Duration>,
}

/// A body from upstream with all that it holds.
pub(super) struct Forward {
    /// `None` once it has ended.
    upstream: Option<Incoming>,
    /// `None` once the record is closed.
    exchange: Option<Exchange>,
    held: Held,
    limits: Limits,
    timer: Option<Pin<Box<Sleep>>>,
    /// Where it has a limit.
    watched: Option<Watched>,
    /// How it ended while nobody read it.
    last: Option<Result<Frame<Bytes>, Broken>>,
    /// What was seen when silence was last looked for: frames each way.
    seen: (u64, u64),
    silent_since: Instant,
    frames: u64,
    bytes: u64,
    /// What is missing of an announced length.
    missing: Option<u64>,
    messages: grpc::Messages,
}

/// Why a body broke off; hyper resets the stream with the code inside.
#[derive(Debug)]
pub(super) struct Broken {
    reason: Reason,
    code: h2::Error,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response broke off: {}", self.reason)
    }
}

impl Error for Broken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.code)
    }
}

impl Body {
    /// An answer of the mesh.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// Passes an upstream body on.
    pub(super) fn forward(
        upstream: Incoming,
        exchange: Exchange,
        held: Held,
        limits: Limits,
        watch: &Rc<Watch>,
    ) -> Self {
        let now = Instant::now();
        let mut forward = Forward {
            missing: upstream.size_hint().exact().filter(|_| !exchange.audience().grpc),
            upstream: Some(upstream),
            seen: (0, held.replay.frames()),
            exchange: Some(exchange),
            held,
            limits,
            timer: None,
            watched: None,
            last: None,
            silent_since: now,
            frames: 0,
            bytes: 0,
            messages: grpc::Messages::default(),
        };
        forward.timer = forward.next_look().map(|at| Box::pin(sleep_until(at)));
        let limited = forward.timer.is_some();
        let forward = Rc::new(RefCell::new(forward));
        if limited {
            forward.borrow_mut().watched = Some(watch.add(&forward));
        }
        Self::Forward(forward)
    }
}

impl Forward {
    fn next_look(&self) -> Option<Instant> {
        let idle = self.limits.idle.map(|idle| self.silent_since + idle);
        [self.limits.deadline, self.limits.stream_end, idle].into_iter().flatten().min()
    }

    /// Why the stream must end now, if it must; else the timer is set anew.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Option<Rejection> {
        loop {
            let timer = self.timer.as_mut()?;
            if timer.as_mut().poll(cx).is_pending() {
                return None;
            }
            if let Some(rejection) = self.over(Instant::now()) {
                return Some(rejection);
            }
            let next = self.next_look()?;
            self.timer.as_mut()?.as_mut().reset(next);
        }
    }

    /// Why the stream must have ended at that moment, if it must.
    fn over(&mut self, now: Instant) -> Option<Rejection> {
        let passed = |end: Option<Instant>| end.is_some_and(|end| now >= end);
        if passed(self.limits.deadline) {
            return Some(Rejection::seen(Reason::Deadline, "the caller's deadline passed"));
        }
        if passed(self.limits.stream_end) {
            let what = "the stream reached its longest life";
            return Some(Rejection::seen(Reason::RequestTimeout, what));
        }
        let seen = (self.frames, self.held.replay.frames());
        if seen == self.seen && passed(self.limits.idle.map(|idle| self.silent_since + idle)) {
            let what = "neither side sent anything for too long";
            return Some(Rejection::seen(Reason::IdleTimeout, what));
        }
        if seen != self.seen {
            (self.seen, self.silent_since) = (seen, Instant::now());
        }
        None
    }

    /// Whether a limit has passed at that moment and nobody may have looked.
    pub(super) fn may_be_over(&self, now: Instant) -> bool {
        self.upstream.is_some() && self.next_look().is_some_and(|at| now >= at)
    }

    /// Ends a stream whose time was up at that moment, which its reader hears when it reads on.
    pub(super) fn end_late(&mut self, now: Instant) {
        if self.upstream.is_some()
            && let Some(rejection) = self.over(now)
        {
            self.last = self.fail(rejection);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.upstream.is_none() {
            return Poll::Ready(self.last.take());
        }
        if let Some(rejection) = self.poll_limits(cx) {
            return Poll::Ready(self.fail(rejection));
        }
        loop {
            let Some(upstream) = self.upstream.as_mut() else { return Poll::Ready(None) };
            let frame = match Pin::new(upstream).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.finish(None);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    let fault = if self.held.replay.is_broken() {
                        Rejection::seen(Reason::CallerGone, fault::BODY_BROKEN)
                    } else {
                        fault::of_body(&error)
                    };
                    return Poll::Ready(self.fail(fault));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                // Peers count empty frames as an attack.
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.pass(&data);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(other) => {
                    let Ok(mut trailers) = other.into_trailers() else { continue };
                    self.finish(Some(&mut trailers));
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
        }
    }

    fn pass(&mut self, data: &Bytes) {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.frames += 1;
        self.bytes = self.bytes.saturating_add(length);
        if let Some(missing) = &mut self.missing {
            *missing = missing.saturating_sub(length);
        }
        self.messages.see(data);
    }

    /// The stream ends as upstream meant it to.
    fn finish(&mut self, mut trailers: Option<&mut HeaderMap>) {
        self.upstream = None;
        self.timer = None;
        let from_sidecar = self.held.from_sidecar;
        let said = trailers.as_deref_mut();
        let far = said.and_then(|trailers| receive_trailers(trailers, from_sidecar));
        let Some(mut exchange) = self.exchange.take() else { return };
        self.fill(&mut exchange);
        let record = exchange.record();
        record.reason = record.reason.or(far);
        if record.grpc {
            let head = grpc::from_http(record.http_status);
            let said = trailers.as_deref().and_then(grpc::status).or(record.grpc_status);
            let status = said.unwrap_or(head);
            record.grpc_status = Some(status);
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.grpc_status = Some(status);
                attempt.reason = attempt.reason.or(far);
            }
            let verdict = far.map_or_else(|| Verdict::of_grpc(status), after_head);
            self.held.tried.observe(verdict);
        } else {
            let status = record.http_status;
            self.held.tried.observe(Verdict::of_http(status));
        }
        exchange.end();
    }

    /// The stream ends otherwise: what it holds is let go, and the caller is told as far as can be.
    fn fail(&mut self, rejection: Rejection) -> Option<Result<Frame<Bytes>, Broken>> {
        self.upstream = None;
        self.timer = None;
        let mut exchange = self.exchange.take()?;
        self.fill(&mut exchange);
        self.held.tried.observe(after_head(rejection.reason));
        self.held.cancel();
        let audience = exchange.audience();
        let record = exchange.record();
        record.reason = Some(rejection.reason);
        record.grpc_status = record.grpc.then_some(rejection.grpc);
        if let Some(attempt) = record.attempts.last_mut() {
            attempt.reason = Some(rejection.reason);
        }
        exchange.end();
        if audience.grpc {
            return Some(Ok(Frame::trailers(answer::trailers(&rejection, audience))));
        }
        let code = h2::Error::from(h2::Reason::INTERNAL_ERROR);
        Some(Err(Broken { reason: rejection.reason, code }))
    }

    fn fill(&self, exchange: &mut Exchange) {
        let now = exchange.started().elapsed();
        let record = exchange.record();
        record.request_bytes = self.held.replay.bytes();
        record.response_bytes = self.bytes;
        record.stream = self.messages.many() || self.held.replay.many_messages();
        if let Some(attempt) = record.attempts.last_mut() {
            attempt.duration = now.saturating_sub(attempt.started);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.upstream.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

/// What the end of a stream says about its endpoint. It has answered, and how long a stream goes on is
/// not for it alone to say: a stream that its caller's time ends is no failure.
fn after_head(reason: Reason) -> Verdict {
    match reason {
        Reason::Deadline | Reason::RequestTimeout => Verdict::Silent,
        other => Verdict::of_reason(other),
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // hyper lets a body go without asking for its end once it knows that nothing more comes.
        if self.is_end_stream() || self.missing == Some(0) {
            self.finish(None);
        } else if let Some(mut exchange) = self.exchange.take() {
            self.fill(&mut exchange);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Forward(forward) => forward.borrow_mut().poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Forward(forward) => forward.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Forward(forward) => {
                forward.borrow().missing.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
