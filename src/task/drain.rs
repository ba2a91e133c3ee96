//! Ending in order: a signal that everyone sees, and a bounded wait for what is under way.
//!
//! Works across runtimes: each worker has its own and all of them hold guards of one drain. Taking
//! and dropping a guard is one atomic; only the last guard of a drain that is waited for wakes
//! anybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// Asks holders of guards to end and waits for them. Clones are the same drain.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    signal: watch::Sender<bool>,
    guards: AtomicUsize,
    none_left: Notify,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Nobody holds a guard, nothing has been asked to end.
    pub fn new() -> Self {
        let signal = watch::Sender::new(false);
        let shared = Shared { signal, guards: AtomicUsize::new(0), none_left: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Asks everyone to end; later calls change nothing.
    pub fn start(&self) {
        self.shared.signal.send_if_modified(|started| !std::mem::replace(started, true));
    }

    /// Whether everyone was asked to end.
    pub fn started(&self) -> bool {
        *self.shared.signal.borrow()
    }

    /// Waits until everyone is asked to end; at once when that has happened. May be cancelled.
    pub async fn signalled(&self) {
        let mut signal = self.shared.signal.subscribe();
        signal.wait_for(|started| *started).await.expect("`self` holds the sender");
    }

    /// Counts as under way until the guard is dropped.
    pub fn guard(&self) -> DrainGuard {
        self.shared.guards.fetch_add(1, Ordering::Relaxed);
        DrainGuard { shared: Arc::clone(&self.shared) }
    }

    /// How many guards are held.
    pub fn guards(&self) -> usize {
        self.shared.guards.load(Ordering::Acquire)
    }

    /// Asks everyone to end and waits until no guard is held, at most `bound`. Returns how many are
    /// held then: 0 when all ended in order. May be cancelled and called again.
    pub async fn finish(&self, bound: Duration) -> usize {
        self.start();
        let none_left = async {
            loop {
                // Listen before looking, else the last guard could go in between.
                let woken = self.shared.none_left.notified();
                if self.guards() == 0 {
                    return;
                }
                woken.await;
            }
        };
        let _elapsed = tokio::time::timeout(bound, none_left).await;
        self.guards()
    }
}

/// Something under way; see [`Drain::guard`].
#[derive(Debug)]
pub struct DrainGuard {
    shared: Arc<Shared>,
}

impl DrainGuard {
    /// Waits until everyone is asked to end. May be cancelled.
    pub async fn signalled(&self) {
        let mut signal = self.shared.signal.subscribe();
        signal.wait_for(|started| *started).await.expect("`self` holds the sender");
    }

    /// Whether everyone was asked to end.
    pub fn draining(&self) -> bool {
        *self.shared.signal.borrow()
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.shared.guards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Drain;
    use crate::task::spawn;

    const BOUND: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn nothing_under_way_ends_at_once() {
        let drain = Drain::new();
        assert!(!drain.started());
        assert_eq!(drain.finish(BOUND).await, 0);
        assert!(drain.started());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_a_guard_is_asked_and_waited_for() {
        let drain = Drain::new();
        let guard = drain.guard();
        let worker = spawn("worker", async move {
            guard.signalled().await;
            assert!(guard.draining());
        });
        assert_eq!(drain.guards(), 1);
        assert_eq!(drain.finish(BOUND).await, 0);
        assert_eq!(worker.await.expect("joined"), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded_and_may_go_on() {
        let drain = Drain::new();
        let (first, second) = (drain.guard(), drain.guard());
        drop(first);
        let began = tokio::time::Instant::now();
        assert_eq!(drain.finish(BOUND).await, 1);
        assert_eq!(began.elapsed(), BOUND);
        drop(second);
        assert_eq!(drain.finish(BOUND).await, 0);
    }
}
