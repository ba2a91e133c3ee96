//! Destinations, compiled: a service as its callers see it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::rules::Rules;
pub use crate::resource::{
    traffic_policy::{Balancing, Bulkhead, BulkheadScope},
    workload::Readiness,
};
use crate::{resource::traffic_policy, spiffe::SpiffeId, units::ServiceName};

/// A service as its callers see it.
#[derive(Debug, PartialEq)]
pub struct Destination {
    /// Its name.
    pub name: ServiceName,
    /// Its ports, sorted by number; never empty, but see [`Port::is_any`].
    pub ports: Vec<Port>,
    /// Who serves it now, sorted by name.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How calls to it are limited and balanced.
    pub settings: DestinationSettings,
}

/// One port of a service.
#[derive(Debug, PartialEq)]
pub struct Port {
    /// As callers write it; 0 stands for any (see [`Port::is_any`]).
    pub number: u16,
    /// Its name; may be empty.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Attached rules in the order in which they are tried, `None` without an attached route: then
    /// everything goes to the service itself by `default_rule`.
    pub rules: Option<Rules>,
    /// The rule of a service without routes.
    pub default_rule: Arc<super::Rule>,
}

impl Port {
    /// Whether it stands for every port, because nobody said which ones the service has. It is then
    /// the only one, and the caller's port is passed on as it is.
    pub fn is_any(&self) -> bool {
        self.number == 0
    }
}

/// What an application's port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Not said: gRPC goes as HTTP/2 and everything else as HTTP/1.1.
    Detect,
    /// HTTP/2 in plaintext: `grpc` and `kubernetes.io/h2c`.
    Http2,
    /// HTTP/1.1: `http` and `kubernetes.io/ws`.
    Http1,
    /// Bytes: `tcp` and `tls`.
    Opaque,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// The workload's name, unique in its namespace.
    pub name: String,
    /// Where to dial.
    pub address: EndpointAddress,
    /// How to speak to it.
    pub transport: Transport,
    /// Its share against the others; 0 takes no traffic.
    pub weight: u32,
    /// Where it stands.
    pub zone: String,
    /// Whether its sidecar says that it is ready.
    pub readiness: Readiness,
}

/// Where an endpoint is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An address.
    Ip(IpAddr),
    /// A name, resolved when dialled.
    Name(String),
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Mutual TLS to a sidecar's inbound port, which must prove this identity.
    Mesh {
        /// The inbound port.
        port: u16,
        /// What it must prove.
        identity: SpiffeId,
    },
    /// Plaintext to the application itself: (service port number → its own port).
    Plain {
        /// By the service's port.
        ports: Vec<(u16, u16)>,
    },
}

/// How calls to a destination are limited and balanced.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationSettings {
    /// TCP and TLS to an endpoint.
    pub connect_timeout: Duration,
    /// Requests under way and waiting.
    pub bulkhead: Bulkhead,
    /// How an endpoint is picked.
    pub balancing: Balancing,
    /// When an endpoint is left alone for a while.
    pub outlier: OutlierDetection,
    /// How many retries are permitted.
    pub budget: RetryBudget,
}

/// When an endpoint is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetection {
    /// After so many failures in a row; 0: never.
    pub consecutive_failures: u32,
    /// How often ejections are looked at.
    pub interval: Duration,
    /// The first ejection's length, multiplied by how often it happened.
    pub base_ejection: Duration,
    /// Share of the endpoints, 0.0 to 1.0.
    pub ejected_max: f64,
}

/// How many retries are permitted over the requests of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Share of the requests, 0.0 to 1.0.
    pub ratio: f64,
    /// Permitted in any case, per second.
    pub rate_min: f64,
    /// Over which requests and retries are counted.
    pub interval: Duration,
}

impl Default for DestinationSettings {
    /// Those of a service that no policy speaks of.
    fn default() -> Self {
        Self {
            connect_timeout: traffic_policy::CONNECT_TIMEOUT,
            bulkhead: Bulkhead::default(),
            balancing: Balancing::default(),
            outlier: OutlierDetection::default(),
            budget: RetryBudget::default(),
        }
    }
}

impl From<traffic_policy::OutlierDetection> for OutlierDetection {
    fn from(written: traffic_policy::OutlierDetection) -> Self {
        Self {
            consecutive_failures: written.consecutive_failures,
            interval: written.interval,
            base_ejection: written.base_ejection,
            ejected_max: written.ejected_max.share(),
        }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        traffic_policy::OutlierDetection::default().into()
    }
}

impl From<traffic_policy::RetryBudget> for RetryBudget {
    fn from(written: traffic_policy::RetryBudget) -> Self {
        Self {
            ratio: written.ratio.share(),
            rate_min: written.rate_min.per_second(),
            interval: written.interval,
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        traffic_policy::RetryBudget::default().into()
    }
}
