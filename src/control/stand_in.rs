//! What a sidecar gets instead of an authorization policy that it would not understand in full: one that
//! denies everything to the same targets. Running less of a policy than was written could let in whom
//! it keeps out; so nobody gets in, the control plane says why, and an upgrade of the sidecar mends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{key, world::Resources};
use crate::resource::{
    Problem, ResourceKey,
    pb::{self, resource::Spec},
    understood,
};

/// How the version of a stand-in differs from that of what it stands for.
const MARK: &str = "+denied";

/// Puts stand-ins into what a sidecar of this program version is to be sent, which `known` says it
/// understands; returns for which, and what to say of each.
pub(crate) fn put(
    wanted: &mut Resources,
    known: &BTreeSet<String>,
    version: &str,
) -> BTreeMap<ResourceKey, Vec<pb::Problem>> {
    let mut put = BTreeMap::new();
    for (at, resource) in wanted.iter_mut() {
        let unknown = understood::unknown(resource, known);
        if unknown.is_empty() {
            continue;
        }
        let what = format!(
            "the sidecar ({version}) does not know {}; until it is upgraded it denies every call",
            unknown.join(", ")
        );
        put.insert(at.clone(), vec![Problem::error("spec", what).of(at).to_pb()]);
        *resource = Arc::new(stand_in(resource));
    }
    put
}

fn stand_in(policy: &pb::Resource) -> pb::Resource {
    let mut denies = policy.clone();
    if let Some(Spec::AuthorizationPolicy(spec)) = &mut denies.spec {
        spec.action = pb::AuthorizationAction::Deny.into();
        spec.rules = vec![pb::AuthorizationRule::default()];
        for target in &mut spec.target_refs {
            target.section_name.clear();
        }
    }
    let version = format!("{}{MARK}", key::version(policy));
    denies.metadata.get_or_insert_default().resource_version = version;
    denies
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::put;
    use crate::{
        control::{key, sample::resources},
        resource::{
            pb::{self, resource::Spec},
            understood,
        },
    };

    fn policy() -> pb::Resource {
        let target = pb::TargetRef {
            kind: "Service".to_owned(),
            name: "payments".to_owned(),
            ..Default::default()
        };
        let policy = pb::AuthorizationPolicy {
            target_refs: vec![target],
            action: pb::AuthorizationAction::Audit.into(),
            rules: Vec::new(),
        };
        let metadata = pb::Metadata {
            name: "payments".to_owned(),
            namespace: "shop".to_owned(),
            resource_version: "7".to_owned(),
            ..Default::default()
        };
        pb::Resource {
            metadata: Some(metadata),
            spec: Some(Spec::AuthorizationPolicy(policy)),
            ..Default::default()
        }
    }

    #[test]
    fn a_policy_that_is_not_understood_denies_everything_and_says_why() {
        let mut known = understood::known();
        let mut wanted = resources([policy()]);
        assert!(put(&mut wanted, &known, "0.2.0").is_empty());
        assert_eq!(wanted, resources([policy()]));

        known.remove("action=3");
        let said = put(&mut wanted, &known, "0.1.0");
        let (at, problems) = said.first_key_value().expect("one");
        assert!(problems[0].message.contains("(0.1.0) does not know action=3"), "{problems:?}");
        let sent = &wanted[at];
        assert_eq!(key::version(sent), "7+denied");
        let Some(Spec::AuthorizationPolicy(sent)) = &sent.spec else { unreachable!("a policy") };
        assert_eq!(sent.action(), pb::AuthorizationAction::Deny);
        assert_eq!(sent.rules, [pb::AuthorizationRule::default()]);
        assert_eq!(sent.target_refs[0].name, "payments");
        assert!(put(&mut resources([]), &BTreeSet::new(), "").is_empty());
    }
}
