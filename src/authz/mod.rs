//! Who may call what.
//!
//! Deny before Allow; where an Allow policy applies, what none allows is denied; where none applies,
//! the mesh's default decides (the model of Istio's `AuthorizationPolicy` and Linkerd's policies). The
//! decision is taken on the bytes that are sent on, and doubt denies: a path that two readers could
//! understand differently never matches an Allow rule that names paths and always matches a Deny rule
//! that does. A caller without an identity, which only a port in mode Permissive or Disabled takes,
//! matches no Allow rule at all.

mod path;

use std::sync::Arc;

use path::Spelling;

use crate::{
    http::Head,
    reason::Reason,
    snapshot::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Inbound, InboundPort, Mesh,
        MtlsMode, Source, Target,
    },
    spiffe::SpiffeId,
};

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it may go on.
    pub allowed: bool,
    /// Which policy decided, `shop/payments`: the one that allowed or denied it, or the first Allow
    /// policy of which none allowed it. `None`: the mesh's default.
    pub policy: Option<&'a Arc<str>>,
    /// Whether an Audit policy applies and none of them would have allowed it.
    pub audited: bool,
    /// Whether the caller has proved an identity.
    pub authenticated: bool,
}

impl Decision<'_> {
    /// Why it is refused; `None` when it is allowed. Who has no identity is told to get one.
    pub fn reason(&self) -> Option<Reason> {
        match (self.allowed, self.authenticated) {
            (true, _) => None,
            (false, true) => Some(Reason::Denied),
            (false, false) => Some(Reason::Unauthenticated),
        }
    }
}

/// Decides about one request to the workload.
pub fn decide<'a>(
    inbound: &'a Inbound,
    mesh: &Mesh,
    peer: Option<&SpiffeId>,
    head: &Head<'_>,
    port: &InboundPort,
) -> Decision<'a> {
    let (spelling, grpc) = (Spelling::of(head.path), head.is_grpc());
    decide_about(inbound, port, &Request { mesh, peer, head: Some(head), spelling, grpc })
}

/// Decides about a connection whose bytes nobody reads. What is called inside of it is not known: no
/// Allow rule that names calls permits it, and every Deny rule that names some forbids it.
pub fn decide_connection<'a>(
    inbound: &'a Inbound,
    mesh: &Mesh,
    peer: Option<&SpiffeId>,
    port: &InboundPort,
) -> Decision<'a> {
    let spelling = Spelling::Doubtful;
    decide_about(inbound, port, &Request { mesh, peer, head: None, spelling, grpc: false })
}

fn decide_about<'a>(
    inbound: &'a Inbound,
    port: &InboundPort,
    request: &Request<'_>,
) -> Decision<'a> {
    let Request { mesh, peer, .. } = *request;
    let of = |action| inbound.policies.iter().filter(move |policy| policy.action == action);
    let matching = |action| of(action).find(|policy| request.matches(policy));
    let audits = of(AuthorizationAction::Audit).next().is_some();
    let audited = audits && matching(AuthorizationAction::Audit).is_none();
    let decision = |allowed, policy: Option<&'a AuthorizationPolicy>| Decision {
        allowed,
        policy: policy.map(|policy| &policy.name),
        audited,
        authenticated: peer.is_some(),
    };

    if peer.is_none() && port.mtls == MtlsMode::Strict {
        return decision(false, None);
    }
    if let Some(policy) = matching(AuthorizationAction::Deny) {
        return decision(false, Some(policy));
    }
    match of(AuthorizationAction::Allow).next() {
        None => decision(mesh.authenticated_peers_allowed, None),
        Some(first) => {
            let allowing = matching(AuthorizationAction::Allow);
            decision(allowing.is_some(), allowing.or(Some(first)))
        }
    }
}

/// A request as rules see it.
struct Request<'a> {
    mesh: &'a Mesh,
    peer: Option<&'a SpiffeId>,
    /// `None`: it is opaque.
    head: Option<&'a Head<'a>>,
    spelling: Spelling,
    grpc: bool,
}

impl Request<'_> {
    fn matches(&self, policy: &AuthorizationPolicy) -> bool {
        let deny = policy.action == AuthorizationAction::Deny;
        policy
            .rules
            .iter()
            .any(|rule| self.peer_matches(rule, deny) && self.call_matches(rule, deny))
    }

    /// No `from` means any authenticated peer; a Deny rule without one means everybody, so that a
    /// caller does not escape it by leaving its identity at home.
    fn peer_matches(&self, rule: &AuthorizationRule, deny: bool) -> bool {
        let Some(peer) = self.peer else { return deny && rule.from.is_empty() };
        rule.from.is_empty() || rule.from.iter().any(|source| self.source_matches(source, peer))
    }

    fn source_matches(&self, source: &Source, peer: &SpiffeId) -> bool {
        let Source { identities, identity_prefixes, services, namespaces } = source;
        let identity_asked = !identities.is_empty() || !identity_prefixes.is_empty();
        let identity = || {
            let starts = |prefix: &String| peer.as_str().starts_with(prefix.as_str());
            identities.contains(peer) || identity_prefixes.iter().any(starts)
        };
        let namespace = || {
            let service = peer.service().filter(|_| peer.trust_domain() == self.mesh.trust_domain);
            service.is_some_and(|service| namespaces.contains(&service.namespace))
        };
        (!identity_asked || identity())
            && (services.is_empty() || services.contains(peer))
            && (namespaces.is_empty() || namespace())
    }

    fn call_matches(&self, rule: &AuthorizationRule, deny: bool) -> bool {
        if rule.to.is_empty() {
            return true;
        }
        let Some(head) = self.head else { return deny };
        rule.to.iter().any(|target| self.target_matches(head, target, deny))
    }

    /// An Allow target of gRPC methods takes only gRPC calls, and one of HTTP only others. A Deny
    /// target ignores the content type: an application may too.
    fn target_matches(&self, head: &Head<'_>, target: &Target, deny: bool) -> bool {
        let Target { grpc, methods, paths, http } = target;
        let grpc_holds = || (deny || self.grpc) && self.grpc_matches(head, grpc, deny);
        let http_holds = || {
            (deny || !self.grpc)
                && (methods.is_empty() || methods.iter().any(|method| method == head.method))
                && (paths.is_empty() || self.path_matches(head, paths, deny))
        };
        (grpc.is_empty() || grpc_holds()) && (!http || http_holds())
    }

    /// Only the exact path `/service/method` is a method; every other one is doubtful.
    fn grpc_matches(
        &self,
        head: &Head<'_>,
        wanted: &[(String, Option<String>)],
        deny: bool,
    ) -> bool {
        let plain = self.spelling == Spelling::Plain;
        let Some((service, method)) = head.grpc_method().filter(|_| plain) else {
            return deny && (self.grpc || !plain);
        };
        wanted.iter().any(|(of_service, of_method)| {
            of_service == service && of_method.as_ref().is_none_or(|wanted| wanted == method)
        })
    }

    fn path_matches(&self, head: &Head<'_>, wanted: &[(String, bool)], deny: bool) -> bool {
        match self.spelling {
            Spelling::Doubtful => deny,
            Spelling::Plain => {
                wanted.iter().any(|(wanted, prefix)| path::matches(wanted, *prefix, head.path))
            }
        }
    }
}

#[cfg(test)]
mod tests;
