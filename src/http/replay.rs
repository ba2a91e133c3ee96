//! A request body that can be sent again. hyper hands nothing back of a request that a GOAWAY or
//! REFUSED_STREAM refused, so whatever an attempt reads from the caller is kept here until the
//! response head is passed on or until it grows past a limit; then it only flows through.
//!
//! There is one reader at a time: starting the next attempt ends the body of the last one, and
//! dropping [`Replay`] ends the body of the current one, which resets its stream.

use std::{
    cell::RefCell,
    error::Error,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use ::http::HeaderMap;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::grpc;

/// The caller's side of a request body: counts it, keeps it and hands it to attempts.
#[derive(Debug)]
pub struct Replay<B> {
    shared: Rc<RefCell<Shared<B>>>,
}

/// A request body as one attempt sends it.
#[derive(Debug)]
pub struct ReplayBody<B> {
    shared: Rc<RefCell<Shared<B>>>,
    /// Which attempt this is; another number in `shared` means that it was superseded.
    attempt: u32,
    /// How many of the kept frames it has sent.
    next: usize,
    /// How many bytes it has sent.
    sent: u64,
    /// Whether it has sent the trailers.
    trailers_sent: bool,
}

#[derive(Debug)]
struct Shared<B> {
    /// `None` once it has ended or was given up.
    source: Option<B>,
    /// The length that the caller announced.
    length: Option<u64>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// Whether everything read so far is in `kept`.
    keeping: bool,
    trailers: Option<HeaderMap>,
    attempt: u32,
    cancelled: bool,
    /// Whether that was the caller.
    broken: bool,
    waker: Option<Waker>,
    bytes: u64,
    frames: u64,
    messages: grpc::Messages,
}

/// Why an attempt's body ended early. Its source is an HTTP/2 CANCEL, which is what hyper then resets
/// the stream with.
#[derive(Debug)]
pub struct Cancelled {
    what: &'static str,
    code: h2::Error,
}

impl Cancelled {
    fn new(what: &'static str) -> Self {
        Self { what, code: h2::Error::from(h2::Reason::CANCEL) }
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl Error for Cancelled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.code)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    /// Takes the caller's body; at most `kept_bytes_max` bytes of it are kept.
    pub fn new(source: B, kept_bytes_max: usize) -> Self {
        let length = source.size_hint().exact();
        Self {
            shared: Rc::new(RefCell::new(Shared {
                source: Some(source),
                length,
                kept: Vec::new(),
                kept_bytes: 0,
                kept_bytes_max,
                keeping: true,
                trailers: None,
                attempt: 0,
                cancelled: false,
                broken: false,
                waker: None,
                bytes: 0,
                frames: 0,
                messages: grpc::Messages::default(),
            })),
        }
    }

    /// The body for the next attempt; the last attempt's body ends.
    pub fn attempt(&self) -> ReplayBody<B> {
        let mut shared = self.shared.borrow_mut();
        shared.attempt += 1;
        let attempt = shared.attempt;
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
        let shared = Rc::clone(&self.shared);
        ReplayBody { shared, attempt, next: 0, sent: 0, trailers_sent: false }
    }

    /// Whether another attempt would send everything that earlier ones were given.
    pub fn is_whole(&self) -> bool {
        let shared = self.shared.borrow();
        shared.keeping && !shared.cancelled
    }

    /// Whether the caller broke its body off, which is then nobody else's fault.
    pub fn is_broken(&self) -> bool {
        self.shared.borrow().broken
    }

    /// No further attempt will be made: what is kept is let go as it is sent.
    pub fn commit(&self) {
        self.shared.borrow_mut().keeping = false;
    }

    /// Bytes read from the caller, each counted once.
    pub fn bytes(&self) -> u64 {
        self.shared.borrow().bytes
    }

    /// Frames read from the caller: changes whenever the caller sends something.
    pub fn frames(&self) -> u64 {
        self.shared.borrow().frames
    }

    /// Whether the caller sent more than one gRPC message, if they are such.
    pub fn many_messages(&self) -> bool {
        self.shared.borrow().messages.many()
    }
}

impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.cancelled = true;
        let source = shared.source.take();
        let waker = shared.waker.take();
        shared.kept = Vec::new();
        drop(shared);
        drop(source);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Shared<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Reads on from the caller. Empty frames are dropped: HTTP/2 peers count them as an attack.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cancelled>>> {
        loop {
            let Some(source) = self.source.as_mut() else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(source).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => {
                    self.source = None;
                    (self.cancelled, self.broken) = (true, true);
                    return Poll::Ready(Some(Err(Cancelled::new("the caller broke off its body"))));
                }
                None => {
                    self.source = None;
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.frames += 1;
                    self.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.messages.see(&data);
                    self.keep(&data);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(other) => {
                    let Ok(mut trailers) = other.into_trailers() else { continue };
                    super::fields::strip_trailers(&mut trailers);
                    self.source = None;
                    self.trailers = Some(trailers);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.keeping && self.kept_bytes + data.len() <= self.kept_bytes_max {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        } else {
            self.keeping = false;
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReplayBody<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Cancelled;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cancelled>>> {
        let this = self.get_mut();
        let mut shared = this.shared.borrow_mut();
        if shared.cancelled || shared.attempt != this.attempt {
            return Poll::Ready(Some(Err(Cancelled::new("the attempt was given up"))));
        }
        if let Some(data) = shared.kept.get(this.next) {
            let data = data.clone();
            this.next += 1;
            this.sent += u64::try_from(data.len()).unwrap_or(u64::MAX);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !shared.keeping && !shared.kept.is_empty() {
            shared.kept = Vec::new();
            this.next = 0;
        }
        match shared.poll_source(cx) {
            Poll::Pending => {
                shared.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(Some(frame)) => {
                if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                    this.sent += u64::try_from(data.len()).unwrap_or(u64::MAX);
                }
                this.next = shared.kept.len();
                Poll::Ready(Some(frame))
            }
            Poll::Ready(None) => {
                let trailers = shared.trailers.clone().filter(|_| !this.trailers_sent);
                this.trailers_sent = true;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        let trailers = shared.trailers.is_some() && !self.trailers_sent;
        let source_ended = shared.source.as_ref().is_none_or(Body::is_end_stream);
        !shared.cancelled
            && shared.attempt == self.attempt
            && self.next >= shared.kept.len()
            && source_ended
            && !trailers
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.shared.borrow().length;
        length.map_or_else(SizeHint::default, |length| {
            SizeHint::with_exact(length.saturating_sub(self.sent))
        })
    }
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderValue};
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Channel};

    use super::Replay;

    type Source = Channel<Bytes, std::io::Error>;

    async fn data(body: &mut super::ReplayBody<Source>) -> Option<Bytes> {
        body.frame().await.map(|frame| frame.expect("no error").into_data().expect("data"))
    }

    #[tokio::test]
    async fn a_second_attempt_sends_what_the_first_did_and_reads_on() {
        let (mut sender, source) = Source::new(4);
        let replay = Replay::new(source, 10);
        let mut first = replay.attempt();
        sender.send_data(Bytes::from_static(b"one")).await.expect("open");
        sender.send_data(Bytes::new()).await.expect("open");
        assert_eq!(data(&mut first).await, Some(Bytes::from_static(b"one")));

        let mut second = replay.attempt();
        assert!(first.frame().await.expect("a frame").is_err(), "the first attempt is given up");
        assert_eq!(data(&mut second).await, Some(Bytes::from_static(b"one")));
        sender.send_data(Bytes::from_static(b"two")).await.expect("open");
        let mut trailers = HeaderMap::new();
        trailers.insert("a", HeaderValue::from_static("1"));
        trailers.insert("outrigger-unseen", HeaderValue::from_static("1"));
        sender.send(Frame::trailers(trailers)).await.expect("open");
        drop(sender);
        assert_eq!(data(&mut second).await, Some(Bytes::from_static(b"two")));
        let trailers = second.frame().await.expect("a frame").expect("no error");
        assert_eq!(trailers.trailers_ref().map(HeaderMap::len), Some(1));
        assert!(second.frame().await.is_none());
        assert!(replay.is_whole());
        assert_eq!((replay.bytes(), replay.frames()), (6, 2));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_flows_through_and_is_not_kept() {
        let (mut sender, source) = Source::new(4);
        let replay = Replay::new(source, 4);
        let mut body = replay.attempt();
        for part in ["one", "two", "six"] {
            sender.send_data(Bytes::from_static(part.as_bytes())).await.expect("open");
            assert_eq!(data(&mut body).await, Some(Bytes::from_static(part.as_bytes())));
        }
        assert!(!replay.is_whole());
        assert_eq!(replay.shared.borrow().kept.len(), 0);
    }

    #[tokio::test]
    async fn a_committed_body_lets_go_of_what_it_has_sent() {
        let (mut sender, source) = Source::new(4);
        let replay = Replay::new(source, 100);
        let mut body = replay.attempt();
        sender.send_data(Bytes::from_static(b"one")).await.expect("open");
        assert!(data(&mut body).await.is_some());
        let mut again = replay.attempt();
        replay.commit();
        assert_eq!(data(&mut again).await, Some(Bytes::from_static(b"one")));
        sender.send_data(Bytes::from_static(b"two")).await.expect("open");
        assert_eq!(data(&mut again).await, Some(Bytes::from_static(b"two")));
        assert_eq!(replay.shared.borrow().kept.len(), 0);
    }

    #[tokio::test]
    async fn dropping_the_replay_wakes_and_ends_the_attempt() {
        let (_sender, source) = Source::new(4);
        let replay = Replay::new(source, 100);
        let mut body = replay.attempt();
        let (ended, ()) = tokio::join!(body.frame(), async { drop(replay) });
        assert!(ended.expect("a frame").is_err());
    }
}
