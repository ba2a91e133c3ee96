//! Which service and port an authority means.
//!
//! `orders` is of the mesh when the own namespace has that service; `orders.shop` when `shop` is a
//! namespace of the mesh, and so is Kubernetes' long form of it; `orders.shop.mesh` always. Everything
//! else is outside the mesh.

use std::fmt;

use super::{Authority, AuthorityError};
use crate::{
    snapshot::{Destination, Port, Snapshot},
    units::{ServiceName, name::check_label},
};

/// The ports that clients write, or leave out, without meaning them.
const SCHEME_PORTS: [u16; 2] = [80, 443];

/// What an authority means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// A service that the snapshot holds.
    Mesh {
        /// Its name.
        service: ServiceName,
        /// As the caller wrote it.
        port: Option<u16>,
    },
    /// Nobody has asked for this service yet: ask, wait a bounded time, and resolve again.
    Ask(ServiceName),
    /// A name of the mesh that the mesh does not have: `unknown_service`.
    Unknown(ServiceName),
    /// Outside the mesh.
    External(Authority),
    /// No authority at all: `malformed`.
    Malformed(AuthorityError),
}

/// Reads an authority and finds out what it means.
pub fn resolve(snapshot: &Snapshot, authority: &str) -> Resolution {
    let authority = match Authority::parse(authority) {
        Ok(authority) => authority,
        Err(error) => return Resolution::Malformed(error),
    };
    let Some(name) = mesh_name(snapshot, &authority) else {
        return Resolution::External(authority);
    };
    let bare = !authority.host.contains('.');
    match snapshot.destinations.get(&name) {
        Some(Some(_)) => Resolution::Mesh { service: name, port: authority.port },
        None if !snapshot.complete => Resolution::Ask(name),
        _ if bare => Resolution::External(authority),
        _ => Resolution::Unknown(name),
    }
}

/// The service that a host would mean, be there one or not.
fn mesh_name(snapshot: &Snapshot, authority: &Authority) -> Option<ServiceName> {
    let host = authority.host.as_str();
    if authority.ip().is_some() || host == "localhost" {
        return None;
    }
    let labels: Vec<&str> = host.split('.').collect();
    let of_the_mesh = |namespace: &str| snapshot.namespaces.contains(namespace);
    let (name, namespace) = match labels[..] {
        [name] => (name, snapshot.node.service.namespace.as_str()),
        [name, namespace, "mesh"] => (name, namespace),
        [name, namespace]
        | [name, namespace, "svc"]
        | [name, namespace, "svc", "cluster", "local"]
            if of_the_mesh(namespace) =>
        {
            (name, namespace)
        }
        _ => return None,
    };
    (check_label(name).is_ok() && check_label(namespace).is_ok())
        .then(|| ServiceName::new(name, namespace))
}

/// A port of a service, and the number under which the call is sent on.
#[derive(Debug, Clone, Copy)]
pub struct ChosenPort<'a> {
    /// Its rules.
    pub port: &'a Port,
    /// Its number, or the caller's when nobody said which ports the service has.
    pub number: u16,
}

/// The service has no such port: `no_route`. Displayed with the ports that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPort {
    service: String,
    asked: Option<u16>,
    ports: Vec<(u16, String)>,
}

impl fmt::Display for NoPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.asked {
            Some(port) => write!(f, "{} has no port {port}", self.service)?,
            None => write!(f, "no port named for {}", self.service)?,
        }
        let mut separator = "; its ports are ";
        for (number, name) in self.ports.iter().filter(|(number, _)| *number != 0) {
            write!(f, "{separator}{number}")?;
            if !name.is_empty() {
                write!(f, " ({name})")?;
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// The port that a caller means: the one it named, or the only one when it named none or a scheme's
/// default port that the service lacks.
///
/// # Errors
/// When the service lacks the named port, or none was named and it has several.
pub fn choose_port(
    destination: &Destination,
    asked: Option<u16>,
) -> Result<ChosenPort<'_>, NoPort> {
    let ports = &destination.ports;
    if let Some(port) = ports.iter().find(|port| Some(port.number) == asked) {
        return Ok(ChosenPort { port, number: port.number });
    }
    match (ports.as_slice(), asked) {
        ([any], Some(number)) if any.is_any() => return Ok(ChosenPort { port: any, number }),
        ([only], None) if !only.is_any() => {
            return Ok(ChosenPort { port: only, number: only.number });
        }
        ([only], Some(number)) if SCHEME_PORTS.contains(&number) => {
            return Ok(ChosenPort { port: only, number: only.number });
        }
        _ => {}
    }
    let ports = ports.iter().map(|port| (port.number, port.name.clone())).collect();
    Err(NoPort { service: destination.name.to_string(), asked, ports })
}
