//! What going back to a revision would change: a pure plan, as for any other write. What users wrote
//! becomes what it was, with the times of creation by which conflicts are decided; services that
//! registrations made belong to no revision and stay.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    apply::Planned,
    difference,
    revisions::{Past, PastByKey},
    world::World,
};
use crate::resource::{ResourceKey, pb};

/// Plans to put back what was there, given of everything that was touched since.
pub(crate) fn plan(
    world: &World,
    trust_domain: &str,
    past: &PastByKey,
    now: prost_types::Timestamp,
) -> Planned {
    let mut planned = Planned::default();
    for (key, past) in past {
        put_back(&mut planned, world, key, past);
    }
    let touched = past.keys().cloned().collect();
    planned.validate(world, trust_domain, touched, now);
    planned
}

/// Plans to undo what one revision did, save what was written over since. Also says what that is.
pub(crate) fn undo(
    world: &World,
    trust_domain: &str,
    entry: &pb::Revision,
    past: PastByKey,
    now: prost_types::Timestamp,
) -> (Planned, Vec<ResourceKey>) {
    let mut over = Vec::new();
    let mut own = PastByKey::new();
    let deleted: BTreeSet<_> = entry
        .changes
        .iter()
        .filter(|change| change.kind() == pb::ChangeKind::Deleted)
        .filter_map(|change| ResourceKey::from_pb(change.resource.as_ref()?))
        .collect();
    for (key, was) in past {
        let untouched = match written(world, &key) {
            None => deleted.contains(&key),
            Some(resource) => !deleted.contains(&key) && is_of(resource, entry.revision),
        };
        if untouched {
            own.insert(key, was);
        } else {
            over.push(key);
        }
    }
    (plan(world, trust_domain, &own, now), over)
}

/// Whether a resource was written by this revision.
fn is_of(resource: &pb::Resource, revision: u64) -> bool {
    let number = super::key::version(resource).split_once('-').map(|(number, _)| number);
    number == Some(revision.to_string().as_str())
}

/// What users wrote under this name.
fn written<'a>(world: &'a World, key: &ResourceKey) -> Option<&'a Arc<pb::Resource>> {
    world.stored.resources.get(key).filter(|_| !world.registered.contains(key))
}

fn put_back(planned: &mut Planned, world: &World, key: &ResourceKey, past: &Past) {
    let (kind, fields) = match (past.written(), written(world, key)) {
        (None, None) => return,
        (None, Some(_)) => {
            planned.plan.delete.push(key.clone());
            if past.registered {
                planned.plan.register.extend(past.before.clone());
            }
            (pb::ChangeKind::Deleted, Vec::new())
        }
        (Some(then), None) => {
            planned.plan.put.push(then.clone());
            (pb::ChangeKind::Created, Vec::new())
        }
        (Some(then), Some(now)) => {
            let fields = difference::fields(now, then);
            if fields.is_empty() {
                return;
            }
            planned.plan.put.push(then.clone());
            (pb::ChangeKind::Configured, fields)
        }
    };
    planned.plan.changes.push(pb::Change {
        resource: Some(key.to_pb()),
        kind: kind.into(),
        fields,
    });
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::{plan, undo};
    use crate::{
        control::{
            apply::Planned,
            revisions::{Past, PastByKey},
            sample::{labels, service, world},
            world::World,
        },
        resource::{self, pb},
    };

    const NOW: prost_types::Timestamp = prost_types::Timestamp { seconds: 1_000_000, nanos: 0 };

    fn labelled(name: &str, text: &str, version: &str) -> pb::Resource {
        let mut resource = service(name, "");
        let metadata = resource.metadata.as_mut().expect("set");
        metadata.labels = labels(text);
        metadata.resource_version = version.to_owned();
        resource
    }

    fn past(pairs: Vec<(pb::Resource, Option<pb::Resource>, bool)>) -> PastByKey {
        let one = |(of, before, registered): (pb::Resource, _, _)| {
            let key = resource::key(&of).expect("has a spec");
            (key.clone(), Past { id: Some(key.to_pb()), before, registered })
        };
        pairs.into_iter().map(one).collect()
    }

    fn summary(planned: &Planned) -> Vec<String> {
        let name = |it: &pb::Resource| resource::key(it).expect("has a spec").name;
        let changes = planned.plan.changes.iter().map(|change| {
            let name = change.resource.clone().unwrap_or_default().name;
            format!("{:?} {name} {}", change.kind(), change.fields.join(",")).trim_end().to_owned()
        });
        let put = planned.plan.put.iter().map(|it| format!("put {}", name(it)));
        let delete = planned.plan.delete.iter().map(|key| format!("delete {}", key.name));
        let register = planned.plan.register.iter().map(|it| format!("register {}", name(it)));
        changes.chain(put).chain(delete).chain(register).collect()
    }

    #[test]
    fn what_was_comes_back_and_what_a_registration_made_stays() {
        let registered = resource::key(&service("shop/back", "")).expect("has a spec");
        let world = World {
            registered: Arc::new(BTreeSet::from([registered])),
            ..world(
                [
                    labelled("shop/changed", "a=2", "7-x"),
                    labelled("shop/same", "a=1", "7-x"),
                    labelled("shop/new", "", "7-x"),
                    labelled("shop/adopted", "", "7-x"),
                    labelled("shop/back", "", "r1-x"),
                ],
                [],
            )
        };
        let past = past(vec![
            (service("shop/changed", ""), Some(labelled("shop/changed", "a=1", "3-x")), false),
            (service("shop/same", ""), Some(labelled("shop/same", "a=1", "3-x")), false),
            (service("shop/new", ""), None, false),
            (service("shop/gone", ""), Some(service("shop/gone", "")), false),
            (service("shop/adopted", ""), Some(service("shop/adopted", "")), true),
            // Deleted by its user and registered again since.
            (service("shop/back", ""), None, false),
        ]);
        let expected = [
            "Deleted adopted",
            "Configured changed metadata.labels.a",
            "Created gone",
            "Deleted new",
            "put changed",
            "put gone",
            "delete adopted",
            "delete new",
            "register adopted",
        ];
        assert_eq!(summary(&plan(&world, "mesh.local", &past, NOW)), expected);
    }

    #[test]
    fn one_revision_is_undone_save_what_was_written_over() {
        let world = world(
            [
                labelled("shop/mine", "a=2", "7-x"),
                labelled("shop/over", "a=3", "8-x"),
                labelled("shop/again", "", "8-x"),
            ],
            [],
        );
        let before = |name| Some(labelled(name, "a=1", "3-x"));
        let past = past(
            ["mine", "over", "again", "removed", "deleted"]
                .map(|name| format!("shop/{name}"))
                .iter()
                .map(|name| (service(name, ""), before(name), false))
                .collect(),
        );
        let change = |name: &str, kind: pb::ChangeKind| pb::Change {
            resource: resource::key(&service(name, "")).map(|key| key.to_pb()),
            kind: kind.into(),
            fields: Vec::new(),
        };
        // "again" was deleted and is there again; "removed" was changed and is gone since.
        let entry = pb::Revision {
            revision: 7,
            changes: vec![
                change("shop/again", pb::ChangeKind::Deleted),
                change("shop/deleted", pb::ChangeKind::Deleted),
            ],
            ..Default::default()
        };
        let (planned, over) = undo(&world, "mesh.local", &entry, past, NOW);
        let expected =
            ["Created deleted", "Configured mine metadata.labels.a", "put deleted", "put mine"];
        assert_eq!(summary(&planned), expected);
        let over: Vec<_> = over.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(over, ["again", "over", "removed"]);
    }
}
