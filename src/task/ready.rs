//! Readiness: conditions by name that must all hold, so that what is missing can be said.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Whether everything that was made a condition holds. Clones are the same readiness. Without any
/// condition it is ready, so conditions are made before anybody is told of it.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    conditions: Arc<watch::Sender<BTreeMap<&'static str, bool>>>,
}

impl Ready {
    /// Without a condition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that does not hold yet. The same name twice is one condition.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.conditions.send_modify(|conditions| {
            conditions.insert(name, false);
        });
        Condition { name, ready: self.clone() }
    }

    /// Whether all hold.
    pub fn is_ready(&self) -> bool {
        self.conditions.borrow().values().all(|holds| *holds)
    }

    /// The names of those that do not hold, sorted.
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.conditions.borrow();
        conditions.iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
    }

    /// Waits until it is ready or not, as asked; at once when it is so. May be cancelled.
    pub async fn wait(&self, ready: bool) {
        let mut changes = self.conditions.subscribe();
        changes
            .wait_for(|conditions| conditions.values().all(|holds| *holds) == ready)
            .await
            .expect("`self` holds the sender");
    }

    /// Waits until all hold but perhaps the one of that name; at once when it is so. May be cancelled.
    pub async fn wait_for_others(&self, name: &str) {
        let mut changes = self.conditions.subscribe();
        changes
            .wait_for(|conditions| conditions.iter().all(|(other, holds)| *holds || *other == name))
            .await
            .expect("`self` holds the sender");
    }
}

/// One condition, set by whoever knows of it. What it last said stands when it is dropped.
#[derive(Debug)]
pub struct Condition {
    name: &'static str,
    ready: Ready,
}

impl Condition {
    /// Says whether it holds.
    pub fn set(&self, holds: bool) {
        self.ready
            .conditions
            .send_if_modified(|conditions| conditions.insert(self.name, holds) != Some(holds));
    }
}

#[cfg(test)]
mod tests {
    use super::Ready;
    use crate::task::spawn;

    #[tokio::test]
    async fn all_conditions_must_hold_and_the_missing_are_named() {
        let ready = Ready::new();
        assert!(ready.is_ready());
        let certificate = ready.condition("certificate");
        let configuration = ready.condition("configuration");
        assert_eq!(ready.missing(), ["certificate", "configuration"]);
        configuration.set(true);
        assert_eq!(ready.missing(), ["certificate"]);
        assert!(!ready.is_ready());

        let waiter = spawn("waiter", {
            let ready = ready.clone();
            async move {
                ready.wait(true).await;
            }
        });
        ready.wait_for_others("certificate").await;
        certificate.set(true);
        assert_eq!(waiter.await.expect("joined"), Some(()));
        assert!(ready.is_ready());

        certificate.set(false);
        ready.wait(false).await;
        assert_eq!(ready.missing(), ["certificate"]);
        drop(certificate);
        assert!(!ready.is_ready());
    }
}
