//! What a sidecar holds of the mesh's configuration, and what it says about it: pure, so that the
//! protocol's rules are tested without a stream.
//!
//! The newest form of each resource is held, be it refused or not; `compile` keeps the last good form
//! of a refused one. What is stored on disk and told to a control plane as held is what runs, so that
//! after a restart or a reconnection a refused resource comes again and is refused again, in sight of
//! whoever looks at its status. One that never had a good form is stored all the same, because a
//! broken policy protects by refusing; it is told as held in no version, and so comes again or is
//! taken away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::{DecodeError, Message};

use crate::{
    resource::{self, Problem, ResourceKey, pb},
    snapshot::{self, Context, Node, Snapshot},
    units::ServiceName,
};

/// Problems told about one resource.
const PROBLEMS_MAX: usize = 20;

/// Resources, answers and what was made of them.
#[derive(Debug)]
pub(super) struct Held {
    context: Context,
    /// In the newest form that was sent.
    resources: BTreeMap<ResourceKey, Arc<pb::Resource>>,
    running: Option<Arc<Snapshot>>,
    /// What the control plane was told of each resource on the stream of now.
    told: BTreeMap<ResourceKey, Told>,
    /// Errors of the newest forms that do not run.
    refused: BTreeMap<ResourceKey, Vec<Problem>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    version: String,
    runs: bool,
}

/// For whom something was stored, in fields that [`pb::SubscribeResponse`] does not have.
#[derive(Clone, PartialEq, Message)]
struct Owner {
    #[prost(string, tag = "1000")]
    trust_domain: String,
    #[prost(string, tag = "1001")]
    service: String,
    #[prost(btree_map = "string, string", tag = "1002")]
    labels: BTreeMap<String, String>,
}

/// Why what is on disk is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    /// It is not what was stored.
    #[error("broken: {0}")]
    Broken(#[from] DecodeError),
    /// It says nothing about this workload.
    #[error("stored for another service, other labels, or another mesh")]
    Other,
}

/// What is to be found again after a restart.
#[derive(Debug)]
pub(super) struct Stored {
    owner: Owner,
    /// All but the resources.
    head: pb::SubscribeResponse,
    resources: Vec<Arc<pb::Resource>>,
}

impl Stored {
    /// One [`pb::SubscribeResponse`], for [`Held::restore`]. Encoded in pieces, since repeated fields
    /// of a message that stands in pieces add up, and without a copy of everything.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.owner.encode_to_vec();
        self.head.encode(&mut bytes).expect("a Vec takes everything");
        for resource in &self.resources {
            let changed = vec![(**resource).clone()];
            let piece = pb::SubscribeResponse { changed, ..Default::default() };
            piece.encode(&mut bytes).expect("a Vec takes everything");
        }
        bytes
    }
}

/// What is to be told of a configuration that runs now.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdicts {
    pub(super) runs: Vec<pb::Held>,
    pub(super) refused: Vec<pb::Nack>,
}

impl Held {
    /// Holds nothing yet.
    pub(super) fn new(node: Node, trust_domain: String) -> Self {
        let context = Context {
            node,
            trust_domain,
            namespaces: BTreeSet::new(),
            answered: BTreeMap::new(),
            complete: false,
            revision: 0,
        };
        let (resources, told, refused) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { context, resources, running: None, told, refused }
    }

    /// Takes up what [`Held::stored`] gave before a restart. Returns the services that were used.
    ///
    /// # Errors
    /// When the bytes are not what was stored, or were stored for another workload: what protects
    /// that one need not protect this one.
    pub(super) fn restore(&mut self, stored: &[u8]) -> Result<Vec<ServiceName>, RestoreError> {
        if Owner::decode(stored)? != self.owner() {
            return Err(RestoreError::Other);
        }
        let stored = pb::SubscribeResponse::decode(stored)?;
        let used: Vec<ServiceName> = stored.answered.iter().map(answered).collect();
        self.apply(stored, |_| true);
        Ok(used)
    }

    /// What is to be found again after a restart; nothing before something runs.
    pub(super) fn stored(&self) -> Option<Stored> {
        self.running.as_ref()?;
        let answered = self.context.answered.iter().map(|(service, exists)| pb::Answered {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            exists: *exists,
        });
        let names = self.context.namespaces.iter().cloned().collect();
        let head = pb::SubscribeResponse {
            revision: self.context.revision,
            answered: answered.collect(),
            namespaces: Some(pb::Namespaces { names }),
            ..Default::default()
        };
        let resources = self.resources.iter().map(|(key, newest)| self.good(key).unwrap_or(newest));
        let resources = resources.map(Arc::clone).collect();
        Some(Stored { owner: self.owner(), head, resources })
    }

    fn owner(&self) -> Owner {
        let node = &self.context.node;
        Owner {
            trust_domain: self.context.trust_domain.clone(),
            service: node.service.to_string(),
            labels: node.labels.clone(),
        }
    }

    /// Whether all that concerns the workload itself has been here once. With less than that, a
    /// policy that protects it could be missing.
    pub(super) fn is_whole(&self) -> bool {
        self.running.is_some() || self.context.answered.contains_key(&self.context.node.service)
    }

    fn good(&self, key: &ResourceKey) -> Option<&Arc<pb::Resource>> {
        self.running.as_ref()?.good.get(key)
    }

    /// Begins a stream: refused forms are forgotten where there is a good one. Returns what the
    /// hello says.
    pub(super) fn begin(&mut self) -> Vec<pb::Held> {
        self.told = BTreeMap::new();
        let mut said = Vec::new();
        for (key, resource) in &mut self.resources {
            let good = self.running.as_ref().and_then(|running| running.good.get(key));
            let mut version = String::new();
            if let Some(good) = good {
                *resource = Arc::clone(good);
                version = version_of(good);
                self.told.insert(key.clone(), Told { version: version.clone(), runs: true });
            }
            said.push(pb::Held { resource: Some(key.to_pb()), resource_version: version });
        }
        said
    }

    /// Takes up a change. An answer about a service that is not used any more is late.
    pub(super) fn apply(
        &mut self,
        change: pb::SubscribeResponse,
        used: impl Fn(&ServiceName) -> bool,
    ) {
        for resource in change.changed {
            match resource::key(&resource) {
                Some(key) => {
                    self.resources.insert(key, Arc::new(resource));
                }
                None => tracing::debug!("a resource of a kind that this version does not know"),
            }
        }
        for key in change.removed.iter().filter_map(ResourceKey::from_pb) {
            self.resources.remove(&key);
            self.told.remove(&key);
        }
        for answer in change.answered {
            let service = answered(&answer);
            if used(&service) || service == self.context.node.service {
                self.context.answered.insert(service, answer.exists);
            }
        }
        if let Some(namespaces) = change.namespaces {
            self.context.namespaces = namespaces.names.into_iter().collect();
        }
        self.context.revision = change.revision;
    }

    /// Forgets the answer about a service that is used no more.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.context.answered.remove(service);
    }

    /// Compiles what is held. The result runs from the caller's next step on.
    pub(super) fn compile(&mut self) -> Arc<Snapshot> {
        let last = self.running.as_deref();
        let (snapshot, problems) = snapshot::compile(&self.resources, last, &self.context);
        let snapshot = Arc::new(snapshot);
        self.refused = BTreeMap::new();
        for (key, resource) in &self.resources {
            if !runs(&snapshot, key, resource) {
                let mine = problems.iter().filter(|problem| problem.is_error());
                let mine = mine.filter(|problem| problem.resource.as_ref() == Some(key));
                self.refused.insert(key.clone(), mine.take(PROBLEMS_MAX).cloned().collect());
            }
        }
        self.running = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// What the control plane has not yet been told of what runs.
    pub(super) fn verdicts(&mut self) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let Some(running) = &self.running else { return verdicts };
        for (key, resource) in &self.resources {
            let told = Told { version: version_of(resource), runs: runs(running, key, resource) };
            if self.told.get(key) == Some(&told) {
                continue;
            }
            if told.runs {
                verdicts.runs.push(held(key, resource));
            } else {
                let problems = self.refused.get(key).into_iter().flatten();
                verdicts.refused.push(pb::Nack {
                    resource: Some(key.to_pb()),
                    resource_version: told.version.clone(),
                    problems: problems.map(Problem::to_pb).collect(),
                });
            }
            self.told.insert(key.clone(), told);
        }
        verdicts
    }

    /// Errors of the newest forms that do not run.
    pub(super) fn refused(&self) -> &BTreeMap<ResourceKey, Vec<Problem>> {
        &self.refused
    }

    /// What runs.
    pub(super) fn running(&self) -> Option<&Arc<Snapshot>> {
        self.running.as_ref()
    }
}

fn answered(answer: &pb::Answered) -> ServiceName {
    let namespace = match answer.namespace.as_str() {
        "" => resource::NAMESPACE_DEFAULT,
        namespace => namespace,
    };
    ServiceName::new(&*answer.name, namespace)
}

/// Whether the newest form is the one that runs.
fn runs(snapshot: &Snapshot, key: &ResourceKey, resource: &Arc<pb::Resource>) -> bool {
    snapshot.good.get(key).is_some_and(|good| Arc::ptr_eq(good, resource))
}

fn version_of(resource: &pb::Resource) -> String {
    resource.metadata.as_ref().map(|meta| meta.resource_version.clone()).unwrap_or_default()
}

fn held(key: &ResourceKey, resource: &pb::Resource) -> pb::Held {
    pb::Held { resource: Some(key.to_pb()), resource_version: version_of(resource) }
}

#[cfg(test)]
mod tests {
    use super::{Held, Verdicts};
    use crate::{
        app::discovery::sample::{answer, node, policy, service},
        resource::{Kind, ResourceKey, pb},
        units::ServiceName,
    };

    fn held() -> Held {
        Held::new(node("web"), "mesh.local".into())
    }

    fn used(service: &ServiceName) -> bool {
        *service == ServiceName::new("orders", "shop")
    }

    fn change(revision: u64, changed: Vec<pb::Resource>) -> pb::SubscribeResponse {
        let answered = vec![answer("orders", true)];
        pb::SubscribeResponse { revision, changed, answered, ..Default::default() }
    }

    fn names(verdicts: &Verdicts) -> (Vec<String>, Vec<String>) {
        let name = |id: &Option<pb::ResourceId>, version: &str| {
            format!("{}@{version}", id.as_ref().expect("named").name)
        };
        let runs = verdicts.runs.iter().map(|it| name(&it.resource, &it.resource_version));
        let refused = verdicts.refused.iter().map(|it| name(&it.resource, &it.resource_version));
        (runs.collect(), refused.collect())
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn each_version_is_told_once_and_one_that_is_refused_holds_nothing_back() {
        let mut held = held();
        let resources = vec![service("orders", "1"), policy("orders", "1", "1s")];
        held.apply(change(1, resources), used);
        let snapshot = held.compile();
        let orders = ServiceName::new("orders", "shop");
        assert!(snapshot.destinations.get(&orders).is_some_and(Option::is_some));
        assert_eq!(names(&held.verdicts()), (words(&["orders@1", "orders@1"]), words(&[])));
        assert_eq!(held.verdicts(), Verdicts::default(), "told already");

        let resources = vec![service("orders", "2"), policy("orders", "2", "soon")];
        held.apply(change(2, resources), used);
        let snapshot = held.compile();
        assert_eq!(snapshot.revision, 2);
        let verdicts = held.verdicts();
        assert_eq!(names(&verdicts), (words(&["orders@2"]), words(&["orders@2"])));
        assert_eq!(verdicts.refused[0].problems[0].field, "spec.timeouts.request");
        let key = ResourceKey::new(Kind::TrafficPolicy, "shop", "orders");
        let good = &snapshot.good[&key];
        assert_eq!(good.metadata.as_ref().expect("set").resource_version, "1", "the last good");
        assert_eq!(held.refused().len(), 1);

        held.apply(change(3, vec![policy("orders", "3", "2s")]), used);
        held.compile();
        assert_eq!(names(&held.verdicts()), (words(&["orders@3"]), words(&[])));
        assert!(held.refused().is_empty());
    }

    #[test]
    fn a_stream_begins_with_what_runs_and_a_refused_resource_is_asked_for_again() {
        let mut held = held();
        assert!(held.begin().is_empty());
        held.apply(change(1, vec![policy("orders", "1", "1s")]), used);
        held.compile();
        held.apply(change(2, vec![policy("orders", "2", "soon"), service("x", "1")]), used);
        held.compile();
        held.verdicts();
        let versions: Vec<_> = held.begin().into_iter().map(|it| it.resource_version).collect();
        assert_eq!(versions, ["1", "1"]);
        held.apply(change(2, vec![policy("orders", "2", "soon")]), used);
        held.compile();
        assert_eq!(names(&held.verdicts()), (words(&[]), words(&["orders@2"])));
    }

    #[test]
    fn what_runs_is_found_again_after_a_restart() {
        let mut before = held();
        assert!(before.stored().is_none());
        before.apply(change(7, vec![service("orders", "1")]), used);
        before.apply(
            pb::SubscribeResponse {
                revision: 7,
                namespaces: Some(pb::Namespaces { names: vec!["shop".into(), "pay".into()] }),
                ..Default::default()
            },
            used,
        );
        before.compile();
        let stored = before.stored().expect("something runs").encode();
        let mut after = held();
        let services = after.restore(&stored).expect("as stored");
        assert_eq!(services, [ServiceName::new("orders", "shop")]);
        let snapshot = after.compile();
        assert_eq!((snapshot.revision, snapshot.namespaces.len()), (7, 2));
        assert_eq!(after.begin().len(), 1);
        assert!(held().restore(b"\xff\xff").is_err());
    }

    #[test]
    fn what_another_workload_stored_is_not_run() {
        let mut before = held();
        before.apply(change(7, vec![service("orders", "1")]), used);
        before.compile();
        let stored = before.stored().expect("something runs").encode();
        let mut relabelled = node("web");
        relabelled.labels.insert("version".into(), "v2".into());
        for (node, trust_domain) in
            [(node("other"), "mesh.local"), (relabelled, "mesh.local"), (node("web"), "other")]
        {
            let mut after = Held::new(node, trust_domain.into());
            assert!(after.restore(&stored).is_err());
            assert!(after.compile().good.is_empty());
        }
    }

    #[test]
    fn nothing_runs_before_all_that_concerns_the_workload_is_there() {
        let mut held = held();
        held.apply(change(1, vec![service("orders", "1")]), used);
        assert!(!held.is_whole());
        let answered = vec![answer("web", true)];
        held.apply(pb::SubscribeResponse { answered, ..Default::default() }, used);
        assert!(held.is_whole());
    }

    #[test]
    fn a_policy_that_never_was_good_still_protects_after_a_restart() {
        let mut before = held();
        before.apply(change(1, vec![policy("orders", "1", "soon")]), used);
        before.compile();
        assert_eq!(names(&before.verdicts()), (words(&[]), words(&["orders@1"])));
        let mut after = held();
        after.restore(&before.stored().expect("something runs").encode()).expect("as stored");
        after.compile();
        assert_eq!(after.refused().len(), 1);
        let said = after.begin();
        assert_eq!((said.len(), said[0].resource_version.as_str()), (1, ""));
        assert_eq!(names(&after.verdicts()), (words(&[]), words(&["orders@1"])));
    }

    #[test]
    fn removed_resources_and_late_answers_leave_nothing() {
        let mut held = held();
        held.apply(change(1, vec![service("orders", "1")]), used);
        let removed = vec![ResourceKey::new(Kind::Service, "shop", "orders").to_pb()];
        let answered = vec![answer("orders", false), answer("late", true)];
        held.apply(
            pb::SubscribeResponse { revision: 2, removed, answered, ..Default::default() },
            used,
        );
        let snapshot = held.compile();
        assert!(snapshot.good.is_empty());
        let answered: Vec<_> = snapshot.destinations.iter().collect();
        assert_eq!(answered.len(), 1);
        assert!(answered[0].1.is_none());
        held.forget(&ServiceName::new("orders", "shop"));
        assert!(held.compile().destinations.is_empty());
    }
}
