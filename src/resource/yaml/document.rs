//! One document: Kubernetes' envelope around a spec.

use std::sync::Arc;

use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};

use super::{
    Parsed,
    decode::{Decoder, key_text},
    source::{File, Source},
    tree::{Content, Node},
};
use crate::resource::{Kind, Problem, ResourceKey, check, descriptors, pb, report::meant};

/// The descriptor of `Resource`.
pub(in crate::resource) fn resource_descriptor() -> MessageDescriptor {
    descriptors::message("outrigger.v1.Resource")
}

/// Fields of the envelope that users write, and the one that the mesh writes.
const ENVELOPE: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// What the API server adds and `get -o yaml` therefore shows: taken back without a word.
const METADATA_IGNORED: [&str; 5] =
    ["resourceVersion", "creationTimestamp", "uid", "generation", "managedFields"];
/// Kinds that the mesh knows by name and does not run yet.
const KINDS_NOT_RUN: [&str; 8] = [
    "Gateway",
    "GatewayClass",
    "ReferenceGrant",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "BackendTLSPolicy",
    "Authentication",
];

/// Reads one document; `None` when it is refused, or empty. A `List` has several resources.
pub(super) fn read(file: &Arc<File>, node: Node) -> (Vec<Parsed>, Vec<Problem>) {
    let items = match node.entry("items") {
        Some((_, items)) if kind_text(&node) == Some("List") => match &items.content {
            Content::List(items) => Some(items.clone()),
            Content::Scalar(_) | Content::Map(_) => None,
        },
        _ => None,
    };
    let (mut parsed, mut problems) = (Vec::new(), Vec::new());
    for node in items.unwrap_or_else(|| vec![node]) {
        let (one, found) = read_resource(file, node);
        parsed.extend(one);
        problems.extend(found);
    }
    (parsed, problems)
}

fn read_resource(file: &Arc<File>, node: Node) -> (Option<Parsed>, Vec<Problem>) {
    let mut decoder = Decoder::new(file);
    for (key, _) in decoder.entries("", &node) {
        if !ENVELOPE.contains(&key_text(key)) {
            decoder.unknown("", key, &ENVELOPE[..4]);
        }
    }
    let kind = matches!(node.content, Content::Map(_)).then(|| read_kind(&mut decoder, &node));
    let Some(kind) = kind.flatten() else { return (None, decoder.problems) };
    let resource = read_parts(&mut decoder, &node, kind);
    let key = read_key(&node, kind);
    let mut problems = decoder.problems;
    for problem in &mut problems {
        problem.resource = Some(key.clone());
    }
    let source = Source::new(file, node);
    if problems.is_empty() {
        return (Some(Parsed { resource, source }), problems);
    }
    // The document is refused; what else is wrong with it is said now, because nobody will ask
    // later, but not what follows from what was said.
    let further = check(&resource).into_iter().filter(|problem| !follows(problem, &problems));
    let further = further.map(|problem| source.locate(problem)).collect::<Vec<_>>();
    problems.extend(further);
    (None, problems)
}

/// Whether a problem may only be the consequence of a part that could not be read.
fn follows(problem: &Problem, unread: &[Problem]) -> bool {
    unread.iter().any(|cause| {
        let (a, b) = (&*problem.field, &*cause.field);
        let parent = |path: &str| path.rfind(['.', '[']).map_or(0, |end| end);
        let missing = problem.value.is_empty() && a.starts_with(&b[..parent(b)]);
        missing || a.starts_with(b) || b.starts_with(a)
    })
}

fn kind_text(node: &Node) -> Option<&str> {
    node.entry("kind").and_then(|(_, kind)| kind.text())
}

fn read_kind(decoder: &mut Decoder<'_>, node: &Node) -> Option<Kind> {
    let Some((mark, text)) = node.entry("kind").and_then(|(_, k)| Some((k.mark, k.text()?))) else {
        let names = Kind::ALL.map(Kind::name).join(", ");
        decoder.problem(node.mark, Problem::error("kind", "is missing").with_hint(names));
        return None;
    };
    let Some(kind) = Kind::from_name(text) else {
        let problem = if KINDS_NOT_RUN.contains(&text) {
            Problem::error("kind", format!("not run by this version: {text}"))
        } else {
            Problem::error("kind", "unknown kind")
                .with_hint(meant(text, Kind::ALL.iter().map(|kind| kind.name())))
        };
        decoder.problem(mark, problem.with_value(text));
        return None;
    };
    let version = node.entry("apiVersion").map(|(_, version)| version);
    if version.and_then(Node::text) != Some(kind.api_version()) {
        let problem = match version.and_then(Node::text) {
            None => Problem::error("apiVersion", "is missing"),
            Some(text) => {
                Problem::error("apiVersion", format!("not that of {kind}")).with_value(text)
            }
        };
        let mark = version.map_or(node.mark, |version| version.mark);
        decoder.problem(mark, problem.with_hint(kind.api_version()));
    }
    Some(kind)
}

fn read_parts(decoder: &mut Decoder<'_>, node: &Node, kind: Kind) -> pb::Resource {
    let mut message = DynamicMessage::new(resource_descriptor());
    let parts: [(&str, &str, &[&str]); 2] =
        [("metadata", "metadata", &METADATA_IGNORED), ("spec", kind.field(), &[])];
    for (name, field, ignored) in parts {
        let field = message.descriptor().get_field_by_name(field).expect("proto/ has it");
        let prost_reflect::Kind::Message(descriptor) = field.kind() else { continue };
        let value = match node.entry(name) {
            // What is missing in them is said by `check`.
            Some((_, value)) if !value.is_null() => {
                decoder.message(name, value, &descriptor, ignored)
            }
            _ => DynamicMessage::new(descriptor),
        };
        message.set_field(&field, Value::Message(value));
    }
    message.transcode_to().expect("both are made from the same proto/")
}

/// What the resource is called, as far as it can be read.
fn read_key(node: &Node, kind: Kind) -> ResourceKey {
    let meta = node.entry("metadata").map(|(_, meta)| meta);
    let text = |key| meta.and_then(|meta| meta.entry(key)).and_then(|(_, value)| value.text());
    ResourceKey::new(kind, text("namespace").unwrap_or(""), text("name").unwrap_or("?"))
}
