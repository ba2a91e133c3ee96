//! The mesh CA: signs the identity that was attested, for the public key of a CSR, and nothing else.
//!
//! The caller decides *who* (attestation is the control plane's); this decides *what*: every
//! extension of a certificate is written here, from constants. A leaf never outlives its issuer.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use webpki::EndEntityCert;

use super::{
    csr::{self, CsrError},
    disk::{self, DiskError},
    root::{self, RootKey},
};
use crate::{
    spiffe::{
        self, BundleError, IdError, Leaf, LeafError, SpiffeId, Svid, SvidError, TrustBundle,
        may_sign_der, sha256,
    },
    tls::{self, Role, Untrusted},
};

/// How long before now a certificate begins, for peers whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// Key and certificates in one file, so that no crash leaves one without the other.
const FILE: &str = "authority.pem";
/// The root alone, for people and other programs.
const ROOT_FILE: &str = "root.pem";
/// The largest PEM file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A CA certificate with its key.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    /// The issuing certificate first, the root last; often they are the same.
    chain: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    not_after: SystemTime,
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whose it is.
    pub id: SpiffeId,
    /// When it ends: at the latest when its issuer does.
    pub not_after: SystemTime,
}

/// Why there is no CA or no certificate. Where `Display` tells the cause, it is no `source` too, so
/// that a logged chain says nothing twice.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The CSR can not be signed; the sender's fault.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The identity is not of this CA's trust domain.
    #[error("{id} is not of the trust domain {trust_domain}")]
    TrustDomain {
        /// Whom to name.
        id: SpiffeId,
        /// What this CA signs for.
        trust_domain: String,
    },
    /// A name can not stand in an identity.
    #[error("the name {0}")]
    Id(IdError),
    /// A host name or address can not stand in a certificate.
    #[error("{0:?} is no host name or address")]
    HostName(String),
    /// The CA's certificate has expired or is about to.
    #[error("the CA certificate has expired")]
    Expired,
    /// The CA's certificates are not ones.
    #[error("the CA's certificates can not be used: {0}")]
    Bundle(BundleError),
    /// The CA's key can not be used.
    #[error("the CA's key can not be used: {0}")]
    Key(String),
    /// One of the CA's certificates may not sign.
    #[error("the CA's certificate {0} may not sign certificates (CA:TRUE, keyCertSign)")]
    MayNotSign(usize),
    /// The key is another one's.
    #[error("the key does not belong to the CA's certificate")]
    OtherKey,
    /// What it signs does not lead to its root.
    #[error("what the CA signs is not accepted: {0}")]
    NotAccepted(Untrusted),
    /// A file of the CA is not what was written.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// The CA's files.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Random numbers or encoding failed.
    #[error("can not make a certificate: {0}")]
    Make(String),
    /// A certificate that was just made is not well-formed.
    #[error("can not make a certificate: it {0}")]
    Made(LeafError),
    /// An SVID that was just made is not well-formed.
    #[error("can not make a certificate: {0}")]
    Svid(SvidError),
}

impl Authority {
    /// A new self-signed root that signs leaves itself: ECDSA P-256, ten years.
    ///
    /// # Errors
    /// When the trust domain is malformed or the system gives no random numbers.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, CaError> {
        let (key, root) = RootKey::create(trust_domain, now)?.into_parts();
        Self::new(trust_domain, vec![root], key, now)
    }

    /// A CA that was made elsewhere: its certificate first, then those above it up to the root.
    ///
    /// # Errors
    /// When they are no CA certificates, the key is not the first one's, or a certificate signed
    /// with it would not be accepted.
    pub fn from_pem(
        trust_domain: &str,
        certificates: &[u8],
        key: &str,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|error| BundleError::Pem(error.to_string()))?;
        // Anything around the section (a certificate in the same file) would confuse rcgen.
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| CaError::Key(error.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(|error| CaError::Key(error.to_string()))?;
        Self::new(trust_domain, chain, key, now)
    }

    /// The CA of a data directory, if it has one.
    ///
    /// # Errors
    /// As [`Authority::from_pem`], and when the directory can not be used or others can read the
    /// key.
    pub fn load(
        directory: &Path,
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Option<Self>, CaError> {
        let Some(text) = disk::read_private(&directory.join(FILE), FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        let key = std::str::from_utf8(&text).map_err(|_| CaError::Key("no PEM".to_owned()))?;
        Self::from_pem(trust_domain, &text, key, now).map(Some)
    }

    /// Stores certificates and key in a data directory, the key for the owner only.
    ///
    /// # Errors
    /// When the directory can not be written.
    pub fn save(&self, directory: &Path) -> Result<(), CaError> {
        disk::write_private(&directory.join(FILE), self.to_pem().as_bytes())?;
        disk::write_public(&directory.join(ROOT_FILE), self.bundle.to_pem().as_bytes())?;
        Ok(())
    }

    /// Key and certificates as [`Authority::from_pem`] reads them: a secret.
    pub(super) fn to_pem(&self) -> String {
        let chain: String = self.chain.iter().map(|der| spiffe::certificate_pem(der)).collect();
        format!("{}{chain}", self.issuer.key().serialize_pem())
    }

    pub(super) fn new(
        trust_domain: &str,
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let issuing = chain.first().ok_or(BundleError::Empty)?;
        let public = |cert: EndEntityCert<'_>| cert.subject_public_key_info().as_ref().to_vec();
        if EndEntityCert::try_from(issuing)
            .is_ok_and(|it| public(it) != key.subject_public_key_info())
        {
            return Err(CaError::OtherKey);
        }
        for (number, der) in (1..).zip(&chain) {
            if !may_sign_der(der)? {
                return Err(CaError::MayNotSign(number));
            }
        }
        let not_after = chain.iter().map(spiffe::not_after).collect::<Result<Vec<_>, _>>()?;
        let not_after = not_after.into_iter().min().ok_or(BundleError::Empty)?;
        let issuer = Issuer::from_ca_cert_der(issuing, key).map_err(made)?;
        let root = chain.last().cloned().into_iter().collect();
        let bundle = TrustBundle::new(trust_domain, root)?;
        let trust_domain = trust_domain.to_owned();
        let authority = Self { trust_domain, issuer, chain, bundle, not_after };
        authority.prove(now)?;
        Ok(authority)
    }

    /// Signs a leaf and verifies it as a peer would: the one check that finds every way in which a
    /// certificate, its key and its root do not belong together.
    fn prove(&self, now: SystemTime) -> Result<(), CaError> {
        let key = KeyPair::generate().map_err(made)?;
        let id = spiffe::control_plane(&self.trust_domain)?;
        let issued = self.issue(&key, &id, &[], Duration::from_secs(60), now)?;
        tls::verify(&issued.chain, &self.bundle, Role::Client, now)?;
        tls::verify(&issued.chain, &self.bundle, Role::Server, now)?;
        Ok(())
    }

    /// Signs a certificate for `id`, which the caller has attested, and the public key of the CSR.
    ///
    /// # Errors
    /// When the CSR can not be signed, the identity is another trust domain's, or the CA expired.
    pub fn sign(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        self.issue(&csr::public_key(csr)?, id, &[], ttl, now)
    }

    /// The control plane's own SVID with the host names and addresses by which other clients than
    /// ours know it. Its chain ends in the root, whose hash join tokens carry; `links` come before it
    /// and lead to another root, for those who know only that one.
    ///
    /// # Errors
    /// When a name is no host name or address, or the CA expired.
    pub fn server_certificate(
        &self,
        names: &[String],
        links: &[CertificateDer<'static>],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Svid, CaError> {
        let id = spiffe::control_plane(&self.trust_domain)?;
        let names: Result<Vec<_>, _> = names.iter().map(|name| host_name(name)).collect();
        let mut svid = self.issue_with_key(&id, &names?, ttl, now)?;
        svid.0.extend(links.iter().chain(self.chain.last()).cloned());
        Ok(Svid::new(svid.0, svid.1, tls::provider())?)
    }

    /// A credential for the control plane's API: `spiffe://<trust domain>/credential/<name>`.
    ///
    /// # Errors
    /// When the name can not stand in an identity, or the CA expired.
    pub fn credential(&self, name: &str, ttl: Duration, now: SystemTime) -> Result<Svid, CaError> {
        let id = spiffe::credential(&self.trust_domain, name)?;
        let (chain, key) = self.issue_with_key(&id, &[], ttl, now)?;
        Ok(Svid::new(chain, key, tls::provider())?)
    }

    /// Its key's signature for the root of another CA, with which whoever trusts this one accepts
    /// what that one signs: the other root's certificate signed by this CA, then this CA's own.
    /// Empty where that is not accepted, as by a CA that may sign leaves only.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn vouch_for(
        &self,
        other: &Self,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let root = other.root();
        let Some(subject) = root::subject(root) else { return Ok(Vec::new()) };
        let not_after = spiffe::not_after(root)?;
        let mut crossed = authority_params(now, not_after.min(self.not_after))?;
        crossed.distinguished_name = subject;
        let key = root::public_key(root)?;
        let crossed = crossed.signed_by(&key, &self.issuer).map_err(made)?;
        let links: Vec<_> = std::iter::once(crossed.der()).chain(&self.chain).cloned().collect();
        let probe = spiffe::control_plane(&self.trust_domain)?;
        let (mut chain, _) = other.issue_with_key(&probe, &[], Duration::from_secs(60), now)?;
        chain.extend(links.iter().cloned());
        let accepted = tls::verify(&chain, &self.bundle, Role::Server, now);
        Ok(if accepted.is_ok() { links } else { Vec::new() })
    }

    /// The certificate that signs, and from when until when it is valid.
    ///
    /// # Errors
    /// Never, for one that was read before.
    pub fn issuing(&self) -> Result<(&CertificateDer<'static>, SystemTime, SystemTime), CaError> {
        let issuing = self.chain.first().ok_or(BundleError::Empty)?;
        let (from, until) = spiffe::validity(issuing)?;
        Ok((issuing, from, until))
    }

    /// Its root.
    pub fn root(&self) -> &CertificateDer<'static> {
        self.chain.last().expect("a CA has at least one certificate")
    }

    /// Its certificates: that which signs first, the root last.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// `mesh.local`
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// What peers must trust to accept what it signs.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The SHA-256 of the root certificate, for join tokens.
    pub fn root_hash(&self) -> [u8; 32] {
        sha256(self.root())
    }

    /// When the first certificate of its chain ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn issue_with_key(
        &self,
        id: &SpiffeId,
        names: &[SanType],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate().map_err(made)?;
        let issued = self.issue(&key, id, names, ttl, now)?;
        Ok((issued.chain, private_key(&key)))
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        names: &[SanType],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        if id.trust_domain() != self.trust_domain {
            let (id, trust_domain) = (id.clone(), self.trust_domain.clone());
            return Err(CaError::TrustDomain { id, trust_domain });
        }
        if now >= self.not_after {
            return Err(CaError::Expired);
        }
        let mut leaf = CertificateParams::default();
        leaf.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
        leaf.distinguished_name = organization();
        leaf.not_before = (now - BACKDATE).into();
        leaf.not_after = now.checked_add(ttl).unwrap_or(self.not_after).min(self.not_after).into();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.subject_alt_names = [&[uri(id)?], names].concat();
        leaf.use_authority_key_identifier_extension = true;
        let signed = leaf.signed_by(key, &self.issuer).map_err(made)?;
        let above = self.chain.len() - 1;
        let chain: Vec<_> =
            std::iter::once(signed.der()).chain(&self.chain[..above]).cloned().collect();
        let Leaf { id, not_after, .. } = Leaf::read(signed.der())?;
        Ok(Issued { chain, id, not_after })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// A key that rcgen made, as rustls takes it.
pub(super) fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

/// What every CA certificate of ours says.
pub(super) fn authority_params(
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.not_before = (now - BACKDATE).into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(super) fn made(error: rcgen::Error) -> CaError {
    CaError::Make(error.to_string())
}

pub(super) fn organization() -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Outrigger");
    name
}

/// 16 random bytes, positive and not zero (RFC 5280 section 4.1.2.2).
fn random_serial() -> Result<[u8; 16], CaError> {
    let mut serial = [0; 16];
    rand::fill(&mut serial)
        .map_err(|_| CaError::Make("the system gives no random numbers".to_owned()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

pub(super) fn uri(id: &SpiffeId) -> Result<SanType, CaError> {
    Ok(SanType::URI(id.as_str().try_into().map_err(made)?))
}

fn host_name(name: &str) -> Result<SanType, CaError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = || CaError::HostName(name.to_owned());
    rustls_pki_types::DnsName::try_from(name).map_err(|_| wrong())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| wrong())?))
}

impl From<IdError> for CaError {
    fn from(error: IdError) -> Self {
        Self::Id(error)
    }
}

impl From<BundleError> for CaError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

impl From<Untrusted> for CaError {
    fn from(error: Untrusted) -> Self {
        Self::NotAccepted(error)
    }
}

impl From<LeafError> for CaError {
    fn from(error: LeafError) -> Self {
        Self::Made(error)
    }
}

impl From<SvidError> for CaError {
    fn from(error: SvidError) -> Self {
        Self::Svid(error)
    }
}
