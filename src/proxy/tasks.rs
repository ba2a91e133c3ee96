//! The stories of a worker: one future per request, polled where the event happens that it waits for.
//! Its room, its place and its waker are used again by the next one. What wakes it from
//! elsewhere (timers, discovery, a place in a bulkhead) comes in through one queue.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::sync::mpsc;

use super::room;

/// Places that are kept although nobody has them.
const KEPT_MAX: usize = 256;
/// The same of rooms, which are a few kilobytes each.
const ROOMS_MAX: usize = 128;

/// A future of one request.
pub(super) enum Story {
    /// In a room that is used again.
    Usual(room::Boxed),
    /// Any other.
    Other(Pin<Box<dyn Future<Output = ()>>>),
}

impl Story {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Usual(room) => room.as_mut().poll(cx),
            Self::Other(story) => story.as_mut().poll(cx),
        }
    }
}

/// Which story; that of one that has ended names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    index: usize,
    generation: u64,
}

/// All stories of one worker.
pub(super) struct Tasks {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<Key>>,
    polled: Cell<Option<Key>>,
    /// Rooms without a story.
    rooms: RefCell<Vec<room::Boxed>>,
    /// Of the last story.
    generation: Cell<u64>,
    woken: mpsc::UnboundedSender<usize>,
}

/// What was woken from elsewhere.
pub(super) type Woken = mpsc::UnboundedReceiver<usize>;

struct Slot {
    generation: u64,
    state: State,
    ready: bool,
    waker: Rc<Waker>,
    bell: Arc<Bell>,
}

enum State {
    Free,
    Waiting(Story),
    Polled,
    /// Polled right now, and to be dropped afterwards.
    Cancelled,
}

/// Wakes one slot.
struct Bell {
    index: usize,
    rung: AtomicBool,
    woken: mpsc::UnboundedSender<usize>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Nobody listens any more when the worker has ended.
            let _nobody_listens = self.woken.send(self.index);
        }
    }
}

impl Tasks {
    /// None yet, and the queue of what is woken from elsewhere.
    #[allow(clippy::disallowed_methods, reason = "each place is in the queue at most once")]
    pub(super) fn new() -> (Self, Woken) {
        let (woken, queue) = mpsc::unbounded_channel();
        let tasks = Self {
            slots: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            polled: Cell::new(None),
            rooms: RefCell::default(),
            generation: Cell::new(0),
            woken,
        };
        (tasks, queue)
    }

    /// Holds a place for a story, which is named in what it waits for before it begins.
    pub(super) fn reserve(&self) -> Key {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let index = slots.len();
            let bell =
                Arc::new(Bell { index, rung: AtomicBool::new(false), woken: self.woken.clone() });
            let waker = Rc::new(Waker::from(Arc::clone(&bell)));
            let state = State::Free;
            slots.push(Slot { generation: 0, state, ready: false, waker, bell });
            index
        });
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        slots[index].generation = generation;
        Key { index, generation }
    }

    /// A room without a story, if there is one.
    pub(super) fn room(&self) -> Option<room::Boxed> {
        self.rooms.borrow_mut().pop()
    }

    /// Drops a story and what it holds; its room is kept.
    fn end(&self, story: Story) {
        let Story::Usual(mut room) = story else {
            guarded(|| drop(story));
            return;
        };
        let cleared = guarded(|| room.as_mut().clear());
        let mut rooms = self.rooms.borrow_mut();
        if cleared.is_some() && rooms.len() < ROOMS_MAX {
            rooms.push(room);
        }
    }

    /// Begins a story in its place and polls it at once.
    pub(super) fn start(&self, key: Key, story: Story) {
        self.slots.borrow_mut()[key.index].state = State::Waiting(story);
        self.poll(key);
    }

    /// Which one is polled right now.
    pub(super) fn current(&self) -> Option<Key> {
        self.polled.get()
    }

    /// Something happened that it waits for: it is polled by the next [`Self::run`].
    pub(super) fn notify(&self, key: Key) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key.index) else { return };
        if slot.generation == key.generation && !std::mem::replace(&mut slot.ready, true) {
            self.ready.borrow_mut().push_back(key);
        }
    }

    /// Polls whatever was notified.
    #[inline]
    pub(super) fn run(&self) {
        if !self.ready.borrow().is_empty() && self.polled.get().is_none() {
            self.run_ready();
        }
    }

    fn run_ready(&self) {
        loop {
            let next = self.ready.borrow_mut().pop_front();
            let Some(key) = next else { return };
            self.poll(key);
        }
    }

    /// Ends a story before its end; what it holds is dropped, after its poll if it is polled.
    pub(super) fn cancel(&self, key: Key) {
        let dropped = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(key.index) else { return };
            if slot.generation != key.generation {
                return;
            }
            match slot.state {
                State::Free | State::Cancelled => return,
                State::Polled => {
                    slot.state = State::Cancelled;
                    return;
                }
                State::Waiting(_) => std::mem::replace(&mut slot.state, State::Polled),
            }
        };
        if let State::Waiting(story) = dropped {
            self.end(story);
        }
        self.release(key);
    }

    fn poll(&self, key: Key) {
        let (mut story, waker) = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[key.index];
            if slot.generation != key.generation {
                return;
            }
            slot.ready = false;
            let State::Waiting(_) = slot.state else { return };
            let state = std::mem::replace(&mut slot.state, State::Polled);
            let State::Waiting(story) = state else { return };
            (story, Rc::clone(&slot.waker))
        };
        let before = self.polled.replace(Some(key));
        let ended = guarded(|| {
            let poll = story.poll(&mut Context::from_waker(&waker));
            poll.is_ready()
        });
        self.polled.set(before);
        if ended == Some(false) {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[key.index];
            if matches!(slot.state, State::Polled) {
                slot.state = State::Waiting(story);
                return;
            }
        }
        self.end(story);
        self.release(key);
    }

    fn release(&self, key: Key) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[key.index];
        slot.state = State::Free;
        slot.ready = false;
        // Of nobody, so that whoever remembers the story finds none.
        slot.generation = 0;
        self.free.borrow_mut().push(key.index);
    }

    /// Lets go of half of the rooms and of places at the end that nobody has, so that a burst is
    /// forgotten.
    pub(super) fn shrink(&self) {
        let mut rooms = self.rooms.borrow_mut();
        let half = rooms.len() / 2;
        rooms.truncate(half);
        drop(rooms);
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= KEPT_MAX {
            return;
        }
        let free = |slot: &Slot| matches!(slot.state, State::Free) && slot.generation == 0;
        while slots.len() > KEPT_MAX && slots.last().is_some_and(free) {
            slots.pop();
        }
        let left = slots.len();
        slots.shrink_to(left * 2);
        let mut places = self.free.borrow_mut();
        places.retain(|index| *index < left);
        places.shrink_to(left * 2);
    }

    /// Polls one that is woken from elsewhere, by its number.
    pub(super) fn woken(&self, index: usize) {
        let key = {
            let slots = self.slots.borrow();
            let Some(slot) = slots.get(index) else { return };
            slot.bell.rung.store(false, Ordering::Release);
            Key { index, generation: slot.generation }
        };
        self.notify(key);
        self.run();
    }
}

/// `None` after a panic, which is logged and costs only what was done here.
pub(super) fn guarded<T>(what: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(what)) {
        Ok(done) => Some(done),
        Err(panic) => {
            let text = panic.downcast_ref::<&'static str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(panic = text.unwrap_or("no message"), "a panic was caught");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::{pending, poll_fn},
        rc::Rc,
        task::Poll,
    };

    use super::{Key, Story, Tasks};

    fn begin(tasks: &Tasks, story: impl Future<Output = ()> + 'static) -> Key {
        let key = tasks.reserve();
        tasks.start(key, Story::Other(Box::pin(story)));
        key
    }

    #[test]
    fn a_story_is_polled_at_once_and_when_it_is_notified() {
        let (tasks, _woken) = Tasks::new();
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let key = begin(
            &tasks,
            poll_fn(move |_| {
                counted.set(counted.get() + 1);
                if counted.get() == 3 { Poll::Ready(()) } else { Poll::Pending }
            }),
        );
        assert_eq!(polls.get(), 1);
        tasks.notify(key);
        tasks.notify(key);
        tasks.run();
        assert_eq!(polls.get(), 2, "once for both");
        for _ in 0..2 {
            tasks.notify(key);
            tasks.run();
        }
        assert_eq!(polls.get(), 3, "nothing after its end");
        let next = begin(&tasks, pending());
        assert_eq!(next.index, key.index);
        assert_ne!(next, key);
    }

    #[test]
    fn a_story_that_is_cancelled_or_panics_drops_what_it_holds() {
        let (tasks, _woken) = Tasks::new();
        let held = Rc::new(());
        let kept = Rc::clone(&held);
        let key = begin(&tasks, async move {
            pending::<()>().await;
            drop(kept);
        });
        assert_eq!(Rc::strong_count(&held), 2);
        tasks.cancel(key);
        tasks.cancel(key);
        assert_eq!(Rc::strong_count(&held), 1);
        let kept = Rc::clone(&held);
        begin(&tasks, async move {
            let _kept = kept;
            panic!("on purpose");
        });
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn a_story_that_cancels_itself_is_dropped_after_its_poll() {
        let (tasks, _woken) = Tasks::new();
        let tasks = Rc::new(tasks);
        let held = Rc::new(());
        let (kept, inner) = (Rc::clone(&held), Rc::clone(&tasks));
        begin(&tasks, async move {
            inner.cancel(inner.current().expect("polled"));
            pending::<()>().await;
            drop(kept);
        });
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn after_a_burst_few_places_are_kept() {
        let (tasks, _woken) = Tasks::new();
        let keys: Vec<Key> = (0..1000).map(|_| begin(&tasks, pending())).collect();
        keys[..999].iter().for_each(|key| tasks.cancel(*key));
        tasks.shrink();
        assert_eq!(tasks.slots.borrow().len(), 1000, "the last one is in use");
        tasks.cancel(keys[999]);
        tasks.shrink();
        assert_eq!((tasks.slots.borrow().len(), tasks.free.borrow().len()), (256, 256));
        tasks.notify(keys[999]);
        tasks.run();
        let next = begin(&tasks, pending());
        assert!(!keys.contains(&next));
    }

    #[tokio::test]
    async fn what_is_woken_elsewhere_is_polled() {
        let (tasks, mut woken) = Tasks::new();
        let tasks = Rc::new(tasks);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = Rc::new(RefCell::new(None));
        let told = Rc::clone(&done);
        begin(&tasks, async move {
            *told.borrow_mut() = receiver.await.ok();
        });
        std::thread::spawn(move || sender.send(7)).join().expect("joined").expect("heard");
        let listening = async {
            while let Some(index) = woken.recv().await {
                tasks.woken(index);
            }
        };
        let heard = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            (*done.borrow()).map_or(Poll::Pending, Poll::Ready)
        });
        let heard = tokio::select! { () = listening => None, heard = heard => Some(heard) };
        assert_eq!(heard, Some(7));
    }
}
