//! The administrator's credential as files of the data directory: for the `local` context, and for
//! other clients of the API (`grpcurl -cert … -key … -cacert …`).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::CertificateDer;

use super::{
    auth::ADMIN,
    grants::{Grant, Grants, GrantsError, Role},
};
use crate::{
    identity::{
        Authority, CaError,
        disk::{self, DiskError},
    },
    spiffe::{Svid, fingerprint},
    tls,
};

/// A year: whoever starts the control plane now and then never sees it end.
const TTL: Duration = Duration::from_hours(24 * 365);
/// A credential with less left than this is made anew when the control plane starts.
const LEFT_MIN: Duration = Duration::from_hours(24 * 180);
/// Far more than one certificate chain or key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the files are not laid.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayError {
    /// The certificate can not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The book of credentials.
    #[error(transparent)]
    Grants(#[from] GrantsError),
}

/// PEM files with which the control plane can be called as its administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The mesh's root certificate: whom to believe.
    pub root: PathBuf,
    /// The client certificate, with the CA certificates between it and the root.
    pub certificate: PathBuf,
    /// Its key, readable by its owner only.
    pub key: PathBuf,
}

impl CredentialFiles {
    /// The files of a data directory.
    fn of(directory: &Path) -> Self {
        Self {
            root: directory.join("root.pem"),
            certificate: directory.join("admin.pem"),
            key: directory.join("admin-key.pem"),
        }
    }

    /// Lays the files and notes by which certificate the administrator is known, unless those that
    /// are there will do for long enough.
    pub(super) fn lay(
        directory: &Path,
        authority: &Authority,
        grants: &Grants,
        now: SystemTime,
    ) -> Result<(Self, Grants), LayError> {
        let files = Self::of(directory);
        if files.will_do(authority, grants, now)? {
            return Ok((files, grants.clone()));
        }
        let svid = authority.credential(ADMIN, TTL, now)?;
        // Known before it is there: a certificate without its key, or that nobody has, harms nobody.
        let seconds =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let grants = grants.with(Grant {
            name: ADMIN.to_owned(),
            role: Role::Admin,
            namespaces: BTreeSet::new(),
            sha256: svid.chain().first().map(|der| fingerprint(der)).into_iter().collect(),
            created_at: seconds(now),
            expires_at: seconds(svid.not_after()),
            created_by: "the control plane".to_owned(),
        })?;
        disk::write_private(&files.key, svid.key_pem().as_bytes())?;
        disk::write_public(&files.certificate, svid.chain_pem().as_bytes())?;
        Ok((files, grants))
    }

    fn will_do(
        &self,
        authority: &Authority,
        grants: &Grants,
        now: SystemTime,
    ) -> Result<bool, DiskError> {
        let key = disk::read_private(&self.key, FILE_BYTES_MAX)?;
        let certificate = disk::read(&self.certificate, FILE_BYTES_MAX)?;
        let (Some(key), Some(certificate)) = (key, certificate) else { return Ok(false) };
        let Ok(svid) = Svid::from_pem(&certificate, &key, tls::provider()) else {
            return Ok(false);
        };
        let left = svid.not_after().duration_since(now).unwrap_or_default();
        // A CA that ends sooner can give no more than it has.
        let enough = left >= LEFT_MIN || svid.not_after() >= authority.not_after();
        let known = |der: &CertificateDer<'_>| {
            grants.by_certificate(&fingerprint(der)).is_some_and(|grant| grant.name == ADMIN)
        };
        Ok(enough && !left.is_zero() && svid.chain().first().is_some_and(known))
    }
}
