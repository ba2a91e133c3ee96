//! Names of services: a DNS label in a namespace.

use std::fmt;

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
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}
