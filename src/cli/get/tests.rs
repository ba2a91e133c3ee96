//! Tables of each kind, from resources as users write them.

use std::time::{Duration, UNIX_EPOCH};

use super::{Wanted, columns, name_line, nothing};
use crate::{
    cli::select::Selection,
    resource::{Kind, pb, yaml},
};

const RESOURCES: &str = "\
{apiVersion: outrigger.dev/v1, kind: Service, metadata: {name: orders, namespace: shop, labels: {b: '2', a: '1'}},
 spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc, mtls: Permissive}, {name: admin, port: 81}], selector: {version: v2}}}
---
{apiVersion: outrigger.dev/v1, kind: Workload, metadata: {name: orders-1, namespace: shop},
 spec: {service: orders, address: '::1', inbound: 15006, identity: 'spiffe://mesh.local/ns/shop/svc/orders'}}
---
{apiVersion: outrigger.dev/v1, kind: Workload, metadata: {name: vm-1, namespace: shop},
 spec: {service: orders, address: 10.0.0.9, ports: {grpc: 9090, admin: 81}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: orders, namespace: shop},
 spec: {parentRefs: [{kind: Service, group: '', name: orders, port: 9090}],
  rules: [{backendRefs: [{name: orders-v1, port: 9090, weight: 90}, {name: orders-v2, namespace: lab, port: 9090, weight: 10}]},
          {backendRefs: [{name: orders-v1, port: 9090}]}]}}
---
{apiVersion: outrigger.dev/v1, kind: TrafficPolicy, metadata: {name: inventory, namespace: shop},
 spec: {targetRefs: [{kind: Service, name: inventory}, {kind: GRPCRoute, name: inventory, sectionName: slow}], retry: {attempts: 2}, bulkhead: {maxConcurrent: 1}}}
---
{apiVersion: outrigger.dev/v1, kind: AuthorizationPolicy, metadata: {name: payments, namespace: shop},
 spec: {action: Deny, rules: [{from: [{services: [catalog]}]}]}}
---
{apiVersion: outrigger.dev/v1, kind: Mesh, metadata: {name: mesh}, spec: {trustDomain: mesh.local, egress: Deny}}
";

fn view(wide: bool) -> columns::View {
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    columns::View { namespaces: wide, kinds: false, wide, now }
}

/// The resources, made an hour ago, the routes and policies with a status.
fn resources() -> Vec<pb::Resource> {
    let (parsed, problems) = yaml::parse(RESOURCES, "mesh.yaml");
    assert_eq!(problems, []);
    let dressed = |mut resource: pb::Resource| {
        let metadata = resource.metadata.get_or_insert_default();
        metadata.creation_timestamp =
            Some(prost_types::Timestamp { seconds: 1_000_000 - 3600, nanos: 0 });
        let condition = |kind: &str, status: &str, reason: &str, message: &str| pb::Condition {
            r#type: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: None,
        };
        let conditions = vec![
            condition("Accepted", "True", "Accepted", ""),
            condition("Programmed", "Unknown", "Pending", "not yet run by web-1"),
        ];
        resource.status = Some(pb::Status { conditions, ..Default::default() });
        resource
    };
    parsed.into_iter().map(|one| dressed(one.resource)).collect()
}

fn table(kind: Kind, wide: bool) -> String {
    let resources = resources();
    let of: Vec<_> = resources.iter().filter(|it| Kind::of(it) == Some(kind)).collect();
    columns::table(kind, &of, view(wide))
}

#[test]
fn every_kind_has_its_columns() {
    for (kind, expected) in [
        (
            Kind::Service,
            "NAME    PORTS                    AGE\norders  grpc:9090/grpc,admin:81  60m\n",
        ),
        (
            Kind::Workload,
            "NAME      SERVICE  ADDRESS           READY  AGE\n\
             orders-1  orders   [::1]:15006       -      60m\n\
             vm-1      orders   10.0.0.9:81,9090  -      60m\n",
        ),
        (
            Kind::GrpcRoute,
            "NAME    PARENTS      BACKENDS                                 ACCEPTED  PROGRAMMED  AGE\n\
             orders  orders:9090  orders-v1=90,orders-v2.lab=10,orders-v1  True      Pending     60m\n",
        ),
        (
            Kind::TrafficPolicy,
            "NAME       TARGETS                             SETS            ACCEPTED  PROGRAMMED  AGE\n\
             inventory  inventory,GRPCRoute/inventory#slow  retry,bulkhead  True      Pending     60m\n",
        ),
        (
            Kind::AuthorizationPolicy,
            "NAME      TARGETS      ACTION  ACCEPTED  PROGRAMMED  AGE\n\
             payments  (namespace)  Deny    True      Pending     60m\n",
        ),
        (
            Kind::Mesh,
            "NAME  TRUST DOMAIN  MTLS    AUTHORIZATION  EGRESS  ACCEPTED  PROGRAMMED  AGE\n\
             mesh  mesh.local    Strict  Allow          Deny    True      Pending     60m\n",
        ),
    ] {
        assert_eq!(table(kind, false), expected);
    }
}

#[test]
fn a_wide_table_shows_namespace_labels_and_why() {
    let expected = "\
NAMESPACE  NAME    PORTS                    AGE  MTLS        SELECTOR    LABELS
shop       orders  grpc:9090/grpc,admin:81  60m  Permissive  version=v2  a=1,b=2
";
    assert_eq!(table(Kind::Service, true), expected);
    let route = table(Kind::GrpcRoute, true);
    assert!(route.ends_with("2      -       not yet run by web-1\n"), "{route}");
}

#[test]
fn names_can_be_given_back_to_get() {
    let names: String = resources().iter().filter_map(name_line).collect();
    let expected = "service/orders\nworkload/orders-1\nworkload/vm-1\ngrpcroute/orders\ntrafficpolicy/inventory\n\
                    authorizationpolicy/payments\nmesh/mesh\n";
    assert_eq!(names, expected);
}

#[test]
fn nothing_found_says_where_it_was_looked_for() {
    let wanted = |namespace: Option<&str>| Wanted {
        selection: Selection::Kinds(Vec::new()),
        namespace: namespace.map(str::to_owned),
        selector: String::new(),
    };
    let text = nothing(&[Kind::GrpcRoute], &wanted(Some("shop")));
    assert_eq!(text, "no grpcroutes in namespace shop; -A looks in all\n");
    assert_eq!(nothing(&[Kind::Mesh], &wanted(Some("shop"))), "no meshes\n");
    assert_eq!(nothing(&[Kind::GrpcRoute, Kind::Mesh], &wanted(None)), "no resources\n");
}
