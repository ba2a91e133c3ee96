//! What makes a certificate an X.509-SVID (SPIFFE X509-SVID sections 2 to 5), whoever signed it.
//!
//! The one reader of leaf certificates: the verifiers, the SVID that we hold ourselves and the
//! record of a connection all go through [`Leaf::read`], so that no two places can see different
//! identities in the same bytes. The names are read by two parsers, webpki (which also checks the
//! chain) and x509-parser (which also sees what webpki skips as malformed); they must agree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::{IdError, SpiffeId};

/// The longest certificate that is looked at; a real one has a tenth of it.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// What a leaf certificate says, once it is known to be an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its one URI SAN.
    pub id: SpiffeId,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid, inclusive.
    pub not_after: SystemTime,
}

/// Why a certificate is no X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// It is no DER certificate, has trailing bytes, a broken or doubled extension, or is too long.
    #[error("is not a well-formed certificate")]
    Malformed,
    /// It has no URI SAN.
    #[error("has no URI name, so it carries no SPIFFE ID")]
    NoUri,
    /// It has more than one URI SAN.
    #[error("has {0} URI names instead of exactly one")]
    SeveralUris(usize),
    /// Its URI SAN is no SPIFFE ID.
    #[error("has a URI name that is no SPIFFE ID: it {0}")]
    Id(IdError),
    /// Its SPIFFE ID is that of a trust domain, which no workload can have.
    #[error("names a trust domain and not a workload")]
    NoPath,
    /// It may sign other certificates.
    #[error("is a CA certificate, not a leaf")]
    Authority,
    /// Its key usage lacks digitalSignature, is absent, or has keyCertSign or cRLSign.
    #[error("has the wrong key usage (digitalSignature is needed; keyCertSign, cRLSign forbidden)")]
    KeyUsage,
    /// Its extended key usage lacks serverAuth or clientAuth.
    #[error("has an extended key usage without both serverAuth and clientAuth")]
    ExtendedKeyUsage,
}

impl Leaf {
    /// Reads a certificate; says nothing about who signed it or what time it is.
    ///
    /// # Errors
    /// When it is not an X.509-SVID.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let certificate = parse(der)?;
        let id = one_id(der, &certificate)?;
        if is_authority(&certificate)? {
            return Err(LeafError::Authority);
        }
        let usage = certificate.key_usage().map_err(|_| LeafError::Malformed)?;
        let usage = usage.ok_or(LeafError::KeyUsage)?.value;
        if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
            return Err(LeafError::KeyUsage);
        }
        let extended = certificate.extended_key_usage().map_err(|_| LeafError::Malformed)?;
        if extended.is_some_and(|usage| !usage.value.server_auth || !usage.value.client_auth) {
            return Err(LeafError::ExtendedKeyUsage);
        }
        let (not_before, not_after) = valid_between(&certificate);
        Ok(Self { id, not_before, not_after })
    }
}

/// Whether a certificate may sign others: it is a CA and its key usage, if any, has keyCertSign.
///
/// # Errors
/// When it is malformed.
pub fn may_sign_der(der: &CertificateDer<'_>) -> Result<bool, LeafError> {
    may_sign(&parse(der)?)
}

/// When a certificate of any kind ends.
///
/// # Errors
/// When it is malformed.
pub fn not_after(der: &CertificateDer<'_>) -> Result<SystemTime, LeafError> {
    Ok(valid_between(&parse(der)?).1)
}

/// Whom a certificate names as its subject, for people: `O=Outrigger, CN=…`.
///
/// # Errors
/// When it is malformed.
pub fn subject(der: &CertificateDer<'_>) -> Result<String, LeafError> {
    Ok(parse(der)?.subject().to_string())
}

/// From when until when a certificate of any kind is valid.
///
/// # Errors
/// When it is malformed.
pub fn validity(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), LeafError> {
    Ok(valid_between(&parse(der)?))
}

/// Parses a certificate with every extension intact and nothing behind it.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LeafError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(LeafError::Malformed);
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Malformed)?;
    let broken = |extension: &ParsedExtension<'_>| {
        matches!(extension, ParsedExtension::ParseError { .. } | ParsedExtension::Unparsed)
    };
    let intact = rest.is_empty()
        && certificate.extensions_map().is_ok()
        && !certificate.extensions().iter().any(|it| broken(it.parsed_extension()));
    if intact { Ok(certificate) } else { Err(LeafError::Malformed) }
}

/// Whether its basic constraints make it a CA.
pub(super) fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, LeafError> {
    let constraints = certificate.basic_constraints().map_err(|_| LeafError::Malformed)?;
    Ok(constraints.is_some_and(|constraints| constraints.value.ca))
}

/// Whether it may sign certificates: a CA whose key usage, if it has one, says so too. webpki does
/// not look at the key usage of issuers.
pub(super) fn may_sign(certificate: &X509Certificate<'_>) -> Result<bool, LeafError> {
    let usage = certificate.key_usage().map_err(|_| LeafError::Malformed)?;
    let signs = usage.is_none_or(|usage| usage.value.key_cert_sign());
    Ok(is_authority(certificate)? && signs)
}

/// From when until when it is valid; times before 1970 count as 1970.
pub(super) fn valid_between(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let time = |timestamp: i64| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
    };
    let validity = certificate.validity();
    (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
}

fn one_id(
    der: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
) -> Result<SpiffeId, LeafError> {
    let names = certificate.subject_alternative_name().map_err(|_| LeafError::Malformed)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(LeafError::Malformed);
    }
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris[..] else {
        return Err(if uris.is_empty() {
            LeafError::NoUri
        } else {
            LeafError::SeveralUris(uris.len())
        });
    };
    let seen = EndEntityCert::try_from(der).map_err(|_| LeafError::Malformed)?;
    if !seen.valid_uri_names().eq([uri]) {
        return Err(LeafError::Malformed);
    }
    let id: SpiffeId = uri.parse().map_err(LeafError::Id)?;
    if id.path().is_empty() { Err(LeafError::NoPath) } else { Ok(id) }
}
