//! An X.509-SVID with its private key: what this workload shows to its peers.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Leaf, LeafError, SpiffeId, pem};

/// The longest chain, leaf and intermediates together.
const CHAIN_MAX: usize = 8;

/// A certificate chain and its private key. Never shows the key in `Debug`.
pub struct Svid {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    key: PrivateKeyDer<'static>,
}

/// Why chain and key make no SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// More than 8 certificates.
    #[error("the chain has more than {CHAIN_MAX} certificates")]
    TooLong,
    /// The PEM text is broken.
    #[error("the PEM text is broken: {0}")]
    Pem(String),
    /// There is no private key, or not one that can be used.
    #[error("the private key can not be used: {0}")]
    Key(String),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The first certificate is no X.509-SVID.
    #[error("the certificate {0}")]
    Leaf(LeafError),
}

impl Svid {
    /// Puts chain (leaf first) and key together.
    ///
    /// # Errors
    /// When the leaf is no X.509-SVID or the key is not its own.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Self, SvidError> {
        if chain.len() > CHAIN_MAX {
            return Err(SvidError::TooLong);
        }
        let end = chain.first().ok_or(SvidError::NoCertificate)?;
        let leaf = Leaf::read(end).map_err(SvidError::Leaf)?;
        let certified = CertifiedKey::from_der(chain, key.clone_key(), provider);
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => SvidError::KeyMismatch,
            other => SvidError::Key(other.to_string()),
        })?;
        Ok(Self { leaf, certified: Arc::new(certified), key })
    }

    /// Reads a chain (leaf first) and a PKCS#8, SEC1 or PKCS#1 key.
    ///
    /// # Errors
    /// As [`Svid::new`], and when the text is no PEM.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, SvidError> {
        let chain = pem::certificates(chain).map_err(|error| SvidError::Pem(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => {
                SvidError::Key("there is none in the file".to_owned())
            }
            other => SvidError::Key(other.to_string()),
        })?;
        Self::new(chain, key, provider)
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// From when it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Chain and key as rustls uses them.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain().iter().map(|der| pem::encode("CERTIFICATE", der)).collect()
    }

    /// The private key as PEM: a secret.
    pub fn key_pem(&self) -> String {
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem::encode(label, self.key.secret_der())
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}
