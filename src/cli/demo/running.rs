//! The running shop as the demo's claims see it: who runs where, how each is told to do wrong, and
//! what its sidecar says about itself.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::{self, Instant};

use super::{
    call::Calls,
    client::{self, Connection},
    collector::Collector,
    load, metrics,
};
use crate::{
    app::dev::{Instance, Mesh},
    cli::shop::services::Fault,
    resource::pb,
};

/// Between two looks at something that has to change.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The longest that the harm of a claim may last after it: an ejection and some time to be seen.
const HEAL_WITHIN: Duration = Duration::from_secs(30);

/// How long a service may take to lay its card.
const CARDS_WITHIN: Duration = Duration::from_secs(15);

/// Everything that runs.
pub(super) struct Shop {
    /// The supervisor.
    pub(super) mesh: Mesh,
    /// Where the shop's services lay their cards.
    pub(super) cards: PathBuf,
    /// Where spans go.
    pub(super) collector: Collector,
    /// The trace of the order that is shown; 0 until there is one.
    pub(super) order: u128,
}

/// One instance of a service with its sidecar, as it runs now.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// `orders-1`
    pub(super) name: String,
    /// `orders`
    pub(super) service: String,
    /// Its sidecar's listeners.
    pub(super) inbound: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) metrics: SocketAddr,
    /// The fault switch.
    switch: SocketAddr,
}

/// What a service of the shop writes about itself.
#[derive(Debug, Deserialize)]
struct Card {
    control: SocketAddr,
    /// Its sidecar's outbound listener: which instance it is.
    outbound: Option<SocketAddr>,
}

impl Shop {
    /// All instances, in the order of `dev.yaml`. A service that has just been started may need a
    /// moment to lay its card.
    pub(super) async fn members(&self) -> anyhow::Result<Vec<Member>> {
        until(CARDS_WITHIN, "every instance and its card", async || {
            let cards = read_cards(&self.cards).map_err(|error| format!("{error:#}"))?;
            let members = self.mesh.instances().iter().map(|instance| member(instance, &cards));
            members.collect::<anyhow::Result<_>>().map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// `5 services, 8 instances, 8 sidecars`
    pub(super) fn count(&self) -> String {
        let instances = self.mesh.instances();
        let services: BTreeSet<_> = instances.iter().filter_map(Instance::service).collect();
        let (services, instances) = (services.len(), instances.len());
        format!("{services} services, {instances} instances, {instances} sidecars")
    }

    /// The instances of one service.
    pub(super) async fn members_of(&self, service: &str) -> anyhow::Result<Vec<Member>> {
        let mut members = self.members().await?;
        members.retain(|member| member.service == service);
        anyhow::ensure!(!members.is_empty(), "the shop has no {service}");
        Ok(members)
    }

    /// The first instance of a service.
    pub(super) async fn first(&self, service: &str) -> anyhow::Result<Member> {
        self.members_of(service).await?.into_iter().next().context("no instance")
    }

    /// The instance of that name.
    pub(super) fn instance(&self, name: &str) -> anyhow::Result<&Instance> {
        self.mesh.instance(name).with_context(|| format!("no instance {name}"))
    }

    /// Where orders are placed: the door's sidecar.
    pub(super) async fn door(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.first("front").await?.inbound)
    }

    /// What the control plane says.
    pub(super) async fn status(&self) -> anyhow::Result<pb::StatusResponse> {
        let request = pb::StatusRequest::default();
        let status = self.mesh.client().config().status(request).await;
        Ok(status
            .map_err(|status| anyhow::anyhow!("Status: {}", super::call::say(&status)))?
            .into_inner())
    }

    /// Turns the fault switches of a service's instances.
    pub(super) async fn turn(&self, service: &str, fault: Fault) -> anyhow::Result<()> {
        for member in self.members_of(service).await? {
            member.turn(fault).await?;
        }
        Ok(())
    }

    /// Waits until nothing is left of what claims do to the shop: every fault is off, every
    /// instance runs, is registered and connected, and no caller avoids one.
    pub(super) async fn heal(&self) -> anyhow::Result<()> {
        for member in self.members().await? {
            member.turn(Fault::None).await?;
        }
        let mut door = Connection::new(self.door().await?);
        let mut callers = Vec::new();
        for orders in self.members_of("orders").await? {
            callers.push((orders.calls("catalog")?, orders.calls("inventory")?));
        }
        until(HEAL_WITHIN, "the shop is healthy again", async || {
            let sick = self.sickness().await.map_err(|error| format!("{error:#}"))?;
            let Some(sick) = sick else { return Ok(()) };
            // An instance that was left alone is tried again by calls.
            load::place(&mut door).await;
            for (catalog, inventory) in &callers {
                catalog.get().await;
                inventory.reserve().await;
            }
            Err(sick)
        })
        .await
    }

    /// What is not as it should be; `None`: all is well.
    async fn sickness(&self) -> anyhow::Result<Option<String>> {
        for member in self.members().await? {
            let page = member.scrape().await?;
            if metrics::sum(&page, "outrigger_control_connected", &[]) < 1.0 {
                return Ok(Some(format!("{} has no control plane", member.name)));
            }
            for service in ["orders-v1", "orders-v2", "catalog", "inventory", "payments"] {
                let of = |state| {
                    let destination = format!("{service}.shop");
                    let labels = [("destination", destination.as_str()), ("state", state)];
                    metrics::sum(&page, "outrigger_endpoints", &labels)
                };
                let (ready, other) = (of("ready"), of("not_ready") + of("ejected"));
                let expected = match service {
                    "catalog" | "inventory" => 2.0,
                    _ => 1.0,
                };
                if ready + other > 0.0 && (ready < expected || other > 0.0) {
                    let name = &member.name;
                    return Ok(Some(format!("{name} sees {ready} of {expected} {service} ready")));
                }
            }
        }
        Ok(None)
    }
}

impl Member {
    /// Its sidecar's metrics.
    pub(super) async fn scrape(&self) -> anyhow::Result<String> {
        client::get(self.metrics, "/metrics").await
    }

    /// Calls as its application would make them.
    pub(super) fn calls(&self, service: &str) -> anyhow::Result<Calls> {
        Calls::new(self.outbound, service)
    }

    /// Turns its fault switch.
    pub(super) async fn turn(&self, fault: Fault) -> anyhow::Result<()> {
        let mut switch = Connection::new(self.switch);
        let answer = switch.send(Method::PUT, "/fault", fault.to_string()).await?;
        anyhow::ensure!(answer.status == StatusCode::OK, "{}: {}", self.name, answer.text());
        Ok(())
    }
}

/// Looks again and again until it is so; after `bound`, what was seen last is the error.
pub(super) async fn until<T>(
    bound: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    let end = Instant::now() + bound;
    loop {
        let seen = match look().await {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if Instant::now() >= end {
            return Err(unlike(format!("{what} within {}s", bound.as_secs()), seen));
        }
        time::sleep(LOOK_EVERY).await;
    }
}

/// What a claim fails with.
pub(super) fn unlike(
    expected: impl std::fmt::Display,
    seen: impl std::fmt::Display,
) -> anyhow::Error {
    anyhow::anyhow!("expected {expected}; saw {seen}")
}

fn member(instance: &Instance, cards: &[Card]) -> anyhow::Result<Member> {
    let name = instance.name();
    let serving = instance.serving().with_context(|| format!("{name} does not run"))?;
    let unsaid = |listener: &str| format!("{name} does not say its {listener} address");
    let outbound = serving.outbound().with_context(|| unsaid("outbound"))?;
    let card = cards.iter().find(|card| card.outbound == Some(outbound));
    Ok(Member {
        name: name.to_owned(),
        service: instance.service().map(|service| service.name.clone()).unwrap_or_default(),
        inbound: serving.inbound().with_context(|| unsaid("inbound"))?,
        outbound,
        admin: serving.admin().with_context(|| unsaid("admin"))?,
        metrics: serving.metrics().with_context(|| unsaid("metrics"))?,
        switch: card.with_context(|| format!("{name} laid no card"))?.control,
    })
}

/// All cards, the newest first: an address may have been another instance's before.
fn read_cards(directory: &Path) -> anyhow::Result<Vec<Card>> {
    let mut cards: Vec<(SystemTime, Card)> = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let text = std::fs::read_to_string(entry.path())?;
        let card =
            serde_json::from_str(&text).with_context(|| entry.path().display().to_string())?;
        cards.push((entry.metadata()?.modified()?, card));
    }
    cards.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
    Ok(cards.into_iter().map(|(_, card)| card).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{read_cards, until};

    #[test]
    fn the_newest_card_comes_first_and_unfinished_ones_do_not_count() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let card = |name: &str, control: &str, age: u64| {
            let path = directory.path().join(name);
            let text = format!(r#"{{"control": "{control}", "outbound": "127.0.0.1:9"}}"#);
            std::fs::write(&path, text).expect("written");
            let file = std::fs::File::options().append(true).open(path).expect("there");
            let written = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
            file.set_modified(written).expect("dated");
        };
        card("a-1.json", "127.0.0.1:1", 20);
        card("a-2.json", "127.0.0.1:2", 10);
        card("a-3.json", "127.0.0.1:3", 30);
        std::fs::write(directory.path().join(".a-4.json"), "{").expect("written");
        let cards = read_cards(directory.path()).expect("well-formed");
        let ports: Vec<u16> = cards.iter().map(|card| card.control.port()).collect();
        assert_eq!(ports, [2, 1, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_what_was_found_or_with_what_was_seen_last() {
        let mut looks = 0;
        let found = until(Duration::from_secs(5), "three looks", async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks}")) }
        });
        assert_eq!(found.await.expect("found"), 3);
        let never = until(Duration::from_secs(1), "wonders", async || Err::<(), _>("none".into()));
        let error = never.await.expect_err("never").to_string();
        assert_eq!(error, "expected wonders within 1s; saw none");
    }
}
