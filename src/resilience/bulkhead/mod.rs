//! How many requests to one destination may be under way, and how many may wait for a place.
//!
//! A permit is one atomic operation while there is room: `state` holds the permits in use and the
//! number of waiters in one word, and only a request that has to queue, or a permit that is released
//! while somebody waits, takes the lock. The invariants, checked by `check_invariants`:
//!
//! * as long as somebody waits, no place is free: nobody overtakes the queue;
//! * `queued` in `state` is the length of the queue, and changes only under the lock;
//! * while `queued` is not zero, `in use` changes only under the lock too.
//!
//! A permit that is dropped hands its place to the first waiter. A waiter that is dropped leaves the
//! queue, or passes on the place that it was given meanwhile.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

/// Counts the requests to one destination. Shared by all workers.
#[derive(Debug)]
pub struct Bulkhead {
    /// Waiters in the upper half, permits in use in the lower.
    state: AtomicU64,
    concurrent_max: AtomicU32,
    queued_max: AtomicU32,
    queue: Mutex<Queue>,
}

/// Who waits, by ticket; tickets are given in order, so the first entry is the longest waiting.
#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    waiters: BTreeMap<u64, oneshot::Sender<Permit>>,
}

/// The answer to a request that asks for a place.
#[derive(Debug)]
pub enum Admission {
    /// It may go; its place is free again when the permit is dropped.
    Admitted(Permit),
    /// It may wait; the caller bounds how long.
    Wait(Waiter),
    /// The queue is full too.
    Full,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    /// `None` only while the place is being handed over.
    bulkhead: Option<Arc<Bulkhead>>,
}

/// A place in the queue: resolves to the permit. Dropping it leaves the queue.
#[derive(Debug)]
#[must_use = "a waiter that is dropped leaves the queue"]
pub struct Waiter {
    bulkhead: Arc<Bulkhead>,
    ticket: u64,
    permit: oneshot::Receiver<Permit>,
}

impl Bulkhead {
    /// An empty one.
    pub fn new(concurrent_max: u32, queued_max: u32) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU64::new(0),
            concurrent_max: AtomicU32::new(concurrent_max),
            queued_max: AtomicU32::new(queued_max),
            queue: Mutex::default(),
        })
    }

    /// Asks for a place.
    pub fn try_admit(self: &Arc<Self>) -> Admission {
        if self.take_free_place() {
            return Admission::Admitted(self.permit());
        }
        if self.queued_max.load(Ordering::Acquire) == 0 {
            return Admission::Full;
        }
        let mut queue = self.lock();
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (queued, in_use) = unpack(state);
            let next = if queued == 0 && in_use < self.concurrent_max.load(Ordering::Acquire) {
                pack(queued, in_use + 1)
            } else if queued < self.queued_max.load(Ordering::Acquire) {
                pack(queued + 1, in_use)
            } else {
                return Admission::Full;
            };
            if !self.swap(state, next) {
                continue;
            }
            if next == pack(queued, in_use + 1) {
                return Admission::Admitted(self.permit());
            }
            let (sender, permit) = oneshot::channel();
            let ticket = queue.next_ticket;
            queue.next_ticket += 1;
            queue.waiters.insert(ticket, sender);
            drop(queue);
            return Admission::Wait(Waiter { bulkhead: Arc::clone(self), ticket, permit });
        }
    }

    /// Changes the limits. Higher ones admit waiters at once; lower ones take no place or turn in the
    /// queue away, they let nobody follow until enough have left.
    pub fn set_limits(self: &Arc<Self>, concurrent_max: u32, queued_max: u32) {
        self.queued_max.store(queued_max, Ordering::Release);
        self.concurrent_max.store(concurrent_max, Ordering::Release);
        while let Some(waiter) = self.pop_for_free_place() {
            // A waiter that has gone gives the permit back, and dropping it serves the next.
            drop(waiter.send(self.permit()));
        }
    }

    /// Requests under way.
    pub fn in_use(&self) -> u32 {
        unpack(self.state.load(Ordering::Acquire)).1
    }

    /// Requests that wait.
    pub fn queued(&self) -> u32 {
        unpack(self.state.load(Ordering::Acquire)).0
    }

    /// How many may be under way.
    pub fn concurrent_max(&self) -> u32 {
        self.concurrent_max.load(Ordering::Acquire)
    }

    /// Whether the invariants of the module hold, for tests and `debug_assert!`.
    pub fn check_invariants(&self) -> bool {
        let queue = self.lock();
        let (queued, in_use) = unpack(self.state.load(Ordering::Acquire));
        let counted = u32::try_from(queue.waiters.len()) == Ok(queued);
        counted && (queued == 0 || in_use >= self.concurrent_max())
    }

    /// The fast way in: nobody waits and there is room.
    fn take_free_place(&self) -> bool {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let (queued, in_use) = unpack(state);
            if queued != 0 || in_use >= self.concurrent_max.load(Ordering::Acquire) {
                return false;
            }
            let next = pack(queued, in_use + 1);
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Gives one place back: to the first waiter, or to whoever comes next.
    fn release(self: &Arc<Self>) {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (queued, in_use) = unpack(state);
            debug_assert!(in_use > 0, "a permit is released once");
            if queued == 0 {
                if self.swap(state, pack(0, in_use.saturating_sub(1))) {
                    return;
                }
                continue;
            }
            let Some(waiter) = self.pop_for_released_place() else { return };
            let Err(mut refused) = waiter.send(self.permit()) else { return };
            // The waiter went away after it was popped: the place is still ours to give.
            refused.bulkhead = None;
        }
    }

    /// The first waiter, to take over the place of a released permit. `None` when nobody waits any
    /// more or the limit was lowered: then the place has been given up.
    fn pop_for_released_place(&self) -> Option<oneshot::Sender<Permit>> {
        let mut queue = self.lock();
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (queued, in_use) = unpack(state);
            let over = in_use > self.concurrent_max.load(Ordering::Acquire);
            if over || queued == 0 {
                if self.swap(state, pack(queued, in_use.saturating_sub(1))) {
                    return None;
                }
            } else if self.swap(state, pack(queued - 1, in_use)) {
                return queue.waiters.pop_first().map(|(_, waiter)| waiter);
            }
        }
    }

    /// The first waiter, to take a place that a higher limit made free.
    fn pop_for_free_place(&self) -> Option<oneshot::Sender<Permit>> {
        let mut queue = self.lock();
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (queued, in_use) = unpack(state);
            if queued == 0 || in_use >= self.concurrent_max.load(Ordering::Acquire) {
                return None;
            }
            if self.swap(state, pack(queued - 1, in_use + 1)) {
                return queue.waiters.pop_first().map(|(_, waiter)| waiter);
            }
        }
    }

    /// Takes a waiter out of the queue, unless it was served meanwhile.
    fn cancel(&self, ticket: u64) {
        let mut queue = self.lock();
        if queue.waiters.remove(&ticket).is_some() {
            self.state.fetch_sub(pack(1, 0), Ordering::AcqRel);
        }
    }

    fn swap(&self, current: u64, next: u64) -> bool {
        self.state.compare_exchange(current, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit { bulkhead: Some(Arc::clone(self)) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing under the lock can panic half-way, so a poisoned queue is a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(bulkhead) = self.bulkhead.take() {
            bulkhead.release();
        }
    }
}

impl Future for Waiter {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let permit = ready!(Pin::new(&mut self.permit).poll(context));
        Poll::Ready(
            permit.expect("a sender leaves the queue only to send, or by this waiter's drop"),
        )
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A permit that was sent meanwhile lies in the channel and is released with it.
        self.bulkhead.cancel(self.ticket);
    }
}

fn pack(queued: u32, in_use: u32) -> u64 {
    u64::from(queued) << 32 | u64::from(in_use)
}

fn unpack(state: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    (half(state >> 32), half(state))
}

#[cfg(test)]
mod tests;
