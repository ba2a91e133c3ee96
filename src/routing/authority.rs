//! Authorities (RFC 3986 section 3.2, RFC 9110 section 7.2): a host and an optional port. Read
//! strictly, because two readers that disagree about a host are a way around a policy.

use std::{fmt, net::IpAddr};

/// The longest host name (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// A host in lower case, without a dot at its end, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: Option<u16>,
}

/// Why a text is no authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The host is empty, too long or has characters that no host has.
    #[error("has a malformed host")]
    Host,
    /// What follows the colon is no port.
    #[error("has a malformed port")]
    Port,
}

impl Authority {
    /// Reads `orders`, `orders:9090`, `127.0.0.1:80` or `[::1]:80`; user information is refused
    /// (RFC 9110 section 4.2.4).
    ///
    /// # Errors
    /// When the host or the port is malformed.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or(AuthorityError::Host)?;
            let Ok(IpAddr::V6(address)) = address.parse() else { return Err(AuthorityError::Host) };
            let port = match rest.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if rest.is_empty() => None,
                None => return Err(AuthorityError::Port),
            };
            return Ok(Self { host: address.to_string(), port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let whole = (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(is_host_byte);
        if !whole {
            return Err(AuthorityError::Host);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// Its IP address, if the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Digits only; nothing at all is no port (RFC 3986 section 3.2.3 permits `orders:`).
fn parse_port(text: &str) -> Result<Option<u16>, AuthorityError> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.map(Some).ok_or(AuthorityError::Port)
}

/// Unreserved characters only: names with `%` or sub-delimiters exist in RFC 3986 and nowhere else.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::{Authority, AuthorityError};

    #[test]
    fn hosts_and_ports_are_read() {
        for (text, host, port, shown) in [
            ("orders", "orders", None, "orders"),
            ("Orders.SHOP:9090", "orders.shop", Some(9090), "orders.shop:9090"),
            ("orders.shop.mesh.:1", "orders.shop.mesh", Some(1), "orders.shop.mesh:1"),
            ("orders:", "orders", None, "orders"),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535), "127.0.0.1:65535"),
            ("[::1]", "::1", None, "[::1]"),
            ("[2001:DB8:0::1]:80", "2001:db8::1", Some(80), "[2001:db8::1]:80"),
        ] {
            let authority = Authority::parse(text).expect(text);
            assert_eq!((authority.host.as_str(), authority.port), (host, port), "{text}");
            assert_eq!(authority.to_string(), shown);
            assert_eq!(Authority::parse(shown), Ok(authority), "read back");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let long = "a".repeat(256);
        for (text, error) in [
            ("", AuthorityError::Host),
            (".", AuthorityError::Host),
            (":80", AuthorityError::Host),
            ("user@orders", AuthorityError::Host),
            ("orders/x", AuthorityError::Host),
            ("orders?x", AuthorityError::Host),
            ("orders#x", AuthorityError::Host),
            ("orders\\x", AuthorityError::Host),
            ("or ders", AuthorityError::Host),
            ("orders%2e", AuthorityError::Host),
            ("orders,payments", AuthorityError::Host),
            ("\u{f6}rders", AuthorityError::Host),
            ("[::1", AuthorityError::Host),
            ("[127.0.0.1]", AuthorityError::Host),
            ("[fe80::1%25eth0]", AuthorityError::Host),
            ("::1", AuthorityError::Port),
            ("[::1]80", AuthorityError::Port),
            ("orders:0", AuthorityError::Port),
            ("orders:65536", AuthorityError::Port),
            ("orders:+80", AuthorityError::Port),
            ("orders:000080", AuthorityError::Port),
            ("orders:80:80", AuthorityError::Port),
            ("orders:80@evil", AuthorityError::Port),
            (&long, AuthorityError::Host),
        ] {
            assert_eq!(Authority::parse(text), Err(error), "{text:?}");
        }
    }
}
