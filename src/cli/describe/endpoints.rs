//! The endpoints of a service: where each is, whether it takes calls, and why not.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{
    cli::{
        get::Filter,
        output::{self, Failure},
        remote::Connected,
        status::endpoints::cause,
        words,
    },
    resource::{self, Kind, ResourceKey, pb, pb::resource::Spec},
};

/// One endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) zone: String,
    pub(super) weight: u32,
    /// `ready`, `starting`
    pub(super) state: &'static str,
    /// Why it takes no calls, and who leaves it alone.
    pub(super) why: String,
}

/// Those of one service, by name.
pub(super) async fn of_service(
    connected: &Connected,
    service: &ResourceKey,
    now: SystemTime,
) -> Result<Vec<Endpoint>, Failure> {
    let namespace = Some(service.namespace.as_str());
    let all = Filter { kinds: &[Kind::Workload], namespace, selector: "" };
    let workloads = all.fetch(connected).await?;
    let request = pb::StatusRequest::default();
    let status = connected.client.config().status(request).await;
    let status = status.map_err(|status| connected.failed(&status))?.into_inner();
    Ok(join(&workloads, &status, service, now))
}

fn join(
    workloads: &[pb::Resource],
    status: &pb::StatusResponse,
    service: &ResourceKey,
    now: SystemTime,
) -> Vec<Endpoint> {
    let sidecars = status.sidecars.iter().filter(|it| it.namespace == service.namespace);
    let sidecars: BTreeMap<_, _> = sidecars.map(|it| (it.workload.as_str(), it)).collect();
    let own =
        |it: &&pb::ServiceStatus| (&it.name, &it.namespace) == (&service.name, &service.namespace);
    let ejected = status.services.iter().find(own).map_or(&[][..], |it| &it.ejected);
    let endpoint = |workload: &pb::Resource| {
        let key = resource::key(workload)?;
        let related = &workload.status.as_ref()?.related;
        related.iter().any(|it| ResourceKey::from_pb(it).as_ref() == Some(service)).then_some(())?;
        let Some(Spec::Workload(spec)) = &workload.spec else { return None };
        let sidecar = sidecars.get(key.name.as_str()).copied();
        let ejection = ejected.iter().find(|it| it.endpoint == key.name);
        let (state, why) = state(spec, sidecar, ejection, now);
        let address = match spec.inbound {
            0 => spec.address.clone(),
            inbound if spec.address.contains(':') => format!("[{}]:{inbound}", spec.address),
            inbound => format!("{}:{inbound}", spec.address),
        };
        let (name, zone) = (key.name, spec.zone.clone());
        Some(Endpoint { name, address, zone, weight: spec.weight.unwrap_or(1), state, why })
    };
    workloads.iter().filter_map(endpoint).collect()
}

fn state(
    spec: &pb::Workload,
    sidecar: Option<&pb::SidecarStatus>,
    ejection: Option<&pb::Ejection>,
    now: SystemTime,
) -> (&'static str, String) {
    let application = sidecar.map_or("", |sidecar| &sidecar.application);
    if spec.ready == Some(false) {
        let phase = sidecar.map(pb::SidecarStatus::phase);
        let (state, why) = match phase {
            Some(pb::WorkloadPhase::Draining) => ("draining", ""),
            Some(pb::WorkloadPhase::Starting) => ("starting", application),
            None => ("not ready", "its sidecar is not connected"),
            Some(_) => ("not ready", application),
        };
        return (state, why.to_owned());
    }
    if let Some(ejection) = ejection {
        let sidecars = usize::try_from(ejection.sidecars).unwrap_or(usize::MAX);
        let until = words::time(ejection.until.as_ref());
        let until = until
            .map_or_else(String::new, |at| format!(", tried again {}", words::clock_time(at, now)));
        let why = format!(
            "{}x {} to {}{until}",
            ejection.failures,
            cause(&ejection.cause),
            words::count(sidecars, "sidecar")
        );
        return ("ejected", why);
    }
    if spec.weight == Some(0) {
        return ("weightless", String::new());
    }
    ("ready", String::new())
}

pub(super) fn table(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "\nendpoints: none\n".to_owned();
    }
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let row = |it: &Endpoint| {
        let zone = dash(&it.zone);
        let weight = it.weight.to_string();
        vec![it.name.clone(), it.address.clone(), zone, weight, it.state.to_owned(), dash(&it.why)]
    };
    let rows: Vec<_> = endpoints.iter().map(row).collect();
    let headings = ["ENDPOINT", "ADDRESS", "ZONE", "WEIGHT", "STATE", "WHY"];
    format!("\n{}", output::table(&headings, &[3], &rows))
}

pub(super) fn json(endpoints: &[Endpoint]) -> serde_json::Value {
    let one = |it: &Endpoint| {
        serde_json::json!({
            "name": it.name,
            "address": it.address,
            "zone": it.zone,
            "weight": it.weight,
            "state": it.state,
            "why": it.why,
        })
    };
    endpoints.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{join, table};
    use crate::resource::{Kind, ResourceKey, pb, pb::resource::Spec};

    fn workload(name: &str, ready: bool, serves: &str) -> pb::Resource {
        let spec = pb::Workload {
            service: "orders".to_owned(),
            address: "10.0.0.7".to_owned(),
            inbound: 15006,
            ready: Some(ready),
            ..Default::default()
        };
        let (name, namespace) = (name.to_owned(), "shop".to_owned());
        let related = vec![ResourceKey::new(Kind::Service, "shop", serves).to_pb()];
        pb::Resource {
            metadata: Some(pb::Metadata { name, namespace, ..Default::default() }),
            spec: Some(Spec::Workload(spec)),
            status: Some(pb::Status { related, ..Default::default() }),
        }
    }

    #[test]
    fn each_endpoint_says_whether_it_takes_calls_and_why_not() {
        let workloads = [
            workload("orders-1", true, "orders"),
            workload("orders-2", true, "orders"),
            workload("orders-3", false, "orders"),
            workload("orders-4", false, "orders"),
            workload("web-1", true, "web"),
        ];
        let ejection = pb::Ejection {
            endpoint: "orders-2".to_owned(),
            failures: 5,
            cause: "http_503".to_owned(),
            until: Some(prost_types::Timestamp { seconds: 3661, nanos: 0 }),
            sidecars: 2,
            ..Default::default()
        };
        let sidecar = pb::SidecarStatus {
            workload: "orders-3".to_owned(),
            namespace: "shop".to_owned(),
            phase: pb::WorkloadPhase::NotReady.into(),
            application: "127.0.0.1:80: connection refused".to_owned(),
            ..Default::default()
        };
        let orders = pb::ServiceStatus {
            name: "orders".to_owned(),
            namespace: "shop".to_owned(),
            ejected: vec![ejection],
            ..Default::default()
        };
        let status = pb::StatusResponse {
            services: vec![orders],
            sidecars: vec![sidecar],
            ..Default::default()
        };
        let service = ResourceKey::new(Kind::Service, "shop", "orders");
        let now = UNIX_EPOCH + Duration::from_secs(3600);
        let expected = "
ENDPOINT  ADDRESS         ZONE  WEIGHT  STATE      WHY
orders-1  10.0.0.7:15006  -          1  ready      -
orders-2  10.0.0.7:15006  -          1  ejected    5x HTTP 503 to 2 sidecars, tried again 01:01:01 UTC
orders-3  10.0.0.7:15006  -          1  not ready  127.0.0.1:80: connection refused
orders-4  10.0.0.7:15006  -          1  not ready  its sidecar is not connected
";
        assert_eq!(table(&join(&workloads, &status, &service, now)), expected);
        assert_eq!(table(&[]), "\nendpoints: none\n");
    }
}
