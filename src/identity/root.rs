//! A root of our own making. It signs the certificate that issues, and nothing else, so that its key
//! can be taken off line: the control plane needs it again only when that certificate is to be
//! renewed, which it says long before.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    DistinguishedName, DnType, DnValue, Issuer, KeyPair, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{asn1_rs::Tag, certificate::X509Certificate, prelude::FromDer};

use super::{
    Authority, CaError,
    ca::{authority_params, made, organization, uri},
    disk::{self, DiskError},
};
use crate::spiffe::{BundleError, LeafError, certificate_pem, hex, sha256};

/// How long a root lasts: ten years.
const ROOT_TTL: Duration = Duration::from_hours(24 * 3652);
/// How long a certificate that issues lasts: a year, renewed from half of it.
const ISSUING_TTL: Duration = Duration::from_hours(24 * 365);
/// Key and certificate; may be moved elsewhere.
const FILE: &str = "root-key.pem";
/// The largest PEM file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A root with its key.
pub struct RootKey {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl RootKey {
    /// A new one: ECDSA P-256, ten years.
    ///
    /// # Errors
    /// When the trust domain is malformed or the system gives no random numbers.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(made)?;
        let mut root = authority_params(now, now + ROOT_TTL)?;
        root.distinguished_name = named("mesh root", &key);
        root.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}").parse()?)?];
        let certificate = root.self_signed(&key).map_err(made)?.der().clone();
        Ok(Self { key, certificate })
    }

    /// Reads the one of a data directory, if it is there.
    ///
    /// # Errors
    /// When it can not be read, is none, or others can read it.
    pub fn load(directory: &Path) -> Result<Option<Self>, CaError> {
        let Some(text) = disk::read_private(&directory.join(FILE), FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        Self::from_pem(&text).map(Some)
    }

    /// Stores it in a data directory, for the owner only.
    ///
    /// # Errors
    /// When the directory can not be written.
    pub fn save(&self, directory: &Path) -> Result<(), DiskError> {
        disk::write_private(&directory.join(FILE), self.to_pem().as_bytes())
    }

    /// Removes the one of a data directory, if it is there.
    ///
    /// # Errors
    /// When it can not be removed.
    pub fn remove(directory: &Path) -> Result<(), DiskError> {
        disk::remove(&directory.join(FILE))
    }

    /// A CA below it: a new key, and a certificate for a year.
    ///
    /// # Errors
    /// When the root has expired or the system gives no random numbers.
    pub fn authority(&self, trust_domain: &str, now: SystemTime) -> Result<Authority, CaError> {
        let key = KeyPair::generate().map_err(made)?;
        let root_ends = crate::spiffe::not_after(&self.certificate)?;
        let mut issuing = authority_params(now, root_ends.min(now + ISSUING_TTL))?;
        issuing.distinguished_name = named("mesh issuing CA", &key);
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(made)?;
        let issuing = issuing.signed_by(&key, &issuer).map_err(made)?.der().clone();
        Authority::new(trust_domain, vec![issuing, self.certificate.clone()], key, now)
    }

    /// The SHA-256 of the certificate.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    pub(super) fn into_parts(self) -> (KeyPair, CertificateDer<'static>) {
        (self.key, self.certificate)
    }

    pub(super) fn from_pem(text: &[u8]) -> Result<Self, CaError> {
        let unusable = |error: &dyn fmt::Display| CaError::Key(error.to_string());
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| unusable(&error))?;
        let key = KeyPair::try_from(&key).map_err(|error| unusable(&error))?;
        let certificate = CertificateDer::from_pem_slice(text)
            .map_err(|error| BundleError::Pem(error.to_string()))?;
        if public_key(&certificate)?.subject_public_key_info() != key.subject_public_key_info() {
            return Err(CaError::Key("it is not the root certificate's".to_owned()));
        }
        Ok(Self { key, certificate })
    }

    pub(super) fn to_pem(&self) -> String {
        format!("{}{}", self.key.serialize_pem(), certificate_pem(&self.certificate))
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKey").field("sha256", &hex(&self.hash())).finish_non_exhaustive()
    }
}

/// Who a CA certificate of ours is for. Named after its key, so that no two are alike.
fn named(what: &str, key: &KeyPair) -> DistinguishedName {
    let mut name = organization();
    let hash = sha256(&key.subject_public_key_info());
    name.push(DnType::CommonName, format!("{what} {}", hex(&hash[..4])));
    name
}

/// Whom a CA certificate names; `None` where the name has a form that can not be written again byte
/// for byte.
pub(super) fn subject(der: &CertificateDer<'_>) -> Option<DistinguishedName> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let kind: Vec<u64> = attribute.attr_type().iter()?.collect();
        let value = attribute.attr_value();
        let text = std::str::from_utf8(value.data).ok()?;
        let value = match value.header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().ok()?),
            _ => return None,
        };
        name.push(DnType::from_oid(&kind), value);
    }
    Some(name)
}

/// The public key of a certificate.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfo, CaError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| CaError::Made(LeafError::Malformed))?;
    SubjectPublicKeyInfo::from_der(certificate.public_key().raw).map_err(made)
}
