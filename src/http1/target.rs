//! The request target in its four forms (RFC 9112 section 3.2), and the authority that it and the Host
//! field agree on.

use std::borrow::Cow;

use crate::http::octets;

/// What a request line asks for.
#[derive(Debug)]
pub(super) struct Target<'b> {
    /// `http` unless an absolute form said `https`.
    pub(super) scheme: &'static str,
    authority: Option<&'b [u8]>,
    /// Path and query; empty for CONNECT.
    pub(super) path: Cow<'b, [u8]>,
}

impl<'b> Target<'b> {
    /// Takes a target apart.
    ///
    /// # Errors
    /// When it has none of the forms that its method permits.
    pub(super) fn parse(method: &str, target: &'b [u8]) -> Result<Self, &'static str> {
        // Bytes above 0x7e, controls and fragments are read differently by different servers.
        if !octets::is_path(target) {
            return Err("the request target has a byte that it may not have");
        }
        if method == "CONNECT" {
            return match port(target) {
                Some([_, ..]) => {
                    Ok(Self { scheme: "http", authority: Some(target), path: Cow::default() })
                }
                _ => Err("the target of CONNECT is no host and port"),
            };
        }
        if target.first() == Some(&b'/') {
            return Ok(Self { scheme: "http", authority: None, path: Cow::Borrowed(target) });
        }
        if target == b"*" && method == "OPTIONS" {
            return Ok(Self { scheme: "http", authority: None, path: Cow::Borrowed(target) });
        }
        Self::absolute(method, target)
    }

    fn absolute(method: &str, target: &'b [u8]) -> Result<Self, &'static str> {
        let after = |scheme: &str| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        };
        let (scheme, rest) = match (after("http://"), after("https://")) {
            (Some(rest), _) => ("http", rest),
            (_, Some(rest)) => ("https", rest),
            _ => return Err("the request target is malformed"),
        };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path.first() {
            Some(b'/') => Cow::Borrowed(path),
            Some(_) => Cow::Owned([b"/", path].concat()),
            None if method == "OPTIONS" => Cow::Borrowed(&b"*"[..]),
            None => Cow::Borrowed(&b"/"[..]),
        };
        if authority.is_empty() {
            return Err("the request target names no host");
        }
        Ok(Self { scheme, authority: Some(authority), path })
    }

    /// Whom the request is for; `None` when it says so nowhere, which HTTP/1.0 permits.
    ///
    /// # Errors
    /// When there is none, it is malformed, or target and Host disagree.
    pub(super) fn authority(
        &self,
        host: Option<&'b [u8]>,
        http10: bool,
    ) -> Result<Option<&'b [u8]>, &'static str> {
        if host.is_none() && !http10 {
            return Err("the request has no Host");
        }
        let host = host.filter(|host| !host.is_empty());
        for authority in [host, self.authority].into_iter().flatten() {
            if port(authority).is_none() {
                return Err("the Host is malformed");
            }
        }
        match (self.authority, host) {
            (Some(target), Some(host)) if !self.agree(target, host) => {
                Err("the Host is not that of the request target")
            }
            (target, host) => Ok(target.or(host)),
        }
    }

    /// Whether two authorities are the same but for case and a default port.
    fn agree(&self, target: &[u8], host: &[u8]) -> bool {
        let default: &[u8] = if self.scheme == "https" { b"443" } else { b"80" };
        let (one, other) = (split(target), split(host));
        let number = |port: &'static [u8], given: &[u8]| given.is_empty() || given == port;
        let same = one.1 == other.1
            || (number(default, one.1) && number(default, other.1))
            // Many clients leave out the port in the Host of a CONNECT.
            || (self.path.is_empty() && other.1.is_empty());
        same && one.0.eq_ignore_ascii_case(other.0)
    }
}

/// Host and port of a well-formed authority.
fn split(authority: &[u8]) -> (&[u8], &[u8]) {
    match port(authority) {
        Some(port @ [_, ..]) => (&authority[..authority.len() - port.len() - 1], port),
        _ => (authority, &[]),
    }
}

/// The port of an authority, which may be empty; `None` when it is malformed: user names, bytes that
/// are in no host name, ports that are no number.
fn port(authority: &[u8]) -> Option<&[u8]> {
    let (host, port) = match authority {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']')?;
            let (address, after) = (&rest[..end], &rest[end + 1..]);
            let hex = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if address.is_empty() || !address.iter().all(hex) {
                return None;
            }
            match after {
                [] => return Some(&[]),
                [b':', port @ ..] => (address, port),
                _ => return None,
            }
        }
        _ => match authority.iter().position(|byte| *byte == b':') {
            Some(colon) => (&authority[..colon], &authority[colon + 1..]),
            None if authority.iter().all(is_host) && !authority.is_empty() => return Some(&[]),
            None => return None,
        },
    };
    let numeric = !port.is_empty() && port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let named = authority[0] == b'[' || host.iter().all(is_host);
    (numeric && named && !host.is_empty()).then_some(port)
}

fn is_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
}
