//! Which endpoint a request goes to.
//!
//! A [`Pool`] holds the endpoints of one destination together with what this process knows of each:
//! its [`Load`] and its [`Health`]. It is made anew from each snapshot and keeps what is known of the
//! endpoints that stayed, so workers share it by one `Arc` and never lock it.

mod load;
mod pick;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

pub use load::{InFlight, Load};
pub use pick::{Choice, NoEndpoint};

use crate::{
    resilience::{Ejection, Health, Outlier, Verdict},
    snapshot::{Endpoint, OutlierDetection, Readiness},
};

/// The endpoints of one destination with what is known of each.
#[derive(Debug)]
pub struct Pool {
    members: Vec<Member>,
    shared: Arc<Shared>,
}

/// What outlives a change of the endpoints.
#[derive(Debug)]
struct Shared {
    origin: Instant,
    outlier: Outlier,
    /// Requests picked so far, for round robin.
    turn: AtomicU64,
}

/// One endpoint with what is known of it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Which one of the pool's it is, in the snapshot's order.
    pub place: usize,
    /// As the snapshot has it.
    pub endpoint: Arc<Endpoint>,
    /// Requests under way and their latency.
    pub load: Arc<Load>,
    /// Its failures.
    pub health: Arc<Health>,
}

impl Pool {
    /// A pool of a destination that was not called before; every later `now` is at or after `now`.
    pub fn new(endpoints: &[Arc<Endpoint>], now: Instant) -> Self {
        let origin = Shared { origin: now, outlier: Outlier::new(now), turn: AtomicU64::new(0) };
        let members = endpoints.iter().enumerate();
        let members = members.map(|(place, endpoint)| Member::new(place, endpoint, now)).collect();
        Self { members, shared: Arc::new(origin) }
    }

    /// The same destination with other endpoints. Those that are still dialled and spoken to in the
    /// same way under the same name keep what is known of them.
    pub fn with_endpoints(&self, endpoints: &[Arc<Endpoint>]) -> Self {
        let member = |(place, endpoint): (usize, &Arc<Endpoint>)| {
            let same = |member: &&Member| {
                let old = &member.endpoint;
                old.name == endpoint.name
                    && old.address == endpoint.address
                    && old.transport == endpoint.transport
            };
            let known = self.members.iter().find(same);
            known.map_or_else(
                || Member::new(place, endpoint, self.shared.origin),
                |known| Member { place, endpoint: Arc::clone(endpoint), ..known.clone() },
            )
        };
        let members = endpoints.iter().enumerate().map(member).collect();
        Self { members, shared: Arc::clone(&self.shared) }
    }

    /// All of them, in the snapshot's order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether outlier detection leaves this one alone at `now`.
    pub fn is_ejected(&self, member: &Member, now: Instant) -> bool {
        member.health.is_ejected(&self.shared.outlier, now)
    }

    /// Why outlier detection leaves this one alone at `now`, if it does.
    pub fn ejection(&self, member: &Member, now: Instant) -> Option<Ejection> {
        member.health.ejection(&self.shared.outlier, now)
    }

    /// Counts what an attempt said about its endpoint; `Some` when that ejected it, and for how long.
    pub fn observe(
        &self,
        settings: &OutlierDetection,
        member: &Member,
        verdict: Verdict,
        now: Instant,
    ) -> Option<std::time::Duration> {
        let takes_traffic = |member: &&Member| {
            member.endpoint.readiness == Readiness::Ready && member.endpoint.weight > 0
        };
        let pool = self.members.iter().filter(takes_traffic).map(|member| member.health.as_ref());
        self.shared.outlier.observe(settings, &member.health, verdict, now, pool)
    }
}

impl Member {
    fn new(place: usize, endpoint: &Arc<Endpoint>, origin: Instant) -> Self {
        let endpoint = Arc::clone(endpoint);
        Self { place, endpoint, load: Arc::new(Load::new(origin)), health: Arc::default() }
    }
}
