//! The fields of a head, read once: each is copied into the block with its token, and what frames the
//! message, or says how the connection goes on, is noted on the way.

use httparse::Header;

use super::parse::Framing;
use crate::http::{HeaderBlock, Token, octets};

/// What the fields said.
#[derive(Debug, Default)]
pub(super) struct Seen<'b> {
    /// `content-length`.
    pub(super) length: Option<u64>,
    /// `transfer-encoding`; its value if it is more than `chunked`.
    pub(super) coding: Option<&'b [u8]>,
    /// `connection: close`.
    pub(super) close: bool,
    /// `connection: keep-alive`.
    pub(super) keep_alive: bool,
    /// `connection: upgrade`.
    upgrade: bool,
    /// `upgrade`.
    protocol: Option<&'b [u8]>,
    /// `te: trailers`.
    pub(super) trailers: bool,
    /// `expect: 100-continue`.
    pub(super) expects: bool,
    /// `sec-websocket-key`.
    pub(super) websocket_key: Option<&'b [u8]>,
    /// `sec-websocket-accept`.
    pub(super) websocket_accept: Option<&'b [u8]>,
}

impl<'b> Seen<'b> {
    /// What the head says of the body; `None`: nothing.
    ///
    /// # Errors
    /// When two readers could disagree.
    pub(super) fn framing(&self, http10: bool) -> Result<Option<Framing>, &'static str> {
        match (self.coding, self.length) {
            (None, length) => Ok(length.map(Framing::Length)),
            (Some(_), Some(_)) => Err("a length and a transfer coding"),
            (Some(_), None) if http10 => Err("a transfer coding in HTTP/1.0"),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Some(Framing::Chunked))
            }
            (Some(_), None) => Err("the transfer coding is not chunked"),
        }
    }

    /// The one protocol that is asked for. HTTP/2 is none: who wants it begins with it.
    pub(super) fn protocol(&self) -> Option<&'b [u8]> {
        let one = |value: &&[u8]| {
            !value.is_empty()
                && !value.contains(&b',')
                && !value.eq_ignore_ascii_case(b"h2c")
                && !value.eq_ignore_ascii_case(b"h2")
        };
        self.protocol.filter(one).filter(|_| self.upgrade)
    }

    fn note(&mut self, token: Token, value: &'b [u8]) -> Result<(), &'static str> {
        match token {
            Token::ContentLength => {
                if self.length.is_some() {
                    return Err("more than one content-length");
                }
                let length = octets::length(value);
                self.length = Some(length.ok_or("the content-length is no number")?);
            }
            Token::TransferEncoding => {
                if self.coding.is_some() {
                    return Err("more than one transfer-encoding");
                }
                self.coding = Some(value);
            }
            Token::Connection => {
                for option in list(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            Token::Upgrade => self.protocol = Some(value),
            Token::Te => {
                self.trailers |= list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            Token::Expect => self.expects |= value.eq_ignore_ascii_case(b"100-continue"),
            Token::SecWebsocketKey => self.websocket_key = Some(value),
            Token::SecWebsocketAccept => self.websocket_accept = Some(value),
            _ => {}
        }
        Ok(())
    }
}

/// Copies the fields into `block`, without Host, and notes what they say.
///
/// # Errors
/// When one is ambiguous or its line ends with a bare LF.
pub(super) fn read<'b>(
    buf: &'b [u8],
    headers: &[Header<'b>],
    block: &mut HeaderBlock,
) -> Result<Seen<'b>, &'static str> {
    let mut seen = Seen::default();
    for header in headers {
        let name = header.name.as_bytes();
        let token = Token::of(name);
        let mut end = offset(buf, header.value) + header.value.len();
        while matches!(buf.get(end), Some(b' ' | b'\t')) {
            end += 1;
        }
        if buf.get(end) != Some(&b'\r') {
            return Err("a line ends with a bare line feed");
        }
        match token {
            Token::Host => continue,
            Token::Other if is_twin(name) => {
                return Err("a field's name is that of a framing field but for a dash");
            }
            Token::Other => {}
            token => seen.note(token, header.value)?,
        }
        block.append(token, name, header.value, false);
    }
    Ok(seen)
}

/// Servers that hand fields on as variables can not tell `content_length` from `content-length`.
fn is_twin(name: &[u8]) -> bool {
    let twin = |other: &str| {
        let same = |(one, other): (&u8, u8)| {
            one.eq_ignore_ascii_case(&other) || (*one == b'_' && other == b'-')
        };
        name.iter().zip(other.bytes()).all(same)
    };
    match name.len() {
        14 => twin("content-length"),
        17 => twin("transfer-encoding"),
        _ => false,
    }
}

/// Where `part` is in `buf`, which it was cut from.
pub(super) fn offset(buf: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(buf.as_ptr().addr())
}

/// The members of a comma-separated list.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// A status as three digits.
pub(super) fn digits(status: u16) -> [u8; 3] {
    let digit = |number: u16| u8::try_from(number % 10).map_or(b'0', |number| b'0' + number);
    [digit(status / 100), digit(status / 10), digit(status)]
}
