//! Join tokens: what a new workload shows instead of a certificate, once.
//!
//! A token is opaque text, `outrigger-join.v1.<base64url>`, and holds its id, a secret of 32 random
//! bytes, the one identity it is for, and the SHA-256 of the mesh root, so that the first connection
//! already knows whom it talks to. The control plane stores the SHA-256 of the secret only: the
//! secret has 256 bits of entropy, so a slow password hash would add nothing. The body ends in four
//! bytes of its own hash, so that a token that lost a character in copying is told from a wrong one.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    spiffe::{hex, sha256},
    units::ServiceName,
};

/// How every token of this format begins.
const PREFIX: &str = "outrigger-join.v1.";
/// The longest token text: two labels of 63 bytes and everything else, with room.
const TEXT_BYTES_MAX: usize = 512;
const ID_BYTES: usize = 8;
const HASH_BYTES: usize = 32;
const CHECK_BYTES: usize = 4;
/// id, secret, root hash and the length of the namespace.
const FIXED_BYTES: usize = ID_BYTES + 2 * HASH_BYTES + 1;
/// The longest DNS label (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;

/// A token; its secret is in [`JoinToken::to_text`] and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: [u8; ID_BYTES],
    secret: [u8; HASH_BYTES],
    service: ServiceName,
    root_hash: [u8; HASH_BYTES],
}

/// Why a text is no token. Never repeats the text, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is nothing in it.
    #[error("the token is empty")]
    Empty,
    /// It does not begin as join tokens do.
    #[error("this is no join token: one begins with {PREFIX}")]
    NoToken,
    /// A version that this program does not know.
    #[error("the join token is of another version than v1: use a newer outrigger")]
    Version,
    /// Characters are missing or wrong.
    #[error("the join token is damaged: copy it again, all of it")]
    Damaged,
    /// What it is for is not the name of a service.
    #[error("the join token is not for the name of a service")]
    Service,
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl JoinToken {
    /// A new token for one service, which trusts the root with this SHA-256.
    ///
    /// # Errors
    /// When the service's name is none, or the system gives no random numbers.
    pub fn new(service: ServiceName, root_hash: [u8; 32]) -> Result<Self, TokenError> {
        if !is_label(&service.name) || !is_label(&service.namespace) {
            return Err(TokenError::Service);
        }
        let mut id = [0; ID_BYTES];
        let mut secret = [0; HASH_BYTES];
        rand::fill(&mut id).map_err(|_| TokenError::Random)?;
        rand::fill(&mut secret).map_err(|_| TokenError::Random)?;
        Ok(Self { id, secret, service, root_hash })
    }

    /// Reads a token; white space around it is dropped.
    ///
    /// # Errors
    /// When it is none, in words for the person who pasted it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            let other_version = text.starts_with("outrigger-join.");
            return Err(if other_version { TokenError::Version } else { TokenError::NoToken });
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TokenError::Damaged)?;
        if sha256(body)[..CHECK_BYTES] != *check {
            return Err(TokenError::Damaged);
        }
        Self::from_body(body)
    }

    fn from_body(body: &[u8]) -> Result<Self, TokenError> {
        let (id, rest) = body.split_first_chunk::<ID_BYTES>().ok_or(TokenError::Damaged)?;
        let (secret, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or(TokenError::Damaged)?;
        let (root, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or(TokenError::Damaged)?;
        let (length, names) = rest.split_first().ok_or(TokenError::Damaged)?;
        let names = std::str::from_utf8(names).map_err(|_| TokenError::Service)?;
        let (namespace, name) =
            names.split_at_checked(usize::from(*length)).ok_or(TokenError::Service)?;
        if !is_label(name) || !is_label(namespace) {
            return Err(TokenError::Service);
        }
        let service = ServiceName::new(name, namespace);
        Ok(Self { id: *id, secret: *secret, service, root_hash: *root })
    }

    /// The token as its bearer keeps it: a secret.
    pub fn to_text(&self) -> String {
        let (namespace, name) = (&self.service.namespace, &self.service.name);
        let mut body = Vec::with_capacity(FIXED_BYTES + namespace.len() + name.len() + CHECK_BYTES);
        body.extend_from_slice(&self.id);
        body.extend_from_slice(&self.secret);
        body.extend_from_slice(&self.root_hash);
        body.push(u8::try_from(namespace.len()).expect("a label has at most 63 bytes"));
        body.extend_from_slice(namespace.as_bytes());
        body.extend_from_slice(name.as_bytes());
        let check = sha256(&body);
        body.extend_from_slice(&check[..CHECK_BYTES]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(body))
    }

    /// Its public name, 16 hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// The one service that may join with it. What the control plane stored counts, not this.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The SHA-256 of the root certificate to trust.
    pub fn root_hash(&self) -> [u8; 32] {
        self.root_hash
    }

    /// What the control plane stores of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }
}

/// Whether a token's secret is the one whose hash was stored; takes the same time whatever differs.
pub fn secret_matches(token: &JoinToken, stored_hash: &[u8]) -> bool {
    verify_slices_are_equal(&token.secret_hash(), stored_hash).is_ok()
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id())
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::{JoinToken, PREFIX, TokenError, secret_matches};
    use crate::{spiffe::sha256, units::ServiceName};

    fn token() -> JoinToken {
        JoinToken::new(ServiceName::new("orders", "shop"), [7; 32]).expect("random numbers")
    }

    fn sealed(body: &[u8]) -> String {
        let text = URL_SAFE_NO_PAD.encode([body, &sha256(body)[..4]].concat());
        format!("{PREFIX}{text}")
    }

    #[test]
    fn a_token_is_read_back_from_its_text() {
        let token = token();
        let text = format!("  {}\n", token.to_text());
        let read = JoinToken::parse(&text).expect("its own text");
        assert_eq!(read, token);
        assert_eq!(read.service().to_string(), "orders.shop");
        assert_eq!(read.root_hash(), [7; 32]);
        assert!(secret_matches(&read, &token.secret_hash()));
        assert!(!format!("{read:?}").contains("secret"));
    }

    #[test]
    fn two_tokens_for_one_service_have_nothing_secret_in_common() {
        let (one, other) = (token(), token());
        assert_ne!(one.id(), other.id());
        assert!(!secret_matches(&one, &other.secret_hash()));
        assert!(!secret_matches(&one, &one.secret_hash()[..31]));
        assert!(!secret_matches(&one, &[]));
    }

    #[test]
    fn what_is_no_token_is_refused_with_words_that_help() {
        let good = token().to_text();
        let long = format!("{PREFIX}{}", "A".repeat(600));
        let fixed = [1; 72];
        let names = |length: u8, names: &[u8]| sealed(&[&fixed[..], &[length], names].concat());
        let label = "a".repeat(64);
        for (text, error) in [
            (String::new(), TokenError::Empty),
            (" \n".to_owned(), TokenError::Empty),
            ("secret".to_owned(), TokenError::NoToken),
            (good.to_uppercase(), TokenError::NoToken),
            ("outrigger-join.v2.AAAA".to_owned(), TokenError::Version),
            (PREFIX.to_owned(), TokenError::Damaged),
            (good[..good.len() - 1].to_owned(), TokenError::Damaged),
            (format!("{good}A"), TokenError::Damaged),
            (format!("{good}="), TokenError::Damaged),
            (good.replacen("v1.", "v1.A", 1), TokenError::Damaged),
            (format!("{PREFIX}!!!!"), TokenError::Damaged),
            (long, TokenError::Damaged),
            (sealed(&[]), TokenError::Damaged),
            (sealed(&fixed), TokenError::Damaged),
            (names(0, b""), TokenError::Service),
            (names(0, b"orders"), TokenError::Service),
            (names(6, b"orders"), TokenError::Service),
            (names(255, b"shoporders"), TokenError::Service),
            (names(4, b"shoporders/../admin"), TokenError::Service),
            (names(4, b"shopOrders"), TokenError::Service),
            (names(4, b"shop-orders"), TokenError::Service),
            (names(4, b"shoporders\0"), TokenError::Service),
            (names(4, b"shop\xff\xfe"), TokenError::Service),
            (names(4, "sho\u{e9}orders".as_bytes()), TokenError::Service),
            (names(64, format!("{label}b").as_bytes()), TokenError::Service),
        ] {
            assert_eq!(JoinToken::parse(&text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_token_is_made_for_names_of_services_only() {
        for (name, namespace) in [("", "shop"), ("a/b", "shop"), ("orders", "sh.op"), ("*", "a")] {
            let made = JoinToken::new(ServiceName::new(name, namespace), [0; 32]);
            assert_eq!(made, Err(TokenError::Service), "{name:?} {namespace:?}");
        }
    }
}
