//! Where a request goes and on what terms: the one answer that both directions give to the request's
//! story, which then goes on without asking which direction it is.

use std::{sync::Arc, time::Duration};

use super::{
    core::Running,
    destination::{Entry, NO_SETTINGS},
    dial::{Expected, Where},
    pool::{How, Key},
};
use crate::{
    resilience::Bulkhead,
    snapshot::{
        Backend, Endpoint, EndpointAddress, HeaderModifier, Protocol, RouteSettings, Rule,
        Transport,
    },
};

/// Where a request goes and on what terms.
pub(super) struct Route {
    /// What it was decided on.
    pub(super) running: Arc<Running>,
    /// The destination with what is known of it.
    pub(super) entry: Arc<Entry>,
    /// The destination's port.
    pub(super) port: u16,
    /// What the application speaks there.
    pub(super) protocol: Protocol,
    /// The rule that matched; `None` where no routes run.
    pub(super) rule: Option<Arc<Rule>>,
    /// Which of the rule's backends it got.
    pub(super) backend: Option<usize>,
    /// Where it needs a place, and how long it may wait for one.
    pub(super) bulkhead: Option<(Arc<Bulkhead>, Duration)>,
    /// The own application, dialled here whatever the endpoint says.
    pub(super) app: Option<Where>,
    /// The proxy through which an endpoint outside the mesh is reached.
    pub(super) by_proxy: Option<String>,
    /// Host and port as the destination sees them.
    pub(super) authority: String,
    /// Who called, for the application.
    pub(super) client_cert: Option<String>,
}

impl Route {
    /// Times and retries.
    pub(super) fn settings(&self) -> &RouteSettings {
        static NONE: RouteSettings = NO_SETTINGS;
        self.rule.as_ref().map_or(&NONE, |rule| &rule.settings)
    }

    fn backend(&self) -> Option<&Backend> {
        self.rule.as_ref()?.backends.get(self.backend?)
    }

    /// Changes to the request's head, the rule's before the backend's.
    pub(super) fn request_modifiers(&self) -> impl Iterator<Item = &HeaderModifier> {
        let rule = self.rule.as_ref().map(|rule| &rule.request_headers);
        rule.into_iter().chain(self.backend().map(|backend| &backend.request_headers))
    }

    /// Changes to the response's head, the rule's before the backend's.
    pub(super) fn response_modifiers(&self) -> impl Iterator<Item = &HeaderModifier> {
        let rule = self.rule.as_ref().map(|rule| &rule.response_headers);
        rule.into_iter().chain(self.backend().map(|backend| &backend.response_headers))
    }

    /// Which connections lead to an endpoint.
    pub(super) fn key(&self, endpoint: &Endpoint, grpc: bool) -> Key {
        if let Some(proxy) = &self.by_proxy {
            return Key { to: Where::Name(proxy.clone()), how: How::Http1 };
        }
        match &endpoint.transport {
            Transport::Mesh { port, identity } => Key {
                to: at(&endpoint.address, *port),
                how: How::Mesh(Expected {
                    identity: identity.clone(),
                    service: self.entry.destination.name.clone(),
                    port: self.port,
                }),
            },
            Transport::Plain { ports } => {
                let local = ports.iter().find(|(number, _)| *number == self.port);
                let local = local.map_or(self.port, |(_, local)| *local);
                let to = self.app.clone().unwrap_or_else(|| at(&endpoint.address, local));
                Key { to, how: plain(self.protocol, grpc) }
            }
        }
    }
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
