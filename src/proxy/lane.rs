//! The ways to endpoints, worked out when a configuration is adopted and not for each request: where
//! to dial, how to speak, whom to expect, and what the record says of it.

use std::sync::Arc;

use super::{
    dial::{Expected, Where},
    pool::{How, Key},
};
use crate::{
    snapshot::{Destination, Endpoint, EndpointAddress, Protocol, Transport},
    telemetry::Place,
    units::ServiceName,
};

/// The way to one port of one endpoint.
#[derive(Debug)]
pub(super) struct Lane {
    /// Which connections lead there.
    pub(super) key: Key,
    /// As the record says it.
    pub(super) place: Arc<Place>,
}

impl Lane {
    /// Whether it leads to a sidecar, by mutual TLS.
    pub(super) fn is_mesh(&self) -> bool {
        matches!(self.key.how, How::Mesh(_))
    }
}

/// What stands before every endpoint of a destination.
#[derive(Debug, Clone)]
pub(super) enum Detour {
    /// The own application, dialled here whatever the endpoint says.
    App(Where),
    /// The proxy through which an endpoint outside the mesh is reached.
    Proxy(String),
}

/// The lanes of one destination.
#[derive(Debug)]
pub(super) struct Lanes {
    detour: Option<Detour>,
    /// By port, then by endpoint, both in the destination's order. A port that stands for any has
    /// none.
    ports: Vec<(u16, Vec<Pair>)>,
}

/// The lanes to one port of one endpoint. An application that does not say what it speaks gets gRPC
/// as HTTP/2 and everything else as HTTP/1.1.
#[derive(Debug)]
struct Pair {
    grpc: Lane,
    /// `None`: the same.
    other: Option<Lane>,
}

impl Lanes {
    pub(super) fn new(destination: &Destination, detour: Option<Detour>) -> Self {
        let name = &destination.name;
        let ports = destination.ports.iter().filter(|port| !port.is_any()).map(|port| {
            let detour = detour.as_ref();
            let pair = |endpoint: &Arc<Endpoint>| {
                let lane = |grpc| lane(name, endpoint, (port.number, port.protocol), grpc, detour);
                let (grpc, other) = (lane(true), lane(false));
                let other = Some(other).filter(|other| other.key != grpc.key);
                Pair { grpc, other }
            };
            (port.number, destination.endpoints.iter().map(pair).collect())
        });
        let ports = ports.collect();
        Self { ports, detour }
    }

    pub(super) fn find<'a>(
        &'a self,
        destination: &Destination,
        member: usize,
        port: (u16, Protocol),
        grpc: bool,
        made: &'a mut Option<Box<Lane>>,
    ) -> Option<&'a Lane> {
        if let Some((_, pairs)) = self.ports.iter().find(|(number, _)| *number == port.0) {
            let pair = pairs.get(member)?;
            return Some(pair.other.as_ref().filter(|_| !grpc).unwrap_or(&pair.grpc));
        }
        let endpoint = destination.endpoints.get(member)?;
        let lane = lane(&destination.name, endpoint, port, grpc, self.detour.as_ref());
        Some(made.insert(Box::new(lane)))
    }
}

fn lane(
    service: &ServiceName,
    endpoint: &Endpoint,
    (port, protocol): (u16, Protocol),
    grpc: bool,
    detour: Option<&Detour>,
) -> Lane {
    let (to, how) = match (detour, &endpoint.transport) {
        (Some(Detour::Proxy(proxy)), _) => (Where::Name(proxy.clone()), How::Proxy),
        (Some(Detour::App(app)), _) => (app.clone(), plain(protocol, grpc)),
        (None, Transport::Mesh { port: inbound, identity }) => {
            let (identity, service) = (identity.clone(), service.clone());
            let expected = Expected { identity, service, port };
            (at(&endpoint.address, *inbound), How::Mesh(expected))
        }
        (None, Transport::Plain { ports }) => {
            let local = ports.iter().find(|(number, _)| *number == port);
            let local = local.map_or(port, |(_, local)| *local);
            (at(&endpoint.address, local), plain(protocol, grpc))
        }
    };
    let place = Place { endpoint: endpoint.name.as_str().into(), address: to.to_string().into() };
    Lane { key: Key::new(to, how), place: Arc::new(place) }
}

fn at(address: &EndpointAddress, port: u16) -> Where {
    match address {
        EndpointAddress::Ip(ip) => Where::Ip((*ip, port).into()),
        EndpointAddress::Name(name) => Where::Name(format!("{name}:{port}")),
    }
}

/// The version that an application speaks: gRPC is always HTTP/2.
fn plain(protocol: Protocol, grpc: bool) -> How {
    match protocol {
        Protocol::Http2 => How::Http2,
        _ if grpc => How::Http2,
        Protocol::Detect | Protocol::Http1 | Protocol::Opaque => How::Http1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Detour, Lanes};
    use crate::{
        proxy::{
            dial::Where,
            pool::{How, Key},
        },
        snapshot::{Destination, Endpoint, EndpointAddress, Port, Protocol, Readiness, Transport},
        units::ServiceName,
    };

    fn destination(port: u16, protocol: Protocol) -> Destination {
        let endpoint = |name: &str, last, ports| {
            let address = EndpointAddress::Ip([127, 0, 0, last].into());
            let transport = Transport::Plain { ports };
            let (name, zone) = (name.to_owned(), String::new());
            Arc::new(Endpoint {
                name,
                address,
                transport,
                weight: 1,
                zone,
                readiness: Readiness::Ready,
            })
        };
        let default_rule = Arc::new(crate::proxy::destination::no_rule());
        let port = Port { number: port, name: String::new(), protocol, rules: None, default_rule };
        Destination {
            name: ServiceName::new("orders", "shop"),
            ports: vec![port],
            endpoints: vec![endpoint("a", 1, vec![(80, 8080)]), endpoint("b", 2, vec![])],
            settings: crate::snapshot::DestinationSettings::default(),
        }
    }

    #[test]
    fn an_endpoint_is_dialled_at_its_own_port_as_its_application_speaks() {
        let app = Where::Unix("/run/app".into());
        let ip = |last, port| Where::Ip(([127, 0, 0, last], port).into());
        let proxy = Detour::Proxy("proxy:3128".to_owned());
        for (of, protocol, detour, member, grpc, to, how) in [
            (80, Protocol::Detect, None, 0, true, ip(1, 8080), How::Http2),
            (80, Protocol::Detect, None, 0, false, ip(1, 8080), How::Http1),
            (80, Protocol::Http2, None, 1, false, ip(2, 80), How::Http2),
            (0, Protocol::Http1, None, 1, true, ip(2, 80), How::Http2),
            (0, Protocol::Http1, None, 1, false, ip(2, 80), How::Http1),
            (80, Protocol::Detect, Some(Detour::App(app.clone())), 0, false, app, How::Http1),
            (
                80,
                Protocol::Detect,
                Some(proxy),
                0,
                true,
                Where::Name("proxy:3128".to_owned()),
                How::Proxy,
            ),
        ] {
            let destination = destination(of, protocol);
            let lanes = Lanes::new(&destination, detour);
            let mut made = None;
            let lane = lanes.find(&destination, member, (80, protocol), grpc, &mut made);
            let lane = lane.expect("there are two endpoints");
            assert!(lane.key == Key::new(to.clone(), how), "{of} {protocol:?} {grpc}");
            assert_eq!(*lane.place.address, *to.to_string());
            assert_eq!(&*lane.place.endpoint, if member == 0 { "a" } else { "b" });
        }
    }
}
