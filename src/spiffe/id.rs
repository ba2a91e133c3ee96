//! SPIFFE IDs (SPIFFE-ID section 2), parsed strictly: what is not exactly well-formed is refused,
//! because two readers that disagree about an identity are a way in.

use std::{fmt, str::FromStr, sync::Arc};

use crate::units::ServiceName;

/// The longest SPIFFE ID (SPIFFE-ID section 2.3).
const ID_BYTES_MAX: usize = 2048;
/// The longest trust domain name.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// `spiffe://<trust domain>/<path>`; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path's `/` stands in `text`; its length when there is no path.
    path: usize,
}

/// Why a text is no SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It does not begin with `spiffe://`, in lower case.
    #[error("does not begin with spiffe://")]
    Scheme,
    /// More than 2,048 bytes, or a trust domain of more than 255.
    #[error("is too long")]
    TooLong,
    /// The trust domain is empty or has other characters than `a-z 0-9 . - _`.
    #[error("has a malformed trust domain")]
    TrustDomain,
    /// A path segment is empty, `.`, `..`, or has other characters than `a-z A-Z 0-9 . - _`.
    #[error("has a malformed path")]
    Path,
}

impl SpiffeId {
    /// The identity of a mesh service: `spiffe://<trust domain>/ns/<namespace>/svc/<name>`.
    ///
    /// # Errors
    /// When a part has characters that a SPIFFE ID can not carry.
    pub fn of_service(trust_domain: &str, service: &ServiceName) -> Result<Self, IdError> {
        format!("spiffe://{trust_domain}/ns/{}/svc/{}", service.namespace, service.name).parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `mesh.local`
    pub fn trust_domain(&self) -> &str {
        &self.text["spiffe://".len()..self.path]
    }

    /// `/ns/shop/svc/orders`; empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// The mesh service it names, if its path has that form.
    pub fn service(&self) -> Option<ServiceName> {
        let (namespace, name) = self.path().strip_prefix("/ns/")?.split_once("/svc/")?;
        let plain = !namespace.contains('/') && !name.contains('/');
        plain.then(|| ServiceName::new(name, namespace))
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix("spiffe://").ok_or(IdError::Scheme)?;
        if text.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong);
        }
        let trust_domain = rest.split('/').next().unwrap_or_default();
        if trust_domain.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(IdError::TooLong);
        }
        let domain_byte =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if trust_domain.is_empty() || !trust_domain.bytes().all(domain_byte) {
            return Err(IdError::TrustDomain);
        }
        let path = &rest[trust_domain.len()..];
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(IdError::Path);
        }
        Ok(Self { text: text.into(), path: text.len() - path.len() })
    }
}

fn is_segment(segment: &str) -> bool {
    let path_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(path_byte)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::{IdError, SpiffeId};
    use crate::units::ServiceName;

    #[test]
    fn a_service_is_read_back_from_its_identity() {
        let service = ServiceName::new("orders", "shop");
        let id = SpiffeId::of_service("mesh.local", &service).expect("well-formed");
        assert_eq!(id.as_str(), "spiffe://mesh.local/ns/shop/svc/orders");
        assert_eq!((id.trust_domain(), id.path()), ("mesh.local", "/ns/shop/svc/orders"));
        assert_eq!(id.service(), Some(service));
    }

    #[test]
    fn what_is_not_exactly_well_formed_is_refused() {
        let long = format!("spiffe://a/{}", "b".repeat(2048));
        let long_domain = format!("spiffe://{}/x", "a".repeat(256));
        for (text, error) in [
            ("", IdError::Scheme),
            ("https://mesh.local/x", IdError::Scheme),
            ("SPIFFE://mesh.local/x", IdError::Scheme),
            (" spiffe://mesh.local/x", IdError::Scheme),
            ("spiffe://", IdError::TrustDomain),
            ("spiffe:///x", IdError::TrustDomain),
            ("spiffe://Mesh.local/x", IdError::TrustDomain),
            ("spiffe://user@mesh.local/x", IdError::TrustDomain),
            ("spiffe://mesh.local:8080/x", IdError::TrustDomain),
            ("spiffe://mesh.local?x", IdError::TrustDomain),
            ("spiffe://mesh.local/", IdError::Path),
            ("spiffe://mesh.local/x/", IdError::Path),
            ("spiffe://mesh.local//x", IdError::Path),
            ("spiffe://mesh.local/./x", IdError::Path),
            ("spiffe://mesh.local/../x", IdError::Path),
            ("spiffe://mesh.local/%41", IdError::Path),
            ("spiffe://mesh.local/x?y", IdError::Path),
            ("spiffe://mesh.local/x#y", IdError::Path),
            ("spiffe://mesh.local/x\0", IdError::Path),
            ("spiffe://mesh.local/\u{e9}", IdError::Path),
            (&long, IdError::TooLong),
            (&long_domain, IdError::TooLong),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn other_paths_name_no_service() {
        for text in
            ["spiffe://a", "spiffe://a/x", "spiffe://a/ns/b/svc/c/d", "spiffe://a/ns/b/c/svc/d"]
        {
            assert_eq!(text.parse::<SpiffeId>().expect("well-formed").service(), None, "{text}");
        }
    }
}
