//! What the connections of one worker share: the stories, the read buffers, spare write buffers, and
//! the list of those that have something to write. One task writes each of them once per turn of the
//! loop: it is woken by the first and so runs after everything else that was ready.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    link::Link,
    pressure::{Pressure, Share},
    tasks::{Tasks, Woken},
    wire::Buffers,
};

/// Spare buffers for what connections write, and how large each may be: the rest goes back to the
/// system. A new one has room for what a turn usually writes.
const SPARES_MAX: usize = 32;
const SPARE_BYTES_MAX: usize = 256 * 1024;
const SPARE_BYTES: usize = 4096;
/// Smaller ones are for bodies, which are usually short.
const SCRAPS_MAX: usize = 256;
const SCRAP_BYTES: usize = 512;
/// Handshakes that go on per turn. Each takes about 0.2 ms, which its neighbours wait.
const HANDSHAKES_PER_TURN: u32 = 4;

/// What the connections of one worker share.
pub(super) struct Hub {
    pub(super) tasks: Tasks,
    dirty: RefCell<Vec<Rc<Link>>>,
    flusher: RefCell<Waker>,
    buffers: Cell<Option<Box<Buffers>>>,
    spares: RefCell<Vec<Vec<u8>>>,
    scraps: RefCell<Vec<Vec<u8>>>,
    links: RefCell<Vec<Weak<Link>>>,
    handshakes: Cell<u32>,
    moment: Cell<Instant>,
    held_up: RefCell<Vec<Waker>>,
    /// Bytes of bodies that wait in this worker.
    pub(super) waiting: Share,
    /// Told when windows are to become small.
    pub(super) turned: Notify,
}

impl Hub {
    /// Nothing yet, and what its [`Self::flush`] needs.
    pub(super) fn new(pressure: &Arc<Pressure>) -> (Rc<Self>, Woken) {
        let (tasks, woken) = Tasks::new();
        let hub = Self {
            tasks,
            dirty: RefCell::default(),
            flusher: RefCell::new(Waker::noop().clone()),
            buffers: Cell::new(Some(Box::default())),
            spares: RefCell::default(),
            scraps: RefCell::default(),
            links: RefCell::default(),
            handshakes: Cell::new(0),
            moment: Cell::new(Instant::now()),
            held_up: RefCell::default(),
            waiting: Share::new(pressure),
            turned: Notify::new(),
        };
        (Rc::new(hub), woken)
    }

    /// Writes what is to be written, turn by turn, as long as the worker lives; `first` is done before.
    pub(super) async fn flush(&self, first: impl Fn()) {
        let mut turn = Vec::new();
        poll_fn(|cx| {
            self.remember(cx);
            self.now();
            self.handshakes.set(0);
            self.held_up.borrow_mut().drain(..).for_each(Waker::wake);
            first();
            std::mem::swap(&mut turn, &mut *self.dirty.borrow_mut());
            for link in turn.drain(..) {
                link.guarded(Link::flush);
            }
            Poll::<()>::Pending
        })
        .await;
    }

    /// Polls what is woken from elsewhere, as long as the worker lives.
    pub(super) async fn listen(&self, mut woken: Woken) {
        while let Some(index) = woken.recv().await {
            self.now();
            self.tasks.woken(index);
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut flusher = self.flusher.borrow_mut();
        if !flusher.will_wake(cx.waker()) {
            flusher.clone_from(cx.waker());
        }
    }

    /// `link` has something to write, which it has not said in this turn.
    pub(super) fn dirty(&self, link: Rc<Link>) {
        let mut dirty = self.dirty.borrow_mut();
        dirty.push(link);
        if dirty.len() == 1 {
            self.end_turn();
        }
    }

    /// Asks for what is done when everything else that is ready was done.
    pub(super) fn end_turn(&self) {
        self.flusher.borrow().wake_by_ref();
    }

    /// The read buffers; they are to be given back.
    pub(super) fn take_buffers(&self) -> Box<Buffers> {
        self.buffers.take().unwrap_or_default()
    }

    pub(super) fn give_buffers(&self, buffers: Box<Buffers>) {
        self.buffers.set(Some(buffers));
    }

    /// An empty buffer for what a connection writes.
    pub(super) fn spare(&self) -> Vec<u8> {
        let spare = self.spares.borrow_mut().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(SPARE_BYTES))
    }

    /// An empty buffer for `length` bytes of a body, or more.
    pub(super) fn scrap(&self, length: usize) -> Vec<u8> {
        if length > SPARE_BYTES {
            return self.spare();
        }
        let scrap = self.scraps.borrow_mut().pop();
        scrap.unwrap_or_else(|| Vec::with_capacity(length.max(SCRAP_BYTES)))
    }

    /// Takes a buffer that is not needed for now.
    #[inline]
    pub(super) fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() > 0 {
            self.keep(buffer);
        }
    }

    fn keep(&self, mut buffer: Vec<u8>) {
        let (spares, most) = if buffer.capacity() < SPARE_BYTES {
            (&self.scraps, SCRAPS_MAX)
        } else {
            (&self.spares, SPARES_MAX)
        };
        let mut spares = spares.borrow_mut();
        if buffer.capacity() <= SPARE_BYTES_MAX && spares.len() < most {
            buffer.clear();
            spares.push(buffer);
        }
    }

    /// Lets go of half of the spare buffers and of unused places, so that a burst is forgotten after a
    /// while.
    pub(super) fn shrink(&self) {
        for spares in [&self.spares, &self.scraps] {
            let mut spares = spares.borrow_mut();
            let half = spares.len() / 2;
            spares.truncate(half);
        }
        self.tasks.shrink();
    }

    /// Looks after `link` from now on.
    pub(super) fn add(&self, link: &Rc<Link>) {
        self.links.borrow_mut().push(Rc::downgrade(link));
    }

    /// Every connection that is open.
    pub(super) fn links(&self) -> Vec<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// Looks at the clock: what is read now happened now, and so does everything that comes of it.
    pub(super) fn now(&self) -> Instant {
        let now = Instant::now();
        self.moment.set(now);
        now
    }

    /// The time, as everything that one event does sees it. The clock is not looked at: doing so for
    /// each of the times that a request is asked for costs more than any one of its decisions.
    pub(super) fn moment(&self) -> Instant {
        self.moment.get()
    }

    /// Goes on with a handshake, but with few of them in one turn.
    pub(super) async fn paced<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        poll_fn(|cx| {
            let before = self.handshakes.get();
            if before == 0 {
                self.end_turn();
            }
            if before >= HANDSHAKES_PER_TURN {
                self.held_up.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            self.handshakes.set(before + 1);
            handshake.as_mut().poll(cx)
        })
        .await
    }

    /// Notes that body bytes wait.
    pub(super) fn wait(&self, bytes: usize) {
        if self.waiting.wait(bytes) && self.waiting.has_turned() {
            self.turned.notify_one();
        }
    }

    /// Notes that they went on or were dropped.
    pub(super) fn went(&self, bytes: usize) {
        self.waiting.went(bytes);
    }
}
