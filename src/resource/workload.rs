//! `Workload`: one instance that serves a service.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Problem, pb, report::Report};
use crate::spiffe::SpiffeId;

/// The share of an instance that names none.
pub const WEIGHT: u32 = 1;
/// The largest share.
pub const WEIGHT_MAX: u32 = 1000;

/// What a workload says.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The service's name, in the own namespace.
    pub service: String,
    /// Where it is dialled.
    pub address: Address,
    /// The application's own ports by the service's port name, or its number in decimal.
    pub ports: BTreeMap<String, u16>,
    /// How it is spoken to.
    pub transport: Transport,
    /// Its share against the others; 0 takes no traffic.
    pub weight: u32,
    /// Where it stands; may be empty.
    pub zone: String,
    /// Whether it takes traffic; what has no live sidecar does.
    pub readiness: Readiness,
}

/// Whether a workload takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// Its sidecar's checks of the application fail: only when no other is ready, because checks that
    /// all fail at once say more about the checks.
    Failing,
    /// It starts or drains.
    NotReady,
}

/// Where a workload is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address.
    Ip(IpAddr),
    /// A host name, resolved when dialled.
    Name(String),
}

/// How a workload is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Mutual TLS to its sidecar's inbound port, which must prove this identity.
    Mesh {
        /// The inbound port.
        port: u16,
        /// What it must prove.
        identity: SpiffeId,
    },
    /// Plaintext to the application's own ports.
    Plain,
}

/// Reads the spec of a workload.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(spec: &pb::Workload) -> Result<Workload, Vec<Problem>> {
    let (parsed, problems) = read(spec);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::Workload) -> Vec<Problem> {
    read(spec).1
}

fn read(spec: &pb::Workload) -> (Option<Workload>, Vec<Problem>) {
    Report::read("spec", |report| {
        report.field("service", |report| report.label(&spec.service));
        let ports = report.field("ports", |report| {
            let keys = spec.ports.keys().collect::<std::collections::BTreeSet<_>>();
            keys.into_iter()
                .map(|key| (key.clone(), report.entry(key, |r| read_port(r, key, spec.ports[key]))))
                .collect()
        });
        let weight = spec.weight.unwrap_or(WEIGHT);
        report.field("weight", |report| report.range(weight, 0, WEIGHT_MAX));
        Workload {
            service: spec.service.clone(),
            address: report.field("address", |report| read_address(report, &spec.address)),
            ports,
            transport: read_transport(report, spec),
            weight,
            zone: spec.zone.clone(),
            readiness: match spec.ready {
                Some(false) if spec.failing => Readiness::Failing,
                Some(false) => Readiness::NotReady,
                Some(true) | None => Readiness::Ready,
            },
        }
    })
}

/// The key is a port's name or its number in decimal.
fn read_port(report: &mut Report, key: &str, number: u32) -> u16 {
    if key.bytes().all(|b| b.is_ascii_digit()) {
        if key.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == key) {
        } else {
            report.wrong(key, "not a port", "1 to 65535, or a port's name");
        }
    } else {
        report.label(key);
    }
    report.port(number)
}

fn read_address(report: &mut Report, text: &str) -> Address {
    address(text).unwrap_or_else(|wrong| {
        report.wrong(text, wrong.what, wrong.hint);
        Address::Name(text.to_owned())
    })
}

/// What is wrong with an address, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadAddress {
    /// What it is.
    pub what: &'static str,
    /// What it has to be.
    pub hint: &'static str,
}

/// Reads the address at which a workload is dialled.
///
/// # Errors
/// What is no address of one machine: no address at all, one of many machines, or one of none.
pub fn address(text: &str) -> Result<Address, BadAddress> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        // An IPv4 address in IPv6's clothes is what it was before.
        let of_many = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
        };
        let (what, hint) = ("an address to which nobody can connect", "that of one machine");
        return if of_many { Err(BadAddress { what, hint }) } else { Ok(Address::Ip(ip)) };
    }
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    // A host name that looks like an address is a mistyped address (RFC 1123, 2.1).
    let digits =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if text.len() > 253 || digits || !text.split('.').all(label) {
        let hint = "an IP address or a host name, without a port";
        return Err(BadAddress { what: "not an address", hint });
    }
    Ok(Address::Name(text.to_owned()))
}

fn read_transport(report: &mut Report, spec: &pb::Workload) -> Transport {
    let identity = report.field("identity", |report| match spec.identity.parse::<SpiffeId>() {
        Ok(identity) => Some(identity),
        Err(_) if spec.identity.is_empty() => None,
        Err(error) => {
            let hint = "spiffe://TRUST-DOMAIN/ns/NAMESPACE/svc/SERVICE";
            report.wrong(&spec.identity, format!("not a SPIFFE ID: {error}"), hint);
            None
        }
    });
    if spec.inbound != 0 {
        report.field("inbound", |report| report.port(spec.inbound));
    }
    match (spec.inbound, spec.identity.is_empty()) {
        (0, true) => Transport::Plain,
        (0, false) => {
            report.field("inbound", |report| {
                report
                    .error("is missing: identity needs the sidecar's port to ask for it", "15006");
            });
            Transport::Plain
        }
        (_, true) => {
            report.field("identity", |report| {
                let hint = "spiffe://TRUST-DOMAIN/ns/NAMESPACE/svc/SERVICE";
                report.error("is missing: what inbound must prove to be", hint);
            });
            Transport::Plain
        }
        (port, false) => identity.map_or(Transport::Plain, |identity| Transport::Mesh {
            port: u16::try_from(port).unwrap_or_default(),
            identity,
        }),
    }
}
