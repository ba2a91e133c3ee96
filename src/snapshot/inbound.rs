//! What the inbound listener does: which ports lead where, and who may do what.

use std::sync::Arc;

use super::destination::{Bulkhead, Protocol};
pub use crate::resource::service::MtlsMode;
use crate::spiffe::SpiffeId;

/// What the inbound listener does.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The ports that SNI may name, by the numbers of every service that selects this workload; a
    /// workload that declares ports no service lists serves them by their own numbers.
    pub ports: Vec<InboundPort>,
    /// The union of what targets the workload's services and namespace.
    pub policies: Vec<AuthorizationPolicy>,
    /// By caller, from a `TrafficPolicy` with `per: Caller`.
    pub caller_bulkhead: Option<Bulkhead>,
}

/// One port of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// As callers write it.
    pub number: u16,
    /// The application's own port, to which it leads.
    pub local: u16,
    /// What the application speaks there.
    pub protocol: Protocol,
    /// What the listener takes for it.
    pub mtls: MtlsMode,
}

/// One `AuthorizationPolicy`.
#[derive(Debug, Clone)]
pub struct AuthorizationPolicy {
    /// `shop/payments`
    pub name: Arc<str>,
    /// What it does.
    pub action: AuthorizationAction,
    /// Any of these; none: nothing matches.
    pub rules: Vec<AuthorizationRule>,
}

/// What a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationAction {
    /// Allows what matches; where one applies, what none allows is denied.
    Allow,
    /// Denies what matches, before any Allow.
    Deny,
    /// Decides nothing; what it would not allow is logged and counted.
    Audit,
}

/// `from` and `to` must both hold.
#[derive(Debug, Clone)]
pub struct AuthorizationRule {
    /// Any of these; none: any authenticated peer.
    pub from: Vec<Source>,
    /// Any of these; none: everything.
    pub to: Vec<Target>,
}

/// Who calls. All parts that are set must hold; within one, any.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Whole identities of services and `identities` without a star.
    pub identities: Vec<SpiffeId>,
    /// What stands before the star of `identities` with one.
    pub identity_prefixes: Vec<String>,
    /// Whole identities that `services` means; empty: not asked.
    pub services: Vec<SpiffeId>,
    /// Of mesh identities in the own trust domain.
    pub namespaces: Vec<String>,
}

/// What is called. All parts that are set must hold; within one, any.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// gRPC service and method; `None` for every method of the service.
    pub grpc: Vec<(String, Option<String>)>,
    /// HTTP methods.
    pub methods: Vec<String>,
    /// Exact paths and, with `true`, prefixes (what stands before the star).
    pub paths: Vec<(String, bool)>,
    /// Only requests that are no gRPC (the entry has `http`).
    pub http: bool,
}
