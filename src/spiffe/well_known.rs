//! The identities that are not services': the control plane itself, and people's credentials for it.

use super::{IdError, SpiffeId};

/// The path of the control plane's own identity.
pub const CONTROL_PLANE_PATH: &str = "/control-plane";
/// What the paths of credentials for the control plane's API begin with.
pub const CREDENTIAL_PATH: &str = "/credential/";

/// `spiffe://<trust domain>/control-plane`
///
/// # Errors
/// When the trust domain is malformed.
pub fn control_plane(trust_domain: &str) -> Result<SpiffeId, IdError> {
    format!("spiffe://{trust_domain}{CONTROL_PLANE_PATH}").parse()
}

/// `spiffe://<trust domain>/credential/<name>`
///
/// # Errors
/// When a part has characters that a SPIFFE ID can not carry.
pub fn credential(trust_domain: &str, name: &str) -> Result<SpiffeId, IdError> {
    if name.contains('/') {
        return Err(IdError::Path);
    }
    format!("spiffe://{trust_domain}{CREDENTIAL_PATH}{name}").parse()
}
