//! One stream of a connection, and how bodies move between two of them: what comes in on one goes
//! straight into the other's connection as far as that takes it; the rest waits here, and the sender
//! is given credit only for what went on. A slow reader so slows its own writer and nobody else.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::Waker,
    time::Instant,
};

use super::{
    holding::{Inbox, Kept},
    link::Link,
    tasks::Key,
};
use crate::http::{ErrorCode, HeaderBlock, StreamError, fields, grpc};

/// What a stream's own side has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// No head.
    Nothing,
    /// A head; the body may go on.
    Open,
    /// Its end, or a reset.
    Ended,
}

/// A stream of a connection.
pub(super) struct Stream {
    pub(super) link: Rc<Link>,
    pub(super) id: u32,
    /// Whether the peer asked: what comes is a request.
    pub(super) accepted: bool,
    pub(super) sent: Cell<Sent>,
    /// Whether the connection knows it no more.
    pub(super) gone: Cell<bool>,
    /// Whether its handle was dropped: what comes is not wanted.
    pub(super) unwanted: Cell<bool>,
    /// Whether a tunnel took it over from its handle.
    pub(super) taken: Cell<bool>,
    /// Who is to hear of it.
    pub(super) listener: RefCell<Listener>,
    /// Where what comes goes to.
    pub(super) to: RefCell<Option<Rc<Self>>>,
    /// From where what goes out comes.
    pub(super) from: RefCell<Option<Rc<Self>>>,
    pub(super) received: RefCell<Received>,
    /// What is left of an answer of the mesh.
    pub(super) answer: RefCell<Vec<u8>>,
}

/// Who waits for something on a stream.
pub(super) enum Listener {
    Nobody,
    Story(Key),
    Task(Waker),
}

/// What came on a stream.
pub(super) struct Received {
    /// The next response head that was not asked for yet, and those after it.
    head: Option<Head>,
    heads: VecDeque<Head>,
    /// Whether a request's head said that there is no body. gRPC asks that a body which turns out to
    /// be empty ends with a DATA frame of its own (gRPC over HTTP/2, "Requests"), and grpc-go's
    /// servers wait for it.
    pub(super) bodiless: bool,
    /// Whether all of it has come.
    pub(super) end: bool,
    /// Whether the end was handed on.
    pub(super) end_passed: bool,
    pub(super) trailers: Option<HeaderBlock>,
    /// Why it ended before its end.
    pub(super) error: Option<StreamError>,
    pub(super) inbox: Inbox,
    pub(super) kept: Kept,
    pub(super) bytes: u64,
    pub(super) messages: grpc::Messages,
    pub(super) last: Instant,
}

/// A response's head as it came.
pub(super) struct Head {
    pub(super) head: HeaderBlock,
    pub(super) end: bool,
    pub(super) informational: bool,
}

impl Received {
    fn new(now: Instant) -> Self {
        Self {
            head: None,
            heads: VecDeque::new(),
            bodiless: false,
            end: false,
            end_passed: false,
            trailers: None,
            error: None,
            inbox: Inbox::default(),
            kept: Kept::default(),
            bytes: 0,
            messages: grpc::Messages::default(),
            last: now,
        }
    }

    fn count(&mut self, data: &[u8], now: Instant) {
        self.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.last = now;
        self.messages.see(data);
    }

    /// Begins another attempt, which gets everything.
    pub(super) fn rewind(&mut self) {
        self.kept.rewind();
        self.end_passed = false;
    }

    /// A response's head came.
    pub(super) fn push_head(&mut self, head: Head) {
        self.end = head.end;
        if self.head.is_none() {
            self.head = Some(head);
        } else {
            self.heads.push_back(head);
        }
    }

    /// The next head that was not asked for yet.
    pub(super) fn pop_head(&mut self) -> Option<Head> {
        let next = self.head.take();
        self.head = self.heads.pop_front();
        next
    }

    /// Whether nothing of the body waits.
    pub(super) fn is_drained(&self) -> bool {
        self.inbox.is_empty() && self.kept.rest().is_empty()
    }
}

impl Stream {
    pub(super) fn new(link: &Rc<Link>, id: u32, accepted: bool, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            link: Rc::clone(link),
            id,
            accepted,
            sent: Cell::new(Sent::Nothing),
            gone: Cell::new(false),
            unwanted: Cell::new(false),
            taken: Cell::new(false),
            listener: RefCell::new(Listener::Nobody),
            to: RefCell::default(),
            from: RefCell::default(),
            received: RefCell::new(Received::new(now)),
            answer: RefCell::default(),
        })
    }

    /// A part of the body came.
    pub(super) fn data(self: &Rc<Self>, data: &[u8], end: bool, now: Instant) {
        let mut received = self.received.borrow_mut();
        received.count(data, now);
        received.end |= end;
        if data.is_empty() && !end {
            return;
        }
        if self.unwanted.get() {
            drop(received);
            self.link.credit(self.id, data.len());
            return self.finish();
        }
        let waits = !received.is_drained();
        let to = self.to.borrow();
        let open = to.as_ref().filter(|to| !waits && to.sent.get() == Sent::Open);
        let Some(to) = open else {
            received.inbox.push(data, &self.link);
            drop((received, to));
            self.tell_task();
            return self.finish();
        };
        let taken = to.link.send(to.id, data, end);
        received.kept.passed(&data[..taken], &self.link);
        if taken < data.len() {
            received.inbox.push(&data[taken..], &self.link);
        } else if end {
            received.end_passed = true;
        }
        let ended = received.end_passed;
        drop(received);
        if taken > 0 {
            self.link.credit(self.id, taken);
        }
        if ended {
            to.sent.set(Sent::Ended);
            to.finish();
            self.finish();
            self.tell();
        }
    }

    /// Trailers came.
    pub(super) fn trailers(self: &Rc<Self>, mut trailers: HeaderBlock) {
        if self.accepted {
            // The story does the same with a response's.
            fields::strip_trailers(&mut trailers);
        }
        {
            let mut received = self.received.borrow_mut();
            received.end = true;
            if !self.unwanted.get() {
                received.trailers = Some(trailers);
            }
        }
        self.finish();
        self.pump();
        self.tell();
    }

    /// Sends trailers and with them the end; without any left, only the end.
    pub(super) fn end_with(self: &Rc<Self>, trailers: &HeaderBlock) {
        self.sent.set(Sent::Ended);
        if trailers.is_empty() {
            self.link.send(self.id, &[], true);
        } else {
            self.link.trailers(self.id, trailers);
        }
        self.finish();
    }

    /// Moves what waits here to where it goes.
    pub(super) fn pump(self: &Rc<Self>) {
        let Some(to) = self.to.borrow().clone() else { return };
        if to.sent.get() != Sent::Open {
            return;
        }
        let mut guard = self.received.borrow_mut();
        let received = &mut *guard;
        let all = received.end && received.trailers.is_none();
        if !received.kept.rest().is_empty() {
            let last = all && received.inbox.is_empty();
            let taken = to.link.send(to.id, received.kept.rest(), last);
            if !received.kept.replayed(taken, &self.link) {
                return;
            }
            received.end_passed |= last;
        }
        let mut passed = 0;
        if !received.inbox.is_empty() {
            passed = to.link.send(to.id, received.inbox.rest(), all);
            received.kept.passed(&received.inbox.rest()[..passed], &self.link);
            received.inbox.take(passed, &self.link);
            received.end_passed |= all && received.inbox.is_empty();
        }
        let drained = received.inbox.is_empty();
        if drained && all && !received.end_passed {
            to.link.send(to.id, &[], true);
            received.end_passed = true;
        }
        if drained
            && self.accepted
            && received.end
            && !received.end_passed
            && let Some(trailers) = &received.trailers
        {
            to.end_with(trailers);
            received.end_passed = true;
        }
        let (ended, end) = (received.end_passed, received.end);
        drop(guard);
        if passed > 0 {
            self.link.credit(self.id, passed);
        }
        if ended {
            to.sent.set(Sent::Ended);
            to.finish();
        }
        if drained && end {
            self.tell();
        }
    }

    /// The connection takes more on this stream.
    pub(super) fn writable(self: &Rc<Self>) {
        let from = self.from.borrow().clone();
        if let Some(from) = from {
            return from.pump();
        }
        self.send_answer();
        self.tell_task();
    }

    /// Sends on with an answer of the mesh.
    pub(super) fn send_answer(self: &Rc<Self>) {
        let mut answer = self.answer.borrow_mut();
        if answer.is_empty() || self.sent.get() != Sent::Open {
            return;
        }
        let taken = self.link.send(self.id, &answer, true);
        answer.drain(..taken);
        if answer.is_empty() {
            drop(answer);
            self.sent.set(Sent::Ended);
            self.finish();
            if self.unwanted.get() && !self.gone.get() {
                self.link.answered(self);
            }
        }
    }

    /// The stream was ended by its peer or with its connection, before its end.
    pub(super) fn ended(self: &Rc<Self>, error: StreamError) {
        self.gone.set(true);
        self.sent.set(Sent::Ended);
        let waited = {
            let mut received = self.received.borrow_mut();
            // What is whole is whole, though the peer wants no more of the other half.
            if received.end && !self.accepted {
                0
            } else {
                received.error = Some(error);
                let waited = received.inbox.rest().len();
                received.inbox.take(waited, &self.link);
                waited
            }
        };
        self.link.credit(self.id, waited);
        // Nothing can go there any more; whoever sends keeps it for another attempt.
        let from = self.from.take();
        if let Some(from) = from {
            forget(&from.to, self);
        }
        let listener =
            if self.accepted { self.listener.replace(Listener::Nobody) } else { Listener::Nobody };
        match listener {
            Listener::Story(story) => self.link.hub.tasks.cancel(story),
            Listener::Task(waker) => waker.wake(),
            Listener::Nobody => self.tell(),
        }
    }

    /// Tells whoever listens that something happened.
    pub(super) fn tell(&self) {
        match &*self.listener.borrow() {
            // The caller's story hears of the response, not of the request.
            Listener::Story(_) if self.accepted => {}
            Listener::Story(story) => self.link.hub.tasks.notify(*story),
            Listener::Task(waker) => waker.wake_by_ref(),
            Listener::Nobody => {}
        }
    }

    fn tell_task(&self) {
        if let Listener::Task(waker) = &*self.listener.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Gives the stream's place back once both sides have ended.
    pub(super) fn finish(self: &Rc<Self>) {
        let end = self.received.borrow().end;
        if end && self.sent.get() == Sent::Ended && !self.gone.replace(true) {
            self.link.remove(self.id);
        }
    }

    /// Nobody wants what comes any more. Credit for it goes to the connection.
    pub(super) fn discard(self: &Rc<Self>) {
        self.unwanted.set(true);
        let waited = {
            let mut received = self.received.borrow_mut();
            let waited = received.inbox.rest().len();
            received.inbox.take(waited, &self.link);
            received.kept.give_up(&self.link);
            received.trailers = None;
            waited
        };
        if waited > 0 {
            self.link.credit(self.id, waited);
        }
        for (mine, theirs) in [(self.to.take(), true), (self.from.take(), false)] {
            if let Some(other) = mine {
                forget(if theirs { &other.from } else { &other.to }, self);
            }
        }
    }

    /// Ends it early.
    pub(super) fn reset(self: &Rc<Self>, code: ErrorCode) {
        if !self.gone.replace(true) {
            self.sent.set(Sent::Ended);
            self.link.reset(self.id, code);
            self.link.remove(self.id);
        }
    }
}

/// Whatever ends it, what it held counts no more.
impl Drop for Stream {
    fn drop(&mut self) {
        let received = self.received.get_mut();
        self.link.hub.went(received.inbox.rest().len() + received.kept.len());
    }
}

/// Unties a stream from `other`, if it is tied to it.
fn forget(tie: &RefCell<Option<Rc<Stream>>>, other: &Rc<Stream>) {
    let mut tie = tie.borrow_mut();
    if tie.as_ref().is_some_and(|tied| Rc::ptr_eq(tied, other)) {
        *tie = None;
    }
}
