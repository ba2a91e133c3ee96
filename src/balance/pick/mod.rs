//! Picks an endpoint: two random choices, the less loaded one taken (Mitzenmacher, "The Power of Two
//! Choices"), or round robin, or at random; weights decide how often one is looked at and how much
//! load it may carry.
//!
//! Who is eligible: ready, of a weight above zero, not ejected, not tried before. When that leaves
//! nobody, first those that were tried are permitted again, then those that are ejected: an ejection
//! must never empty the pool by itself. Neither must checks: when nobody is ready, those take traffic
//! whose sidecars say that their applications fail, for checks that fail everywhere at once are more
//! often wrong than right.

use std::{fmt, sync::atomic::Ordering, time::Instant};

use super::{Load, Member, Pool};
use crate::snapshot::{Balancing, Endpoint, Readiness};

/// How a request's endpoint is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The policy.
    pub balancing: Balancing,
    /// The names of endpoints that this request has tried.
    pub tried: &'a [&'a str],
    /// The current time.
    pub now: Instant,
    /// Uniform over all of `u64`.
    pub random: u64,
}

/// Nobody takes traffic, and why; displayed as `3 endpoints: 2 not ready, 1 of weight 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoEndpoint {
    /// All of them.
    pub total: usize,
    /// Whose sidecar does not say that it is ready.
    pub not_ready: usize,
    /// Ready, but of weight 0.
    pub weightless: usize,
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.total == 1 { "endpoint" } else { "endpoints" };
        write!(f, "{} {noun}", self.total)?;
        let parts = [(self.not_ready, "not ready"), (self.weightless, "of weight 0")];
        let mut separator = ": ";
        for (count, state) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {state}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Who may be picked, from the narrowest to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Tried,
    Ejected,
    FailingFresh,
    Failing,
}

/// The eligible members of one stage.
#[derive(Clone, Copy)]
struct Candidates<'p, 'c> {
    pool: &'p Pool,
    choice: &'c Choice<'c>,
    stage: Stage,
    count: u64,
    weight: u64,
}

impl Pool {
    /// Picks the endpoint for one attempt.
    ///
    /// # Errors
    /// When no endpoint is ready and of a weight above zero.
    pub fn pick(&self, choice: &Choice<'_>) -> Result<&Member, NoEndpoint> {
        // Some stage takes it whatever was tried, ejected or fails, as there is no other.
        if let [only] = self.members.as_slice()
            && only.endpoint.readiness != Readiness::NotReady
            && only.endpoint.weight > 0
        {
            return Ok(only);
        }
        let stages =
            [Stage::Fresh, Stage::Tried, Stage::Ejected, Stage::FailingFresh, Stage::Failing];
        for stage in stages {
            let candidates = Candidates::new(self, choice, stage);
            if let Some(member) = candidates.pick() {
                return Ok(member);
            }
        }
        let not_ready = self.members.iter();
        let not_ready =
            not_ready.filter(|member| member.endpoint.readiness != Readiness::Ready).count();
        let total = self.members.len();
        Err(NoEndpoint { total, not_ready, weightless: total - not_ready })
    }
}

impl<'p, 'c> Candidates<'p, 'c> {
    fn new(pool: &'p Pool, choice: &'c Choice<'c>, stage: Stage) -> Self {
        let mut candidates = Self { pool, choice, stage, count: 0, weight: 0 };
        let (mut count, mut weight) = (0, 0);
        for member in candidates.iter() {
            count += 1;
            weight += u64::from(member.endpoint.weight);
        }
        candidates.count = count;
        candidates.weight = weight;
        candidates
    }

    fn iter(self) -> impl Iterator<Item = &'p Member> {
        self.pool.members.iter().filter(move |member| self.takes(member))
    }

    fn takes(&self, member: &Member) -> bool {
        let Endpoint { name, readiness, weight, .. } = &*member.endpoint;
        let fresh = || !self.choice.tried.contains(&name.as_str());
        let healthy = || !self.pool.is_ejected(member, self.choice.now);
        let ready = *readiness == Readiness::Ready;
        *weight > 0
            && match self.stage {
                Stage::Fresh => ready && fresh() && healthy(),
                Stage::Tried => ready && healthy(),
                Stage::Ejected => ready,
                Stage::FailingFresh => *readiness == Readiness::Failing && fresh(),
                Stage::Failing => *readiness == Readiness::Failing,
            }
    }

    fn pick(&self) -> Option<&'p Member> {
        if self.count <= 1 {
            return self.iter().next();
        }
        match self.choice.balancing {
            Balancing::PeakEwma => self.better_of_two(|load| peak_ewma(load, self.choice.now)),
            Balancing::LeastRequest => self.better_of_two(least_request),
            Balancing::RoundRobin => self.in_turn(),
            Balancing::Random => self.at(scale(self.choice.random, self.weight), None),
        }
    }

    /// Draws two different members by weight and takes the one that would carry less for its weight.
    fn better_of_two(&self, cost: impl Fn(&Load) -> f64) -> Option<&'p Member> {
        let (high, low) = (self.choice.random & !u64::from(u32::MAX), self.choice.random << 32);
        let one = self.at(scale(high, self.weight), None)?;
        let rest = self.weight.saturating_sub(u64::from(one.endpoint.weight));
        let Some(other) = self.at(scale(low, rest), Some(one)) else { return Some(one) };
        let per_weight = |member: &Member| cost(&member.load) / f64::from(member.endpoint.weight);
        Some(if per_weight(other) < per_weight(one) { other } else { one })
    }

    /// One after the other; of unequal weights, each in its share and spread evenly (multiples of
    /// the golden ratio fall evenly into any interval).
    fn in_turn(&self) -> Option<&'p Member> {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let turn = self.pool.shared.turn.fetch_add(1, Ordering::Relaxed);
        let first = self.iter().next()?.endpoint.weight;
        if self.weight == self.count * u64::from(first)
            && self.iter().all(|member| member.endpoint.weight == first)
        {
            let place = usize::try_from(turn % self.count).unwrap_or_default();
            return self.iter().nth(place);
        }
        self.at(scale(turn.wrapping_mul(GOLDEN), self.weight), None)
    }

    /// The member at this place when each takes as many places as its weight, without `left_out`.
    fn at(&self, place: u64, left_out: Option<&Member>) -> Option<&'p Member> {
        let mut place = place;
        let mut last = None;
        for member in self.iter() {
            if left_out.is_some_and(|other| std::ptr::eq(other, member)) {
                continue;
            }
            last = Some(member);
            let weight = u64::from(member.endpoint.weight);
            if place < weight {
                break;
            }
            place -= weight;
        }
        // An ejection that ends between two looks may make the sum too small; any is fine then.
        last
    }
}

/// Maps `random` evenly to `0..below`.
fn scale(random: u64, below: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(below)) >> 64).unwrap_or_default()
}

/// Latency times the requests that would be under way. One without a sample is tried by one request
/// at once, and by no other until it has answered.
fn peak_ewma(load: &Load, now: Instant) -> f64 {
    const UNKNOWN_SECONDS: f64 = 1_000.0;
    let in_flight = load.in_flight();
    match load.latency(now) {
        Some(latency) => latency.as_secs_f64() * (f64::from(in_flight) + 1.0),
        None if in_flight == 0 => 0.0,
        None => UNKNOWN_SECONDS * f64::from(in_flight),
    }
}

fn least_request(load: &Load) -> f64 {
    f64::from(load.in_flight()) + 1.0
}

#[cfg(test)]
mod tests;
