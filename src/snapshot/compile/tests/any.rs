//! Whatever resources come: compiling them never panics, and what must hold of a snapshot holds.
//!
//! Resources are made from their descriptors with words that are mostly right, so that every field
//! there is and will be takes part, wrong ones too.

use std::{collections::BTreeMap, sync::Arc};

use fastrand::Rng;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, Value};

use super::{super::check, World, compile, context};
use crate::{
    authz,
    http::Head,
    resource::{Problem, ResourceKey, key, pb},
    routing::{Resolution, choose_port, resolve, select, split},
    snapshot::{AuthorizationAction, Context, Node, Snapshot},
    units::ServiceName,
};

const SEEDS: u64 = 300;
const SPECS: [&str; 7] = [
    "service",
    "workload",
    "http_route",
    "grpc_route",
    "traffic_policy",
    "authorization_policy",
    "mesh",
];

/// Makes resources; the same ones from the same seed.
struct Maker {
    rng: Rng,
    pool: DescriptorPool,
    /// One word of so many is wrong.
    wrong: usize,
}

impl Maker {
    fn world(&mut self) -> World {
        let mut world = World::default();
        for _ in 0..self.rng.usize(0..24) {
            world = world.with(self.resource());
        }
        world
    }

    fn resource(&mut self) -> pb::Resource {
        let descriptor = self.pool.get_message_by_name("outrigger.v1.Resource").expect("in proto/");
        let spec = self.rng.choice(SPECS).expect("some");
        let mut resource = DynamicMessage::new(descriptor.clone());
        for field in ["metadata", spec] {
            let field = descriptor.get_field_by_name(field).expect("in proto/");
            let value = self.single(&field, 0);
            resource.set_field(&field, value);
        }
        let mut resource: pb::Resource = resource.transcode_to().expect("of this descriptor");
        if spec == "mesh" {
            resource.metadata.get_or_insert_default().name = "mesh".into();
        }
        resource
    }

    fn value(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let entries = (0..self.rng.usize(0..3)).filter_map(|_| {
                let Value::String(key) = self.single(&key, depth) else { return None };
                Some((MapKey::String(key), self.single(&value, depth)))
            });
            return Value::Map(entries.collect());
        }
        if field.is_list() {
            let count = self.rng.usize(0..4);
            return Value::List((0..count).map(|_| self.single(field, depth)).collect());
        }
        self.single(field, depth)
    }

    fn single(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        let wrong = self.rng.usize(0..self.wrong) == 0;
        match field.kind() {
            Kind::Message(descriptor) => {
                let mut message = DynamicMessage::new(descriptor.clone());
                for field in descriptor.fields().filter(|_| depth < 8) {
                    if self.rng.usize(0..one_of(field.name())) == 0 {
                        let value = self.value(&field, depth + 1);
                        message.set_field(&field, value);
                    }
                }
                Value::Message(message)
            }
            Kind::String => Value::String(self.word(field.name(), wrong).to_owned()),
            Kind::Enum(_) => Value::EnumNumber(self.rng.i32(0..4) + if wrong { 90 } else { 0 }),
            Kind::Bool => Value::Bool(self.rng.bool()),
            Kind::Uint32 if wrong => {
                Value::U32(self.rng.choice([0, 65_536, u32::MAX]).expect("some"))
            }
            Kind::Uint32 => Value::U32(*self.rng.choice(numbers(field.name())).expect("some")),
            Kind::Uint64 => Value::U64(self.rng.u64(..)),
            Kind::Int64 => Value::I64(self.rng.i64(0..4)),
            Kind::Int32 => Value::I32(self.rng.i32(..)),
            other => panic!("{other:?} is new in proto/"),
        }
    }

    fn word(&mut self, field: &str, wrong: bool) -> &'static str {
        const WRONG: [&str; 12] =
            ["", "-", "Orders", "a.b.c", "*", "(", "a)|(b", "/a/../b", "1", "-1s", "é\0", "10x"];
        let words: &[&str] = if wrong { &WRONG } else { words(field) };
        self.rng.choice(words).expect("some")
    }
}

/// One message of so many has the field: always what a resource is rarely good without, rarely what
/// it is rarely good with.
fn one_of(field: &str) -> usize {
    match field {
        "name" | "kind" | "group" | "port" | "type" | "service" | "address" | "value" | "rules" => {
            1
        }
        "target_refs" | "parent_refs" | "backend_refs" | "namespace" | "from" => 1,
        "filters" | "session_persistence" | "use_default_gateways" | "section_name" => 20,
        _ => 3,
    }
}

fn words(field: &str) -> &'static [&'static str] {
    match field {
        "name" | "service" | "services" => &["orders", "payments", "web", "orders-v2", "x"],
        "namespace" | "namespaces" => &["shop", "shop", "shop", "away"],
        "kind" => {
            &["Service", "Service", "Service", "Service", "Service", "HTTPRoute", "GRPCRoute"]
        }
        "group" => &[""],
        "section_name" | "session_name" | "use_default_gateways" => &["", "", "orders"],
        "type" => &["", "", "Exact", "RegularExpression"],
        "value" | "paths" => &["/", "/a", "/a/b", "/a.*"],
        "method" | "methods" => &["GET", "POST", "PUT"],
        "grpc" => &["UNAVAILABLE", "shop.Orders/Place", "shop.Orders/*"],
        "grpc_methods" => &["shop.Orders/Place", "shop.Orders/*"],
        "app_protocol" => &["", "grpc", "http", "tcp"],
        "address" => &["127.0.0.1", "::1", "db.example"],
        "identity" | "identities" => &["spiffe://mesh.local/ns/shop/svc/orders"],
        "trust_domain" => &["", "mesh.local", "other.example"],
        "key" => &["app", "version", "80", "grpc"],
        "ratio" | "max_ejected" | "sampling" => &["", "0%", "20%", "100%"],
        "min_rate" | "max_per_second" => &["", "10/s", "1/s"],
        "otlp" | "ui" => &["", "http://127.0.0.1:4317"],
        _ => &["", "1s", "250ms", "10s"],
    }
}

fn numbers(field: &str) -> &'static [u32] {
    match field {
        "codes" | "http" => &[500, 502, 503],
        "attempts" | "weight" => &[0, 1, 2, 10],
        _ => &[80, 9090, 8080, 1],
    }
}

fn context_of(rng: &mut Rng) -> Context {
    let service = ServiceName::new(rng.choice(["orders", "web"]).expect("some"), "shop");
    let answered = ["orders", "payments", "orders-v2", "gone"]
        .map(|name| (ServiceName::new(name, "shop"), rng.bool()));
    Context {
        node: Node {
            service,
            labels: [("app".into(), "orders".into())].into(),
            ports: [("orders".into(), 8080), ("9090".into(), 9090)].into(),
        },
        answered: answered.into(),
        complete: rng.bool(),
        ..context()
    }
}

#[test]
fn whatever_resources_come_a_snapshot_holds_what_it_promises() {
    let pool = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    let pool = DescriptorPool::decode(pool.as_slice()).expect("the build wrote it");
    let (mut good, mut all, mut matched) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let wrong = if rng.bool() { 40 } else { 1000 };
        let mut maker = Maker { rng: rng.fork(), pool: pool.clone(), wrong };
        let (first, second) = (maker.world(), maker.world());
        let context = context_of(&mut rng);
        let (last, problems) = compile(&first.resources, None, &context);
        holds(seed, &first, None, &context, (&last, &problems));
        let (next, problems) = compile(&second.resources, Some(&last), &context);
        holds(seed, &second, Some(&last), &context, (&next, &problems));
        let checked = check(&second.resources, "mesh.local");
        assert!(checked.iter().all(|problem| problem.resource.is_some()), "seed {seed}");
        matched += run(&next, &mut rng);
        good += last.good.len();
        all += first.resources.len();
    }
    assert!(good * 4 > all && good < all, "{good} of {all} compile: the words are no test");
    assert!(matched > 100, "{matched} requests found a backend");
}

fn holds(
    seed: u64,
    world: &World,
    last: Option<&Snapshot>,
    context: &Context,
    (snapshot, problems): (&Snapshot, &[Problem]),
) {
    let refused = |key: &ResourceKey| {
        problems.iter().any(|p| p.is_error() && p.resource.as_ref() == Some(key))
    };
    for (key, resource) in &world.resources {
        let last = last.and_then(|last| last.good.get(key));
        let expected = if refused(key) { last } else { Some(resource) };
        let runs = snapshot.good.get(key);
        assert_eq!(runs.map(Arc::as_ptr), expected.map(Arc::as_ptr), "seed {seed}: {key}");
        if runs.is_none() {
            assert!(is_closed(key, resource, context, snapshot), "seed {seed}: {key}");
        }
    }
    assert!(snapshot.good.keys().all(|key| world.resources.contains_key(key)), "seed {seed}");
    for destination in snapshot.destinations.values().flatten() {
        let numbers: Vec<u16> = destination.ports.iter().map(|port| port.number).collect();
        assert!(numbers.is_sorted() && !numbers.is_empty(), "seed {seed}: {numbers:?}");
        assert!(numbers.len() == 1 || !numbers.contains(&0), "seed {seed}: {numbers:?}");
        assert!(destination.endpoints.is_sorted_by_key(|endpoint| &endpoint.name), "seed {seed}");
        let rules = destination.ports.iter().flat_map(|port| port.rules.iter().flatten());
        for rule in rules.map(|found| &found.rule) {
            let total: u32 = rule.backends.iter().map(|backend| backend.weight).sum();
            assert_eq!(rule.weight_total, total, "seed {seed}");
            for (service, _) in rule.backends.iter().filter_map(|to| to.target.as_ref()) {
                let found = snapshot.destinations.get(service);
                let exists = found.map_or(!snapshot.complete, Option::is_some);
                assert!(exists, "seed {seed}: {service}");
            }
        }
    }
    let (again, said) = compile(&world.resources, Some(snapshot), context);
    assert_eq!(said, problems, "seed {seed}");
    for (name, destination) in &again.destinations {
        let before = snapshot.destinations[name].as_ref().map(Arc::as_ptr);
        assert_eq!(destination.as_ref().map(Arc::as_ptr), before, "seed {seed}: {name}");
    }
}

/// Whether a resource without a form that could run lets nothing through that it might have stopped.
fn is_closed(
    key: &ResourceKey,
    resource: &pb::Resource,
    context: &Context,
    snapshot: &Snapshot,
) -> bool {
    let own = &context.node.service;
    match &resource.spec {
        Some(pb::resource::Spec::Mesh(_)) => {
            !snapshot.mesh.authenticated_peers_allowed && !snapshot.mesh.egress_allowed
        }
        Some(pb::resource::Spec::AuthorizationPolicy(spec)) => {
            let targets = &spec.target_refs;
            let ours = targets.is_empty() || targets.iter().any(|to| to.name == own.name);
            let audits = spec.action() == pb::AuthorizationAction::Audit;
            let name = format!("{}/{}", key.namespace, key.name);
            let denies =
                snapshot.inbound.policies.iter().any(|policy| {
                    *policy.name == *name && policy.action == AuthorizationAction::Deny
                });
            denies || audits || !ours || key.namespace != own.namespace
        }
        _ => true,
    }
}

/// Sends requests through the decisions; how many found a backend.
fn run(snapshot: &Snapshot, rng: &mut Rng) -> usize {
    let mut found = 0;
    let peer = "spiffe://mesh.local/ns/shop/svc/web".parse().expect("an identity");
    for (authority, method, path) in [
        ("orders:80", "GET", "/a/b"),
        ("orders.shop:9090", "POST", "/shop.Orders/Place"),
        ("payments.shop.mesh", "POST", "/"),
        ("gone", "GET", "/"),
        ("web.away:1", "PUT", "/a"),
        ("::", "GET", "*"),
    ] {
        let fields: &[(&str, &str)] = &[("content-type", "application/grpc"), ("orders", "/")];
        let head = Head { method, authority, path, query: "orders=/", fields: &fields };
        for port in &snapshot.inbound.ports {
            for peer in [None, Some(&peer)] {
                authz::decide(&snapshot.inbound, &snapshot.mesh, peer, &head, port);
            }
        }
        let Resolution::Mesh { service, port } = resolve(snapshot, authority) else { continue };
        let destination = snapshot.destinations[&service].as_ref().expect("resolved");
        let Ok(chosen) = choose_port(destination, port) else { continue };
        let Some(rule) = select(chosen.port, &head) else { continue };
        found += usize::from(split(rule, rng.u64(..)).is_some());
    }
    found
}

#[test]
fn a_resource_without_anything_is_refused_by_its_key_alone() {
    let empty = pb::Resource::default();
    assert_eq!(key(&empty), None);
    let name = ResourceKey::new(crate::resource::Kind::Service, "shop", "x");
    let resources = BTreeMap::from([(name.clone(), Arc::new(empty))]);
    let (snapshot, problems) = compile(&resources, None, &context());
    assert_eq!(problems.len(), 1);
    assert!(snapshot.good.is_empty());
    assert!(snapshot.destinations[&ServiceName::new("x", "shop")].is_some());
}
