//! Traffic policies, put together by what they target.
//!
//! Of several policies for one target the older one wins, field by field, and the newer one is told
//! so (GEP-713, "Conflict Resolution"). A policy on a rule is asked before one on its route, and that
//! before one on the service.

use std::collections::BTreeMap;

use super::read::{Entry, Read};
use crate::{
    resource::{
        Kind, Problem, ResourceKey,
        reference::Target,
        traffic_policy::{
            Balancing, Bulkhead, BulkheadScope, OutlierDetection, Retry, RetryBudget, Timeouts,
            TrafficPolicy,
        },
    },
    snapshot::DestinationSettings,
    units::ServiceName,
};

/// What all policies together say of each target.
#[derive(Debug, Default)]
pub(super) struct Policies {
    layers: BTreeMap<TargetKey, Layer>,
}

/// Kind, namespace, name and section.
type TargetKey = (Kind, String, String, Option<String>);

/// What is said of one target; `None`: nothing.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Retry>,
    connect: Option<std::time::Duration>,
    budget: Option<RetryBudget>,
    bulkhead: Option<Bulkhead>,
    pub(super) caller_bulkhead: Option<Bulkhead>,
    balancing: Option<Balancing>,
    outlier: Option<OutlierDetection>,
    /// Which policy said each field.
    said_by: BTreeMap<&'static str, ResourceKey>,
}

static SILENT: Layer = Layer {
    timeouts: Timeouts { request: None, attempt: None, stream_idle: None, stream_max: None },
    retry: None,
    connect: None,
    budget: None,
    bulkhead: None,
    caller_bulkhead: None,
    balancing: None,
    outlier: None,
    said_by: BTreeMap::new(),
};

impl Policies {
    pub(super) fn new(read: &Read, problems: &mut Vec<Problem>) -> Self {
        let mut policies = Self::default();
        for policy in &read.policies {
            for target in &policy.spec.targets {
                let layer = policies.layers.entry(key(target, &policy.key.namespace)).or_default();
                Merge { layer, key: &policy.key, problems }.policy(&policy.spec);
            }
        }
        policies
    }

    /// What is said of a service.
    pub(super) fn of_service(&self, name: &ServiceName) -> &Layer {
        self.layer((Kind::Service, name.namespace.clone(), name.name.clone(), None))
    }

    /// What is said of a route, or of one of its rules.
    pub(super) fn of_route<T>(&self, route: &Entry<T>, section: Option<&str>) -> &Layer {
        let grpc = route.key.kind == Kind::GrpcRoute.name();
        let kind = if grpc { Kind::GrpcRoute } else { Kind::HttpRoute };
        let (namespace, name) = (route.key.namespace.clone(), route.key.name.clone());
        self.layer((kind, namespace, name, section.map(String::from)))
    }

    fn layer(&self, key: TargetKey) -> &Layer {
        self.layers.get(&key).unwrap_or(&SILENT)
    }
}

impl Layer {
    pub(super) fn destination_settings(&self) -> DestinationSettings {
        let default = DestinationSettings::default();
        DestinationSettings {
            connect_timeout: self.connect.unwrap_or(default.connect_timeout),
            bulkhead: self.bulkhead.unwrap_or(default.bulkhead),
            balancing: self.balancing.unwrap_or(default.balancing),
            outlier: self.outlier.map_or(default.outlier, Into::into),
            budget: self.budget.map_or(default.budget, Into::into),
        }
    }
}

fn key(target: &Target, namespace: &str) -> TargetKey {
    (target.kind, namespace.to_owned(), target.name.clone(), target.section.clone())
}

/// Adds one policy to what older ones have said.
struct Merge<'a> {
    layer: &'a mut Layer,
    key: &'a ResourceKey,
    problems: &'a mut Vec<Problem>,
}

impl Merge<'_> {
    fn policy(mut self, policy: &TrafficPolicy) {
        let TrafficPolicy {
            targets: _,
            timeouts,
            retry,
            connect,
            budget,
            bulkhead,
            balancing,
            outlier,
        } = policy;
        self.timeouts(timeouts);
        if let Some(retry) = retry {
            self.retry(retry);
        }
        self.field("timeouts.connect", connect, |layer| &mut layer.connect);
        self.field("retry.budget", budget, |layer| &mut layer.budget);
        let of_scope = |scope| bulkhead.filter(|bulkhead| bulkhead.scope == scope);
        let (by_destination, by_caller) =
            (of_scope(BulkheadScope::Destination), of_scope(BulkheadScope::Caller));
        self.field("bulkhead", &by_destination, |layer| &mut layer.bulkhead);
        self.field("bulkhead (per: Caller)", &by_caller, |layer| &mut layer.caller_bulkhead);
        self.field("loadBalancing", balancing, |layer| &mut layer.balancing);
        self.field("outlierDetection", outlier, |layer| &mut layer.outlier);
    }

    fn timeouts(&mut self, timeouts: &Timeouts) {
        let Timeouts { request, attempt, stream_idle, stream_max } = timeouts;
        self.field("timeouts.request", request, |layer| &mut layer.timeouts.request);
        self.field("timeouts.attempt", attempt, |layer| &mut layer.timeouts.attempt);
        self.field("timeouts.streamIdle", stream_idle, |layer| &mut layer.timeouts.stream_idle);
        self.field("timeouts.maxStream", stream_max, |layer| &mut layer.timeouts.stream_max);
    }

    fn retry(&mut self, retry: &Retry) {
        fn of(layer: &mut Layer) -> &mut Retry {
            layer.retry.get_or_insert_default()
        }
        // An empty `retry` asks for retries too.
        of(self.layer);
        self.field("retry.attempts", &retry.attempts, |layer| &mut of(layer).attempts);
        self.field("retry.on.grpc", &retry.on_grpc, |layer| &mut of(layer).on_grpc);
        self.field("retry.on.http", &retry.on_http, |layer| &mut of(layer).on_http);
        self.field("retry.on.reset", &retry.on_reset, |layer| &mut of(layer).on_reset);
        self.field("retry.methods", &retry.methods, |layer| &mut of(layer).methods);
        self.field("retry.grpcMethods", &retry.grpc_methods, |layer| &mut of(layer).grpc_methods);
        self.field("retry.backoff.base", &retry.backoff_base, |layer| &mut of(layer).backoff_base);
        self.field("retry.backoff.max", &retry.backoff_max, |layer| &mut of(layer).backoff_max);
    }

    fn field<T: Clone>(
        &mut self,
        name: &'static str,
        value: &Option<T>,
        slot: impl Fn(&mut Layer) -> &mut Option<T>,
    ) {
        let Some(value) = value else { return };
        if let Some(older) = self.layer.said_by.get(name) {
            // A policy that names a target twice does not contradict itself.
            if older == self.key {
                return;
            }
            let message = format!("Conflicted: {older} is older and says it for the same target");
            self.problems.push(Problem::warning(format!("spec.{name}"), message).of(self.key));
            return;
        }
        *slot(self.layer) = Some(value.clone());
        self.layer.said_by.insert(name, self.key.clone());
    }
}
