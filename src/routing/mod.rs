//! Which service a request means, which rule matches it and which backend it gets.
//!
//! Pure: a snapshot, a head and a random number in, an answer out. `explain` calls the same functions
//! as the proxy does. The order in which rules are tried (Gateway API's precedence) was made when the
//! snapshot was compiled; here the first that matches wins.

mod authority;
mod matching;
mod resolve;

use std::sync::Arc;

pub use authority::{Authority, AuthorityError};
pub use resolve::{ChosenPort, NoPort, Resolution, choose_port, resolve};

use crate::{
    http::Head,
    snapshot::{Backend, Port, Rule},
};

/// The rule for a request to this port: the first that matches in Gateway API's precedence, or the
/// port's own when no route is attached. `None` is `no_route`: an attached route replaces the
/// default (GEP-1426).
pub fn select<'a>(port: &'a Port, head: &Head<'_>) -> Option<&'a Arc<Rule>> {
    choose(port, head).rule
}

/// What [`select`] finds, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    /// The rule.
    pub rule: Option<&'a Arc<Rule>>,
    /// Whether every request with the same method and path, if it is a gRPC call as this one or is
    /// none as this one, gets the same: no matcher had to look at anything else.
    pub by_call: bool,
}

/// The same as [`select`], and whether the answer may be remembered.
pub fn choose<'a>(port: &'a Port, head: &Head<'_>) -> Selected<'a> {
    let Some(rules) = &port.rules else {
        return Selected { rule: Some(&port.default_rule), by_call: true };
    };
    let call = matching::Call::of(head);
    let mut by_call = true;
    let found = rules.candidates(head.path).find(|rule| {
        let matches = matching::call_matches(&rule.matcher, head, &call);
        let asks_more =
            matches && !(rule.matcher.headers.is_empty() && rule.matcher.query.is_empty());
        by_call &= !asks_more;
        matches && (!asks_more || matching::rest_matches(&rule.matcher, head))
    });
    Selected { rule: found.map(|found| &found.rule), by_call }
}

/// The backend that a request gets, by weight; `random` is uniform over all of `u64`. `None`, as well
/// as a backend without a target, is `backend_invalid`: the share of a backend that does not exist is
/// not spread over the others (Gateway API, `HTTPRouteRule.backendRefs`).
pub fn split(rule: &Rule, random: u64) -> Option<&Backend> {
    let total = u128::from(rule.weight_total);
    let mut place = u64::try_from((u128::from(random) * total) >> 64).unwrap_or_default();
    rule.backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let found = place < weight;
        place = place.saturating_sub(weight);
        found
    })
}

#[cfg(test)]
mod tests;
