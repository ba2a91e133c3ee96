//! What moves an exchange of roots on: it looks at every connected sidecar, says who has not followed,
//! and takes the next step when all have. It needs nobody who waits for it, and goes on after a
//! restart where the files say that it was.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use super::{
    ca::{Ca, Progress},
    fleet::{Fleet, Session},
};
use crate::{
    identity::{Authority, Phase},
    resource::{ResourceKey, pb},
    spiffe::TrustBundle,
    telemetry::chain,
    tls::{self, Role},
};

/// How often the sidecars are looked at while an exchange is under way.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long connections of the old root have to end in order, before it is dropped.
const RETIRE: Duration = Duration::from_secs(10);
/// How long a sidecar that went away without having drained is waited for: it may only have lost its
/// connection, and would find itself cut off.
const AWAY_MAX: Duration = Duration::from_secs(300);

/// A sidecar that went away.
#[derive(Debug)]
struct Away {
    since: Instant,
    service: String,
}

/// What is known from one look to the next.
#[derive(Debug, Default)]
struct Watcher {
    /// The sidecars of the last look, with their services, and whether they were about to go.
    present: BTreeMap<ResourceKey, (String, bool)>,
    away: BTreeMap<ResourceKey, Away>,
    /// Whether the certificate of a stream is of the new root, by the stream's number.
    of_new_root: HashMap<u64, bool>,
}

/// Moves exchanges of roots on, until the future is dropped.
pub(crate) async fn drive(
    ca: Arc<Ca>,
    fleet: Arc<Fleet>,
    grace_until: Instant,
) -> std::convert::Infallible {
    // After a start sidecars need a moment to connect again; before that all would seem to have
    // followed.
    sleep_until(grace_until).await;
    let mut trust = ca.trust();
    let mut watcher = Watcher::default();
    loop {
        let roots = ca.roots();
        let Some(rotation) = roots.rotation() else {
            watcher = Watcher::default();
            if trust.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            continue;
        };
        let version = trust.borrow_and_update().version.clone();
        let progress = watcher.look(&fleet.sessions(), rotation.phase, &version, rotation.to());
        let all = progress.lagging.is_empty();
        ca.note(progress);
        let lasted = (ca.now())().duration_since(rotation.phase_began).unwrap_or_default();
        if all && (rotation.phase != Phase::Retire || lasted >= RETIRE) {
            advance(&ca, rotation.phase).await;
            watcher.of_new_root.clear();
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Takes the step out of `phase`, unless somebody else has taken it.
async fn advance(ca: &Arc<Ca>, phase: Phase) {
    let step = Arc::clone(ca);
    let stepped = spawn_blocking(move || step.leave(phase)).await;
    match stepped {
        Ok(Ok(())) => {
            tracing::info!(?phase, "every sidecar has followed; the exchange of the root goes on")
        }
        Ok(Err(failed)) => {
            tracing::error!(error = %chain(&failed), "the exchange of the root does not go on");
            sleep(Duration::from_secs(1)).await;
        }
        Err(error) => tracing::error!(%error, "a step of the exchange of the root panicked"),
    }
}

impl Watcher {
    /// Who has followed into `phase`, in which `version` is to be trusted and `to` is to stay.
    fn look(
        &mut self,
        sessions: &[Arc<Session>],
        phase: Phase,
        version: &str,
        to: &Authority,
    ) -> Progress {
        let now = Instant::now();
        let mut progress = Progress::default();
        let mut present = BTreeMap::new();
        for session in sessions {
            let (trusted, draining) = {
                let progress = session.progress();
                let draining = progress.phase == pb::WorkloadPhase::Draining;
                (progress.trust_version.clone(), draining)
            };
            let service = session.service.to_string();
            present.insert(session.key.clone(), (service, draining));
            let reason = if trusted.is_empty() {
                Some(format!("has not said whom it trusts (version {})", session.version))
            } else if trusted != version {
                Some("does not trust the roots of this phase yet".to_owned())
            } else if phase == Phase::Issue && !self.is_of(session, to.bundle()) {
                Some("has not renewed its certificate yet".to_owned())
            } else {
                None
            };
            match reason {
                None => progress.followed += 1,
                Some(reason) => {
                    progress.lagging.push(laggard(&session.key, &session.service.name, reason))
                }
            }
        }
        self.note_away(&present, now);
        for (key, away) in &self.away {
            let seconds = now.duration_since(away.since).as_secs();
            let reason = format!("is away for {seconds}s without having drained");
            let service = away.service.split('.').next().unwrap_or_default();
            progress.lagging.push(laggard(key, service, reason));
        }
        self.present = present;
        progress
    }

    fn note_away(&mut self, present: &BTreeMap<ResourceKey, (String, bool)>, now: Instant) {
        for (key, (service, draining)) in &self.present {
            if !present.contains_key(key) && !draining {
                let service = service.clone();
                self.away.entry(key.clone()).or_insert(Away { since: now, service });
            }
        }
        self.away.retain(|key, away| {
            !present.contains_key(key) && now.duration_since(away.since) < AWAY_MAX
        });
    }

    /// Whether the stream's certificate is of the new root. One without is of none.
    fn is_of(&mut self, session: &Session, bundle: &TrustBundle) -> bool {
        *self.of_new_root.entry(session.id).or_insert_with(|| {
            let now = crate::clock::now();
            let accepted = |chain: &Arc<[_]>| tls::verify(chain, bundle, Role::Client, now).is_ok();
            session.certificates.as_ref().is_some_and(accepted)
        })
    }
}

fn laggard(key: &ResourceKey, service: &str, reason: String) -> pb::Laggard {
    pb::Laggard {
        workload: key.name.clone(),
        service: service.to_owned(),
        namespace: key.namespace.clone(),
        reason,
    }
}
