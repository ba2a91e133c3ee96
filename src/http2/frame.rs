//! Frames as bytes (RFC 9113 sections 4.1 and 6): a header is read here once, and the frames that
//! this side writes by itself are written here. What a frame means is elsewhere.

use crate::http::ErrorCode;

/// What a client sends first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a frame's header is.
pub(super) const HEADER_LEN: usize = 9;
/// The largest payload that this side takes and that it sends, whatever the peer would take: 16 KiB
/// are a full TLS record, and larger frames only delay the frames behind them.
pub(super) const PAYLOAD_MAX: u32 = 16_384;
/// The largest stream identifier (RFC 9113 section 5.1.1).
pub(super) const STREAM_MAX: u32 = 0x7fff_ffff;

/// The types of frames (RFC 9113 section 6).
pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0x0;
    pub(in crate::http2) const HEADERS: u8 = 0x1;
    pub(in crate::http2) const PRIORITY: u8 = 0x2;
    pub(in crate::http2) const RST_STREAM: u8 = 0x3;
    pub(in crate::http2) const SETTINGS: u8 = 0x4;
    pub(in crate::http2) const PUSH_PROMISE: u8 = 0x5;
    pub(in crate::http2) const PING: u8 = 0x6;
    pub(in crate::http2) const GOAWAY: u8 = 0x7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 0x8;
    pub(in crate::http2) const CONTINUATION: u8 = 0x9;
}

/// The flags of frames.
pub(super) mod flag {
    pub(in crate::http2) const END_STREAM: u8 = 0x1;
    pub(in crate::http2) const ACK: u8 = 0x1;
    pub(in crate::http2) const END_HEADERS: u8 = 0x4;
    pub(in crate::http2) const PADDED: u8 = 0x8;
    pub(in crate::http2) const PRIORITY: u8 = 0x20;
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Payload bytes; 24 bits.
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Without the reserved bit.
    pub(super) stream: u32,
}

impl FrameHeader {
    /// Reads one from the front of `input`; `None` when it is shorter.
    #[inline]
    pub(super) fn parse(input: &[u8]) -> Option<Self> {
        // Two numbers, of which one byte is in both: length, kind and flags, and the stream.
        let bytes: &[u8; HEADER_LEN] = input.first_chunk()?;
        let [_, _, _, kind, flags, stream @ ..] = bytes;
        let [length @ .., _, _, _, _, _] = bytes;
        let length = u32::from_be_bytes(*length) >> 8;
        let stream = u32::from_be_bytes(*stream) & STREAM_MAX;
        Some(Self { length, kind: *kind, flags: *flags, stream })
    }

    /// As bytes.
    #[inline]
    pub(super) fn bytes(self) -> [u8; HEADER_LEN] {
        let kind = self.length << 8 | u32::from(self.kind);
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&kind.to_be_bytes());
        bytes[4] = self.flags;
        bytes[5..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    /// Appends it to `out`.
    #[inline]
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    /// Whether a flag is set.
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload's length as a length of slices.
    pub(super) fn len(self) -> usize {
        self.length as usize
    }
}

/// A 32-bit number at the front of `payload`.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Appends RST_STREAM.
pub(super) fn rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    FrameHeader { length: 4, kind: kind::RST_STREAM, flags: 0, stream }.write(out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends WINDOW_UPDATE; stream 0 is the connection.
pub(super) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    FrameHeader { length: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.write(out);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Appends PING or the answer to one.
pub(super) fn ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    FrameHeader { length: 8, kind: kind::PING, flags, stream: 0 }.write(out);
    out.extend_from_slice(&payload);
}

/// Appends the acknowledgement of the peer's settings.
pub(super) fn settings_ack(out: &mut Vec<u8>) {
    FrameHeader { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.write(out);
}

/// Appends GOAWAY with a text for people who look at the wire.
pub(super) fn goaway(out: &mut Vec<u8>, last: u32, code: ErrorCode, debug: &str) {
    let length = 8 + u32::try_from(debug.len()).unwrap_or(0);
    FrameHeader { length, kind: kind::GOAWAY, flags: 0, stream: 0 }.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{FrameHeader, STREAM_MAX, goaway, kind, number, ping, rst_stream, window_update};
    use crate::http::ErrorCode;

    #[test]
    fn a_header_comes_back_without_the_reserved_bit() {
        let header = FrameHeader { length: 0x01_0203, kind: 9, flags: 0x25, stream: 77 };
        let mut out = Vec::new();
        header.write(&mut out);
        assert_eq!(FrameHeader::parse(&out), Some(header));
        out[5] |= 0x80;
        assert_eq!(FrameHeader::parse(&out), Some(header));
        assert_eq!(FrameHeader::parse(&out[..8]), None);
        assert!(header.has(0x20) && !header.has(0x8));
    }

    #[test]
    fn frames_have_the_length_that_they_say() {
        let mut out = Vec::new();
        rst_stream(&mut out, 1, ErrorCode::CANCEL);
        window_update(&mut out, 0, 5);
        ping(&mut out, 0, [7; 8]);
        goaway(&mut out, STREAM_MAX, ErrorCode::NO_ERROR, "bye");
        let mut left = &out[..];
        let mut kinds = Vec::new();
        while let Some(header) = FrameHeader::parse(left) {
            kinds.push((header.kind, number(&left[9..]).expect("four bytes")));
            left = &left[9 + header.len()..];
        }
        assert!(left.is_empty());
        let expected = [
            (kind::RST_STREAM, 8),
            (kind::WINDOW_UPDATE, 5),
            (kind::PING, 0x0707_0707),
            (kind::GOAWAY, STREAM_MAX),
        ];
        assert_eq!(kinds, expected);
    }
}
