//! Names: DNS labels, and services in their namespace. They become host names, identities and
//! metric labels, so nothing but a label is let in.

use std::fmt;

/// The longest label (RFC 1123).
const LABEL_BYTES_MAX: usize = 63;

/// The domain behind every name of the mesh: `orders.shop.mesh`.
const MESH_DOMAIN: &str = "mesh";

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// It has more than 63 bytes.
    #[error("is longer than 63 characters")]
    TooLong,
    /// It has other characters than `a-z 0-9 -`.
    #[error("has other characters than a-z, 0-9 and -")]
    Character,
    /// It begins or ends with `-`.
    #[error("begins or ends with -")]
    Edge,
    /// It has more parts than `NAME.NAMESPACE`.
    #[error("is not of the form NAME or NAME.NAMESPACE")]
    Form,
}

/// Whether `text` is a DNS label (RFC 1123): 1 to 63 of `a-z 0-9 -`, without `-` at either end.
///
/// # Errors
/// What is wrong with it.
pub fn check_label(text: &str) -> Result<(), NameError> {
    let character = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() {
        Err(NameError::Empty)
    } else if text.len() > LABEL_BYTES_MAX {
        Err(NameError::TooLong)
    } else if !text.bytes().all(character) {
        Err(NameError::Character)
    } else if text.starts_with('-') || text.ends_with('-') {
        Err(NameError::Edge)
    } else {
        Ok(())
    }
}

/// A service in its namespace; displayed as `orders.shop`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// `orders`
    pub name: String,
    /// `shop`
    pub namespace: String,
}

impl ServiceName {
    /// Puts the two together as they are; checks belong to whoever parsed them.
    pub fn new(name: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: namespace.into() }
    }

    /// Reads `orders`, `orders.shop` or `orders.shop.mesh`. The first is in `default_namespace`.
    ///
    /// # Errors
    /// When a part is not a DNS label, or there are other parts.
    pub fn parse(text: &str, default_namespace: &str) -> Result<Self, NameError> {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(default_namespace);
        let domain = parts.next().is_none_or(|domain| domain == MESH_DOMAIN);
        if !domain || parts.next().is_some() {
            return Err(NameError::Form);
        }
        check_label(name)?;
        check_label(namespace)?;
        Ok(Self::new(name, namespace))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::{NameError, ServiceName, check_label};

    #[test]
    fn labels_are_those_of_rfc_1123() {
        let longest = "a".repeat(63);
        for text in ["a", "0", "orders", "orders-2", "1-a", "a--b", &longest] {
            assert_eq!(check_label(text), Ok(()), "{text}");
        }
        let too_long = "a".repeat(64);
        for (text, error) in [
            ("", NameError::Empty),
            (too_long.as_str(), NameError::TooLong),
            ("Orders", NameError::Character),
            ("a.b", NameError::Character),
            ("a_b", NameError::Character),
            ("a b", NameError::Character),
            ("é", NameError::Character),
            ("-a", NameError::Edge),
            ("a-", NameError::Edge),
            ("-", NameError::Edge),
        ] {
            assert_eq!(check_label(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_service_is_named_with_or_without_its_namespace() {
        for text in ["orders", "orders.shop", "orders.shop.mesh"] {
            assert_eq!(ServiceName::parse(text, "shop"), Ok(ServiceName::new("orders", "shop")));
        }
        assert_eq!(ServiceName::parse("a.b", "shop"), Ok(ServiceName::new("a", "b")));
        for (text, error) in [
            ("", NameError::Empty),
            ("orders.", NameError::Empty),
            (".shop", NameError::Empty),
            ("orders.shop.example", NameError::Form),
            ("orders.shop.mesh.x", NameError::Form),
            ("Orders.shop", NameError::Character),
            ("orders.shop:80", NameError::Character),
        ] {
            assert_eq!(ServiceName::parse(text, "shop"), Err(error), "{text}");
        }
    }
}
