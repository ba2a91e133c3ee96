//! Which services the application uses: asked for by the proxy at their first use, given up when they
//! have been idle, and never more than a bounded number.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{resource::pb, snapshot::Snapshot, units::ServiceName};

/// Services that may be asked for at once; an application that asks for more waits and asks again.
const ASKED_MAX: usize = 1024;
/// Services held at once; the one that was not used for longest makes room.
const USED_MAX: usize = 4096;
/// After so long without a request a service is given up. Long, because its next use waits for an
/// answer.
const IDLE_MAX: Duration = Duration::from_mins(15);
/// The same for a name that the mesh does not have.
const UNKNOWN_IDLE_MAX: Duration = Duration::from_mins(1);

/// What the proxy asked for and nobody has looked at yet. Shared by all workers.
#[derive(Debug, Default)]
pub struct Wants {
    asked: Mutex<BTreeSet<ServiceName>>,
    woken: Notify,
}

impl Wants {
    /// Asks for a service; returns at once. Asking again does nothing more.
    pub fn want(&self, service: &ServiceName) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() < ASKED_MAX && !asked.contains(service) {
            asked.insert(service.clone());
            self.woken.notify_one();
        }
    }

    /// Waits until something is asked for. Cancelling it loses nothing.
    pub(super) async fn next(&self) -> BTreeSet<ServiceName> {
        loop {
            let asked = self.take();
            if !asked.is_empty() {
                return asked;
            }
            self.woken.notified().await;
        }
    }

    /// What was asked for until now.
    pub(super) fn take(&self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The services in use and when they were used last.
#[derive(Debug, Default)]
pub(super) struct Uses {
    last: BTreeMap<ServiceName, Instant>,
    /// Never given up: fixed upstreams.
    pinned: BTreeSet<ServiceName>,
    /// Outbound requests so far, by destination as metrics name it.
    counted: BTreeMap<String, u64>,
}

impl Uses {
    pub(super) fn new(pinned: BTreeSet<ServiceName>, now: Instant) -> Self {
        let last = pinned.iter().map(|service| (service.clone(), now)).collect();
        Self { last, pinned, counted: BTreeMap::new() }
    }

    pub(super) fn contains(&self, service: &ServiceName) -> bool {
        self.last.contains_key(service)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.last.keys()
    }

    /// Uses a service from now on. Returns whether that is new, and which one had to make room.
    pub(super) fn add(
        &mut self,
        service: ServiceName,
        now: Instant,
    ) -> (bool, Option<ServiceName>) {
        if let Some(last) = self.last.get_mut(&service) {
            *last = now;
            return (false, None);
        }
        let mut room = None;
        if self.last.len() >= USED_MAX {
            let others = self.last.iter().filter(|(other, _)| !self.pinned.contains(*other));
            room = others.min_by_key(|(_, last)| **last).map(|(other, _)| other.clone());
            match &room {
                Some(other) => drop(self.last.remove(other)),
                None => return (false, None),
            }
        }
        self.last.insert(service, now);
        (true, room)
    }

    /// Notes who was used since the last time: by what was counted, and by what is under way.
    pub(super) fn note(
        &mut self,
        traffic: &[pb::Traffic],
        under_way: BTreeSet<String>,
        running: Option<&Snapshot>,
        now: Instant,
    ) {
        let mut used = under_way;
        for pair in traffic {
            let counted = self.counted.insert(pair.destination.clone(), pair.total);
            if counted != Some(pair.total) {
                used.insert(pair.destination.clone());
            }
        }
        for (service, last) in &mut self.last {
            let led_on = || running.is_some_and(|running| leads_to(running, service, &used));
            if used.contains(&service.to_string()) || led_on() {
                *last = now;
            }
        }
    }

    /// Gives up what has been idle, and returns it.
    pub(super) fn give_up(&mut self, running: Option<&Snapshot>, now: Instant) -> Vec<ServiceName> {
        let idle = |service: &ServiceName, last: &Instant| {
            let known = running.and_then(|running| running.destinations.get(service));
            let longest = if matches!(known, Some(None)) { UNKNOWN_IDLE_MAX } else { IDLE_MAX };
            now.saturating_duration_since(*last) >= longest
        };
        let mut given_up = BTreeSet::new();
        let mut staying = Vec::new();
        for (service, last) in &self.last {
            if !self.pinned.contains(service) && idle(service, last) {
                given_up.insert(service.clone());
            } else {
                staying.push(service.clone());
            }
        }
        // Where services that stay lead to would be asked for again at once.
        while let Some((running, service)) = running.zip(staying.pop()) {
            staying.extend(running.backends(&service).filter_map(|it| given_up.take(it)));
        }
        for service in &given_up {
            self.last.remove(service);
        }
        given_up.into_iter().collect()
    }

    /// Services to which the rules of those in use lead, and that are not asked for yet.
    pub(super) fn led_to(&self, running: &Snapshot) -> BTreeSet<ServiceName> {
        let led_to = self.services().flat_map(|service| running.backends(service));
        led_to.filter(|service| !self.contains(service)).cloned().collect()
    }
}

/// Whether a route of `service` leads to one of these: metrics count the backend and not the service
/// that was called.
fn leads_to(running: &Snapshot, service: &ServiceName, used: &BTreeSet<String>) -> bool {
    running.backends(service).any(|backend| used.contains(&backend.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use tokio::time::Instant;

    use super::{IDLE_MAX, USED_MAX, Uses, Wants};
    use crate::{resource::pb, units::ServiceName};

    fn shop(name: &str) -> ServiceName {
        ServiceName::new(name, "shop")
    }

    fn traffic(destination: &str, total: u64) -> pb::Traffic {
        pb::Traffic { destination: destination.into(), total, ..Default::default() }
    }

    #[tokio::test]
    async fn a_want_is_heard_once_however_often_it_is_said() {
        let wants = Wants::default();
        for _ in 0..3 {
            wants.want(&shop("orders"));
        }
        assert_eq!(wants.next().await, BTreeSet::from([shop("orders")]));
        assert!(wants.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_given_up_when_it_is_idle_and_pinned_ones_never() {
        let start = Instant::now();
        let mut uses = Uses::new(BTreeSet::from([shop("pinned")]), start);
        for name in ["idle", "counted", "streaming"] {
            assert_eq!(uses.add(shop(name), start), (true, None));
        }
        uses.note(&[traffic("counted.shop", 1)], BTreeSet::new(), None, start);
        let later = start + IDLE_MAX - Duration::from_secs(1);
        assert!(uses.give_up(None, later).is_empty());
        let under_way = BTreeSet::from(["streaming.shop".to_owned()]);
        uses.note(&[traffic("counted.shop", 2)], under_way, None, later);
        assert_eq!(uses.give_up(None, start + IDLE_MAX), [shop("idle")]);
        uses.note(&[traffic("counted.shop", 2)], BTreeSet::new(), None, later + IDLE_MAX);
        let gone = uses.give_up(None, later + IDLE_MAX);
        assert_eq!(gone, [shop("counted"), shop("streaming")], "nothing more was counted");
        assert_eq!(uses.services().collect::<Vec<_>>(), [&shop("pinned")]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_not_used_for_longest_makes_room() {
        let start = Instant::now();
        let mut uses = Uses::new(BTreeSet::from([shop("pinned")]), start);
        for (number, name) in (1..USED_MAX).map(|number| (number, format!("s{number}"))) {
            let second = Duration::from_secs(number.try_into().expect("small"));
            assert_eq!(uses.add(shop(&name), start + second), (true, None));
        }
        let end = start + IDLE_MAX;
        assert_eq!(uses.add(shop("s1"), end), (false, None), "used again");
        assert_eq!(uses.add(shop("new"), end), (true, Some(shop("s2"))));
    }
}
