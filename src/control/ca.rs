//! The certificate authority while it serves: what issues, whom to trust, and the port's own
//! certificate, exchanged together.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::{error, grants::Grants, state::pb_time, trust::Trust};
use crate::{
    identity::{Authority, CaError, Phase, Roots, RotationError},
    resource::pb,
    spiffe::{self, fingerprint, hex},
    telemetry::chain,
    tls,
};

/// What the certificates are made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The data directory.
    pub data: PathBuf,
    /// Names of the port's certificate.
    pub names: Vec<String>,
    /// How long leaves last.
    pub leaf_ttl: Duration,
    /// The wall clock.
    pub now: fn() -> SystemTime,
}

/// The CA.
#[derive(Debug)]
pub(crate) struct Ca {
    settings: Settings,
    roots: ArcSwap<Roots>,
    grants: ArcSwap<Grants>,
    trust: watch::Sender<Arc<Trust>>,
    tls: Arc<ArcSwap<ServerConfig>>,
    /// When the port's certificate is to be made anew; held while anything is exchanged.
    renew_at: Mutex<SystemTime>,
    /// The share of its life that was left when a certificate's end was last warned of, in percent.
    warned: Mutex<HashMap<String, u32>>,
    /// How far sidecars have followed, as last looked at.
    progress: ArcSwap<Progress>,
}

/// How far sidecars have followed an exchange of roots.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Those that have followed.
    pub followed: u32,
    /// Those that have not, and what they have not done.
    pub lagging: Vec<pb::Laggard>,
}

/// The end of a CA certificate is warned of when so many percent of its life are left.
const WARN_PERCENT: [u32; 3] = [10, 25, 50];
/// Laggards that one answer names.
const LAGGARDS_MAX: usize = 100;

impl Ca {
    /// Begins to serve what was opened, with a certificate for the port.
    ///
    /// # Errors
    /// When that can not be made.
    pub(crate) fn new(settings: Settings, roots: Roots, grants: Grants) -> Result<Self, CaError> {
        let grants = Arc::new(grants);
        let trust = Trust::of(&roots, &grants, 1);
        let (config, renew_at) = server_config(&roots, &trust, &settings)?;
        Ok(Self {
            settings,
            roots: ArcSwap::from_pointee(roots),
            grants: ArcSwap::new(grants),
            trust: watch::Sender::new(Arc::new(trust)),
            tls: Arc::new(ArcSwap::new(config)),
            renew_at: Mutex::new(renew_at),
            warned: Mutex::default(),
            progress: ArcSwap::default(),
        })
    }

    /// What signs now.
    pub(crate) fn issuer(&self) -> Arc<Authority> {
        Arc::clone(self.roots.load().issuer())
    }

    /// All of it.
    pub(crate) fn roots(&self) -> Arc<Roots> {
        self.roots.load_full()
    }

    /// Whom to trust, now and whenever it changes.
    pub(crate) fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// The port's TLS configuration, exchanged when it is renewed.
    pub(crate) fn tls(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.tls)
    }

    /// How long leaves last.
    pub(crate) fn leaf_ttl(&self) -> Duration {
        self.settings.leaf_ttl
    }

    /// How far sidecars have followed.
    pub(crate) fn note(&self, progress: Progress) {
        self.progress.store(Arc::new(progress));
    }

    /// Exchanges something: `change` makes the next state of what it is given, on disk. Blocks.
    ///
    /// # Errors
    /// Those of `change`, and when the port's certificate can not be made; then nothing changed but
    /// the disk.
    pub(crate) fn change<E: From<CaError>>(
        &self,
        change: impl FnOnce(&Roots, SystemTime) -> Result<Roots, E>,
    ) -> Result<(), E> {
        let mut renew_at = self.renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.settings.now)();
        let roots = change(&self.roots.load(), now)?;
        let trust = Trust::of(&roots, &self.grants.load(), self.trust.borrow().generation + 1);
        let (config, next) = server_config(&roots, &trust, &self.settings)?;
        *renew_at = next;
        self.roots.store(Arc::new(roots));
        self.tls.store(config);
        self.progress.store(Arc::default());
        self.trust.send_replace(Arc::new(trust));
        Ok(())
    }

    /// Who may call the API.
    pub(crate) fn grants(&self) -> Arc<Grants> {
        self.grants.load_full()
    }

    /// Exchanges who may call the API: `change` makes the next book, on disk. Connections and streams
    /// of those who may not any more end. Blocks.
    ///
    /// # Errors
    /// Those of `change`, and INTERNAL when the port's certificate can not be made.
    pub(crate) fn change_grants(
        &self,
        change: impl FnOnce(&Grants, &Roots, SystemTime) -> Result<Grants, Status>,
    ) -> Result<(), Status> {
        let mut renew_at = self.renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        let (roots, now) = (self.roots.load(), (self.settings.now)());
        let grants = Arc::new(change(&self.grants.load(), &roots, now)?);
        self.grants.store(Arc::clone(&grants));
        let trust = Trust::of(&roots, &grants, self.trust.borrow().generation + 1);
        let made = server_config(&roots, &trust, &self.settings);
        // Known from the book, whatever becomes of the certificate.
        self.trust.send_replace(Arc::new(trust));
        let (config, next) = made.map_err(|failed| {
            tracing::error!(error = %chain(&failed), "can not make the port's certificate");
            error::internal("the port's certificate can not be made")
        })?;
        *renew_at = next;
        self.tls.store(config);
        Ok(())
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.settings.data
    }

    /// Every CA certificate that matters, with what it is, and when it begins and ends.
    pub(crate) fn lives(&self) -> Vec<(&'static str, String, SystemTime, SystemTime)> {
        let roots = self.roots.load();
        let bundle = roots.bundle();
        let issuing = roots.issuer().chain();
        let below = &issuing[..issuing.len().saturating_sub(1)];
        let all = bundle.certificates().map(|der| ("root", der));
        let all = all.chain(below.iter().map(|der| ("issuing", der)));
        all.filter_map(|(kind, der)| {
            let (from, until) = spiffe::validity(der).ok()?;
            Some((kind, fingerprint(der), from, until))
        })
        .collect()
    }

    /// Says in the log when half, a quarter and a tenth of a CA certificate's life are left, once each.
    pub(crate) fn warn_of_ends(&self) {
        let now = (self.settings.now)();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, sha256, from, until) in self.lives() {
            let life = until.duration_since(from).unwrap_or_default().as_secs_f64();
            let left = until.duration_since(now).unwrap_or_default();
            let share = left.as_secs_f64() / life.max(1.0);
            let Some(step) =
                WARN_PERCENT.into_iter().find(|step| share * 100.0 <= f64::from(*step))
            else {
                continue;
            };
            if warned.get(&sha256).is_some_and(|before| *before <= step) {
                continue;
            }
            warned.insert(sha256.clone(), step);
            let days = left.as_secs() / 86_400;
            let sha256 = sha256.get(..8).unwrap_or_default();
            let hint = match kind {
                "root" => "outrigger ca rotate exchanges it",
                _ => "put root-key.pem back, or outrigger ca rotate",
            };
            if step <= WARN_PERCENT[0] {
                tracing::error!(kind, sha256, days, hint, "a CA certificate ends soon");
            } else {
                tracing::warn!(kind, sha256, days, hint, "a CA certificate will end");
            }
        }
    }

    /// Takes the step out of a phase, unless that was left already. Blocks.
    ///
    /// # Errors
    /// When no exchange is under way, or the disk fails.
    pub(crate) fn leave(&self, phase: Phase) -> Result<(), RotationError> {
        self.change(|roots, now| {
            let is_in = roots.rotation().is_some_and(|rotation| rotation.phase == phase);
            if is_in { roots.advance(now) } else { Ok(roots.clone()) }
        })
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> fn() -> SystemTime {
        self.settings.now
    }

    /// Renews the port's certificate, and what issues, when it is time. Blocks.
    pub(crate) fn renew(&self) {
        let mut renew_at = self.renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.settings.now)();
        match self.roots.load().renewed(now) {
            Ok(None) => {}
            Ok(Some(roots)) => {
                if roots.issuer().chain() != self.issuer().chain() {
                    tracing::info!("the issuing CA was renewed");
                    *renew_at = now;
                }
                self.roots.store(Arc::new(roots));
            }
            Err(failed) => {
                tracing::error!(error = %chain(&failed), "can not renew the issuing CA");
            }
        }
        if now < *renew_at {
            return;
        }
        match server_config(&self.roots.load(), &self.trust.borrow(), &self.settings) {
            Ok((config, next)) => {
                self.tls.store(config);
                *renew_at = next;
                tracing::info!("the port's certificate was renewed");
            }
            Err(failed) => {
                tracing::error!(error = %chain(&failed), "can not renew the port's certificate");
            }
        }
    }

    /// When the first root that is trusted ends, or what signs, where that is not renewed by itself.
    pub(crate) fn not_after(&self) -> SystemTime {
        let roots = self.roots.load();
        let (root, issuing) = (roots.bundle().not_after(), roots.issuer().not_after());
        match root {
            Some(root) if roots.is_root_key_here() => root,
            Some(root) => root.min(issuing),
            None => issuing,
        }
    }

    /// For people.
    pub(crate) fn to_pb(&self) -> pb::Authority {
        let roots = self.roots.load();
        let progress = self.progress.load();
        let rotation = roots.rotation().map(|rotation| pb::Rotation {
            phase: phase_pb(rotation.phase).into(),
            began_at: Some(pb_time(rotation.began)),
            phase_began_at: Some(pb_time(rotation.phase_began)),
            began_by: rotation.by.clone(),
            from_root: hex(&roots.from().root_hash()),
            to_root: hex(&rotation.to().root_hash()),
            aborting: rotation.aborting,
            followed: progress.followed,
            total: progress.followed
                + u32::try_from(progress.lagging.len()).unwrap_or(u32::MAX - progress.followed),
            lagging: progress.lagging.iter().take(LAGGARDS_MAX).cloned().collect(),
        });
        pb::Authority {
            trust_domain: roots.issuer().trust_domain().to_owned(),
            roots: roots.bundle().certificates().map(certificate_pb).collect(),
            issuing: roots.issuer().chain().iter().map(certificate_pb).collect(),
            leaf_ttl: prost_types::Duration::try_from(self.settings.leaf_ttl).ok(),
            root_key_online: roots.is_root_key_here() || roots.issuer().chain().len() == 1,
            rotation,
        }
    }
}

fn certificate_pb(der: &rustls_pki_types::CertificateDer<'static>) -> pb::CaCertificate {
    let (not_before, not_after) = spiffe::validity(der).ok().unzip();
    pb::CaCertificate {
        subject: spiffe::subject(der).unwrap_or_default(),
        sha256: fingerprint(der),
        not_before: not_before.map(pb_time),
        not_after: not_after.map(pb_time),
        der: der.to_vec(),
    }
}

/// As it travels.
pub(crate) fn phase_pb(phase: Phase) -> pb::RotationPhase {
    match phase {
        Phase::Trust => pb::RotationPhase::Trust,
        Phase::Issue => pb::RotationPhase::Issue,
        Phase::Retire => pb::RotationPhase::Retire,
        Phase::Drop => pb::RotationPhase::Drop,
    }
}

/// What a refused exchange is answered with.
pub(crate) fn refusal(failed: RotationError) -> Status {
    let precondition =
        |reason| error::refused(Code::FailedPrecondition, reason, failed.to_string(), &[]);
    match &failed {
        RotationError::UnderWay => precondition("ROTATION_UNDER_WAY"),
        RotationError::None => precondition("NO_ROTATION"),
        RotationError::TooLate => precondition("ROTATION_TOO_LATE"),
        RotationError::SameRoot => precondition("SAME_ROOT"),
        RotationError::Ca(wrong) => {
            tracing::error!(error = %chain(wrong), "the root is not exchanged");
            match wrong {
                CaError::Disk(_) => error::later(
                    Code::Unavailable,
                    "STORE_FAILED",
                    "the control plane's disk failed",
                    Duration::from_secs(1),
                ),
                wrong => error::invalid("certificates", wrong.to_string()),
            }
        }
    }
}

/// The port's TLS configuration with a new certificate, and when to make the next.
fn server_config(
    roots: &Roots,
    trust: &Trust,
    settings: &Settings,
) -> Result<(Arc<ServerConfig>, SystemTime), CaError> {
    let now = (settings.now)();
    let svid = roots.server_certificate(&settings.names, settings.leaf_ttl, now)?;
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    let known = Arc::new(trust.grants.certificates());
    Ok((tls::control_server(&svid, &trust.bundle, known), now + left / 2))
}
