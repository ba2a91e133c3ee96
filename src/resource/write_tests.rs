//! What is written is read back as it was.

use super::{to_json, to_yaml};
use crate::resource::{
    pb,
    samples::{GATEWAY, OURS},
    yaml::{check, parse},
};

fn samples() -> Vec<pb::Resource> {
    let mut resources = Vec::new();
    for (text, count) in [(OURS, 5), (GATEWAY, 2)] {
        let (parsed, problems) = parse(text, "mesh.yaml");
        assert_eq!(problems, [], "{text}");
        let said: Vec<_> = check(&parsed).into_iter().map(|problem| problem.field).collect();
        let expected: &[&str] = if count == 2 { &["spec.hostnames"] } else { &[] };
        assert_eq!(said, expected, "{text}");
        assert_eq!(parsed.len(), count);
        resources.extend(parsed.into_iter().map(|one| one.resource));
    }
    resources
}

fn read_back(text: &str) -> pb::Resource {
    let (mut parsed, problems) = parse(text, "again.yaml");
    assert_eq!(problems, [], "{text}");
    assert_eq!(parsed.len(), 1, "{text}");
    parsed.remove(0).resource
}

#[test]
fn every_sample_survives_yaml_and_json() {
    for resource in samples() {
        let yaml = to_yaml(&resource);
        assert_eq!(read_back(&yaml), resource, "{yaml}");
        let json = to_json(&resource).to_string();
        assert_eq!(read_back(&json), resource, "{json}");
    }
}

#[test]
fn the_envelope_stands_first_and_words_are_those_of_users() {
    let yaml = to_yaml(&samples()[2]);
    let start = "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata:\n";
    assert!(yaml.starts_with(start), "{yaml}");
    for line in ["policy: PeakEwma", "maxEjected: 50%", "per: Destination", "attempt: 500ms"] {
        assert!(yaml.contains(line), "{line}: {yaml}");
    }
}

#[test]
fn texts_that_look_like_something_else_stay_texts() {
    let words = [
        "true",
        "null",
        "~",
        "",
        "1",
        "1.5",
        "0x1f",
        "yes",
        "on",
        "- a",
        "a: b",
        "# c",
        " x ",
        "x\ny",
        "é\t\"'",
        "*a",
        "&a",
        "!t",
        "%d",
        "@x",
        "{",
        "[",
        "1e3",
        ".inf",
        "2026-11-23",
        "-",
    ];
    let long = ["long words ".repeat(40), "a".repeat(500), format!("{}\n\n  b\n", "c ".repeat(99))];
    let words = words.into_iter().chain(long.iter().map(String::as_str)).collect::<Vec<_>>();
    let annotations =
        words.iter().enumerate().map(|(i, word)| (format!("k{i}"), (*word).to_owned())).collect();
    let metadata = pb::Metadata { name: "mesh".to_owned(), annotations, ..Default::default() };
    let spec = pb::resource::Spec::Mesh(pb::Mesh::default());
    let resource =
        pb::Resource { metadata: Some(metadata), spec: Some(spec), ..Default::default() };
    for text in [to_yaml(&resource), to_json(&resource).to_string()] {
        assert_eq!(read_back(&text), resource, "{text}");
    }
}

#[test]
fn what_the_mesh_adds_is_shown_and_taken_back_without_a_word() {
    let mut resource = samples().remove(0);
    let plain = resource.clone();
    let meta = resource.metadata.as_mut().expect("metadata");
    meta.resource_version = "42".to_owned();
    meta.creation_timestamp = Some(prost_types::Timestamp { seconds: 1_795_435_200, nanos: 0 });
    let condition = pb::Condition {
        r#type: "Accepted".to_owned(),
        status: "True".to_owned(),
        ..Default::default()
    };
    let refused = pb::Problem { severity: pb::Severity::Error.into(), ..Default::default() };
    let sidecars = vec![pb::SidecarVersion { refused: vec![refused], ..Default::default() }];
    resource.status =
        Some(pb::Status { conditions: vec![condition], sidecars, ..Default::default() });
    let json = to_json(&resource);
    assert_eq!(json["metadata"]["creationTimestamp"], "2026-11-23T12:00:00Z");
    assert_eq!(json["metadata"]["resourceVersion"], "42");
    assert_eq!(json["status"]["conditions"][0]["status"], "True");
    assert_eq!(json["status"]["sidecars"][0]["refused"][0]["severity"], "Error");
    assert_eq!(read_back(&json.to_string()), plain);
    assert_eq!(read_back(&to_yaml(&resource)), plain);
}
