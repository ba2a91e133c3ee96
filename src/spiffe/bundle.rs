//! The roots of a trust domain: who may sign identities in it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use super::{LeafError, leaf, pem};

/// The most roots that one trust domain may have; two are usual while roots roll.
const ROOTS_MAX: usize = 32;

/// How far ahead it is said that nothing changes.
const LOOK_AHEAD: Duration = Duration::from_hours(24);

/// The CA certificates of one trust domain; never empty.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: String,
    roots: Vec<Root>,
}

#[derive(Clone)]
struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why certificates make no trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// There is no certificate.
    #[error("there is no CA certificate in it")]
    Empty,
    /// More than 32 certificates.
    #[error("there are more than {ROOTS_MAX} certificates in it")]
    TooMany,
    /// The trust domain's name is malformed.
    #[error("{0:?} is not a trust domain")]
    TrustDomain(String),
    /// The PEM text is broken.
    #[error("the PEM text is broken: {0}")]
    Pem(String),
    /// One of them is broken.
    #[error("certificate {0} {1}")]
    Certificate(usize, LeafError),
    /// One of them is a leaf: trusting it as a root would let its holder sign for everyone.
    #[error("certificate {0} is not a CA certificate")]
    NoAuthority(usize),
}

impl TrustBundle {
    /// Puts a trust domain's name and its CA certificates together; doubles are dropped.
    ///
    /// # Errors
    /// When there is none, or one that is not a CA certificate.
    pub fn new(
        trust_domain: &str,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let named = format!("spiffe://{trust_domain}").parse::<super::SpiffeId>();
        if !named.is_ok_and(|id| id.path().is_empty()) {
            return Err(BundleError::TrustDomain(trust_domain.to_owned()));
        }
        if certificates.len() > ROOTS_MAX {
            return Err(BundleError::TooMany);
        }
        let mut roots: Vec<Root> = Vec::with_capacity(certificates.len());
        for (number, der) in (1..).zip(certificates) {
            let root = Root::read(number, der)?;
            if !roots.iter().any(|other| other.der == root.der) {
                roots.push(root);
            }
        }
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), roots })
    }

    /// Reads every certificate of a PEM text.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], and when the text is no PEM.
    pub fn from_pem(trust_domain: &str, text: &[u8]) -> Result<Self, BundleError> {
        let certificates = pem::certificates(text);
        Self::new(trust_domain, certificates.map_err(|error| BundleError::Pem(error.to_string()))?)
    }

    /// `mesh.local`
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The certificates, in order.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// Those that are valid at that time: webpki itself takes a trust anchor as valid for ever.
    pub fn anchors(&self, now: SystemTime) -> Vec<TrustAnchor<'_>> {
        let valid = |root: &&Root| root.not_before <= now && now <= root.not_after;
        self.roots.iter().filter(valid).map(|root| root.anchor.clone()).collect()
    }

    /// From when until before when the same roots are valid as at that time.
    pub fn unchanged_around(&self, now: SystemTime) -> (SystemTime, SystemTime) {
        let (mut from, mut until) = (SystemTime::UNIX_EPOCH, now + LOOK_AHEAD);
        let ends = self.roots.iter().map(|root| root.not_after);
        for change in self.roots.iter().map(|root| root.not_before).chain(ends) {
            if change <= now {
                from = from.max(change);
            } else {
                until = until.min(change);
            }
        }
        (from, until)
    }

    /// Those of its roots for which `keep` is true of their SHA-256; `None` when none is left.
    pub fn filtered(&self, keep: impl Fn(&[u8; 32]) -> bool) -> Option<Self> {
        let roots: Vec<Root> =
            self.roots.iter().filter(|root| keep(&sha256(&root.der))).cloned().collect();
        let trust_domain = self.trust_domain.clone();
        (!roots.is_empty()).then_some(Self { trust_domain, roots })
    }

    /// When the first of its roots expires.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.roots.iter().map(|root| root.not_after).min()
    }

    /// The certificates as PEM.
    pub fn to_pem(&self) -> String {
        self.certificates().map(|der| pem::encode("CERTIFICATE", der)).collect()
    }
}

impl Root {
    fn read(number: usize, der: CertificateDer<'static>) -> Result<Self, BundleError> {
        let broken = |error| BundleError::Certificate(number, error);
        let certificate = leaf::parse(&der).map_err(broken)?;
        if !leaf::may_sign(&certificate).map_err(broken)? {
            return Err(BundleError::NoAuthority(number));
        }
        let (not_before, not_after) = leaf::valid_between(&certificate);
        let anchor = anchor_from_trusted_cert(&der).map_err(|_| broken(LeafError::Malformed))?;
        let anchor = anchor.to_owned();
        Ok(Self { der, anchor, not_before, not_after })
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.certificates().eq(other.certificates())
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hashes: Vec<String> = self.certificates().map(|der| fingerprint(der)).collect();
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("sha256", &hashes)
            .finish()
    }
}

/// The SHA-256 of a certificate.
pub fn sha256(der: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, der).as_ref());
    hash
}

/// The SHA-256 of a certificate in lower-case hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    hex(&sha256(der))
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
