//! The snapshot that runs now, shared by everybody: read without a lock, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::Snapshot;

/// Where the running snapshot is found.
#[derive(Debug)]
pub struct Handle {
    current: ArcSwapOption<Snapshot>,
    published: watch::Sender<u64>,
}

impl Default for Handle {
    fn default() -> Self {
        Self::new()
    }
}

impl Handle {
    /// Without a snapshot yet.
    pub fn new() -> Self {
        Self { current: ArcSwapOption::empty(), published: watch::Sender::new(0) }
    }

    /// The running snapshot; `None` before the first. A request loads it once.
    pub fn load(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// Replaces the running snapshot and tells who subscribed. Requests that run keep theirs.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.current.store(Some(snapshot));
        // Counted and not the revision: endpoints come and go within one revision.
        self.published.send_modify(|count| *count += 1);
    }

    /// How many snapshots were published so far, and a wake-up at each. Whoever is woken loads the
    /// newest one, which may be later than the count.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }
}
