//! What happens on a connection, and who hears of it. No borrow is held while an event is handled, as
//! it may write to any connection of the worker, this one included.

use std::{rc::Rc, time::Instant};

use super::{
    host::{End, Refusal},
    link::Link,
    splice::{Head, Listener, Stream},
    stream::{Caller, Incoming},
    tasks::Story,
};
use crate::http::{ConnectionError, Event, HeaderBlock, StreamError};

impl Link {
    /// Handles everything that `input`, from which it takes, and the time before it gave.
    pub(super) fn drive(self: &Rc<Self>, input: &mut &[u8]) {
        let now = self.hub.moment().into_std();
        loop {
            let event = self.codec.borrow_mut().receive(input, now);
            let Some(event) = event else { break };
            self.handle(event, now);
            self.hub.tasks.run();
        }
        // A socket that takes no more says by itself when it does again.
        if !self.blocked.get() && !self.dirty.get() && !self.codec.borrow().outgoing().is_empty() {
            self.set_dirty();
        }
    }

    fn handle(self: &Rc<Self>, event: Event<'_>, now: Instant) {
        match event {
            Event::Head { stream, head, end } => match &self.end {
                End::Near(host) if self.hub.waiting.is_over() => {
                    let refuse = |one| host.refuse(one, Refusal::Overloaded);
                    self.begin(stream, head, end, now, refuse);
                }
                End::Near(host) if self.is_draining() && host.is_cut_off() => {
                    let refuse = |one| host.refuse(one, Refusal::Draining);
                    self.begin(stream, head, end, now, refuse);
                }
                End::Near(host) => self.begin(stream, head, end, now, |one| host.serve(one)),
                End::Far(_) => self.answer(stream, Head { head, end, informational: false }, now),
            },
            Event::Refused { stream, error, head } => {
                if let End::Near(host) = &self.end {
                    self.begin(stream, head, false, now, |one| {
                        host.refuse(one, Refusal::Head(error))
                    });
                }
            }
            Event::Informational { stream, head } => {
                self.answer(stream, Head { head, end: false, informational: true }, now);
            }
            Event::Data { stream, data, end } => match self.stream(stream) {
                Some(stream) => stream.data(data, end, now),
                None => self.credit(stream, data.len()),
            },
            Event::Trailers { stream, trailers } => {
                if let Some(stream) = self.stream(stream) {
                    stream.trailers(trailers);
                }
            }
            Event::Reset { stream, error } => {
                let removed = self.streams.borrow_mut().remove(stream);
                if let Some(stream) = removed {
                    stream.ended(error);
                    self.changed();
                }
            }
            Event::Writable { stream } => {
                if let Some(stream) = self.stream(stream) {
                    stream.writable();
                }
            }
            Event::Capacity => self.changed(),
            Event::Closed(why) => {
                self.why.set(Some(why));
                if let End::Near(host) = &self.end
                    && !matches!(why, ConnectionError::Eof | ConnectionError::Local)
                {
                    tracing::debug!(address = host.name(), %why, "a connection ended");
                }
                self.changed();
            }
        }
    }

    /// A request came.
    fn begin(
        self: &Rc<Self>,
        number: u32,
        head: HeaderBlock,
        end: bool,
        now: Instant,
        told: impl FnOnce(Incoming) -> Story,
    ) {
        let stream = Stream::new(self, number, true, now);
        {
            let mut received = stream.received.borrow_mut();
            (received.end, received.bodiless) = (end, end);
        }
        self.streams.borrow_mut().insert(number, Rc::clone(&stream));
        let key = self.hub.tasks.reserve();
        *stream.listener.borrow_mut() = Listener::Story(key);
        let story = told(Incoming { head, caller: Caller::new(stream) });
        self.hub.tasks.start(key, story);
    }

    /// A response's head came.
    fn answer(&self, number: u32, head: Head, now: Instant) {
        let Some(stream) = self.stream(number) else { return };
        {
            let mut received = stream.received.borrow_mut();
            received.push_head(head);
            received.last = now;
        }
        stream.finish();
        stream.tell();
    }

    fn stream(&self, number: u32) -> Option<Rc<Stream>> {
        self.streams.borrow().get(number).cloned()
    }
}

/// Whatever ends a connection's task, no story waits for it afterwards.
pub(super) struct Ending(pub(super) Rc<Link>);

impl Drop for Ending {
    fn drop(&mut self) {
        let link = &self.0;
        link.over.set(true);
        if link.why.get().is_none() {
            link.why.set(Some(ConnectionError::Local));
        }
        let why = link.why.get().unwrap_or(ConnectionError::Local);
        let left = link.streams.borrow_mut().take();
        for stream in left {
            stream.ended(StreamError::Connection(why));
        }
        link.changed();
        link.hub.now();
        link.hub.tasks.run();
    }
}
