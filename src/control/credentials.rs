//! Making and revoking credentials for the API.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tonic::{Code, Status};

use super::{
    auth::ADMIN,
    ca::Ca,
    credential::CredentialFiles,
    error,
    grants::{Grant, GrantsError, Role},
    state::pb_time,
};
use crate::{
    identity::CaError,
    resource::pb,
    spiffe::{self, fingerprint},
    telemetry::chain,
    units::name::check_label,
};

/// How long a credential lasts when nobody says.
const TTL_DEFAULT: Duration = Duration::from_hours(24 * 90);
/// How long one lasts at least and at most.
const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_hours(24 * 365));
/// Namespaces of one editor.
const NAMESPACES_MAX: usize = 100;

/// What a new credential is to be.
#[derive(Debug)]
pub(crate) struct Wanted {
    name: String,
    role: Role,
    namespaces: BTreeSet<String>,
    ttl: Duration,
    csr: Vec<u8>,
    by: String,
}

impl Wanted {
    /// Reads what was asked for.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the field that is wrong.
    pub(crate) fn of(request: pb::CreateCredentialRequest, by: String) -> Result<Self, Status> {
        let role = Role::of(request.role());
        let role =
            role.ok_or_else(|| error::invalid("role", "is none of admin, editor, viewer"))?;
        check_label(&request.name)
            .map_err(|wrong| error::invalid("name", format!("{:?} {wrong}", request.name)))?;
        if request.name == ADMIN {
            let what = "admin is the credential that the control plane makes by itself";
            return Err(error::invalid("name", what));
        }
        if role != Role::Editor && !request.namespaces.is_empty() {
            return Err(error::invalid("namespaces", "are for editors only"));
        }
        if request.namespaces.len() > NAMESPACES_MAX {
            return Err(error::invalid("namespaces", format!("are more than {NAMESPACES_MAX}")));
        }
        for namespace in &request.namespaces {
            check_label(namespace)
                .map_err(|wrong| error::invalid("namespaces", format!("{namespace:?} {wrong}")))?;
        }
        let (least, most) = TTL_RANGE;
        let ttl = request.ttl.map_or(Ok(TTL_DEFAULT), Duration::try_from).ok();
        let ttl = ttl.filter(|ttl| (least..=most).contains(ttl));
        let ttl = ttl.ok_or_else(|| error::invalid("ttl", "is not between 1 min and 1 year"))?;
        let namespaces = request.namespaces.into_iter().collect();
        Ok(Self { name: request.name, role, namespaces, ttl, csr: request.csr, by })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credential {} ({}", self.name, self.role.name())?;
        for namespace in &self.namespaces {
            write!(f, " {namespace}")?;
        }
        f.write_str(")")
    }
}

/// Makes a credential; what is kept of it is on disk before it leaves. Blocks.
pub(crate) fn create(ca: &Ca, wanted: Wanted) -> Result<pb::CreateCredentialResponse, Status> {
    let mut made = None;
    ca.change_grants(|grants, roots, now| {
        let Wanted { name, role, namespaces, ttl, csr, by } = wanted;
        if grants.get(&name).is_some() {
            let message = format!("there is a credential {name}; revoke it first");
            return Err(error::refused(Code::AlreadyExists, "CREDENTIAL_EXISTS", message, &[]));
        }
        if !grants.has_room() {
            return Err(Status::resource_exhausted("there are too many credentials"));
        }
        let authority = roots.issuer();
        let id = spiffe::credential(authority.trust_domain(), &name)
            .map_err(|wrong| error::invalid("name", wrong.to_string()))?;
        let issued = authority.sign(&csr, &id, ttl, now).map_err(|failed| match failed {
            CaError::Csr(wrong) => error::invalid("csr", wrong.to_string()),
            other => {
                tracing::error!(error = %chain(&other), "can not sign");
                Status::internal("the certificate could not be made")
            }
        })?;
        let sha256 = issued.chain.first().map(|der| fingerprint(der)).into_iter().collect();
        let (created_at, expires_at) = (seconds(now), seconds(issued.not_after));
        let grant =
            Grant { name, role, namespaces, sha256, created_at, expires_at, created_by: by };
        let next = grants.with(grant.clone()).map_err(|failed| stored(&failed))?;
        made = Some(pb::CreateCredentialResponse {
            chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
            roots: roots.bundle().certificates().map(|der| der.to_vec()).collect(),
            info: Some(to_pb(&grant)),
        });
        Ok(next)
    })?;
    made.ok_or_else(|| error::internal("a credential was made and is not there"))
}

/// Nobody calls with it any more. The administrator's is replaced by a new one in the data directory,
/// so that whoever can read that is never locked out. Blocks.
pub(crate) fn revoke(ca: &Ca, name: &str) -> Result<(), Status> {
    ca.change_grants(|grants, roots, now| {
        if grants.get(name).is_none() {
            let message = format!("there is no credential {name:?}");
            return Err(error::refused(Code::NotFound, "NO_SUCH_CREDENTIAL", message, &[]));
        }
        let next = grants.without(name).map_err(|failed| stored(&failed))?;
        if name != ADMIN {
            return Ok(next);
        }
        let laid = CredentialFiles::lay(ca.data(), roots.issuer(), &next, now);
        laid.map(|(_, next)| next).map_err(|failed| {
            tracing::error!(error = %chain(&failed), "can not make the administrator's credential");
            Status::unavailable("the administrator's credential could not be made anew")
        })
    })
}

/// For people.
pub(crate) fn to_pb(grant: &Grant) -> pb::Credential {
    let time = |seconds| Some(pb_time(UNIX_EPOCH + Duration::from_secs(seconds)));
    pb::Credential {
        name: grant.name.clone(),
        role: grant.role.to_pb().into(),
        namespaces: grant.namespaces.iter().cloned().collect(),
        created_at: time(grant.created_at),
        expires_at: time(grant.expires_at),
        created_by: grant.created_by.clone(),
        sha256: grant.sha256.last().cloned().unwrap_or_default(),
    }
}

fn stored(failed: &GrantsError) -> Status {
    tracing::error!(error = %chain(failed), "the book of credentials can not be written");
    let message = "the control plane's disk failed";
    error::later(Code::Unavailable, "STORE_FAILED", message, Duration::from_secs(1))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
