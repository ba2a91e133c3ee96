//! What went lately of what no revision tells of: live workloads, and the services that registrations
//! made. Whoever resumes a watch from a revision learns by it what to forget; bounded, and kept over a
//! restart in order. After any other start it is empty, and who asks for what went before lists anew.

use std::{collections::VecDeque, sync::Arc};

use super::world::World;
use crate::resource::ResourceKey;

/// Names that are remembered.
const NAMES_MAX: usize = 10_000;

/// The names, the oldest first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gone {
    /// With the revision that was the newest then.
    names: VecDeque<(u64, ResourceKey)>,
    /// The first revision since which all are known.
    from: u64,
}

impl Gone {
    /// Begins at a start with this revision: what went before it is not known, and whoever saw that
    /// revision may have seen it before the start.
    pub(crate) fn after(revision: u64) -> Self {
        Self { names: VecDeque::new(), from: revision + 1 }
    }

    /// As it was told by [`Self::from`] and [`Self::names`].
    pub(crate) fn again(from: u64, names: impl IntoIterator<Item = (u64, ResourceKey)>) -> Self {
        Self { names: names.into_iter().collect(), from }
    }

    /// The first revision since which all are known.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    /// All names, with the revision that was the newest then.
    pub(crate) fn names(&self) -> impl Iterator<Item = &(u64, ResourceKey)> {
        self.names.iter()
    }

    /// Notes what one world has and the next has not: in what is stored, and of the live workloads
    /// those that are named.
    pub(crate) fn note(&mut self, before: &World, after: &World, live: &[ResourceKey]) {
        for key in live.iter().filter(|key| before.live.contains(key) && !after.live.contains(key))
        {
            self.add(before.revision, key);
        }
        if !Arc::ptr_eq(&before.stored, &after.stored) {
            for key in before.registered.iter() {
                if !after.stored.resources.contains_key(key) {
                    self.add(before.revision, key);
                }
            }
        }
    }

    fn add(&mut self, revision: u64, key: &ResourceKey) {
        if self.names.len() >= NAMES_MAX
            && let Some((forgotten, _)) = self.names.pop_front()
        {
            self.from = forgotten + 1;
        }
        self.names.push_back((revision, key.clone()));
    }

    /// All that went since a revision was seen, some of it perhaps before; `None` when that is not
    /// known any more.
    pub(crate) fn since(&self, revision: u64) -> Option<Vec<ResourceKey>> {
        let of = |(at, key): &(u64, ResourceKey)| (*at >= revision).then(|| key.clone());
        (revision >= self.from).then(|| self.names.iter().filter_map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Gone, NAMES_MAX};
    use crate::control::{
        sample::{service, workload, world},
        world::World,
    };

    #[test]
    fn what_went_since_a_revision_is_known_until_it_is_too_much() {
        let mut gone = Gone::after(0);
        let full = world([service("shop/orders", "")], [workload("shop/orders-1", "orders", "")]);
        let empty = World { live: Arc::default(), ..full.clone() };
        let live: Vec<_> = full.live.iter().map(|(key, _)| key.clone()).collect();
        gone.note(&full, &empty, &live);
        gone.note(&empty, &full, &live);
        let names = |revision| {
            let since: Option<Vec<_>> = gone.since(revision);
            since.map(|keys| keys.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names(1), Some(vec!["Workload shop/orders-1".to_owned()]));
        assert_eq!(names(2), Some(vec![]));
        assert_eq!(names(0), None, "before the start");
        for _ in 0..NAMES_MAX {
            gone.note(&full, &empty, &live);
        }
        assert_eq!(gone.since(1), None);
        assert_eq!(gone.since(2).map(|keys| keys.len()), Some(0));
    }
}
