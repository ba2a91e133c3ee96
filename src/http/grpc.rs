//! gRPC's own words in HTTP: its status in heads and trailers, its percent-encoded message, and what
//! an HTTP status or an HTTP/2 error code means to it (gRPC over HTTP/2; "HTTP to gRPC Status Code
//! Mapping").

use std::fmt::Write as _;

use super::{HeaderBlock, Token};
use crate::reason::GrpcCode;

/// Whether a content type is `application/grpc`, alone or followed by `+` or `;` (gRPC over HTTP/2,
/// "Requests").
pub fn is_content_type(value: &[u8]) -> bool {
    let rest = value.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The status in `fields`; a number that gRPC does not know is `UNKNOWN`.
pub fn status(fields: &HeaderBlock) -> Option<GrpcCode> {
    let value = fields.get(Token::GrpcStatus)?;
    if value == b"0" {
        return Some(GrpcCode::Ok);
    }
    let number = str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u32>().ok());
    Some(number.and_then(GrpcCode::from_number).unwrap_or(GrpcCode::Unknown))
}

/// The gRPC status of an HTTP answer that carries none.
pub fn from_http(status: u16) -> GrpcCode {
    match status {
        400 => GrpcCode::Internal,
        401 => GrpcCode::Unauthenticated,
        403 => GrpcCode::PermissionDenied,
        404 => GrpcCode::Unimplemented,
        429 | 502..=504 => GrpcCode::Unavailable,
        _ => GrpcCode::Unknown,
    }
}

/// The gRPC status of a stream that the peer reset with this HTTP/2 error code.
pub fn from_reset(code: u32) -> GrpcCode {
    match code {
        0x7 => GrpcCode::Unavailable,
        0x8 => GrpcCode::Cancelled,
        0xb => GrpcCode::ResourceExhausted,
        0xc => GrpcCode::PermissionDenied,
        _ => GrpcCode::Internal,
    }
}

/// Whether more than one message went by, read from the lengths before them. Stops to look at the
/// second one, so that a stream costs nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Messages {
    whole: u8,
    /// Bytes of the current message's prefix that have been read.
    prefix: u8,
    /// The length being read, then what is missing of it.
    left: u32,
}

/// One byte of flags and four of length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: u8 = 5;

impl Messages {
    /// Reads on.
    #[inline]
    pub fn see(&mut self, data: &[u8]) {
        // Most messages come whole, and nothing but whether there is a second one matters.
        match data {
            _ if self.whole > 1 => {}
            [_, a, b, c, d, message @ ..] if self.prefix == 0 && !message.is_empty() => {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if message.len() == length {
                    self.whole += 1;
                } else {
                    self.see_parts(data);
                }
            }
            _ => self.see_parts(data),
        }
    }

    fn see_parts(&mut self, mut data: &[u8]) {
        while self.whole < 2 && !data.is_empty() {
            if self.prefix < PREFIX_BYTES {
                if self.prefix > 0 {
                    self.left = self.left << 8 | u32::from(data[0]);
                }
                self.prefix += 1;
                data = &data[1..];
            } else {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
                data = &data[skipped..];
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
            }
            if self.prefix == PREFIX_BYTES && self.left == 0 {
                self.whole += 1;
                self.prefix = 0;
            }
        }
    }

    /// Whether there was more than one, as far as was seen.
    pub fn many(&self) -> bool {
        self.whole > 1 || (self.whole == 1 && self.prefix > 0)
    }
}

/// Appends `grpc-status` and `grpc-message`.
pub fn say(fields: &mut HeaderBlock, code: GrpcCode, message: &str) {
    fields.push_token(Token::GrpcStatus, (code as u8).to_string().as_bytes());
    fields.push_token(Token::GrpcMessage, encode_message(message).as_bytes());
}

/// Percent-encodes everything but printable ASCII, and `%` itself.
fn encode_message(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let written = write!(text, "%{byte:02X}");
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Messages, from_http, from_reset, say, status};
    use crate::{
        http::{HeaderBlock, Token},
        reason::GrpcCode,
    };

    #[test]
    fn the_status_is_read_from_a_head_or_trailers() {
        for (text, code) in [
            (Some("0"), Some(GrpcCode::Ok)),
            (Some("14"), Some(GrpcCode::Unavailable)),
            (Some("99"), Some(GrpcCode::Unknown)),
            (Some("x"), Some(GrpcCode::Unknown)),
            (None, None),
        ] {
            let fields: HeaderBlock = text.map(|text| ("grpc-status", text)).into_iter().collect();
            assert_eq!(status(&fields), code, "{text:?}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let mut fields = HeaderBlock::new();
        say(&mut fields, GrpcCode::Internal, "50% of \u{e9}\n");
        assert_eq!(fields.get(Token::GrpcStatus), Some(&b"13"[..]));
        assert_eq!(fields.get(Token::GrpcMessage), Some(&b"50%25 of %C3%A9%0A"[..]));
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let one = [0, 0, 0, 0, 3, 1, 2, 3];
        let two = [one.as_slice(), &one].concat();
        for (bytes, many) in [
            (&one[..], false),
            (&one[..6], false),
            (&two, true),
            (&two[..9], true),
            (&[0; 10], true),
        ] {
            for step in 1..=bytes.len() {
                let mut messages = Messages::default();
                bytes.chunks(step).for_each(|part| messages.see(part));
                assert_eq!(messages.many(), many, "{bytes:?} by {step}");
            }
        }
    }

    #[test]
    fn http_statuses_and_resets_map_as_grpc_says() {
        assert_eq!(from_http(404), GrpcCode::Unimplemented);
        assert_eq!(from_http(503), GrpcCode::Unavailable);
        assert_eq!(from_http(418), GrpcCode::Unknown);
        assert_eq!(from_reset(8), GrpcCode::Cancelled);
        assert_eq!(from_reset(11), GrpcCode::ResourceExhausted);
        assert_eq!(from_reset(2), GrpcCode::Internal);
    }
}
