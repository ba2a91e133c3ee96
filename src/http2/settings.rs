//! SETTINGS (RFC 9113 section 6.5): what this side announces, and what the peer announced, checked.

use super::{
    Config, Role,
    flow::{WINDOW_DEFAULT, WINDOW_MAX},
    frame::{FrameHeader, PAYLOAD_MAX, kind},
};
use crate::http::{ConnectionError, ErrorCode};

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// Streams that a client opens before the server has said how many it takes.
const STREAMS_BEFORE_SETTINGS: u32 = 100;
/// How large an encoder's table gets, whatever the peer would permit.
const TABLE_MAX: u32 = 4_096;

/// Appends this side's first SETTINGS frame.
pub(super) fn announce(out: &mut Vec<u8>, role: Role, config: &Config) {
    let head_max = u32::try_from(config.head_max).unwrap_or(u32::MAX);
    let mut entries = vec![(INITIAL_WINDOW_SIZE, config.stream_window)];
    entries.push((MAX_HEADER_LIST_SIZE, head_max));
    if config.table_max != TABLE_MAX {
        entries.push((HEADER_TABLE_SIZE, config.table_max));
    }
    match role {
        Role::Client => entries.push((ENABLE_PUSH, 0)),
        Role::Server => {
            entries.push((MAX_CONCURRENT_STREAMS, config.streams_max));
            if config.extended_connect {
                entries.push((ENABLE_CONNECT_PROTOCOL, 1));
            }
        }
    }
    write(out, &entries);
}

/// Appends a SETTINGS frame that changes the window of streams only.
pub(super) fn announce_window(out: &mut Vec<u8>, size: u32) {
    write(out, &[(INITIAL_WINDOW_SIZE, size)]);
}

fn write(out: &mut Vec<u8>, entries: &[(u16, u32)]) {
    let length = u32::try_from(entries.len() * 6).unwrap_or(0);
    FrameHeader { length, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// What the peer announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerSettings {
    /// Whether its first SETTINGS came.
    pub(super) known: bool,
    pub(super) table: u32,
    pub(super) streams_max: u32,
    pub(super) window: u32,
    pub(super) payload_max: u32,
    pub(super) extended_connect: bool,
}

impl PeerSettings {
    /// What holds before the peer said anything.
    pub(super) fn new() -> Self {
        Self {
            known: false,
            table: TABLE_MAX,
            streams_max: STREAMS_BEFORE_SETTINGS,
            window: WINDOW_DEFAULT,
            payload_max: PAYLOAD_MAX,
            extended_connect: false,
        }
    }

    /// These settings after a SETTINGS frame of a peer of `role`.
    pub(super) fn after(mut self, payload: &[u8], role: Role) -> Result<Self, ConnectionError> {
        if !payload.len().is_multiple_of(6) {
            let what = "SETTINGS of a wrong length";
            return Err(ConnectionError::Protocol(ErrorCode::FRAME_SIZE_ERROR, what));
        }
        if !self.known {
            self.known = true;
            self.streams_max = u32::MAX;
        }
        for entry in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            self.set(id, value, role)?;
        }
        Ok(self)
    }

    fn set(&mut self, id: u16, value: u32, role: Role) -> Result<(), ConnectionError> {
        let wrong = |what| Err(ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, what));
        match id {
            HEADER_TABLE_SIZE => self.table = value.min(TABLE_MAX),
            // A server never says anything but 0 (RFC 9113 section 6.5.2).
            ENABLE_PUSH if value > 1 || (value == 1 && role == Role::Server) => {
                return wrong("ENABLE_PUSH out of range");
            }
            MAX_CONCURRENT_STREAMS => self.streams_max = value,
            INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                let what = "INITIAL_WINDOW_SIZE out of range";
                return Err(ConnectionError::Protocol(ErrorCode::FLOW_CONTROL_ERROR, what));
            }
            INITIAL_WINDOW_SIZE => self.window = value,
            MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                return wrong("MAX_FRAME_SIZE out of range");
            }
            MAX_FRAME_SIZE => self.payload_max = value.min(PAYLOAD_MAX),
            ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return wrong("ENABLE_CONNECT_PROTOCOL out of range");
            }
            // RFC 8441 section 3.
            ENABLE_CONNECT_PROTOCOL if value == 0 && self.extended_connect => {
                return wrong("ENABLE_CONNECT_PROTOCOL taken back");
            }
            ENABLE_CONNECT_PROTOCOL => self.extended_connect = value == 1,
            // MAX_HEADER_LIST_SIZE is advice; an unknown setting is ignored.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{PeerSettings, Role, announce};
    use crate::http2::Config;

    fn entries(list: &[(u16, u32)]) -> Vec<u8> {
        let bytes =
            |entry: &(u16, u32)| [&entry.0.to_be_bytes()[..], &entry.1.to_be_bytes()].concat();
        list.iter().flat_map(bytes).collect()
    }

    #[test]
    fn what_one_side_announces_the_other_reads() {
        let mut out = Vec::new();
        let config = Config { streams_max: 7, stream_window: 9, ..Config::default() };
        announce(&mut out, Role::Server, &config);
        let peer = PeerSettings::new().after(&out[9..], Role::Server).expect("valid");
        assert_eq!((peer.streams_max, peer.window, peer.extended_connect), (7, 9, true));
        out.clear();
        announce(&mut out, Role::Client, &config);
        let peer = PeerSettings::new().after(&out[9..], Role::Client).expect("valid");
        assert_eq!((peer.streams_max, peer.window), (u32::MAX, 9));
    }

    #[test]
    fn values_out_of_range_are_errors() {
        for (id, value, role, valid) in [
            (2, 2, Role::Client, false),
            (2, 1, Role::Client, true),
            (2, 1, Role::Server, false),
            (2, 0, Role::Server, true),
            (4, 0x7fff_ffff, Role::Client, true),
            (4, 0x8000_0000, Role::Client, false),
            (5, 16_383, Role::Client, false),
            (5, 16_777_215, Role::Client, true),
            (5, 16_777_216, Role::Client, false),
            (8, 2, Role::Client, false),
            (0xff, 77, Role::Client, true),
        ] {
            let result = PeerSettings::new().after(&entries(&[(id, value)]), role);
            assert_eq!(result.is_ok(), valid, "{id} {value} {role:?}");
        }
        PeerSettings::new().after(&[0; 5], Role::Client).expect_err("no whole entry");
        let both = entries(&[(8, 1), (8, 0)]);
        PeerSettings::new().after(&both, Role::Server).expect_err("taken back");
    }
}
