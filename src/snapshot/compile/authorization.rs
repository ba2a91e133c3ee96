//! Who may call the node: the union of what targets its namespace, its own service and every service
//! that selects it.

use super::{Compiler, read::Entry};
use crate::{
    resource::authorization_policy::{self as written, PathPattern},
    snapshot::{AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Source, Target},
    spiffe::{IdError, SpiffeId},
    units::ServiceName,
};

impl Compiler<'_> {
    pub(super) fn authorization(&self, services: &[ServiceName]) -> Vec<AuthorizationPolicy> {
        let namespace = &self.context.node.service.namespace;
        let is_targeted = |names: &[String]| {
            let ours = |name: &String| services.iter().any(|service| service.name == *name);
            names.is_empty() || names.iter().any(ours)
        };
        let good = self.read.authorization.iter().filter(|policy| {
            policy.key.namespace == *namespace && is_targeted(&policy.spec.services)
        });
        let refused = self
            .read
            .authorization_refused
            .iter()
            .filter(|(key, names)| key.namespace == *namespace && is_targeted(names));
        let denied = refused.map(|(key, _)| deny_all(&format!("{}/{}", key.namespace, key.name)));
        denied.chain(good.map(|policy| self.policy(policy))).collect()
    }

    fn policy(&self, policy: &Entry<written::AuthorizationPolicy>) -> AuthorizationPolicy {
        let action = match policy.spec.action {
            written::Action::Allow => AuthorizationAction::Allow,
            written::Action::Deny => AuthorizationAction::Deny,
            written::Action::Audit => AuthorizationAction::Audit,
        };
        let rule = |rule: &written::Rule| {
            let from = rule.from.iter().map(|source| self.source(source));
            let to = rule.to.iter().map(target).collect();
            Ok(AuthorizationRule { from: from.collect::<Result<_, IdError>>()?, to })
        };
        let name = policy.name().into();
        let rules = policy.spec.rules.iter().map(rule).collect::<Result<_, IdError>>();
        rules.map_or_else(
            // A trust domain that is none: nobody could have such an identity.
            |_: IdError| deny_all(policy.name()),
            |rules| AuthorizationPolicy { name, action, rules },
        )
    }

    fn source(&self, source: &written::Source) -> Result<Source, IdError> {
        let trust_domain = &self.context.trust_domain;
        let identity = |service: &ServiceName| SpiffeId::of_service(trust_domain, service);
        Ok(Source {
            identities: source.identities.clone(),
            identity_prefixes: source.identity_prefixes.clone(),
            services: source.services.iter().map(identity).collect::<Result<_, _>>()?,
            namespaces: source.namespaces.clone(),
        })
    }
}

/// Stands for a policy that can not be run: it may have been one that denies.
fn deny_all(name: &str) -> AuthorizationPolicy {
    let everybody = AuthorizationRule { from: Vec::new(), to: Vec::new() };
    AuthorizationPolicy {
        name: name.into(),
        action: AuthorizationAction::Deny,
        rules: vec![everybody],
    }
}

fn target(target: &written::Target) -> Target {
    let http = target.http.as_ref();
    let path = |pattern: &PathPattern| match pattern {
        PathPattern::Exact(path) => (path.clone(), false),
        PathPattern::Prefix(prefix) => (prefix.clone(), true),
    };
    Target {
        grpc: target.grpc.iter().map(|m| (m.service.clone(), m.method.clone())).collect(),
        methods: http.map(|http| http.methods.clone()).unwrap_or_default(),
        paths: http.map(|http| http.paths.iter().map(path).collect()).unwrap_or_default(),
        http: http.is_some(),
    }
}
