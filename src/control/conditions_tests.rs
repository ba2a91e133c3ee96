//! Conditions by example.

use std::{collections::BTreeSet, sync::Arc, time::UNIX_EPOCH};

use super::with_status;
use crate::{
    control::{
        auth::Connection,
        fleet::Fleet,
        sample::{resources, route, service, traffic_policy, workload, world},
        world::World,
    },
    resource::{
        self, Kind, ResourceKey,
        pb::{self, resource::Spec},
    },
    units::ServiceName,
};

fn http(name: &str, parent: &str, port: Option<u32>) -> pb::Resource {
    let mut route = route(name, parent, &[]);
    let Some(Spec::GrpcRoute(spec)) = &mut route.spec else { unreachable!("a GRPCRoute") };
    let mut parent_refs = std::mem::take(&mut spec.parent_refs);
    parent_refs[0].port = port;
    route.spec = Some(Spec::HttpRoute(pb::HttpRoute { parent_refs, ..Default::default() }));
    route
}

fn shop(more: impl IntoIterator<Item = pb::Resource>) -> World {
    let services = [service("shop/orders", ""), service("shop/catalog", "")];
    world(services.into_iter().chain(more), [])
}

/// The conditions of the last of the resources in a mesh of all of them: "Type=Status Reason".
fn check(more: Vec<pb::Resource>, fleet: &Fleet, expected: &[&str]) {
    let subject = more.last().expect("one").clone();
    let world = shop(more);
    let at = resource::key(&subject).expect("has a spec");
    let subject = world.get(&at).expect("in it");
    let status = with_status(&world, fleet, &fleet.sessions(), &at, subject).status.expect("set");
    let seen: Vec<_> = status
        .conditions
        .iter()
        .map(|it| format!("{}={} {}", it.r#type, it.status, it.reason))
        .collect();
    assert_eq!(seen, expected, "{at}");
}

#[test]
fn routes_say_whether_parents_and_backends_are_there() {
    let none = Fleet::default();
    let unconcerned = "Programmed=True NoSidecars";
    let resolved = "ResolvedRefs=True ResolvedRefs";
    let missing = "ResolvedRefs=False BackendNotFound";
    let accepted = "Accepted=True Accepted";
    check(vec![route("shop/r", "orders", &["catalog"])], &none, &[accepted, resolved, unconcerned]);
    check(vec![route("shop/r", "orders", &["nothing"])], &none, &[accepted, missing, unconcerned]);
    let absent = "Accepted=False NoMatchingParent";
    check(vec![route("shop/r", "nothing", &[])], &none, &[absent, resolved, unconcerned]);
    let mut wrong_port = route("shop/r", "orders", &["catalog"]);
    if let Some(Spec::GrpcRoute(spec)) = &mut wrong_port.spec {
        spec.rules[0].backend_refs[0].port = Some(1);
    }
    check(vec![wrong_port], &none, &[accepted, missing, unconcerned]);
    check(vec![http("shop/h", "orders", Some(1))], &none, &[absent, resolved, unconcerned]);
}

#[test]
fn a_grpc_route_beats_an_http_route_on_the_same_port_for_the_same_callers() {
    let none = Fleet::default();
    let grpc = || route("shop/g", "orders", &[]);
    let with =
        |accepted| [accepted, "ResolvedRefs=True ResolvedRefs", "Programmed=True NoSidecars"];
    let conflicted = with("Accepted=False Conflicted");
    let accepted = with("Accepted=True Accepted");
    check(vec![grpc(), http("shop/h", "orders", None)], &none, &conflicted);
    check(vec![grpc(), http("shop/h", "orders", Some(9090))], &none, &conflicted);
    check(vec![grpc(), http("shop/h", "catalog", None)], &none, &accepted);
    // A consumer's route is for other callers.
    check(vec![grpc(), http("web/h", "shop/orders", None)], &none, &accepted);
    check(vec![http("shop/h", "orders", None), grpc()], &none, &accepted);
}

#[test]
fn policies_say_whether_their_target_is_there() {
    let none = Fleet::default();
    let policy = |kind, target| traffic_policy("shop/p", kind, target);
    let found = ["Accepted=True Accepted", "Programmed=True NoSidecars"];
    let missing = ["Accepted=False TargetNotFound", "Programmed=True NoSidecars"];
    check(vec![policy(Kind::Service, "orders")], &none, &found);
    check(vec![policy(Kind::Service, "nothing")], &none, &missing);
    // A service of workloads that somebody wrote has no Service.
    check(vec![workload("shop/vm-1", "vm", ""), policy(Kind::Service, "vm")], &none, &found);
    check(vec![route("shop/r", "orders", &[]), policy(Kind::GrpcRoute, "r")], &none, &found);
    let mut section = policy(Kind::GrpcRoute, "r");
    if let Some(Spec::TrafficPolicy(spec)) = &mut section.spec {
        spec.target_refs[0].section_name = "nothing".to_owned();
    }
    check(vec![route("shop/r", "orders", &[]), section], &none, &missing);
}

#[test]
fn programmed_follows_what_sidecars_say() {
    let fleet = Arc::new(Fleet::default());
    let workload = ResourceKey::new(Kind::Workload, "shop", "web-1");
    let web = ServiceName::new("web", "shop");
    let remote = ([127, 0, 0, 1], 1).into();
    let connection =
        Connection { remote, certificates: None, verdict: Arc::default(), end: Arc::default() };
    let seat = fleet.join(&workload, &web, "0.1.0", &connection, UNIX_EPOCH);
    let subject = || service("shop/subject", "");
    let verdict = |expected: &str| {
        check(vec![subject()], &fleet, &["Accepted=True Accepted", expected]);
    };
    verdict("Programmed=Unknown Pending");
    let at = ResourceKey::new(Kind::Service, "shop", "subject");
    {
        let mut progress = seat.session().progress();
        progress.ledger.advance(&resources([subject()]), &BTreeSet::new());
        progress.seen_revision = 1;
    }
    verdict("Programmed=Unknown Pending");
    seat.session().progress().ledger.refuse(&at, "1", vec![pb::Problem::default()]);
    verdict("Programmed=False Refused");
    seat.session().progress().ledger.acknowledge(&at, "1");
    verdict("Programmed=True Programmed");
    drop(seat);
    verdict("Programmed=True NoSidecars");
}
