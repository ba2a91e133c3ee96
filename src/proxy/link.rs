//! One HTTP connection under way: bytes in, events, bytes out. Its task reads what is ready into the
//! worker's shared buffer and hands every event on; what events and stories write gathers in the codec
//! and leaves once per turn. Nothing here waits, and nothing is borrowed while an event is handled.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{
    codec::Codec,
    events::Ending,
    host::{End, Outlook},
    hub::Hub,
    io::linger,
    splice::{Sent, Stream},
    tasks::guarded,
    window::Window,
    wire::{Wire, Written},
};
use crate::http::{ConnectionError, ErrorCode, HeaderBlock, OpenError};

/// How often a connection is read from before others get their turn.
const READS_PER_POLL: usize = 8;
/// A longer read is of a body that flows: nobody holds it back, and each acknowledgement asked for is a
/// system call.
const SHORT_BYTES: usize = 16 * 1024;
/// A larger buffer of unread bytes is not kept when it is empty.
const LEFT_BYTES_MAX: usize = 128 * 1024;

/// A connection under way.
pub(super) struct Link {
    pub(super) hub: Rc<Hub>,
    pub(super) end: End,
    pub(super) is_http2: bool,
    pub(super) codec: RefCell<Codec>,
    wire: RefCell<Option<Wire>>,
    /// Bytes that the codec has not taken yet.
    left: RefCell<Vec<u8>>,
    pub(super) streams: RefCell<Window<Rc<Stream>>>,
    /// Answered streams whose requests have not ended; those that have not at the end of the turn are
    /// reset.
    answered: RefCell<Vec<Rc<Stream>>>,
    /// Of the connection's task.
    waker: RefCell<Waker>,
    /// Whether it is on the hub's list.
    pub(super) dirty: Cell<bool>,
    /// Whether reading stopped because the codec wanted no more.
    paused: Cell<bool>,
    /// Whether the socket takes no more for now.
    pub(super) blocked: Cell<bool>,
    /// Output that waits for the socket, as it counts in the hub.
    unwritten: Cell<usize>,
    /// Whether nothing more can be read.
    lost: Cell<bool>,
    /// Whether it is to end now.
    pub(super) over: Cell<bool>,
    /// Whether it was asked to end in order.
    draining: Cell<bool>,
    /// Why it has ended.
    pub(super) why: Cell<Option<ConnectionError>>,
}

impl Link {
    /// A connection that is open; somebody has to [`Self::run`] it.
    pub(super) fn new(hub: &Rc<Hub>, end: End, codec: Codec, wire: Wire) -> Rc<Self> {
        let is_http2 = codec.is_http2();
        let link = Rc::new(Self {
            hub: Rc::clone(hub),
            end,
            is_http2,
            codec: RefCell::new(codec),
            wire: RefCell::new(Some(wire)),
            left: RefCell::default(),
            streams: RefCell::new(Window::new(u32::from(is_http2))),
            answered: RefCell::default(),
            waker: RefCell::new(Waker::noop().clone()),
            dirty: Cell::new(false),
            paused: Cell::new(false),
            blocked: Cell::new(false),
            unwritten: Cell::new(0),
            lost: Cell::new(false),
            over: Cell::new(false),
            draining: Cell::new(false),
            why: Cell::new(None),
        });
        hub.add(&link);
        link
    }

    /// Reads and writes until the connection has ended.
    pub(super) async fn run(self: Rc<Self>) {
        let ending = Ending(Rc::clone(&self));
        self.with(|_| {});
        if let Some(window) = self.hub.waiting.narrow() {
            self.set_window(window);
        }
        poll_fn(|cx| self.poll(cx)).await;
        let wire = self.wire.take();
        let heard = self.lost.get();
        drop(ending);
        drop(self);
        if let Some(wire) = wire.filter(|_| !heard) {
            Box::pin(linger(wire.into_socket())).await;
        }
    }

    fn poll(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waker.borrow().will_wake(cx.waker()) {
            self.waker.borrow_mut().clone_from(cx.waker());
        }
        if self.blocked.get() {
            self.set_dirty();
        }
        for _ in 0..READS_PER_POLL {
            if self.over.get() {
                return Poll::Ready(());
            }
            if self.lost.get() {
                return Poll::Pending;
            }
            if !self.codec.borrow().wants_input() {
                self.paused.set(true);
                return Poll::Pending;
            }
            self.paused.set(false);
            if self.read(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and handles what came.
    fn read(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffers = self.hub.take_buffers();
        let from = self.left.borrow().len();
        let filled = match self.wire.borrow_mut().as_mut() {
            Some(wire) => wire.poll_fill(cx, &mut buffers, from),
            None => Poll::Ready(Ok(0)),
        };
        match filled {
            Poll::Pending => {
                self.hub.give_buffers(buffers);
                return Poll::Pending;
            }
            Poll::Ready(Ok(length)) if length > 0 => {
                self.hub.now();
                let plain = &mut buffers.plain[..from + length];
                plain[..from].copy_from_slice(&self.left.borrow());
                self.left.borrow_mut().clear();
                let mut input = &*plain;
                self.drive(&mut input);
                self.leave(input);
                if length < SHORT_BYTES
                    && self.codec.borrow().is_amid()
                    && let Some(wire) = self.wire.borrow().as_ref()
                {
                    wire.acknowledge();
                }
            }
            Poll::Ready(ended) => self.lose(ended.err()),
        }
        self.hub.give_buffers(buffers);
        self.settle();
        Poll::Ready(())
    }

    /// Keeps what the codec did not take.
    fn leave(&self, input: &[u8]) {
        let mut left = self.left.borrow_mut();
        left.clear();
        left.extend_from_slice(input);
        if left.is_empty() && (left.capacity() > LEFT_BYTES_MAX || self.streams.borrow().len() == 0)
        {
            *left = Vec::new();
        }
    }

    /// Handles what happened while nothing was read.
    fn revive(self: &Rc<Self>) {
        let left = self.left.take();
        let mut input = &left[..];
        self.drive(&mut input);
        let taken = left.len() - input.len();
        let mut left = left;
        left.drain(..taken);
        *self.left.borrow_mut() = left;
        self.settle();
        if self.paused.get() && self.codec.borrow().wants_input() {
            self.wake();
        }
    }

    /// Opens a stream on a connection that was dialled.
    pub(super) fn open(
        self: &Rc<Self>,
        head: &HeaderBlock,
        end: bool,
    ) -> Result<Rc<Stream>, OpenError> {
        let now = self.hub.moment().into_std();
        let number = self.with(|codec| codec.open(head, end, now))?;
        let stream = Stream::new(self, number, false, now);
        stream.sent.set(if end { Sent::Ended } else { Sent::Open });
        self.streams.borrow_mut().insert(number, Rc::clone(&stream));
        Ok(stream)
    }

    pub(super) fn respond(self: &Rc<Self>, stream: u32, head: &HeaderBlock, end: bool) {
        self.with(|codec| codec.respond(stream, head, end));
    }

    pub(super) fn inform(self: &Rc<Self>, stream: u32, head: &HeaderBlock) {
        self.with(|codec| codec.inform(stream, head));
    }

    pub(super) fn send(self: &Rc<Self>, stream: u32, data: &[u8], end: bool) -> usize {
        let taken = self.with(|codec| codec.send(stream, data, end));
        if end && !self.is_http2 {
            // The end of a tunnel has no bytes: the sending half is shut down.
            self.set_dirty();
        }
        taken
    }

    pub(super) fn trailers(self: &Rc<Self>, stream: u32, trailers: &HeaderBlock) {
        self.with(|codec| codec.trailers(stream, trailers));
    }

    pub(super) fn reset(self: &Rc<Self>, stream: u32, code: ErrorCode) {
        self.with(|codec| codec.reset(stream, code));
    }

    pub(super) fn credit(self: &Rc<Self>, stream: u32, bytes: usize) {
        // Seldom is there anything to write, so that no buffer is taken for it.
        let mut codec = self.codec.borrow_mut();
        codec.credit(stream, bytes);
        let writes = !self.dirty.get() && !codec.outgoing().is_empty();
        drop(codec);
        if writes {
            self.set_dirty();
        }
        if self.paused.get() {
            self.wake();
        }
    }

    /// Gives back the memory of a head that was read.
    pub(super) fn recycle(&self, block: HeaderBlock) {
        if let Ok(mut codec) = self.codec.try_borrow_mut() {
            codec.recycle(block);
        }
    }

    /// Forgets a stream both of whose sides have ended.
    pub(super) fn remove(self: &Rc<Self>, number: u32) {
        drop(self.streams.borrow_mut().remove(number));
        self.changed();
        if self.draining.get() {
            // The last one may have been waited for.
            self.set_dirty();
        }
    }

    /// The rest of a request is not wanted, as its response is whole. HTTP/1.1 reads and drops a bounded
    /// rest of it; a stream is reset unless the rest comes in this turn.
    pub(super) fn answered(self: &Rc<Self>, stream: &Rc<Stream>) {
        if self.is_http2 {
            self.answered.borrow_mut().push(Rc::clone(stream));
            self.set_dirty();
        } else if !stream.gone.replace(true) {
            self.remove(stream.id);
        }
    }

    /// Streams that may be opened now.
    pub(super) fn room(&self) -> usize {
        self.codec.borrow().room()
    }

    /// Whether no stream is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.borrow().len() == 0 && self.codec.borrow().is_idle()
    }

    /// Whether it has ended, or is about to.
    pub(super) fn is_over(&self) -> bool {
        self.over.get() || self.lost.get() || self.why.get().is_some()
    }

    /// Whether it was asked to end in order.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Does something with it; a panic costs this connection, and not all of the worker's.
    pub(super) fn guarded(self: &Rc<Self>, what: impl FnOnce(&Rc<Self>)) {
        if guarded(|| what(self)).is_none() {
            self.over.set(true);
            self.wake();
        }
    }

    /// Looks at the peer's certificates again: the connection is cut when they are not trusted any more,
    /// and replaced in order when their root is about to be dropped.
    pub(super) fn recheck(self: &Rc<Self>) {
        let standing = {
            let wire = self.wire.borrow();
            let shown = wire.as_ref().map_or(&[][..], Wire::peer_certificates);
            match &self.end {
                End::Near(host) => host.standing(shown),
                End::Far(far) => far.standing(shown),
            }
        };
        match standing {
            Outlook::Stay => {}
            Outlook::Retire => self.drain(),
            Outlook::Cut => self.cut(),
        }
    }

    /// Asks it to end in order.
    pub(super) fn drain(self: &Rc<Self>) {
        if !self.draining.replace(true) {
            let now = self.hub.now().into_std();
            self.with(|codec| codec.drain(now));
            self.set_dirty();
        }
    }

    /// Ends it as if the network had.
    pub(super) fn cut(self: &Rc<Self>) {
        if !self.over.get() {
            self.lose(Some(io::ErrorKind::ConnectionAborted.into()));
        }
    }

    /// What is done about once a second.
    pub(super) fn look_after(self: &Rc<Self>) {
        let now = self.hub.now().into_std();
        let outlook = match &self.end {
            End::Near(host) => host.outlook(),
            End::Far(far) => far.outlook(self),
        };
        match outlook {
            Outlook::Stay => {}
            Outlook::Retire => self.drain(),
            Outlook::Cut => return self.cut(),
        }
        self.with(|codec| codec.tick(now));
        self.revive();
    }

    /// Changes what its peer may have under way on each stream.
    pub(super) fn set_window(self: &Rc<Self>, window: u32) {
        let now = self.hub.now().into_std();
        self.with(|codec| codec.set_stream_window(window, now));
    }

    /// The peer has ended or broken the connection.
    fn lose(self: &Rc<Self>, error: Option<io::Error>) {
        if self.lost.replace(true) {
            return;
        }
        self.hub.now();
        if let Some(error) = &error {
            match &self.end {
                End::Near(host) => {
                    tracing::debug!(address = host.name(), %error, "a connection broke");
                }
                End::Far(far) => far.broke(error),
            }
        }
        if error.is_some() {
            self.codec.borrow_mut().broken();
        } else {
            self.codec.borrow_mut().eof();
        }
        self.revive();
        if error.is_some() {
            self.over.set(true);
            self.wake();
        }
    }

    /// Writes what is to be written.
    pub(super) fn flush(self: &Rc<Self>) {
        self.dirty.set(false);
        if self.wire.borrow().is_none() {
            // Its task has ended: what is left goes nowhere.
            return;
        }
        for stream in self.answered.take() {
            if !stream.received.borrow().end {
                stream.reset(ErrorCode::NO_ERROR);
            }
        }
        match self.write() {
            Ok(written) => self.blocked.set(written == Written::Blocked),
            Err(error) => {
                self.blocked.set(false);
                self.lose(Some(error));
                self.over.set(true);
                self.wake();
            }
        }
        // Those that waited for room go on, and so does a request that waited for the one before it.
        self.revive();
    }

    fn write(&self) -> io::Result<Written> {
        let waker = self.waker.borrow();
        let mut cx = Context::from_waker(&waker);
        let mut wire = self.wire.borrow_mut();
        let wire = wire.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut codec = self.codec.borrow_mut();
        let output = codec.output();
        let written = wire.poll_drain(&mut cx, output)?;
        let left = output.len();
        if left == 0 {
            // Before the codec frees it: the next one that writes takes it.
            self.hub.give(std::mem::take(output));
        }
        codec.flushed(left);
        let unwritten = left + wire.unsent();
        if unwritten != self.unwritten.get() {
            self.hub.went(self.unwritten.replace(unwritten));
            self.hub.wait(unwritten);
        }
        if left == 0 && written == Written::All && codec.ends_output() {
            wire.shut_down(&mut cx);
        }
        Ok(written)
    }

    /// Ends it once the codec has said its last word and that is written.
    fn settle(&self) {
        if self.over.get() {
            return;
        }
        let mut codec = self.codec.borrow_mut();
        let silent = codec.output().is_empty() && !self.blocked.get();
        if silent && codec.is_closed() {
            if let Some(wire) = self.wire.borrow_mut().as_mut() {
                wire.say_goodbye(&mut Context::from_waker(Waker::noop()));
            }
            self.over.set(true);
            self.wake();
        }
    }

    /// Calls the codec, and notes when there is something to write.
    #[inline]
    fn with<T>(self: &Rc<Self>, call: impl FnOnce(&mut Codec) -> T) -> T {
        let mut codec = self.codec.borrow_mut();
        if self.dirty.get() {
            return call(&mut codec);
        }
        if codec.outgoing().capacity() == 0 {
            *codec.output() = self.hub.spare();
        }
        let done = call(&mut codec);
        if codec.outgoing().is_empty() {
            // Nothing came of it: connections without traffic hold no buffer.
            self.hub.give(std::mem::take(codec.output()));
        } else {
            self.set_dirty();
        }
        done
    }

    pub(super) fn set_dirty(self: &Rc<Self>) {
        if !self.dirty.replace(true) {
            self.hub.dirty(Rc::clone(self));
        }
    }

    fn wake(&self) {
        self.waker.borrow().wake_by_ref();
    }

    /// Its streams have changed.
    pub(super) fn changed(self: &Rc<Self>) {
        if let End::Far(far) = &self.end {
            far.changed(self);
        }
    }
}

/// What it had left to write counts no more.
impl Drop for Link {
    fn drop(&mut self) {
        self.hub.went(self.unwritten.get());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        rc::Rc,
        task::Poll,
    };

    use rustls_pki_types::CertificateDer;
    use tokio::io::duplex;

    use super::Link;
    use crate::{
        http2,
        proxy::{
            codec::Codec,
            host::{End, Host, Outlook, Refusal},
            hub::Hub,
            io::Socket,
            pressure::Pressure,
            settings::http2_server,
            stream::Incoming,
            tasks::Story,
            wire::Wire,
        },
    };

    /// Serves nothing.
    struct Nobody;

    impl Host for Nobody {
        fn serve(&self, _: Incoming) -> Story {
            Story::Other(Box::pin(pending()))
        }

        fn refuse(&self, _: Incoming, _: Refusal) -> Story {
            Story::Other(Box::pin(pending()))
        }

        fn outlook(&self) -> Outlook {
            Outlook::Stay
        }

        fn standing(&self, _: &[CertificateDer<'_>]) -> Outlook {
            Outlook::Stay
        }

        fn is_cut_off(&self) -> bool {
            false
        }

        fn name(&self) -> &'static str {
            "nobody"
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_asks_for_nothing_more() {
        let (hub, _woken) = Hub::new(&Pressure::new(usize::MAX));
        let (near, far) = duplex(64);
        let codec = http2::Connection::server(&http2_server(false), hub.now().into_std());
        let wire = Wire::plain(Socket::Other(Box::new(near)), Vec::new());
        let end = End::Near(Box::new(Nobody));
        let link = Link::new(&hub, end, Codec::Http2(Box::new(codec)), wire);
        let mut run = Box::pin(Rc::clone(&link).run());
        drop(far);
        let begun = poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await;
        assert!(begun.is_pending(), "its settings are not written yet");
        link.flush();
        run.await;
        link.flush();
        assert!(!link.dirty.get(), "what nobody takes is not offered for ever");
    }
}
