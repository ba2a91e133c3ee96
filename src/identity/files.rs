//! An identity from files that somebody else keeps fresh: static mode, without a control plane.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::disk::{self, DiskError};
use crate::{
    spiffe::{BundleError, Svid, SvidError, TrustBundle},
    tls::{self, Role, Untrusted},
};

/// The largest PEM file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the three files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA certificates of the trust domain.
    pub ca: PathBuf,
}

/// Why the files make no identity; always names the file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One of them can not be read, or others can read the key.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// One of them is not there.
    #[error("there is no file {0}")]
    Missing(PathBuf),
    /// Certificate and key make no SVID.
    #[error("{certificate} with the key {key}: {why}")]
    Svid {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        why: SvidError,
    },
    /// The CA file holds no CA certificates.
    #[error("{path}: {why}")]
    Ca {
        /// The CA's file.
        path: PathBuf,
        /// What is wrong.
        why: BundleError,
    },
    /// Peers that trust this CA would refuse this certificate.
    #[error("{certificate} would be refused by peers that trust {ca}: {why}")]
    NotAccepted {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// Why.
        why: Box<Untrusted>,
    },
}

impl Files {
    /// Reads them; the trust domain is that of the certificate's SPIFFE ID. What peers would refuse
    /// is refused here, where the reason can still be told.
    ///
    /// # Errors
    /// When one is missing, broken, expired, does not fit the others, or the key is open to others.
    pub fn load(&self, now: SystemTime) -> Result<(Svid, TrustBundle), FilesError> {
        let present = |path: &Path, text: Option<Vec<u8>>| {
            text.ok_or_else(|| FilesError::Missing(path.to_owned()))
        };
        let chain = present(&self.certificate, disk::read(&self.certificate, FILE_BYTES_MAX)?)?;
        let key = present(&self.key, disk::read_private(&self.key, FILE_BYTES_MAX)?)?;
        let ca = present(&self.ca, disk::read(&self.ca, FILE_BYTES_MAX)?)?;
        let svid = Svid::from_pem(&chain, &key, tls::provider()).map_err(|why| {
            let (certificate, key) = (self.certificate.clone(), self.key.clone());
            FilesError::Svid { certificate, key, why }
        })?;
        let bundle = TrustBundle::from_pem(svid.id().trust_domain(), &ca)
            .map_err(|why| FilesError::Ca { path: self.ca.clone(), why })?;
        for role in [Role::Client, Role::Server] {
            tls::verify(svid.chain(), &bundle, role, now).map_err(|why| {
                let (certificate, ca) = (self.certificate.clone(), self.ca.clone());
                FilesError::NotAccepted { certificate, ca, why: Box::new(why) }
            })?;
        }
        Ok((svid, bundle))
    }
}
