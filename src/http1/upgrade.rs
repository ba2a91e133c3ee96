//! WebSocket's handshake fields (RFC 6455 section 4), made anew on each connection.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a protocol is WebSocket.
pub(super) fn is_websocket(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"websocket")
}

/// A new `sec-websocket-key`. It proves that the peer speaks WebSocket and is no secret.
pub(super) fn key() -> Vec<u8> {
    STANDARD.encode(fastrand::u128(..).to_ne_bytes()).into_bytes()
}

/// The `sec-websocket-accept` that answers `key`.
pub(super) fn accept(key: &[u8]) -> Vec<u8> {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    STANDARD.encode(hash).into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_is_answered_as_the_rfc_says() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(super::key().len(), 24);
    }
}
