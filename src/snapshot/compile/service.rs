//! Destinations: a service's ports, endpoints and settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Compiler,
    read::{Entry, Read},
};
use crate::{
    resource::{
        service::{AppProtocol, MtlsMode, Service},
        workload::{self, Workload},
    },
    snapshot::{Destination, Endpoint, EndpointAddress, Port, Protocol, Transport},
    units::ServiceName,
};

/// A port as far as a service or its workloads name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPort {
    /// 0: any (see [`Port::is_any`]).
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) mtls: Option<MtlsMode>,
}

impl Compiler<'_> {
    pub(super) fn destination(&self, name: &ServiceName) -> Destination {
        let named = ports(self.read, name);
        let rules = self.rules(name);
        let port = |port: &NamedPort| Port {
            number: port.number,
            name: port.name.clone(),
            protocol: port.protocol,
            rules: rules.of_port(port.number).map(Into::into),
            default_rule: rules.default_rule(port.number),
        };
        let ports = named.iter().map(port).collect();
        let endpoint = |workload| Arc::new(endpoint(workload, &named));
        let settings = self.policies.of_service(name).destination_settings();
        let endpoints = workloads(self.read, name).map(endpoint).collect();
        Destination { name: name.clone(), ports, endpoints, settings }
    }
}

/// The ports that a service names; where it names none, those that its workloads name by number;
/// where they do not either, any. Sorted by number, never empty.
pub(super) fn ports(read: &Read, name: &ServiceName) -> Vec<NamedPort> {
    let of_service = read.services.get(name).map(|service| service.ports.as_slice());
    let mut ports: Vec<NamedPort> = of_service.unwrap_or_default().iter().map(named).collect();
    if ports.is_empty() {
        let keys = workloads(read, name).flat_map(|workload| workload.spec.ports.keys());
        let numbers: BTreeSet<u16> = keys.filter_map(|key| key.parse().ok()).collect();
        ports.extend(numbers.into_iter().map(unnamed));
    }
    if ports.is_empty() {
        ports.push(unnamed(0));
    }
    ports.sort_by_key(|port| port.number);
    ports
}

fn named(port: &crate::resource::service::ServicePort) -> NamedPort {
    let protocol = match port.protocol {
        AppProtocol::Detect => Protocol::Detect,
        AppProtocol::Grpc | AppProtocol::H2c => Protocol::Http2,
        AppProtocol::Http | AppProtocol::WebSocket => Protocol::Http1,
        AppProtocol::Tls | AppProtocol::Tcp => Protocol::Opaque,
    };
    NamedPort { number: port.number, name: port.name.clone(), protocol, mtls: port.mtls }
}

fn unnamed(number: u16) -> NamedPort {
    NamedPort { number, name: String::new(), protocol: Protocol::Detect, mtls: None }
}

/// Who serves a service: whom its selector matches, or who is registered under its name. In the
/// order of their names.
fn workloads<'a>(
    read: &'a Read,
    name: &'a ServiceName,
) -> Box<dyn Iterator<Item = &'a Entry<Workload>> + 'a> {
    let selecting = read.services.get(name).filter(|service| !service.selector.is_empty());
    let Some(service) = selecting else { return Box::new(read.registered(name)) };
    Box::new(read.workloads.iter().filter(move |workload| {
        workload.key.namespace == name.namespace && selects(service, &workload.labels)
    }))
}

/// Whether a service selects a workload of its namespace by these labels.
pub(super) fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let holds = |(label, value)| labels.get(label) == Some(value);
    !service.selector.is_empty() && service.selector.iter().all(holds)
}

fn endpoint(workload: &Entry<Workload>, ports: &[NamedPort]) -> Endpoint {
    let Workload { service: _, address, ports: own, transport, weight, zone, readiness } =
        &workload.spec;
    let transport = match transport {
        workload::Transport::Mesh { port, identity } => {
            Transport::Mesh { port: *port, identity: identity.clone() }
        }
        workload::Transport::Plain => {
            let local = |port: &NamedPort| {
                let by_name = own.get(&port.name).filter(|_| !port.name.is_empty());
                let local = by_name.or_else(|| own.get(&port.number.to_string()));
                (port.number, local.copied().unwrap_or(port.number))
            };
            Transport::Plain { ports: ports.iter().map(local).collect() }
        }
    };
    Endpoint {
        name: workload.key.name.clone(),
        address: match address {
            workload::Address::Ip(ip) => EndpointAddress::Ip(*ip),
            workload::Address::Name(name) => EndpointAddress::Name(name.clone()),
        },
        transport,
        weight: *weight,
        zone: zone.clone(),
        readiness: *readiness,
    }
}
