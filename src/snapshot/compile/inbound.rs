//! The inbound side of the node: its ports, who may call it, and how much of each caller.

use std::collections::BTreeMap;

use super::{
    Compiler, mesh,
    service::{NamedPort, ports, selects},
};
use crate::{
    resource::{service::MtlsMode, traffic_policy::Bulkhead},
    snapshot::{Inbound, InboundPort, Protocol},
    units::ServiceName,
};

impl Compiler<'_> {
    pub(super) fn inbound(&self) -> Inbound {
        let services = self.selecting();
        Inbound {
            ports: self.inbound_ports(&services),
            policies: self.authorization(&services),
            caller_bulkhead: self.caller_bulkhead(&services),
        }
    }

    /// The node's own service, and then every other one of its namespace that selects it.
    fn selecting(&self) -> Vec<ServiceName> {
        let node = &self.context.node;
        let others = self.read.services.iter().filter(|(name, service)| {
            **name != node.service
                && name.namespace == node.service.namespace
                && selects(service, &node.labels)
        });
        [node.service.clone()].into_iter().chain(others.map(|(name, _)| name.clone())).collect()
    }

    /// By number: the ports of the services that lead to one of the application's, and then those of
    /// the application's that no service lists, by their own numbers. Where two services disagree
    /// about a number, the node's own service says where it leads, and the stricter mode holds.
    fn inbound_ports(&self, services: &[ServiceName]) -> Vec<InboundPort> {
        let own = &self.context.node.ports;
        let default = self.default_mtls(services);
        let mut by_number: BTreeMap<u16, InboundPort> = BTreeMap::new();
        let mut listed: Vec<&String> = Vec::new();
        for port in services.iter().flat_map(|service| ports(self.read, service)) {
            let Some((key, local)) = local_port(own, &port) else { continue };
            listed.push(key);
            let mtls = port.mtls.unwrap_or(default);
            let InboundPort { mtls: held, .. } =
                by_number.entry(port.number).or_insert_with(|| InboundPort {
                    number: port.number,
                    local,
                    protocol: port.protocol,
                    mtls,
                });
            *held = stricter(*held, mtls);
        }
        for (key, local) in own.iter().filter(|(key, _)| !listed.contains(key)) {
            let number = key.parse().unwrap_or(*local);
            by_number.entry(number).or_insert(InboundPort {
                number,
                local: *local,
                protocol: Protocol::Detect,
                mtls: default,
            });
        }
        by_number.into_values().collect()
    }

    /// As the namespace or the mesh says; but a service that could not be read may have asked for
    /// more.
    fn default_mtls(&self, services: &[ServiceName]) -> MtlsMode {
        if services.iter().any(|service| self.read.services_refused.contains(service)) {
            return MtlsMode::Strict;
        }
        let mesh = mesh::written(self.read);
        let namespace = &self.context.node.service.namespace;
        mesh.namespaces.get(namespace).copied().unwrap_or(mesh.mtls)
    }

    fn caller_bulkhead(&self, services: &[ServiceName]) -> Option<Bulkhead> {
        services.iter().find_map(|service| self.policies.of_service(service).caller_bulkhead)
    }
}

/// The application's own port behind a service's, by its name or by its number.
fn local_port<'a>(own: &'a BTreeMap<String, u16>, port: &NamedPort) -> Option<(&'a String, u16)> {
    let by_name = own.get_key_value(&port.name).filter(|_| !port.name.is_empty());
    let found = by_name.or_else(|| own.get_key_value(&port.number.to_string()));
    found.map(|(key, local)| (key, *local))
}

fn stricter(one: MtlsMode, other: MtlsMode) -> MtlsMode {
    match (one, other) {
        (MtlsMode::Strict, _) | (_, MtlsMode::Strict) => MtlsMode::Strict,
        (MtlsMode::Permissive, _) | (_, MtlsMode::Permissive) => MtlsMode::Permissive,
        (MtlsMode::Disabled, MtlsMode::Disabled) => MtlsMode::Disabled,
    }
}
