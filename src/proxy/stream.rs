//! The two ends of an exchange as a request's story sees them. What flows between them does so without
//! the story: the driver moves bodies from one connection's input to the other's output.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use super::{
    fault,
    host::End,
    link::Link,
    splice::{Listener, Sent, Stream},
};
use crate::{
    http::{ErrorCode, HeaderBlock, OpenError, StreamError, answer::Rejection},
    reason::Reason,
};

/// A request as it came.
pub(super) struct Incoming {
    /// Its head, pseudo-header fields first.
    pub(super) head: HeaderBlock,
    /// Where the answer goes.
    pub(super) caller: Caller,
}

/// The caller's stream. Dropped before its response has ended, it is reset.
pub(super) struct Caller(Rc<Stream>);

/// What has passed of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    /// Bytes.
    pub(super) bytes: u64,
    /// Whether it held more than one gRPC message.
    pub(super) many: bool,
    /// When the last part passed.
    pub(super) last: Instant,
}

fn passed(stream: &Stream) -> Passed {
    let received = stream.received.borrow();
    Passed { bytes: received.bytes, many: received.messages.many(), last: received.last }
}

impl Caller {
    pub(super) fn new(stream: Rc<Stream>) -> Self {
        Self(stream)
    }

    /// When the request came.
    pub(super) fn began(&self) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0.received.borrow().last)
    }

    /// Sends a 1xx response.
    pub(super) fn inform(&self, head: &HeaderBlock) {
        if !self.0.gone.get() && self.0.sent.get() == Sent::Nothing {
            self.0.link.inform(self.0.id, head);
        }
    }

    /// Sends the response's head.
    pub(super) fn respond(&self, head: &HeaderBlock, end: bool) {
        let stream = &self.0;
        if stream.gone.get() || stream.sent.get() != Sent::Nothing {
            return;
        }
        stream.sent.set(if end { Sent::Ended } else { Sent::Open });
        stream.link.respond(stream.id, head, end);
        stream.finish();
    }

    /// Sends a whole response of the mesh's own.
    pub(super) fn answer(&self, head: &HeaderBlock, body: &[u8]) {
        self.respond(head, body.is_empty());
        self.0.answer.borrow_mut().extend_from_slice(body);
        self.0.send_answer();
    }

    /// Ends the response with trailers.
    pub(super) fn trailers(&self, trailers: &HeaderBlock) {
        let stream = &self.0;
        if stream.gone.get() || stream.sent.get() != Sent::Open {
            return;
        }
        stream.end_with(trailers);
    }

    /// Ends the response early.
    pub(super) fn reset(&self, code: ErrorCode) {
        self.0.reset(code);
    }

    /// Keeps what attempts read of the request's body, up to `max` bytes, for another attempt.
    pub(super) fn keep(&self, max: usize) {
        self.0.received.borrow_mut().kept.begin(max);
    }

    /// Keeps nothing any more.
    pub(super) fn commit(&self) {
        self.0.received.borrow_mut().kept.commit(&self.0.link);
    }

    /// Whether everything that was read so far is kept.
    pub(super) fn is_whole(&self) -> bool {
        self.0.received.borrow().kept.is_whole()
    }

    /// Whether the caller broke its body off.
    pub(super) fn broken(&self) -> bool {
        self.0.received.borrow().error.is_some()
    }

    /// What came of the request's body.
    pub(super) fn received(&self) -> Passed {
        passed(&self.0)
    }

    /// Gives back the memory of the request's head.
    pub(super) fn recycle(&self, head: HeaderBlock) {
        self.0.link.recycle(head);
    }

    /// Takes the stream over: bytes both ways, for a tunnel.
    pub(super) fn into_stream(self) -> Rc<Stream> {
        let stream = Rc::clone(&self.0);
        // Nobody is cancelled when the stream ends; who reads it hears of it.
        *stream.listener.borrow_mut() = Listener::Nobody;
        stream.taken.set(true);
        stream
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let stream = &self.0;
        if stream.taken.get() {
            return;
        }
        *stream.listener.borrow_mut() = Listener::Nobody;
        stream.discard();
        if stream.gone.get() {
            return;
        }
        let answering = !stream.answer.borrow().is_empty();
        match stream.sent.get() {
            // Its request goes on; the connection hears at the end of the turn that nobody reads it.
            Sent::Ended => stream.link.answered(stream),
            // The rest goes by itself.
            Sent::Open if answering => {}
            Sent::Open | Sent::Nothing => stream.reset(ErrorCode::INTERNAL_ERROR),
        }
    }
}

/// What came of a request.
pub(super) enum Answer {
    /// 1xx; another one follows.
    Informational(HeaderBlock),
    /// The response's head.
    Final {
        /// With `:status`.
        head: HeaderBlock,
        /// Whether nothing follows.
        end: bool,
    },
}

/// A place on an upstream connection; dropped, it is given back.
pub(super) struct Lease(Option<Rc<Link>>);

impl Lease {
    /// Of a connection that has counted it already.
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self(Some(link))
    }

    fn link(&self) -> &Rc<Link> {
        self.0.as_ref().expect("only `send` takes it out, and it takes the lease")
    }

    /// Waits until the peer has said what it permits, or never will.
    pub(super) async fn settled(&self) {
        if let End::Far(far) = &self.link().end {
            far.settled(self.link()).await;
        }
    }

    /// Writes the head and lets the caller's body flow: what was kept of it first, then what comes,
    /// trailers too.
    ///
    /// # Errors
    /// When the connection has ended in between, or the head can not be written on it.
    pub(super) fn send(
        mut self,
        head: &HeaderBlock,
        caller: &Caller,
    ) -> Result<Upstream, StreamError> {
        let link = Rc::clone(self.link());
        let source = &caller.0;
        let end = {
            let mut received = source.received.borrow_mut();
            received.rewind();
            received.bodiless
        };
        let opened = link.open(head, end);
        self.give_back();
        let stream = opened.map_err(|error| match error {
            OpenError::Malformed(what) => StreamError::Malformed(what),
            OpenError::Full => StreamError::Unprocessed(ErrorCode::REFUSED_STREAM),
            OpenError::GoingAway => StreamError::Unprocessed(ErrorCode::NO_ERROR),
        })?;
        if end {
            source.received.borrow_mut().end_passed = true;
        } else {
            *source.to.borrow_mut() = Some(Rc::clone(&stream));
            *stream.from.borrow_mut() = Some(Rc::clone(source));
            source.pump();
        }
        Ok(Upstream(stream))
    }

    fn give_back(&mut self) {
        if let Some(link) = self.0.take()
            && let End::Far(far) = &link.end
        {
            far.unlease(&link);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// An attempt's stream. Dropped before its end, it is reset with CANCEL, and the caller's body waits.
pub(super) struct Upstream(Rc<Stream>);

impl Upstream {
    /// Waits for what the peer answers.
    ///
    /// # Errors
    /// When the stream ends before.
    pub(super) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Answer, StreamError>> {
        let mut received = self.0.received.borrow_mut();
        if let Some(next) = received.pop_head() {
            return Poll::Ready(Ok(if next.informational {
                Answer::Informational(next.head)
            } else {
                Answer::Final { head: next.head, end: next.end }
            }));
        }
        if let Some(error) = received.error {
            return Poll::Ready(Err(error));
        }
        drop(received);
        self.listen(cx);
        Poll::Pending
    }

    /// Lets the response's body flow to the caller, whose response's head is out.
    pub(super) fn pass_on(&mut self, caller: &Caller) {
        let (stream, to) = (&self.0, &caller.0);
        if to.gone.get() && to.sent.get() == Sent::Ended {
            return;
        }
        *stream.to.borrow_mut() = Some(Rc::clone(to));
        *to.from.borrow_mut() = Some(Rc::clone(stream));
        stream.pump();
    }

    /// Waits until the last byte of the body was handed to the caller's connection, which hears of the
    /// end with it unless there are trailers: those are the story's to write.
    ///
    /// # Errors
    /// When the stream ends before.
    pub(super) async fn end(&mut self) -> Result<Option<HeaderBlock>, StreamError> {
        poll_fn(|cx| self.poll_end(cx)).await
    }

    fn poll_end(&mut self, cx: &Context<'_>) -> Poll<Result<Option<HeaderBlock>, StreamError>> {
        let mut received = self.0.received.borrow_mut();
        if received.end && received.inbox.is_empty() {
            return Poll::Ready(Ok(received.trailers.take()));
        }
        if let Some(error) = received.error {
            return Poll::Ready(Err(error));
        }
        drop(received);
        self.listen(cx);
        Poll::Pending
    }

    fn listen(&self, cx: &Context<'_>) {
        let listener = match self.0.link.hub.tasks.current() {
            Some(story) => Listener::Story(story),
            None => Listener::Task(cx.waker().clone()),
        };
        *self.0.listener.borrow_mut() = listener;
    }

    /// When something last came.
    pub(super) fn last(&self) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0.received.borrow().last)
    }

    /// What passed of the response's body.
    pub(super) fn passed(&self) -> Passed {
        passed(&self.0)
    }

    /// What an error of this stream means. That the peer refused our certificate is heard, in TLS 1.3,
    /// only after the handshake, and then nothing of the request was read.
    pub(super) fn fault(&self, error: StreamError) -> Rejection {
        let End::Far(far) = &self.0.link.end else { return fault::of_stream(error) };
        match far.refused() {
            Some(why) => Rejection::unseen(Reason::PeerIdentity, why),
            None => fault::of_stream(error),
        }
    }

    /// Gives back the memory of a head that came on it.
    pub(super) fn recycle(&self, head: HeaderBlock) {
        self.0.link.recycle(head);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let stream = &self.0;
        *stream.listener.borrow_mut() = Listener::Nobody;
        stream.discard();
        stream.reset(ErrorCode::CANCEL);
    }
}
