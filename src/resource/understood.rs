//! Which fields of a policy a program knows. Protobuf drops unknown fields without a word, so that an
//! older sidecar would run less of a policy than was written and say that it runs it. A sidecar
//! therefore says which fields it knows, and the control plane sends it no policy that has others.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::{
    descriptors,
    pb::{self, resource::Spec},
};

/// The message whose fields matter: one that is not known lets through what it should not.
const POLICY: &str = "outrigger.v1.AuthorizationPolicy";
/// Messages in messages; none of ours nests so deep.
const DEPTH_MAX: usize = 16;

/// What a sidecar knows that does not say what it knows: the fields of the first version.
const FIRST: [&str; 18] = [
    "action",
    "action=1",
    "action=2",
    "action=3",
    "rules",
    "rules.from",
    "rules.from.identities",
    "rules.from.namespaces",
    "rules.from.services",
    "rules.to",
    "rules.to.grpc",
    "rules.to.http",
    "rules.to.http.methods",
    "rules.to.http.paths",
    "target_refs",
    "target_refs.group",
    "target_refs.kind",
    "target_refs.name",
];

/// Every field of an authorization policy, and every value of its enumerations, that this program
/// knows: `rules.from.services`, `action=2`.
pub fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    fields(&descriptors::message(POLICY), "", DEPTH_MAX, &mut known);
    known
}

/// What a sidecar that says this in its hello knows.
pub fn known_to(said: &[String]) -> BTreeSet<String> {
    if said.is_empty() {
        return FIRST.map(str::to_owned).into();
    }
    said.iter().cloned().collect()
}

/// What an authorization policy has that is not among `known`; empty for every other kind.
pub fn unknown(resource: &pb::Resource, known: &BTreeSet<String>) -> Vec<String> {
    let Some(Spec::AuthorizationPolicy(policy)) = &resource.spec else { return Vec::new() };
    let bytes = policy.encode_to_vec();
    let message = DynamicMessage::decode(descriptors::message(POLICY), bytes.as_slice());
    let mut used = BTreeSet::new();
    match message {
        Ok(message) => walk(&message, "", DEPTH_MAX, &mut used),
        Err(_) => return vec![POLICY.to_owned()],
    }
    used.difference(known).cloned().collect()
}

fn path(above: &str, field: &FieldDescriptor) -> String {
    if above.is_empty() { field.name().to_owned() } else { format!("{above}.{}", field.name()) }
}

fn fields(of: &MessageDescriptor, above: &str, depth: usize, known: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for field in of.fields() {
        let path = path(above, &field);
        match field.kind() {
            Kind::Message(message) => fields(&message, &path, depth, known),
            Kind::Enum(values) => {
                let named = values.values().map(|value| format!("{path}={}", value.number()));
                known.extend(named);
            }
            _ => {}
        }
        known.insert(path);
    }
}

fn walk(message: &DynamicMessage, above: &str, depth: usize, used: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for (field, value) in message.fields() {
        let path = path(above, &field);
        value_of(value, &path, depth, used);
        used.insert(path);
    }
    // Of a newer program than this one: nobody here knows what it means.
    if message.unknown_fields().next().is_some() {
        used.insert(format!("{above}.?"));
    }
}

fn value_of(value: &Value, path: &str, depth: usize, used: &mut BTreeSet<String>) {
    match value {
        Value::Message(message) => walk(message, path, depth, used),
        Value::List(list) => list.iter().for_each(|value| value_of(value, path, depth, used)),
        Value::Map(map) => map.values().for_each(|value| value_of(value, path, depth, used)),
        Value::EnumNumber(number) => {
            used.insert(format!("{path}={number}"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, known, known_to, unknown};
    use crate::resource::pb::{self, resource::Spec};

    fn policy() -> pb::Resource {
        let rule = pb::AuthorizationRule {
            from: vec![pb::AuthorizationSource {
                services: vec!["orders".to_owned()],
                ..Default::default()
            }],
            to: Vec::new(),
        };
        let policy = pb::AuthorizationPolicy {
            action: pb::AuthorizationAction::Deny.into(),
            rules: vec![rule],
            ..Default::default()
        };
        pb::Resource { spec: Some(Spec::AuthorizationPolicy(policy)), ..Default::default() }
    }

    #[test]
    fn what_a_program_does_not_know_is_named() {
        let mut known = known();
        for field in FIRST {
            assert!(known.contains(field), "{field} in {known:?}");
        }
        assert!(unknown(&policy(), &known).is_empty());
        assert!(unknown(&policy(), &known_to(&[])).is_empty(), "the first version knows it");
        assert!(unknown(&pb::Resource::default(), &known_to(&["x".to_owned()])).is_empty());
        known.remove("rules.from.services");
        known.remove("action=2");
        assert_eq!(unknown(&policy(), &known), ["action=2", "rules.from.services"]);
    }
}
