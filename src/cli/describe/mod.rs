//! `outrigger describe`: one resource with everything that the mesh says of it: its conditions, for
//! whom it holds, and which sidecars run it.

mod endpoints;

use std::{process::ExitCode, time::SystemTime};

use tonic::Code;

use super::{
    get::one,
    output::{self, Failure, Output},
    remote::Remote,
    select::{self, Selection},
    words,
};
use crate::{
    clock,
    resource::{self, Kind, ResourceKey, pb},
};

const EXAMPLES: &str = "\
Examples:
  outrigger describe grpcroute orders -n shop
  outrigger describe tp/inventory";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// As grpcroute or gr; or KIND/NAME
    kind: String,
    /// Which ones
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    describe(args).await.map_err(|failure| failure.in_format(format))
}

async fn describe(args: Args) -> Result<ExitCode, Failure> {
    let Selection::Named(named) = select::parse(Some(&args.kind), &args.names)? else {
        return Err(Failure::usage("which one? outrigger describe KIND NAME"));
    };
    let connected = args.remote.connect()?;
    let namespace = args.namespace.as_deref().unwrap_or(&connected.namespace);
    let mut found = Vec::new();
    for (kind, name) in named {
        let key = ResourceKey::new(kind, namespace, name);
        let resource = one(&connected, &key).await.map_err(|status| match status.code() {
            Code::NotFound => Failure::say(format!("there is no {key}")),
            _ => connected.failed(&status),
        })?;
        let endpoints = match kind {
            Kind::Service => Some(endpoints::of_service(&connected, &key, clock::now()).await?),
            _ => None,
        };
        found.push((resource, endpoints));
    }
    let text = |(resource, endpoints): &(pb::Resource, Option<Vec<_>>)| {
        let endpoints = endpoints.as_ref().map_or_else(String::new, |it| endpoints::table(it));
        text(resource, &endpoints, clock::now())
    };
    let json = |(resource, endpoints): &(pb::Resource, Option<Vec<_>>)| {
        let mut json = resource::to_json(resource);
        if let Some(endpoints) = endpoints {
            json["status"]["endpoints"] = endpoints::json(endpoints);
        }
        json
    };
    args.output.format.print(
        || found.iter().map(text).collect::<Vec<_>>().join("\n"),
        || match found.as_slice() {
            [one] => json(one),
            all => serde_json::json!({
                "apiVersion": "v1",
                "kind": "List",
                "items": all.iter().map(json).collect::<Vec<_>>(),
            }),
        },
    )
}

fn text(resource: &pb::Resource, endpoints: &str, now: SystemTime) -> String {
    let metadata = resource.metadata.clone().unwrap_or_default();
    let mut text = resource::key(resource).map_or_else(String::new, |key| key.to_string());
    let created = words::time(metadata.creation_timestamp.as_ref());
    if let Some(age) = created.and_then(|created| now.duration_since(created).ok()) {
        text.push_str(&format!("   made {} ago", words::age(age)));
    }
    if !metadata.resource_version.is_empty() {
        text.push_str(&format!("   version {}", output::printable(&metadata.resource_version)));
    }
    text.push_str("\n\n");
    text.push_str(&spec(resource));
    let Some(status) = &resource.status else { return text };
    text.push_str(&conditions(status, now));
    text.push_str(&related(resource, status));
    text.push_str(endpoints);
    if !status.sidecars.is_empty() {
        text.push('\n');
        text.push_str(&sidecars(status, &metadata.resource_version, now));
    }
    text
}

/// As it would be written in a file, without what was said already.
fn spec(resource: &pb::Resource) -> String {
    let mut written = pb::Resource { status: None, ..resource.clone() };
    if let Some(metadata) = &mut written.metadata {
        metadata.resource_version.clear();
        metadata.creation_timestamp = None;
    }
    resource::to_yaml(&written)
}

/// Of the resource as a whole, then for each parent or target.
fn conditions(status: &pb::Status, now: SystemTime) -> String {
    let row = |whose: &str, condition: &pb::Condition| {
        vec![
            whose.to_owned(),
            condition.r#type.clone(),
            condition.status.clone(),
            words::time(condition.last_transition_time.as_ref())
                .and_then(|at| now.duration_since(at).ok())
                .map_or_else(|| "-".to_owned(), words::age),
            condition.reason.clone(),
            condition.message.clone(),
        ]
    };
    let mut rows: Vec<_> = status.conditions.iter().map(|it| row("all", it)).collect();
    for parent in status.parents.iter().chain(&status.ancestors) {
        let whose = parent.parent.as_ref().and_then(ResourceKey::from_pb);
        let whose = whose.map_or_else(|| "-".to_owned(), |key| key.to_string());
        rows.extend(parent.conditions.iter().map(|it| row(&whose, it)));
    }
    if rows.is_empty() {
        return String::new();
    }
    let headings = ["FOR", "CONDITION", "HOLDS", "SINCE", "REASON", "MESSAGE"];
    format!("\n{}", output::table(&headings, &[3], &rows))
}

/// What holds for a service, or for which services something holds.
fn related(resource: &pb::Resource, status: &pb::Status) -> String {
    let names: Vec<_> = status.related.iter().filter_map(ResourceKey::from_pb).collect();
    let (title, nothing) = match Kind::of(resource) {
        Some(Kind::Service) => ("holds for it", "no route and no policy"),
        Some(Kind::Workload) => ("serves", "no service"),
        Some(Kind::Mesh) | None => return String::new(),
        Some(_) => ("holds for", "no service"),
    };
    let names = match names.as_slice() {
        [] => nothing.to_owned(),
        names => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!("\n{title}: {}\n", output::printable(&names))
}

fn sidecars(status: &pb::Status, newest: &str, now: SystemTime) -> String {
    let row = |sidecar: &pb::SidecarVersion| {
        let behind = words::time(sidecar.behind_since.as_ref())
            .and_then(|since| now.duration_since(since).ok());
        let runs = match (sidecar.resource_version.as_str(), behind) {
            (version, _) if version == newest => "this version".to_owned(),
            (version, behind) => {
                let runs = if version.is_empty() { "not yet" } else { "an older version" };
                let behind = behind.map(|behind| format!(", for {}", words::age(behind)));
                format!("{runs}{}", behind.unwrap_or_default())
            }
        };
        let refused = sidecar.refused.first();
        let refused = refused.map_or("-", |problem| problem.message.as_str());
        vec![sidecar.workload.clone(), runs, refused.to_owned()]
    };
    let rows: Vec<_> = status.sidecars.iter().map(row).collect();
    output::table(&["SIDECAR", "RUNS", "REFUSED"], &[], &rows)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::text;
    use crate::resource::{Kind, ResourceKey, pb, yaml};

    #[test]
    fn a_description_says_what_it_is_whether_it_holds_and_who_runs_it() {
        let written = "\
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata:
  name: inventory
  namespace: shop
spec:
  targetRefs:
  - kind: Service
    name: inventory
";
        let mut resource = yaml::parse(written, "x").0.remove(0).resource;
        let metadata = resource.metadata.get_or_insert_default();
        metadata.resource_version = "42-a".to_owned();
        metadata.creation_timestamp = Some(prost_types::Timestamp { seconds: 1000, nanos: 0 });
        let condition = pb::Condition {
            r#type: "Programmed".to_owned(),
            status: "False".to_owned(),
            reason: "Refused".to_owned(),
            message: "refused by web-1: too old".to_owned(),
            last_transition_time: Some(prost_types::Timestamp { seconds: 2740, nanos: 0 }),
        };
        let sidecar = |workload: &str, version: &str, refused: &[&str]| pb::SidecarVersion {
            workload: workload.to_owned(),
            resource_version: version.to_owned(),
            refused: refused
                .iter()
                .map(|it| pb::Problem { message: (*it).to_owned(), ..Default::default() })
                .collect(),
            namespace: "shop".to_owned(),
            behind_since: (!refused.is_empty())
                .then_some(prost_types::Timestamp { seconds: 2788, nanos: 0 }),
        };
        let related = ["orders", "inventory"];
        let related = related.map(|name| ResourceKey::new(Kind::Service, "shop", name).to_pb());
        resource.status = Some(pb::Status {
            related: related.into(),
            conditions: vec![condition],
            sidecars: vec![
                sidecar("orders-1", "42-a", &[]),
                sidecar("web-1", "41-a", &["too old"]),
            ],
            ..Default::default()
        });
        let expected = format!(
            "TrafficPolicy shop/inventory   made 30m ago   version 42-a\n\n{written}\n\
             FOR  CONDITION   HOLDS  SINCE  REASON   MESSAGE\n\
             all  Programmed  False    60s  Refused  refused by web-1: too old\n\n\
             holds for: Service shop/orders, Service shop/inventory\n\n\
             SIDECAR   RUNS                       REFUSED\n\
             orders-1  this version               -\n\
             web-1     an older version, for 12s  too old\n"
        );
        let now = UNIX_EPOCH + Duration::from_secs(1000 + 1800);
        assert_eq!(text(&resource, "", now), expected);
    }
}
