//! The bytes of one connection on their way to another and back: an opaque connection, or a tunnel.
//! Each way has at most [`GATHER_BYTES`] under way: whoever reads slowly slows whoever writes, and
//! nobody else. What came together is sealed together, in full TLS records. Each way ends by itself;
//! what breaks ends both, by a reset and never as if the sender had ended in order.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{
    detect::{Spoken, classify},
    hub::Hub,
    wire::{Wire, Written},
};

/// How much of one way is read before it is written.
const GATHER_BYTES: usize = 64 * 1024;
/// How often one way is read from before others get their turn.
const TURNS_PER_POLL: usize = 8;

/// Two connections whose bytes pass between them. Dropped before its end, both are reset.
pub(super) struct Relay {
    hub: Rc<Hub>,
    near: Wire,
    far: Wire,
    up: Way,
    down: Way,
    passed: Rc<Passed>,
}

/// What has passed.
pub(super) struct Passed {
    /// Bytes from the side that dialled.
    pub(super) up: Cell<u64>,
    /// Bytes to it.
    pub(super) down: Cell<u64>,
    /// When the last of them passed.
    pub(super) moved: Cell<Instant>,
    /// Of all connections to one destination.
    all: Arc<AtomicU64>,
}

/// Why a relay ended before both sides had.
#[derive(Debug)]
pub(super) enum Broken {
    /// The side that dialled broke.
    Near(io::Error),
    /// The side that was dialled broke.
    Far(io::Error),
    /// What was to be opaque is HTTP.
    Http,
}

/// One way.
#[derive(Default)]
struct Way {
    /// Read and not written.
    waiting: Vec<u8>,
    /// Whether the receiver takes no more for now.
    blocked: bool,
    /// Whether the sender has ended.
    ended: bool,
    /// Whether the receiver was told.
    told: bool,
    /// Whether the first bytes are still to be looked at.
    suspect: bool,
}

/// Which end of a way broke.
enum End {
    Sender(io::Error),
    Receiver(io::Error),
    Http,
}

impl Passed {
    pub(super) fn new(all: Arc<AtomicU64>) -> Rc<Self> {
        let (up, down, moved) = (Cell::new(0), Cell::new(0), Cell::new(Instant::now()));
        Rc::new(Self { up, down, moved, all })
    }

    fn count(&self, way: &Cell<u64>, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        way.set(way.get().saturating_add(bytes));
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.moved.set(Instant::now());
    }
}

impl Relay {
    /// Between the one who dialled and the one who was dialled. `suspect`: the former may not speak
    /// HTTP, because its requests would pass without anybody looking at them.
    pub(super) fn new(
        hub: &Rc<Hub>,
        near: Wire,
        far: Wire,
        suspect: bool,
        passed: &Rc<Passed>,
    ) -> Self {
        let up = Way { suspect, ..Way::default() };
        let (hub, passed) = (Rc::clone(hub), Rc::clone(passed));
        Self { hub, near, far, up, down: Way::default(), passed }
    }

    /// Passes on what there is; ready when both ways have ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Self { hub, near, far, up, down, passed } = self;
        let up = up.poll(cx, hub, (&mut *near, &mut *far), |bytes| passed.count(&passed.up, bytes));
        if let Poll::Ready(Err(end)) = up {
            return Poll::Ready(Err(match end {
                End::Sender(error) => Broken::Near(error),
                End::Receiver(error) => Broken::Far(error),
                End::Http => Broken::Http,
            }));
        }
        let count = |bytes| passed.count(&passed.down, bytes);
        let down = down.poll(cx, hub, (far, near), count);
        match down {
            Poll::Ready(Err(End::Sender(error))) => Poll::Ready(Err(Broken::Far(error))),
            Poll::Ready(Err(End::Receiver(error))) => Poll::Ready(Err(Broken::Near(error))),
            Poll::Ready(Err(End::Http)) => Poll::Ready(Err(Broken::Http)),
            Poll::Ready(Ok(())) => up.map(|_| Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !(self.up.told && self.down.told) {
            self.near.abort();
            self.far.abort();
        }
    }
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        hub: &Hub,
        (from, to): (&mut Wire, &mut Wire),
        count: impl Fn(usize),
    ) -> Poll<Result<(), End>> {
        for _ in 0..TURNS_PER_POLL {
            if self.told {
                return Poll::Ready(Ok(()));
            }
            // While its kind is open, nothing of it goes on: it is judged whole.
            if !self.suspect && (self.blocked || !self.waiting.is_empty()) {
                let before = self.waiting.len();
                let written = to.poll_drain(cx, &mut self.waiting).map_err(End::Receiver)?;
                count(before - self.waiting.len());
                self.blocked = written == Written::Blocked;
                if self.blocked {
                    return Poll::Pending;
                }
                hub.give(std::mem::take(&mut self.waiting));
            }
            if self.ended {
                ready!(to.poll_shut_down(cx)).map_err(End::Receiver)?;
                self.told = true;
                return Poll::Ready(Ok(()));
            }
            self.gather(cx, hub, from)?;
            if self.suspect && !self.waiting.is_empty() {
                match classify(&self.waiting) {
                    Some(Spoken::Http1 | Spoken::Http2) => return Poll::Ready(Err(End::Http)),
                    None if !self.ended => return Poll::Pending,
                    _ => self.suspect = false,
                }
            }
            if self.waiting.is_empty() && !self.ended {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads until there is nothing more for now, or enough.
    fn gather(&mut self, cx: &mut Context<'_>, hub: &Hub, from: &mut Wire) -> Result<(), End> {
        let mut buffers = hub.take_buffers();
        let mut gathered = Ok(());
        while !self.ended && self.waiting.len() < GATHER_BYTES {
            match from.poll_fill(cx, &mut buffers, 0) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) if from.was_cut() => {
                    gathered = Err(End::Sender(io::ErrorKind::UnexpectedEof.into()));
                    break;
                }
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(length)) => {
                    if self.waiting.capacity() == 0 {
                        self.waiting = hub.spare();
                    }
                    self.waiting.extend_from_slice(&buffers.plain[..length]);
                }
                Poll::Ready(Err(error)) => {
                    gathered = Err(End::Sender(error));
                    break;
                }
            }
        }
        hub.give_buffers(buffers);
        gathered
    }
}
