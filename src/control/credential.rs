//! The administrator's credential as files of the data directory: for the `local` context, and for
//! other clients of the API (`grpcurl -cert … -key … -cacert …`).

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::auth::ADMIN;
use crate::{
    identity::{
        Authority, CaError,
        disk::{self, DiskError},
    },
    spiffe::Svid,
    tls::{self, Role},
};

/// A year: whoever starts the control plane now and then never sees it end.
const TTL: Duration = Duration::from_hours(24 * 365);
/// A credential with less left than this is made anew when the control plane starts.
const LEFT_MIN: Duration = Duration::from_hours(24 * 180);
/// Far more than one certificate chain or key.
const FILE_BYTES_MAX: u64 = 1 << 20;

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

    /// Lays the files, unless those that are there will do for long enough.
    pub(super) fn lay(
        directory: &Path,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let files = Self::of(directory);
        disk::write_public(&files.root, authority.bundle().to_pem().as_bytes())?;
        if files.will_do(authority, now)? {
            return Ok(files);
        }
        let svid = authority.credential(ADMIN, TTL, now)?;
        // A certificate without its key is noticed at the next start, should we die in between.
        disk::write_private(&files.key, svid.key_pem().as_bytes())?;
        disk::write_public(&files.certificate, svid.chain_pem().as_bytes())?;
        Ok(files)
    }

    fn will_do(&self, authority: &Authority, now: SystemTime) -> Result<bool, DiskError> {
        let key = disk::read_private(&self.key, FILE_BYTES_MAX)?;
        let certificate = disk::read(&self.certificate, FILE_BYTES_MAX)?;
        let (Some(key), Some(certificate)) = (key, certificate) else { return Ok(false) };
        let Ok(svid) = Svid::from_pem(&certificate, &key, tls::provider()) else {
            return Ok(false);
        };
        let left = svid.not_after().duration_since(now).unwrap_or_default();
        // A CA that ends sooner can give no more than it has.
        let enough = left >= LEFT_MIN || svid.not_after() >= authority.not_after();
        let ours = tls::verify(svid.chain(), authority.bundle(), Role::Client, now).is_ok();
        Ok(enough && ours)
    }
}
