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

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use super::Handle;
    use crate::{
        snapshot::{Context, Node, Snapshot, compile},
        units::ServiceName,
    };

    fn snapshot(revision: u64) -> Arc<Snapshot> {
        let context = Context {
            node: Node {
                service: ServiceName::new("web", "shop"),
                labels: BTreeMap::new(),
                ports: BTreeMap::new(),
            },
            trust_domain: "mesh.local".into(),
            namespaces: BTreeSet::new(),
            answered: BTreeMap::new(),
            complete: true,
            revision,
        };
        Arc::new(compile(&BTreeMap::new(), None, &context).0)
    }

    #[tokio::test]
    async fn whoever_subscribed_is_woken_and_finds_the_newest() {
        let handle = Handle::new();
        assert!(handle.load().is_none());
        let mut early = handle.subscribe();
        handle.publish(snapshot(7));
        // The same revision again: an endpoint came or went.
        handle.publish(snapshot(7));
        handle.publish(snapshot(8));
        early.changed().await.expect("the handle lives");
        assert_eq!(*early.borrow_and_update(), 3);
        assert_eq!(handle.load().map(|found| found.revision), Some(8));
        let mut late = handle.subscribe();
        assert!(!late.has_changed().expect("the handle lives"));
        let held = handle.load().expect("published");
        handle.publish(snapshot(9));
        late.changed().await.expect("the handle lives");
        assert_eq!(held.revision, 8, "a request keeps what it began with");
    }
}
