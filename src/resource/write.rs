//! From messages to what users read: the envelope with `apiVersion`, `kind`, `metadata`, `spec` and
//! `status`, fields in the order of the messages, enumerations in PascalCase. What was not set is
//! left out, so that reading it again gives the same message.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as FieldKind, MapKey, Value};
use serde::{Serialize, Serializer};

use super::{
    Kind, pb,
    yaml::{enum_words, resource_descriptor},
};

/// A resource as JSON, with keys in the order of the alphabet. A resource without a spec has no
/// kind, and none here.
pub fn to_json(resource: &pb::Resource) -> serde_json::Value {
    serde_json::to_value(tree(resource)).expect("keys are texts, and numbers are finite")
}

/// A resource as one YAML document without `---`, with keys in the order of the messages.
pub fn to_yaml(resource: &pb::Resource) -> String {
    serde_saphyr::to_string(&tree(resource)).expect("writing to a String does not fail")
}

/// What is written, in the order in which it is written.
#[derive(Debug, PartialEq)]
enum Tree {
    Map(Vec<(String, Self)>),
    List(Vec<Self>),
    Text(String),
    Bool(bool),
    Integer(i64),
    Float(f64),
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(k, v)| (k, v))),
            Self::List(items) => serializer.collect_seq(items),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
        }
    }
}

fn tree(resource: &pb::Resource) -> Tree {
    let mut message = DynamicMessage::new(resource_descriptor());
    message.transcode_from(resource).expect("both are made from the same proto/");
    let mut entries = Vec::new();
    if let Some(kind) = Kind::of(resource) {
        entries.push(("apiVersion".to_owned(), Tree::Text(kind.api_version().to_owned())));
        entries.push(("kind".to_owned(), Tree::Text(kind.name().to_owned())));
    }
    for (field, value) in message.fields() {
        let name = if field.containing_oneof().is_some() { "spec" } else { field.json_name() };
        entries.push((name.to_owned(), value_tree(value, &field.kind())));
    }
    Tree::Map(entries)
}

fn message_tree(message: &DynamicMessage) -> Tree {
    let entry = |(field, value): (FieldDescriptor, &Value)| {
        let kind = field.kind();
        let tree = match (&kind, value) {
            (FieldKind::Message(entry), Value::Map(map)) => {
                let kind = entry.map_entry_value_field().kind();
                let mut entries = map
                    .iter()
                    .map(|(key, value)| (key_text(key), value_tree(value, &kind)))
                    .collect::<Vec<_>>();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                Tree::Map(entries)
            }
            _ => value_tree(value, &kind),
        };
        (field.json_name().to_owned(), tree)
    };
    Tree::Map(message.fields().map(entry).collect())
}

fn value_tree(value: &Value, kind: &FieldKind) -> Tree {
    match value {
        Value::Bool(value) => Tree::Bool(*value),
        Value::I32(number) => Tree::Integer(i64::from(*number)),
        Value::U32(number) => Tree::Integer(i64::from(*number)),
        Value::I64(number) => Tree::Integer(*number),
        Value::U64(number) => Tree::Text(number.to_string()),
        Value::F32(number) => Tree::Float(f64::from(*number)),
        Value::F64(number) => Tree::Float(*number),
        Value::String(text) => Tree::Text(text.clone()),
        Value::Bytes(bytes) => Tree::Text(String::from_utf8_lossy(bytes).into_owned()),
        Value::EnumNumber(number) => enum_tree(*number, kind),
        Value::Message(message) => timestamp(message).unwrap_or_else(|| message_tree(message)),
        Value::List(items) => Tree::List(items.iter().map(|item| value_tree(item, kind)).collect()),
        // Only fields are maps, and they are handled there.
        Value::Map(_) => Tree::Map(Vec::new()),
    }
}

fn enum_tree(number: i32, kind: &FieldKind) -> Tree {
    let words = kind.as_enum().map(enum_words).unwrap_or_default();
    let word = words.into_iter().find(|(_, other)| *other == number);
    word.map_or_else(|| Tree::Integer(i64::from(number)), |(word, _)| Tree::Text(word))
}

/// RFC 3339, as Kubernetes writes it.
fn timestamp(message: &DynamicMessage) -> Option<Tree> {
    let timestamp = message.transcode_to::<prost_types::Timestamp>().ok();
    let named = prost_reflect::ReflectMessage::descriptor(message);
    (named.full_name() == "google.protobuf.Timestamp")
        .then(|| Tree::Text(timestamp.unwrap_or_default().to_string()))
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
