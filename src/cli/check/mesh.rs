//! The part of a check that looks at what the control plane knows: versions, sidecars, certificates,
//! refused resources, and resources that do nothing.

use std::{collections::BTreeSet, time::SystemTime};

use super::{
    concerns,
    report::{Line, Report},
};
use crate::{
    cli::{
        status::findings::{self, Severity},
        words,
    },
    resource::{self, pb},
};

/// Names in one line.
const SHOWN_MAX: usize = 5;

/// Whether all of the mesh is of one version.
pub(super) fn versions(status: &pb::StatusResponse, report: &mut Report) {
    let own = env!("CARGO_PKG_VERSION");
    let sidecars: BTreeSet<_> = status.sidecars.iter().map(|it| it.version.as_str()).collect();
    let others: Vec<_> =
        sidecars.into_iter().filter(|version| *version != status.version).collect();
    report.add(if status.version != own {
        let what = format!("this program is {own}, the control plane {}", status.version);
        Line::warn("version", what).hint("use the same version")
    } else if others.is_empty() {
        Line::ok("version", format!("{own} everywhere"))
    } else {
        let what = format!("the control plane is {own}, some sidecars {}", others.join(", "));
        Line::warn("version", what).hint("start those again with the newer program")
    });
}

/// Whether they all run the newest configuration.
pub(super) fn sidecars(status: &pb::StatusResponse, subject: Option<&str>, report: &mut Report) {
    let sidecars: Vec<_> =
        status.sidecars.iter().filter(|sidecar| concerns(sidecar, subject)).collect();
    if sidecars.is_empty() {
        return report.add(match subject {
            Some(subject) => Line::fail("sidecars", format!("none of {subject} is connected"))
                .hint("its own log says why; outrigger status lists those that are"),
            None => Line::ok("sidecars", "none is connected"),
        });
    }
    let named = |wanted: &dyn Fn(&pb::SidecarStatus) -> bool| {
        let names = sidecars.iter().filter(|it| wanted(it));
        names.map(|it| format!("{}.{}", it.workload, it.namespace)).collect::<Vec<_>>()
    };
    let behind = named(&|it| !it.in_sync);
    if !behind.is_empty() {
        let what = format!("{} of {} not in sync: {}", behind.len(), sidecars.len(), some(&behind));
        let hint = "the same again in a few seconds; then the sidecar's log";
        report.add(Line::warn("sidecars", what).hint(hint));
    }
    let starting = named(&|it| {
        matches!(it.phase(), pb::WorkloadPhase::Starting | pb::WorkloadPhase::NotReady)
    });
    if !starting.is_empty() {
        let what = format!("not ready: {}", some(&starting));
        report.add(Line::warn("sidecars", what).hint("is its application listening on --app?"));
    }
    if behind.is_empty() && starting.is_empty() {
        let what = format!("{}, all in sync", words::count(sidecars.len(), "sidecar"));
        report.add(Line::ok("sidecars", what));
    }
}

/// Certificates that have ended or soon will, the root's among them.
pub(super) fn certificates(
    status: &pb::StatusResponse,
    subject: Option<&str>,
    now: SystemTime,
    report: &mut Report,
) {
    let concerned = status.sidecars.iter().filter(|sidecar| concerns(sidecar, subject));
    let found = concerned.filter_map(|sidecar| findings::of_sidecar(sidecar, now));
    let lines: Vec<_> = found
        .chain(findings::of_root(status, now))
        .map(|finding| {
            let what = format!("{}: {}", finding.subject, finding.what);
            let root = finding.subject == findings::ROOT;
            let hint = match root {
                true => "plan a new root: every identity of the mesh ends with this one",
                false => "the sidecar's log says why it does not renew it",
            };
            match finding.severity {
                Severity::Problem => Line::fail("certificates", what).hint(hint),
                Severity::Warning => Line::warn("certificates", what).hint(hint),
            }
        })
        .collect();
    if !lines.is_empty() {
        return report.add_all(lines);
    }
    let root = words::time(status.root_expires_at.as_ref());
    let left = root.and_then(|ends| ends.duration_since(now).ok()).map(words::age);
    let root = left.map_or_else(String::new, |left| format!(", the root for {left}"));
    report.add(Line::ok("certificates", format!("all valid{root}")));
}

/// What sidecars refused.
pub(super) fn refusals(status: &pb::StatusResponse, report: &mut Report) {
    let line = |refusal: &pb::Refusal| {
        let id = refusal.resource.clone().unwrap_or_default();
        let name = resource::ResourceKey::from_pb(&id)
            .map_or_else(|| format!("{} {}", id.kind, id.name), |key| key.to_string());
        let problem = refusal.problems.first();
        let why = problem.map_or("no reason given", |problem| problem.message.as_str());
        let field = problem.map_or("", |problem| problem.field.as_str());
        let at = if field.is_empty() { String::new() } else { format!(" ({field})") };
        let what = format!("{name} is refused by {}: {why}{at}", refusal.workload);
        let hint = problem.map(|problem| problem.hint.as_str()).filter(|hint| !hint.is_empty());
        Line::fail("resources", what).hint(hint.unwrap_or("mend and apply it again"))
    };
    report.add_all(status.refusals.iter().map(line).collect());
}

/// Resources that were accepted and do not do what they say.
pub(super) fn conditions(resources: &[pb::Resource], report: &mut Report) {
    let line = |resource: &pb::Resource| {
        let key = resource::key(resource)?;
        let broken = resource.status.as_ref()?.conditions.iter().find(|condition| {
            // That sidecars refuse it was said, and that they will run it soon is no fault.
            condition.status == "False" && condition.r#type != "Programmed"
        })?;
        let what =
            format!("{key}: {} is False, {}: {}", broken.r#type, broken.reason, broken.message);
        let (kind, name) = (key.kind.to_lowercase(), &key.name);
        let namespace = match key.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" -n {namespace}"),
        };
        let hint = format!("outrigger describe {kind} {name}{namespace}");
        Some(Line::warn("resources", what).hint(hint))
    };
    let lines: Vec<_> = resources.iter().filter_map(line).collect();
    if lines.is_empty() {
        let what = format!("{} configured", words::count(resources.len(), "resource"));
        return report.add(Line::ok("resources", what));
    }
    report.add_all(lines);
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{super::report::Report, certificates, conditions, refusals, sidecars, versions};
    use crate::resource::{pb, yaml};

    fn sidecar(workload: &str, in_sync: bool, expires: i64) -> pb::SidecarStatus {
        pb::SidecarStatus {
            workload: workload.to_owned(),
            service: "orders".to_owned(),
            namespace: "shop".to_owned(),
            version: "0.0.1".to_owned(),
            phase: pb::WorkloadPhase::Ready.into(),
            in_sync,
            certificate_expires_at: Some(prost_types::Timestamp { seconds: expires, nanos: 0 }),
            ..Default::default()
        }
    }

    fn said(add: impl FnOnce(&mut Report)) -> String {
        let mut report = Report::default();
        add(&mut report);
        report.text(false)
    }

    #[test]
    fn sidecars_behind_and_certificates_that_end_are_named() {
        let status = pb::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sidecars: vec![
                sidecar("orders-1", true, 1_000_000),
                sidecar("orders-2", false, 1_000),
                sidecar("orders-3", true, 3_000),
            ],
            ..Default::default()
        };
        let now = UNIX_EPOCH + Duration::from_secs(2_000);
        let text = said(|report| {
            versions(&status, report);
            sidecars(&status, None, report);
            certificates(&status, None, now, report);
        });
        for expected in [
            "warn  version",
            "warn  sidecars      1 of 3 not in sync: orders-2.shop\n",
            "fail  certificates  orders-2.shop: certificate has expired\n",
            "warn  certificates  orders-3.shop: certificate expires in 16m\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let text = said(|report| {
            sidecars(&status, Some("orders-1.shop"), report);
            certificates(&status, Some("orders-1.shop"), now, report);
        });
        assert!(text.ends_with("2 checks, all ok\n"), "{text}");
        let text = said(|report| sidecars(&status, Some("web.shop"), report));
        assert!(text.starts_with("fail  sidecars  none of web.shop is connected\n"), "{text}");
    }

    #[test]
    fn what_is_refused_fails_and_what_does_nothing_warns() {
        let written = "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, \
                       metadata: {name: orders, namespace: shop}, spec: {}}";
        let mut route = yaml::parse(written, "x").0.remove(0).resource;
        let id = crate::resource::key(&route).map(|key| key.to_pb());
        let condition = pb::Condition {
            r#type: "ResolvedRefs".to_owned(),
            status: "False".to_owned(),
            reason: "BackendNotFound".to_owned(),
            message: "there is no service orders-v2.shop".to_owned(),
            last_transition_time: None,
        };
        route.status = Some(pb::Status { conditions: vec![condition], ..Default::default() });
        let problem = pb::Problem {
            field: "spec.rules[0]".to_owned(),
            message: "no such filter".to_owned(),
            ..Default::default()
        };
        let refusal = pb::Refusal {
            resource: id,
            workload: "web-1".to_owned(),
            problems: vec![problem],
            since: None,
        };
        let status = pb::StatusResponse { refusals: vec![refusal], ..Default::default() };
        let expected = "\
fail  resources  GRPCRoute shop/orders is refused by web-1: no such filter (spec.rules[0])
                 try: mend and apply it again
warn  resources  GRPCRoute shop/orders: ResolvedRefs is False, BackendNotFound: there is no service orders-v2.shop
                 try: outrigger describe grpcroute orders -n shop

2 checks: 1 failure, 1 warning
";
        let text = said(|report| {
            refusals(&status, report);
            conditions(&[route], report);
        });
        assert_eq!(text, expected);
    }
}
