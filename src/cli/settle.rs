//! Waiting until the sidecars run a revision, for a bounded time.
//!
//! A sidecar that refuses a resource never will; but right after a write the control plane may
//! still tell of a refusal of the version before, so refusals count only after a moment.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::{output::Failure, remote::Connected, words};
use crate::resource::{ResourceKey, pb};

const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Every sidecar has looked at a new version after this; most take a few milliseconds.
const REFUSALS_OLD_MAX: Duration = Duration::from_secs(1);
/// Names in one message.
const SHOWN_MAX: usize = 5;

/// How the sidecars were when the waiting ended.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settled {
    /// How many are connected and not about to leave.
    pub(super) sidecars: usize,
    /// Those that do not run the revision: `orders-2.shop`
    pub(super) behind: Vec<String>,
    /// Who refuses what, and why: `GRPCRoute shop/orders refused by web-1: no such filter`
    pub(super) refusals: Vec<String>,
    pub(super) waited: Duration,
}

impl Settled {
    fn of(status: &pb::StatusResponse, revision: u64, keys: &[ResourceKey]) -> Self {
        let staying = |it: &&pb::SidecarStatus| it.phase() != pb::WorkloadPhase::Draining;
        let sidecars: Vec<_> = status.sidecars.iter().filter(staying).collect();
        let behind = sidecars.iter().filter(|sidecar| sidecar.revision < revision);
        let behind = behind.map(|sidecar| format!("{}.{}", sidecar.workload, sidecar.namespace));
        let refusals = status.refusals.iter().filter_map(|refusal| {
            let key = refusal.resource.as_ref().and_then(ResourceKey::from_pb)?;
            let why = refusal.problems.first().map_or("", |problem| problem.message.as_str());
            keys.contains(&key).then(|| format!("{key} refused by {}: {why}", refusal.workload))
        });
        Self {
            sidecars: sidecars.len(),
            behind: behind.collect(),
            refusals: refusals.collect(),
            waited: Duration::ZERO,
        }
    }

    /// Whether all of them run it.
    pub(super) fn is_done(&self) -> bool {
        self.behind.is_empty() && self.refusals.is_empty()
    }

    /// One line about it.
    pub(super) fn text(&self, revision: u64) -> String {
        let waited = words::latency(self.waited.as_secs_f64() * 1000.0);
        if !self.refusals.is_empty() {
            return shown(&self.refusals, "; ");
        }
        if !self.behind.is_empty() {
            let (behind, all) = (self.behind.len(), words::count(self.sidecars, "sidecar"));
            let names = shown(&self.behind, ", ");
            return format!(
                "revision {revision} is stored, but after {waited} {behind} of {all} do not run \
                 it yet: {names}"
            );
        }
        match self.sidecars {
            0 => "no sidecar is connected\n".to_owned(),
            1 => format!("the 1 sidecar runs revision {revision}, after {waited}\n"),
            number => format!("all {number} sidecars run revision {revision}, after {waited}\n"),
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "sidecars": self.sidecars,
            "behind": self.behind,
            "refusals": self.refusals,
            "waitedMilliseconds": u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn shown(list: &[String], between: &str) -> String {
    let text = list.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(between);
    match list.len().saturating_sub(SHOWN_MAX) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Asks again until every sidecar runs the revision, one refuses one of these resources, or the
/// time is over.
pub(super) async fn settle(
    connected: &Connected,
    revision: u64,
    keys: &[ResourceKey],
    timeout: Duration,
) -> Result<Settled, Failure> {
    let started = Instant::now();
    let end = started + timeout;
    let mut pause = PAUSE_FIRST;
    loop {
        let mut client = connected.client.config();
        let asked = client.status(pb::StatusRequest::default());
        // At least one answer is waited for; it is bounded by the client.
        let status = asked.await.map_err(|status| connected.failed(&status))?.into_inner();
        let waited = started.elapsed();
        let mut settled = Settled { waited, ..Settled::of(&status, revision, keys) };
        if waited < REFUSALS_OLD_MAX.min(timeout) && settled.behind.is_empty() {
            settled.refusals.clear();
        }
        let refused = waited >= REFUSALS_OLD_MAX && !settled.refusals.is_empty();
        if settled.is_done() || refused || Instant::now() >= end {
            return Ok(settled);
        }
        time::sleep_until((Instant::now() + pause).min(end)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Settled;
    use crate::resource::{Kind, ResourceKey, pb};

    fn sidecar(workload: &str, revision: u64, phase: pb::WorkloadPhase) -> pb::SidecarStatus {
        pb::SidecarStatus {
            workload: workload.to_owned(),
            namespace: "shop".to_owned(),
            revision,
            phase: phase.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_sidecar_that_leaves_is_not_waited_for() {
        let status = pb::StatusResponse {
            sidecars: vec![
                sidecar("a", 42, pb::WorkloadPhase::Ready),
                sidecar("b", 41, pb::WorkloadPhase::Draining),
            ],
            ..Default::default()
        };
        let settled = Settled::of(&status, 42, &[]);
        assert!(settled.is_done());
        assert_eq!(settled.text(42), "the 1 sidecar runs revision 42, after 0.0ms\n");
        let later = Settled { waited: Duration::from_secs(30), ..Settled::of(&status, 43, &[]) };
        let expected = "revision 43 is stored, but after 30.0s 1 of 1 sidecar do not run it yet: \
                        a.shop";
        assert_eq!(later.text(43), expected);
    }

    #[test]
    fn only_refusals_of_what_was_written_count() {
        let key = |name| ResourceKey::new(Kind::GrpcRoute, "shop", name);
        let problem = pb::Problem { message: "no such filter".to_owned(), ..Default::default() };
        let refusal = |name| pb::Refusal {
            resource: Some(key(name).to_pb()),
            workload: "web-1".to_owned(),
            problems: vec![problem.clone()],
            since: None,
        };
        let status = pb::StatusResponse {
            refusals: vec![refusal("mine"), refusal("other")],
            ..Default::default()
        };
        let settled = Settled::of(&status, 1, &[key("mine")]);
        assert_eq!(settled.refusals, ["GRPCRoute shop/mine refused by web-1: no such filter"]);
        assert!(!settled.is_done());
    }
}
