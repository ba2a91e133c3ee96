//! From nodes to messages by their descriptors: one reader for every kind there is and will be.
//! Names are those of protobuf's JSON (lowerCamelCase), enumerations PascalCase without the prefix
//! that protobuf wants. It goes on after a problem, so that a person sees all of them at once.

use std::collections::{HashMap, HashSet};

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::{
    source::File,
    tree::{Content, Mark, Node, Scalar},
};
use crate::resource::{
    Problem,
    report::{entry_segment, meant},
};

/// Reads nodes of one document.
pub(super) struct Decoder<'f> {
    file: &'f File,
    pub(super) problems: Vec<Problem>,
}

impl<'f> Decoder<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self { file, problems: Vec::new() }
    }

    /// Notes a problem at a place.
    pub(super) fn problem(&mut self, mark: Mark, problem: Problem) {
        let at = Some(self.file.location(mark));
        self.problems.push(Problem { at, ..problem });
    }

    fn wrong(&mut self, path: &str, node: &Node, message: &str, hint: &str) {
        let value = node.text().unwrap_or_default();
        let problem = Problem::error(path, message).with_value(value).with_hint(hint);
        self.problem(node.mark, problem);
    }

    /// The entries of a map by their keys; duplicates are refused and left out.
    pub(super) fn entries<'n>(&mut self, path: &str, node: &'n Node) -> Vec<(&'n Node, &'n Node)> {
        let Content::Map(entries) = &node.content else {
            self.wrong(path, node, "not a map", "name: value");
            return Vec::new();
        };
        let mut seen = HashSet::new();
        let mut unique = Vec::new();
        for (key, value) in entries {
            let name = key_text(key);
            if seen.insert(name) {
                unique.push((key, value));
            } else {
                let field = join(path, name);
                let problem = Problem::error(field, "stands twice").with_value(name);
                self.problem(key.mark, problem.with_hint("one of the two"));
            }
        }
        unique
    }

    /// Refuses a key that no field has.
    pub(super) fn unknown(&mut self, path: &str, key: &Node, known: &[&str]) {
        let name = key_text(key);
        let problem = Problem::error(join(path, name), "unknown field").with_value(name);
        self.problem(key.mark, problem.with_hint(meant(name, known.iter().copied())));
    }

    /// Reads a message. Fields of `ignored` are known and dropped.
    pub(super) fn message(
        &mut self,
        path: &str,
        node: &Node,
        descriptor: &MessageDescriptor,
        ignored: &[&str],
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (key, value) in self.entries(path, node) {
            let name = key_text(key);
            if ignored.contains(&name) {
                continue;
            }
            let Some(field) = descriptor.get_field_by_json_name(name) else {
                let fields = descriptor.fields().collect::<Vec<_>>();
                let known = fields.iter().map(FieldDescriptor::json_name);
                let known = known.filter(|name| !ignored.contains(name)).collect::<Vec<_>>();
                self.unknown(path, key, &known);
                continue;
            };
            // As in Kubernetes, nothing is the same as leaving it out.
            if !value.is_null()
                && let Some(value) = self.field(&join(path, name), value, &field)
            {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, path: &str, node: &Node, field: &FieldDescriptor) -> Option<Value> {
        if field.is_map() {
            return self.map(path, node, field);
        }
        if !field.is_list() {
            return self.value(path, node, &field.kind());
        }
        let Content::List(items) = &node.content else {
            let hint = node.text().map_or_else(String::new, |text| format!("[{text}]"));
            self.wrong(path, node, "not a list", &hint);
            return None;
        };
        let kind = field.kind();
        let read = |(i, item)| self.value(&format!("{path}[{i}]"), item, &kind);
        let values = items.iter().enumerate().map(read).collect::<Vec<_>>();
        // Items that could not be read keep their places, so that later problems name the right one.
        let blank = || Value::default_value(&kind);
        Some(Value::List(values.into_iter().map(|value| value.unwrap_or_else(blank)).collect()))
    }

    fn map(&mut self, path: &str, node: &Node, field: &FieldDescriptor) -> Option<Value> {
        let Kind::Message(entry) = field.kind() else { return None };
        let kind = entry.map_entry_value_field().kind();
        let mut map = HashMap::new();
        for (key, value) in self.entries(path, node) {
            let name = key_text(key);
            if let Some(value) = self.value(&join(path, name), value, &kind) {
                map.insert(MapKey::String(name.to_owned()), value);
            }
        }
        Some(Value::Map(map))
    }

    fn value(&mut self, path: &str, node: &Node, kind: &Kind) -> Option<Value> {
        if let Kind::Message(descriptor) = kind {
            return Some(Value::Message(self.message(path, node, descriptor, &[])));
        }
        let Content::Scalar(scalar) = &node.content else {
            self.wrong(path, node, &format!("not {}", noun(kind)), "");
            return None;
        };
        let read = match kind {
            Kind::String => read_string(scalar, path),
            Kind::Enum(descriptor) => read_enum(scalar, descriptor),
            _ => read_plain(scalar, kind),
        };
        read.map_err(|(message, hint)| self.wrong(path, node, &message, &hint)).ok()
    }
}

type Refusal = (String, String);

/// Fields whose numbers have a unit, by the end of their paths; a number alone is the commonest
/// mistake there, and quoting it mends nothing.
const UNITS: [(&[&str], &str); 3] = [
    (&["sampling", "ratio", "maxEjected"], "%"),
    (&["minRate", "maxPerSecond"], "/s"),
    (
        &[
            "connect",
            "request",
            "attempt",
            "streamIdle",
            "maxStream",
            "base",
            "max",
            "interval",
            "maxWait",
            "baseEjection",
            "backoff",
            "backendRequest",
        ],
        "s",
    ),
];

/// How a number would be written in a field of text.
fn with_unit(text: &str, path: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or_default();
    let unit = UNITS.iter().find(|(names, _)| names.contains(&name));
    unit.map_or_else(|| format!("\"{text}\""), |(_, unit)| format!("{text}{unit}"))
}

fn read_string(scalar: &Scalar, path: &str) -> Result<Value, Refusal> {
    let text = &*scalar.text;
    if scalar.is_null() {
        return Err(("is missing".to_owned(), "\"\" is an empty text".to_owned()));
    }
    if scalar.plain && (is_bool(text).is_some() || is_number(text)) {
        let hint = match is_bool(text) {
            Some(_) => format!("\"{text}\""),
            None => with_unit(text, path),
        };
        return Err(("not a text".to_owned(), hint));
    }
    Ok(Value::String(text.to_owned()))
}

/// A number or a truth value, which is never quoted.
fn read_plain(scalar: &Scalar, kind: &Kind) -> Result<Value, Refusal> {
    let text = &*scalar.text;
    let parsed = match kind {
        Kind::Bool => is_bool(text).map(Value::Bool),
        Kind::Uint32 | Kind::Fixed32 => text.parse().ok().map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => text.parse().ok().map(Value::U64),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().ok().map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().ok().map(Value::I64),
        Kind::Double => text.parse().ok().map(Value::F64),
        Kind::Float => text.parse().ok().map(Value::F32),
        Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Enum(_) => None,
    };
    let quoted = !scalar.plain && parsed.is_some();
    let hint = if quoted { format!("{text} without quotes") } else { range(kind).to_owned() };
    parsed.filter(|_| scalar.plain).ok_or_else(|| (format!("not {}", noun(kind)), hint))
}

fn read_enum(scalar: &Scalar, descriptor: &EnumDescriptor) -> Result<Value, Refusal> {
    let words = enum_words(descriptor);
    let found = words.iter().find(|(word, _)| **word == *scalar.text);
    found.map(|(_, number)| Value::EnumNumber(*number)).ok_or_else(|| {
        let hint = meant(&scalar.text, words.iter().map(|(word, _)| &**word));
        (format!("not one of the values of {}", descriptor.name()), hint)
    })
}

/// The words of an enumeration as users write them, with their numbers: `ENUM_PREFIX_PEAK_EWMA` is
/// `PeakEwma`. What stands for "not set" is left out.
pub(in crate::resource) fn enum_words(descriptor: &EnumDescriptor) -> Vec<(String, i32)> {
    let zero = descriptor.default_value();
    let prefix = zero.name().trim_end_matches("UNSPECIFIED");
    let values = descriptor.values().filter(|value| value.number() != 0);
    values
        .map(|value| {
            let name = value.name().strip_prefix(prefix).unwrap_or_else(|| value.name());
            (name.split('_').map(capitalized).collect(), value.number())
        })
        .collect()
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters.map(|c| c.to_ascii_lowercase())).collect()
}

fn is_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// YAML's core schema (1.2, 10.3.2).
fn is_number(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let special =
        matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN");
    let based = |prefix, base| {
        text.strip_prefix(prefix).is_some_and(|digits: &str| {
            !digits.is_empty() && digits.chars().all(|c| c.is_digit(base))
        })
    };
    let decimal = body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.contains(|c: char| c.is_ascii_digit())
        && body.parse::<f64>().is_ok();
    special || based("0x", 16) || based("0o", 8) || decimal
}

fn noun(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::String | Kind::Bytes => "a text",
        Kind::Enum(_) => "a word",
        Kind::Message(_) => "a map",
        Kind::Double | Kind::Float => "a number",
        _ => "a whole number",
    }
}

fn range(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false, without quotes",
        Kind::Uint32 | Kind::Fixed32 => "0 to 4294967295",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "-2147483648 to 2147483647",
        _ => "",
    }
}

/// The text of a key; nothing written is an empty one.
pub(super) fn key_text(key: &Node) -> &str {
    match &key.content {
        Content::Scalar(scalar) => &scalar.text,
        Content::List(_) | Content::Map(_) => "",
    }
}

/// The path of an entry.
pub(super) fn join(path: &str, key: &str) -> String {
    let segment = entry_segment(key);
    match path {
        "" => segment.trim_start_matches('.').to_owned(),
        path => format!("{path}{segment}"),
    }
}
