//! What a sidecar has to be told: the difference between what it was sent and what it should have.
//!
//! The protocol is level-triggered. Nothing queues up for a slow sidecar; when it can take the next
//! message, that says what is true now. Acknowledgements are kept per resource: a refused one leaves
//! all others untouched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;

use super::{key, world::Resources};
use crate::resource::{ResourceKey, pb};

/// Resources in one message at most; gRPC clients take 4 MiB by default.
const MESSAGE_RESOURCES_MAX: usize = 500;
/// Bytes after which a message takes no further resource.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What one sidecar was sent and what it made of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<ResourceKey, Entry>,
}

/// One resource of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Entry {
    /// The version that was sent last.
    pub sent: String,
    /// The version that the sidecar says it runs; empty before it said so.
    pub running: String,
    /// Why it refused the version that was sent last.
    pub refused: Option<Vec<pb::Problem>>,
}

impl Entry {
    /// Whether the sidecar runs what it was sent last.
    pub(crate) fn is_running(&self) -> bool {
        self.sent == self.running
    }
}

/// The difference.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Delta {
    /// To be put in place, in an order in which what is referred to comes first.
    pub changed: Vec<Arc<pb::Resource>>,
    /// To be forgotten.
    pub removed: Vec<ResourceKey>,
}

impl Ledger {
    /// What the sidecar held when it connected, which it therefore runs.
    pub(crate) fn hold(&mut self, held: impl IntoIterator<Item = (ResourceKey, String)>) {
        for (key, version) in held {
            let entry = Entry { sent: version.clone(), running: version, refused: None };
            self.entries.insert(key, entry);
        }
    }

    /// What is still to be sent so that the sidecar has `wanted`; from then on it counts as sent.
    /// Keys in `kept` are not taken away although they are not wanted.
    pub(crate) fn advance(&mut self, wanted: &Resources, kept: &BTreeSet<ResourceKey>) -> Delta {
        let mut delta = Delta::default();
        for (key, resource) in wanted {
            let version = key::version(resource);
            let entry = self.entries.entry(key.clone()).or_default();
            if entry.sent != version || version.is_empty() {
                version.clone_into(&mut entry.sent);
                entry.refused = None;
                delta.changed.push(Arc::clone(resource));
            }
        }
        delta.changed.sort_by_key(|resource| key::rank(resource));
        self.entries.retain(|key, _| {
            let stays = wanted.contains_key(key) || kept.contains(key);
            if !stays {
                delta.removed.push(key.clone());
            }
            stays
        });
        delta
    }

    /// The sidecar runs this version. One that was replaced since counts all the same: it says what
    /// runs, not what was asked for. Returns whether anything became known by it.
    pub(crate) fn acknowledge(&mut self, key: &ResourceKey, version: &str) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if entry.sent == version {
            entry.refused = None;
        }
        let news = entry.running != version;
        version.clone_into(&mut entry.running);
        news
    }

    /// The sidecar refuses this version; about one that was replaced since, nothing is kept.
    pub(crate) fn refuse(&mut self, key: &ResourceKey, version: &str, problems: Vec<pb::Problem>) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.sent == version) {
            entry.refused = Some(problems);
        }
    }

    /// One resource of it.
    pub(crate) fn entry(&self, key: &ResourceKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All that was sent and not taken back.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&ResourceKey, &Entry)> {
        self.entries.iter()
    }

    /// Whether the sidecar has said of all that it was sent that it runs it or refuses it.
    pub(crate) fn is_answered(&self) -> bool {
        self.entries.values().all(|entry| entry.is_running() || entry.refused.is_some())
    }

    /// Whether the sidecar runs all that it was sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.entries.values().all(Entry::is_running)
    }
}

impl Delta {
    /// Whether there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    /// As messages of bounded size. The last one carries the removals, so that nothing is taken away
    /// before its replacement is there; what else belongs into the last one is up to the caller.
    pub(crate) fn into_messages(self, revision: u64) -> Vec<pb::SubscribeResponse> {
        let mut messages = vec![pb::SubscribeResponse { revision, ..Default::default() }];
        let mut bytes = 0;
        for resource in self.changed {
            let size = resource.encoded_len();
            let last = messages.last_mut().expect("begins with one");
            let full = last.changed.len() >= MESSAGE_RESOURCES_MAX
                || (bytes + size > MESSAGE_BYTES_MAX && !last.changed.is_empty());
            let resource = Arc::unwrap_or_clone(resource);
            if full {
                bytes = size;
                messages.push(pb::SubscribeResponse {
                    revision,
                    changed: vec![resource],
                    ..Default::default()
                });
            } else {
                bytes += size;
                last.changed.push(resource);
            }
        }
        let last = messages.last_mut().expect("begins with one");
        last.removed = self.removed.iter().map(ResourceKey::to_pb).collect();
        messages
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Entry, Ledger};
    use crate::{
        control::{
            key,
            sample::{resources, route, service, workload},
            world::Resources,
        },
        resource::{self, Kind, ResourceKey, pb},
    };

    fn at(version: &str, mut resource: pb::Resource) -> pb::Resource {
        version.clone_into(&mut resource.metadata.as_mut().expect("set").resource_version);
        resource
    }

    fn check(ledger: &mut Ledger, wanted: &Resources, changed: &[&str], removed: &[&str]) {
        check_keeping(ledger, wanted, &BTreeSet::new(), changed, removed);
    }

    fn check_keeping(
        ledger: &mut Ledger,
        wanted: &Resources,
        kept: &BTreeSet<ResourceKey>,
        changed: &[&str],
        removed: &[&str],
    ) {
        let delta = ledger.advance(wanted, kept);
        let names: Vec<_> = delta
            .changed
            .iter()
            .filter_map(|it| resource::key(it))
            .map(|it| key::text(&it))
            .collect();
        assert_eq!(names, changed);
        assert_eq!(delta.removed.iter().map(key::text).collect::<Vec<_>>(), removed);
    }

    #[test]
    fn only_what_differs_is_sent_and_what_is_referred_to_comes_first() {
        let mut ledger = Ledger::default();
        let first =
            resources([route("a/r", "s", &["s"]), workload("a/w", "s", ""), service("a/s", "")]);
        check(&mut ledger, &first, &["Service/a/s", "Workload/a/w", "GRPCRoute/a/r"], &[]);
        check(&mut ledger, &first, &[], &[]);
        let second = resources([route("a/r", "s", &["s"]), at("2", service("a/s", ""))]);
        check(&mut ledger, &second, &["Service/a/s"], &["Workload/a/w"]);
        check(&mut ledger, &Resources::new(), &[], &["GRPCRoute/a/r", "Service/a/s"]);
    }

    #[test]
    fn what_it_held_when_it_connected_is_not_sent_again() {
        let mut ledger = Ledger::default();
        let wanted = resources([service("a/s", ""), at("2", service("a/t", ""))]);
        ledger.hold(
            ["s", "t", "gone"]
                .map(|name| (ResourceKey::new(Kind::Service, "a", name), "1".to_owned())),
        );
        check(&mut ledger, &wanted, &["Service/a/t"], &["Service/a/gone"]);
        let held = ledger.entry(&ResourceKey::new(Kind::Service, "a", "s")).expect("held");
        assert!(held.is_running());
    }

    #[test]
    fn what_is_kept_stays_until_it_is_not() {
        let mut ledger = Ledger::default();
        let key = ResourceKey::new(Kind::Workload, "a", "w");
        ledger.hold([(key.clone(), "1".to_owned())]);
        let kept = BTreeSet::from([key]);
        check_keeping(&mut ledger, &Resources::new(), &kept, &[], &[]);
        check(&mut ledger, &Resources::new(), &[], &["Workload/a/w"]);
    }

    #[test]
    fn each_resource_is_acknowledged_or_refused_on_its_own() {
        let mut ledger = Ledger::default();
        let wanted = resources([service("a/s", ""), service("a/t", "")]);
        ledger.advance(&wanted, &BTreeSet::new());
        let (s, t) =
            (ResourceKey::new(Kind::Service, "a", "s"), ResourceKey::new(Kind::Service, "a", "t"));
        assert!(!ledger.is_settled());
        ledger.acknowledge(&s, "1");
        ledger.refuse(&t, "1", vec![pb::Problem::default()]);
        assert!(ledger.entry(&s).is_some_and(Entry::is_running));
        assert!(ledger.entry(&t).is_some_and(|it| it.refused.is_some() && !it.is_running()));

        // A new version forgets the refusal of the old one, and a late refusal says nothing of it.
        let wanted = resources([service("a/s", ""), at("2", service("a/t", ""))]);
        ledger.advance(&wanted, &BTreeSet::new());
        ledger.refuse(&t, "1", vec![pb::Problem::default()]);
        assert!(ledger.entry(&t).is_some_and(|it| it.refused.is_none() && !it.is_running()));
        ledger.acknowledge(&t, "2");
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_large_difference_is_several_messages_and_removals_come_last() {
        let mut ledger = Ledger::default();
        ledger.hold([(ResourceKey::new(Kind::Service, "a", "gone"), "1".to_owned())]);
        let wanted = resources((0..1201).map(|i| service(&format!("a/s{i}"), "")));
        let messages = ledger.advance(&wanted, &BTreeSet::new()).into_messages(7);
        let sizes: Vec<_> =
            messages.iter().map(|it| (it.changed.len(), it.removed.len(), it.revision)).collect();
        assert_eq!(sizes, [(500, 0, 7), (500, 0, 7), (201, 1, 7)]);
    }
}
