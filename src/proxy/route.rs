//! Where a request goes and on what terms: the one answer that both directions give to the request's
//! story, which then goes on without asking which direction it is.

use std::{sync::Arc, time::Duration};

use super::{
    destination::{Entry, NO_SETTINGS},
    dial::DialError,
    lane::Lane,
};
use crate::{
    http::answer::Rejection,
    reason::Reason,
    resilience::Bulkhead,
    snapshot::{Backend, HeaderModifier, Protocol, RouteSettings, Rule},
};

/// Where a request goes and on what terms.
pub(super) struct Route {
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
    /// Whether it goes to the own application.
    pub(super) to_app: bool,
    /// Host and port as the destination sees them, where the caller wrote them otherwise.
    pub(super) authority: Option<String>,
    /// The configuration that it was decided on.
    pub(super) revision: u64,
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
        let both = rule.into_iter().chain(self.backend().map(|backend| &backend.request_headers));
        both.filter(|modifier| !modifier.is_empty())
    }

    /// Changes to the response's head, the rule's before the backend's.
    pub(super) fn response_modifiers(&self) -> impl Iterator<Item = &HeaderModifier> {
        let rule = self.rule.as_ref().map(|rule| &rule.response_headers);
        let both = rule.into_iter().chain(self.backend().map(|backend| &backend.response_headers));
        both.filter(|modifier| !modifier.is_empty())
    }

    /// The way to an endpoint, by its place in the pool. One that was not foreseen is put into
    /// `made`.
    pub(super) fn lane<'a>(
        &'a self,
        member: usize,
        grpc: bool,
        made: &'a mut Option<Box<Lane>>,
    ) -> Option<&'a Lane> {
        self.entry.lane(member, (self.port, self.protocol), grpc, made)
    }

    /// Why there is no connection, as the caller is told.
    /// `draining`: the application may have ended before its sidecar.
    pub(super) fn not_connected(&self, error: DialError, draining: bool) -> Rejection {
        let reason = match error.reason {
            Reason::ConnectFailed if self.to_app && draining => Reason::Draining,
            Reason::ConnectFailed | Reason::ConnectTimeout if self.to_app => Reason::AppUnreachable,
            other => other,
        };
        Rejection::unseen(reason, error.what)
    }
}
