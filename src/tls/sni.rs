//! What the client asks for in SNI: `<port>.<service>.<namespace>.mesh`. It chooses the port and
//! nothing else; policy follows the identity of the workload that answers.

use std::{fmt, str::FromStr};

use rustls_pki_types::ServerName;

use crate::units::ServiceName;

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sni {
    /// The service's port.
    pub port: u16,
    /// The service.
    pub service: ServiceName,
}

/// Why a name is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SniError {
    /// It is not `<port>.<service>.<namespace>.mesh`.
    #[error("is not of the form <port>.<service>.<namespace>.mesh")]
    Form,
    /// A part can not be part of a DNS name.
    #[error("has a part that can not stand in a DNS name")]
    Label,
}

impl Sni {
    /// For rustls.
    ///
    /// # Errors
    /// When service or namespace are no DNS labels.
    pub fn server_name(&self) -> Result<ServerName<'static>, SniError> {
        ServerName::try_from(self.to_string()).map_err(|_| SniError::Label)
    }
}

impl fmt::Display for Sni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.mesh", self.port, self.service)
    }
}

impl FromStr for Sni {
    type Err = SniError;

    /// Without regard to case, as DNS names are. A port is decimal without leading zeros, so that
    /// one port has one name.
    fn from_str(text: &str) -> Result<Self, SniError> {
        let text = text.to_ascii_lowercase();
        let mut parts = text.split('.');
        let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or(SniError::Form);
        let (port, name, namespace, mesh) = (next()?, next()?, next()?, next()?);
        if mesh != "mesh" || parts.next().is_some() {
            return Err(SniError::Form);
        }
        let plain = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        let number = port.parse().ok().filter(|_| plain);
        Ok(Self { port: number.ok_or(SniError::Form)?, service: ServiceName::new(name, namespace) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Sni, SniError};
    use crate::units::ServiceName;

    #[test]
    fn a_port_is_read_back_from_its_name() {
        let sni = Sni { port: 9090, service: ServiceName::new("orders", "shop") };
        assert_eq!(sni.to_string(), "9090.orders.shop.mesh");
        assert_eq!("9090.Orders.shop.mesh".parse(), Ok(sni.clone()));
        assert!(sni.server_name().is_ok());
    }

    #[test]
    fn other_names_are_none_of_ours() {
        for text in [
            "",
            "mesh",
            "orders.shop.mesh",
            "9090.orders.shop",
            "9090.orders.shop.mesh.",
            "9090.orders.shop.local",
            "x.9090.orders.shop.mesh",
            "09090.orders.shop.mesh",
            "0.orders.shop.mesh",
            "+9090.orders.shop.mesh",
            "65536.orders.shop.mesh",
            "9090..shop.mesh",
        ] {
            assert_eq!(text.parse::<Sni>(), Err(SniError::Form), "{text:?}");
        }
        let spaced = Sni { port: 1, service: ServiceName::new("a b", "c") };
        assert_eq!(spaced.server_name(), Err(SniError::Label));
    }
}
