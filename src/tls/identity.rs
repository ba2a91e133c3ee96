//! Who this process is and whom it trusts, exchangeable while it runs: new handshakes take the new
//! SVID and bundle, open connections go on (and are looked at again with [`Identity::trusts`]).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::{
    ALPN_H2, ALPN_TCP, Role, Untrusted, config,
    verified::Verified,
    verify,
    verify::{ClientVerifier, Expected},
};
use crate::spiffe::{Leaf, SpiffeId, Svid, TrustBundle};

/// How many expected identities have a client configuration ready; beyond that the one that was not
/// used for longest goes.
const CLIENTS_MAX: usize = 1024;

/// An SVID and a trust bundle, and the TLS configurations that follow from them.
pub struct Identity {
    state: ArcSwap<State>,
    /// Held while `state` is exchanged, so that two exchanges do not undo each other.
    exchange: Mutex<()>,
    version: watch::Sender<u64>,
}

/// Whom to trust, as somebody who knows says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The roots that are trusted.
    pub bundle: TrustBundle,
    /// Those of them, by SHA-256, that will be dropped next: connections that they vouch for end in
    /// order before that.
    pub retiring: Vec<[u8; 32]>,
    /// What this is called by whoever said it; empty when nobody did.
    pub version: String,
}

impl Trust {
    /// Only the roots.
    pub fn of(bundle: TrustBundle) -> Self {
        Self { bundle, retiring: Vec::new(), version: String::new() }
    }
}

/// How a peer that is accepted stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its connection may stay.
    Good,
    /// Its root will be dropped next: the connection is to end in order, and to take no further
    /// requests.
    Retiring,
}

struct State {
    svid: Arc<Svid>,
    bundle: Arc<TrustBundle>,
    /// The roots that are not retiring, when some are.
    staying: Option<Arc<TrustBundle>>,
    trust_version: Arc<str>,
    server: Arc<ServerConfig>,
    clients: Mutex<Clients>,
    /// Peers that were found good with the bundle.
    verified: Arc<Verified>,
}

#[derive(Default)]
struct Clients {
    /// Counts uses; its value at the last use of each entry tells which was not used for longest.
    uses: u64,
    by_id: FxHashMap<SpiffeId, (Arc<ClientConfig>, u64)>,
}

/// Why an SVID or bundle is not taken; what was there before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The SVID names another identity than the one before.
    #[error("the new certificate is for {found}, this is {expected}")]
    OtherIdentity {
        /// Who this is.
        expected: SpiffeId,
        /// Whom the new SVID names.
        found: SpiffeId,
    },
    /// The bundle is not that of the SVID's trust domain.
    #[error("{id} is not of the trust domain {trust_domain}")]
    TrustDomain {
        /// Whom the SVID names.
        id: SpiffeId,
        /// Whose roots the bundle holds.
        trust_domain: String,
    },
}

impl Identity {
    /// Puts both together.
    ///
    /// # Errors
    /// When they are not of one trust domain.
    pub fn new(svid: Svid, bundle: TrustBundle) -> Result<Self, IdentityError> {
        let state = State::new(Arc::new(svid), Arc::new(bundle))?;
        let (version, _) = watch::channel(0);
        Ok(Self { state: ArcSwap::from_pointee(state), exchange: Mutex::new(()), version })
    }

    /// Shows another SVID of the same identity from now on.
    ///
    /// # Errors
    /// When it is for another identity.
    pub fn replace_svid(&self, svid: Svid) -> Result<(), IdentityError> {
        let exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        if svid.id() != state.svid.id() {
            let (expected, found) = (state.svid.id().clone(), svid.id().clone());
            return Err(IdentityError::OtherIdentity { expected, found });
        }
        let next = State::new(Arc::new(svid), Arc::clone(&state.bundle))?;
        let (staying, trust_version) = (state.staying.clone(), Arc::clone(&state.trust_version));
        self.state.store(Arc::new(State { staying, trust_version, ..next }));
        drop(exchange);
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Trusts these roots, and only these, from now on; the same ones change nothing.
    ///
    /// # Errors
    /// When they are those of another trust domain.
    pub fn replace_bundle(&self, bundle: TrustBundle) -> Result<(), IdentityError> {
        self.replace_trust(Trust::of(bundle))
    }

    /// Trusts so from now on; the same again changes nothing.
    ///
    /// # Errors
    /// When the roots are those of another trust domain.
    pub fn replace_trust(&self, trust: Trust) -> Result<(), IdentityError> {
        let Trust { bundle, retiring, version } = trust;
        let staying = match retiring.is_empty() {
            true => None,
            false => bundle.filtered(|root| !retiring.contains(root)).map(Arc::new),
        };
        let exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state.load();
        if *state.bundle == bundle && state.staying == staying && *state.trust_version == *version {
            return Ok(());
        }
        let next = State::new(Arc::clone(&state.svid), Arc::new(bundle))?;
        self.state.store(Arc::new(State { staying, trust_version: version.into(), ..next }));
        drop(exchange);
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }

    /// What is shown now.
    pub fn svid(&self) -> Arc<Svid> {
        Arc::clone(&self.state.load().svid)
    }

    /// Whom it names; never changes.
    pub fn id(&self) -> SpiffeId {
        self.state.load().svid.id().clone()
    }

    /// What is trusted now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.state.load().bundle)
    }

    /// For a listener: a client certificate of the trust domain is required. Ask anew for each
    /// connection, and call [`super::require_alpn`] after the handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state.load().server)
    }

    /// For a connection to an endpoint that must be exactly `expected`. Ask anew for each
    /// connection; it is kept ready.
    pub fn client_config(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        let state = self.state.load();
        let mut clients = state.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.uses += 1;
        let now = clients.uses;
        if let Some((ready, used)) = clients.by_id.get_mut(expected) {
            *used = now;
            return Arc::clone(ready);
        }
        if clients.by_id.len() >= CLIENTS_MAX {
            clients.forget_one();
        }
        let made = config::client(
            Some(state.svid.certified_key()),
            Expected::Id(expected.clone(), Arc::clone(&state.bundle), Arc::clone(&state.verified)),
        );
        clients.by_id.insert(expected.clone(), (Arc::clone(&made), now));
        made
    }

    /// Looks at the certificates of an open connection again: after the bundle changed or time
    /// passed, those that would not be accepted any more end it.
    ///
    /// # Errors
    /// When the peer would be refused now.
    pub fn trusts(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: SystemTime,
    ) -> Result<Leaf, Untrusted> {
        verify(chain, &self.bundle(), role, now)
    }

    /// As [`Identity::trusts`], for connections that may be asked to end: also says whether the
    /// peer's root is about to be dropped.
    ///
    /// # Errors
    /// When the peer would be refused now.
    pub fn standing(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: SystemTime,
    ) -> Result<Standing, Untrusted> {
        let state = self.state.load();
        verify(chain, &state.bundle, role, now)?;
        let stays = |staying: &Arc<TrustBundle>| verify(chain, staying, role, now).is_ok();
        Ok(if state.staying.as_ref().is_none_or(stays) {
            Standing::Good
        } else {
            Standing::Retiring
        })
    }

    /// The version of the [`Trust`] by which it trusts now; empty when it came without one.
    pub fn trust_version(&self) -> Arc<str> {
        Arc::clone(&self.state.load().trust_version)
    }

    /// Sees a new number whenever SVID or bundle was exchanged.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

impl State {
    fn new(svid: Arc<Svid>, bundle: Arc<TrustBundle>) -> Result<Self, IdentityError> {
        if svid.id().trust_domain() != bundle.trust_domain() {
            let trust_domain = bundle.trust_domain().to_owned();
            return Err(IdentityError::TrustDomain { id: svid.id().clone(), trust_domain });
        }
        let verified = Arc::new(Verified::default());
        let verifier = ClientVerifier {
            bundle: Arc::clone(&bundle),
            verified: Some(Arc::clone(&verified)),
            required: true,
            expired_max: Duration::ZERO,
            known: Arc::default(),
        };
        let server = config::server(svid.certified_key(), Arc::new(verifier), &[ALPN_H2, ALPN_TCP]);
        let clients = Mutex::default();
        Ok(Self {
            svid,
            bundle,
            staying: None,
            trust_version: "".into(),
            server,
            clients,
            verified,
        })
    }
}

impl Clients {
    fn forget_one(&mut self) {
        let oldest = self.by_id.iter().min_by_key(|(_, (_, used))| *used);
        if let Some(id) = oldest.map(|(id, _)| id.clone()) {
            self.by_id.remove(&id);
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.load();
        f.debug_struct("Identity")
            .field("svid", &state.svid)
            .field("bundle", &state.bundle)
            .finish_non_exhaustive()
    }
}
