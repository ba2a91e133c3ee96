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

/// Spare buffers, and how large each may be: the rest goes back to the system.
const SPARES_MAX: usize = 32;
const SPARE_BYTES_MAX: usize = 256 * 1024;
/// Handshakes that go on per turn. Each takes about 0.2 ms, which its neighbours wait.
const HANDSHAKES_PER_TURN: u32 = 4;

/// What the connections of one worker share.
pub(super) struct Hub {
    pub(super) tasks: Tasks,
    dirty: RefCell<Vec<Rc<Link>>>,
    flusher: RefCell<Waker>,
    buffers: Cell<Option<Box<Buffers>>>,
    spares: RefCell<Vec<Vec<u8>>>,
    links: RefCell<Vec<Weak<Link>>>,
    handshakes: Cell<u32>,
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
            links: RefCell::default(),
            handshakes: Cell::new(0),
            held_up: RefCell::default(),
            waiting: Share::new(pressure),
            turned: Notify::new(),
        };
        (Rc::new(hub), woken)
    }

    /// Writes what is to be written, turn by turn, as long as the worker lives.
    pub(super) async fn flush(&self) {
        let mut turn = Vec::new();
        poll_fn(|cx| {
            self.remember(cx);
            self.handshakes.set(0);
            self.held_up.borrow_mut().drain(..).for_each(Waker::wake);
            std::mem::swap(&mut turn, &mut *self.dirty.borrow_mut());
            for link in turn.drain(..) {
                link.guarded(Link::flush);
            }
            Poll::<()>::Pending
        })
        .await;
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
            self.flusher.borrow().wake_by_ref();
        }
    }

    /// The read buffers; they are to be given back.
    pub(super) fn take_buffers(&self) -> Box<Buffers> {
        self.buffers.take().unwrap_or_default()
    }

    pub(super) fn give_buffers(&self, buffers: Box<Buffers>) {
        self.buffers.set(Some(buffers));
    }

    /// An empty buffer, with room where there is one to spare.
    pub(super) fn spare(&self) -> Vec<u8> {
        self.spares.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer that is not needed for now.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        let mut spares = self.spares.borrow_mut();
        let fits = (1..=SPARE_BYTES_MAX).contains(&buffer.capacity());
        if fits && spares.len() < SPARES_MAX {
            buffer.clear();
            spares.push(buffer);
        }
    }

    /// Lets go of half of the spare buffers and of unused places, so that a burst is forgotten after a
    /// while.
    pub(super) fn shrink(&self) {
        let mut spares = self.spares.borrow_mut();
        let half = spares.len() / 2;
        spares.truncate(half);
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

    /// The time, as everything that an event does sees it.
    pub(super) fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }

    /// Goes on with a handshake, but with few of them in one turn.
    pub(super) async fn paced<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        poll_fn(|cx| {
            let before = self.handshakes.get();
            if before == 0 {
                self.flusher.borrow().wake_by_ref();
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
