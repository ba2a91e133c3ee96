//! Certificate signing requests (PKCS#10): a sidecar makes one with a new key; the CA takes nothing
//! from one but the public key, after it has seen that the sender holds the private one.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::tls;

/// The longest CSR that is looked at; one of an RSA key of 4,096 bits has about 1.7 KiB.
pub const CSR_BYTES_MAX: usize = 8 * 1024;
/// The shortest RSA modulus that is signed.
const RSA_BITS_MIN: usize = 2048;
/// The longest: larger keys only cost their verifiers time.
const RSA_BITS_MAX: usize = 4096;
/// How an uncompressed point begins (SEC 1 section 2.3.3).
const POINT_UNCOMPRESSED: u8 = 4;

/// A new private key and the request for its certificate.
#[derive(Debug)]
pub struct Request {
    /// Stays on this machine.
    pub key: PrivateKeyDer<'static>,
    /// PKCS#10, DER; holds the public key and no names.
    pub csr: Vec<u8>,
}

/// Why a CSR is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than 8 KiB.
    #[error("the CSR has more than {CSR_BYTES_MAX} bytes")]
    TooLong,
    /// It is no DER of PKCS#10, or has trailing bytes.
    #[error("the CSR is not well-formed PKCS#10 in DER")]
    Malformed,
    /// Its signature is not by the private key of its public key.
    #[error("the CSR is not signed by its own key")]
    Signature,
    /// Its key is none of ECDSA P-256, P-384, Ed25519, RSA of 2,048 to 4,096 bits.
    #[error(
        "the CSR has a key of a kind that is not signed: use ECDSA P-256 or P-384, Ed25519, or RSA \
         of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits"
    )]
    Key,
    /// A new key could not be made.
    #[error("can not make a key: {0}")]
    Make(String),
}

/// Makes a new ECDSA P-256 key and the request for its certificate.
///
/// # Errors
/// When the system gives no random numbers.
pub fn make() -> Result<Request, CsrError> {
    let failed = |error: rcgen::Error| CsrError::Make(error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut wanted = CertificateParams::default();
    wanted.distinguished_name = DistinguishedName::new();
    let csr = wanted.serialize_request(&key).map_err(failed)?.der().to_vec();
    Ok(Request { key: super::ca::private_key(&key), csr })
}

/// The public key of a CSR whose sender holds the private one. Everything else in it is ignored:
/// names, extensions and the wish to be a CA never reach a certificate.
///
/// # Errors
/// When it is malformed, not signed by its key, or of a kind of key that is not signed.
pub(super) fn public_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if csr.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let spki = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| CsrError::Key)?;
    if !is_signed(key.algorithm(), spki) {
        return Err(CsrError::Key);
    }
    if !verifies(&request) {
        return Err(CsrError::Signature);
    }
    // What is signed is what was verified, byte for byte.
    if key.subject_public_key_info() != spki.raw {
        return Err(CsrError::Key);
    }
    Ok(key)
}

fn is_signed(
    algorithm: &rcgen::SignatureAlgorithm,
    spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>,
) -> bool {
    if *algorithm == rcgen::PKCS_ED25519 {
        return true;
    }
    let nist = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384];
    if nist.contains(&algorithm) {
        // Not every peer reads compressed points.
        return spki.subject_public_key.data.first() == Some(&POINT_UNCOMPRESSED);
    }
    match spki.parsed() {
        Ok(x509_parser::public_key::PublicKey::RSA(key)) => {
            (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&key.key_size())
        }
        _ => false,
    }
}

/// Verifies with webpki's algorithms, which insist that signature and key are of one kind.
fn verifies(request: &X509CertificationRequest<'_>) -> bool {
    let info = &request.certification_request_info;
    let spki = SubjectPublicKeyInfoDer::from(info.subject_pki.raw);
    let Ok(key) = RawPublicKeyEntity::try_from(&spki) else { return false };
    let signature = request.signature_value.data.as_ref();
    let Some(kind) = algorithm_bytes(&request.signature_algorithm) else { return false };
    let algorithms = tls::provider().signature_verification_algorithms.all;
    algorithms
        .iter()
        .filter(|algorithm| *algorithm.signature_alg_id() == *kind)
        .any(|algorithm| key.verify_signature(*algorithm, info.raw, signature).is_ok())
}

/// The content of an `AlgorithmIdentifier` in DER, as webpki compares it.
fn algorithm_bytes(algorithm: &x509_parser::x509::AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    use x509_parser::asn1_rs::ToDer;
    let mut bytes = algorithm.algorithm.to_der_vec().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        bytes.extend(parameters.to_der_vec().ok()?);
    }
    Some(bytes)
}
