//! Who may call what: from the certificate of a connection to a principal, and from that and the
//! method to yes or no, in one table. Methods are refused by default.
//!
//! The principal is named anew for each call, because a certificate may end while its connection
//! lives or its root be dropped; streams end with either.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Code, Status, body::Body};

use super::{
    end::End,
    error,
    grants::{Grant, Role},
    layers::Around,
    trust::{Tenure, Trust, Verdict},
};
use crate::{
    resource::ResourceKey,
    spiffe::{CREDENTIAL_PATH, SpiffeId},
    tls::{ControlCaller, Peer, control_caller},
};

/// The credential that the control plane makes by itself, for whoever starts it.
pub(crate) const ADMIN: &str = "admin";

/// What is known of a connection, in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// The other end's address.
    pub remote: SocketAddr,
    /// The certificates that it proved, if any.
    pub certificates: Option<Arc<[CertificateDer<'static>]>>,
    /// Whether they are still accepted.
    pub verdict: Arc<Verdict>,
    /// How it ended.
    pub end: Arc<End>,
}

/// Who makes a call, in the extensions of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Nobody known.
    Anonymous,
    /// Somebody with a credential for the API.
    Credential(Peer, Arc<Grant>),
    /// A workload by its SVID.
    Workload(Peer),
    /// A workload whose SVID ended within the last 72 hours.
    Expired(Peer),
    /// A valid certificate that may do nothing of ours.
    Other(Peer),
}

impl Principal {
    /// Names the caller of a connection.
    fn of(connection: &Connection, trust: &Trust, now: SystemTime) -> Result<Self, Status> {
        connection.check(trust, now)?;
        let trust_domain = trust.bundle.trust_domain();
        let caller = control_caller(connection.certificates.as_deref(), now)
            .map_err(|wrong| unauthenticated("CERTIFICATE_REFUSED", wrong.to_string()))?;
        let own = |peer: &Peer| peer.id.trust_domain() == trust_domain;
        Ok(match caller {
            ControlCaller::Anonymous => Self::Anonymous,
            ControlCaller::Valid(peer) if !own(&peer) => Self::Other(peer),
            ControlCaller::Valid(peer) if peer.id.service().is_some() => Self::Workload(peer),
            ControlCaller::Valid(peer) => {
                match trust.grants.by_certificate(&peer.sha256).cloned() {
                    Some(grant) if peer.id.path().starts_with(CREDENTIAL_PATH) => {
                        Self::Credential(peer, grant)
                    }
                    _ => Self::Other(peer),
                }
            }
            ControlCaller::Expired(peer) if own(&peer) && peer.id.service().is_some() => {
                Self::Expired(peer)
            }
            ControlCaller::Expired(_) => {
                return Err(unauthenticated("CERTIFICATE_EXPIRED", "the certificate has expired"));
            }
        })
    }

    /// Whether it may call the method of that path. In which namespaces it may write is looked at by
    /// the method.
    fn may_call(&self, path: &str) -> bool {
        let is_workload = matches!(self, Self::Workload(_));
        let role = if let Self::Credential(_, grant) = self { Some(grant.role) } else { None };
        match need(path) {
            Need::Nothing => true,
            Need::OwnCertificate => is_workload || matches!(self, Self::Expired(_)),
            Need::Bundle => is_workload || role.is_some(),
            Need::Workload => is_workload,
            Need::AnyCertificate => !matches!(self, Self::Anonymous | Self::Expired(_)),
            Need::Read => role.is_some(),
            Need::Write => matches!(role, Some(Role::Admin | Role::Editor)),
            Need::Administer(_) => role == Some(Role::Admin),
        }
    }

    fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Anonymous => None,
            Self::Credential(peer, _)
            | Self::Workload(peer)
            | Self::Expired(peer)
            | Self::Other(peer) => Some(peer),
        }
    }

    /// Its role; empty for who has none.
    pub(crate) fn role(&self) -> &'static str {
        if let Self::Credential(_, grant) = self { grant.role.name() } else { "" }
    }

    /// What its credential may do.
    ///
    /// # Errors
    /// INTERNAL for a caller without one: the table below has let it through by mistake.
    pub(crate) fn grant(&self) -> Result<&Arc<Grant>, Status> {
        match self {
            Self::Credential(_, grant) => Ok(grant),
            _ => Err(error::internal("a call of a person came from another principal")),
        }
    }

    /// Its identity; empty for nobody.
    pub(crate) fn name(&self) -> &str {
        self.peer().map_or("", |peer| peer.id.as_str())
    }

    /// The workload's certificate and identity, whether it is still valid or not.
    ///
    /// # Errors
    /// INTERNAL for another caller: the table above has let it through by mistake.
    pub(crate) fn workload(&self) -> Result<&Peer, Status> {
        match self {
            Self::Workload(peer) | Self::Expired(peer) => Ok(peer),
            Self::Anonymous | Self::Credential(..) | Self::Other(_) => {
                Err(error::internal("a call of a workload came from another principal"))
            }
        }
    }
}

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The token in the call is the credential.
    Nothing,
    /// A workload's certificate, be it lately expired.
    OwnCertificate,
    /// A workload's certificate or a credential.
    Bundle,
    /// A workload's certificate.
    Workload,
    /// Any that is valid.
    AnyCertificate,
    /// A credential that reads.
    Read,
    /// A credential that writes to some namespace.
    Write,
    /// An administrator's; whether it changes something.
    Administer(bool),
}

/// The one table of who may call what. What it does not name is for administrators, as is what touches
/// every namespace (a rollback, a backup).
fn need(path: &str) -> Need {
    let (service, method) =
        path.strip_prefix('/').and_then(|it| it.split_once('/')).unwrap_or_default();
    match (service, method) {
        ("outrigger.v1.IdentityService", "Join") => Need::Nothing,
        ("outrigger.v1.IdentityService", "Renew") => Need::OwnCertificate,
        ("outrigger.v1.IdentityService", "TrustBundle") => Need::Bundle,
        ("outrigger.v1.DiscoveryService", "Subscribe") => Need::Workload,
        ("grpc.health.v1.Health" | "grpc.reflection.v1.ServerReflection", _) => {
            Need::AnyCertificate
        }
        (
            "outrigger.v1.ConfigService",
            "Get" | "List" | "Watch" | "Status" | "History" | "Diff" | "GetGuard",
        )
        | ("outrigger.v1.AdminService", "ListTokens" | "GetAuthority") => Need::Read,
        ("outrigger.v1.ConfigService", "Apply" | "Delete" | "Rollback")
        | ("outrigger.v1.AdminService", "CreateToken" | "RevokeToken") => Need::Write,
        ("outrigger.v1.AdminService", "ListCredentials" | "ListAudit") => Need::Administer(false),
        _ => Need::Administer(true),
    }
}

/// Whether the method of that path is called to change something.
pub(crate) fn changes(path: &str) -> bool {
    matches!(need(path), Need::Write | Need::Administer(true))
}

/// Whether the caller may write these resources.
///
/// # Errors
/// PERMISSION_DENIED when it may not.
pub(crate) fn check_write<T>(
    request: &tonic::Request<T>,
    keys: impl IntoIterator<Item = ResourceKey>,
) -> Result<(), Status> {
    let principal = principal(request)?;
    let grant = principal.grant()?;
    keys.into_iter().try_for_each(|key| grant.check_write(&key.namespace))
}

/// The principal of a request that has come through [`Authenticate`].
///
/// # Errors
/// INTERNAL when it has not.
pub(crate) fn principal<T>(request: &tonic::Request<T>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    principal.ok_or_else(|| error::internal("a call came around authentication"))
}

fn unauthenticated(reason: &str, message: impl Into<String>) -> Status {
    error::refused(Code::Unauthenticated, reason, message, &[])
}

fn decide(
    connection: Option<&Connection>,
    path: &str,
    trust: &Trust,
    now: SystemTime,
) -> Result<Principal, Status> {
    let connection =
        connection.ok_or_else(|| error::internal("a request without its connection"))?;
    let principal = Principal::of(connection, trust, now)?;
    if principal.may_call(path) {
        return Ok(principal);
    }
    Err(match &principal {
        Principal::Anonymous => unauthenticated(
            "CERTIFICATE_REQUIRED",
            "this call needs a client certificate: a sidecar's, or admin.pem of the control plane",
        ),
        Principal::Expired(_) => unauthenticated(
            "CERTIFICATE_EXPIRED",
            "the certificate has expired; it can only be renewed",
        ),
        Principal::Credential(peer, grant) => denied(&peer.id, Some(grant.role), path),
        Principal::Workload(peer) | Principal::Other(peer) => denied(&peer.id, None, path),
    })
}

fn denied(id: &SpiffeId, role: Option<Role>, path: &str) -> Status {
    let role = role.map_or_else(String::new, |role| format!(" ({})", role.name()));
    error::refused(
        Code::PermissionDenied,
        "NOT_PERMITTED",
        format!("{id}{role} may not call {path}"),
        &[("identity", id.to_string()), ("method", path.to_owned())],
    )
}

/// Lets through only what the caller may do, with its [`Principal`] in the extensions.
#[derive(Debug, Clone)]
pub(crate) struct Authenticate {
    pub trust: watch::Receiver<Arc<Trust>>,
    /// The wall clock.
    pub now: fn() -> SystemTime,
    /// Places for the calls of strangers, who would else take those of everybody.
    pub strangers: Arc<Semaphore>,
}

impl Authenticate {
    /// A place that the call of a stranger takes until it is answered; others need none.
    fn place(&self, principal: &Principal) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if *principal != Principal::Anonymous {
            return Ok(None);
        }
        Arc::clone(&self.strangers).try_acquire_owned().map(Some).map_err(|_| {
            let message = "too many calls without a certificate";
            error::later(Code::ResourceExhausted, "BUSY", message, Duration::from_secs(1))
        })
    }
}

impl Around for Authenticate {
    fn call<F>(
        &self,
        mut request: Request<Body>,
        next: impl FnOnce(Request<Body>) -> F,
    ) -> BoxFuture<'static, Response<Body>>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let connection = request.extensions().get::<Connection>().cloned();
        let trust = Arc::clone(&self.trust.borrow());
        let decision = decide(connection.as_ref(), request.uri().path(), &trust, (self.now)());
        let admitted = decision.and_then(|it| Ok((self.place(&it)?, it)));
        match admitted {
            Ok((place, principal)) => {
                if let (Some(connection), Some(peer)) = (connection, principal.peer()) {
                    let (not_after, trust) = (peer.not_after, self.trust.clone());
                    let tenure = Tenure { connection, not_after, trust, now: self.now };
                    request.extensions_mut().insert(tenure);
                }
                request.extensions_mut().insert(principal);
                let call = next(request);
                Box::pin(async move {
                    let _place = place;
                    call.await
                })
            }
            Err(status) => {
                let remote = request.extensions().get::<Connection>().map(|it| it.remote);
                tracing::warn!(path = request.uri().path(), ?remote, %status, "call refused");
                Box::pin(async move { status.into_http() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use super::{Principal, changes};
    use crate::{
        control::grants::{Grant, Role},
        tls::Peer,
    };

    fn peer(path: &str) -> Peer {
        Peer {
            id: format!("spiffe://mesh.local{path}").parse().expect("well-formed"),
            not_after: UNIX_EPOCH + Duration::from_secs(1),
            sha256: String::new(),
        }
    }

    fn credential(role: Role) -> Principal {
        let grant = Grant {
            name: "ana".to_owned(),
            role,
            namespaces: BTreeSet::new(),
            sha256: Vec::new(),
            created_at: 0,
            expires_at: 0,
            created_by: String::new(),
        };
        Principal::Credential(peer("/credential/ana"), Arc::new(grant))
    }

    #[test]
    fn each_principal_may_call_what_it_needs_and_nothing_else() {
        const CALLS: [&str; 12] = [
            "/outrigger.v1.IdentityService/Join",
            "/outrigger.v1.IdentityService/Renew",
            "/outrigger.v1.IdentityService/TrustBundle",
            "/outrigger.v1.DiscoveryService/Subscribe",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/outrigger.v1.ConfigService/Get",
            "/outrigger.v1.ConfigService/Apply",
            "/outrigger.v1.AdminService/ListTokens",
            "/outrigger.v1.AdminService/CreateToken",
            "/outrigger.v1.AdminService/RotateRoot",
            "/outrigger.v1.Later/Unknown",
        ];
        let workload = || peer("/ns/shop/svc/orders");
        for (principal, expected) in [
            (Principal::Anonymous, "+-----------"),
            (Principal::Expired(workload()), "++----------"),
            (Principal::Workload(workload()), "++++++------"),
            (Principal::Other(peer("/credential/gone")), "+---++------"),
            (credential(Role::Viewer), "+-+-+++-+---"),
            (credential(Role::Editor), "+-+-++++++--"),
            (credential(Role::Admin), "+-+-++++++++"),
        ] {
            let may = CALLS.map(|call| if principal.may_call(call) { '+' } else { '-' });
            assert_eq!(may.iter().collect::<String>(), expected, "{principal:?}");
        }
        assert!(!Principal::Anonymous.may_call("outrigger.v1.IdentityService/Join"));
        assert!(!Principal::Anonymous.may_call("/outrigger.v1.IdentityService/join"));
        let changing = CALLS.map(|call| if changes(call) { '+' } else { '-' });
        assert_eq!(changing.iter().collect::<String>(), "-------+-+++");
    }
}
