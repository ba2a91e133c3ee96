//! The frames that carry no content: WINDOW_UPDATE, RST_STREAM, SETTINGS, PING, PRIORITY (RFC 9113
//! sections 6.3 to 6.9). Each is paid from a budget.

use std::time::Instant;

use super::{
    Connection, Pending,
    flow::Overflow,
    frame::{self, FrameHeader, flag, number},
    ids::{Found, Mark},
    receive::{Step, protocol},
    streams::{Receiving, Sending, Wait},
};
use crate::http::{ConnectionError, ErrorCode, StreamError};

/// Bytes of answers that may wait for a peer that does not read.
const ANSWERS_MAX: usize = 64 * 1024;

fn size(what: &'static str) -> ConnectionError {
    ConnectionError::Protocol(ErrorCode::FRAME_SIZE_ERROR, what)
}

impl Connection {
    pub(super) fn window_update(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(size("WINDOW_UPDATE of a wrong length"));
        }
        self.budget.control(1)?;
        let increment = number(payload).unwrap_or(0) & 0x7fff_ffff;
        if header.stream == 0 {
            if increment == 0 {
                return Err(protocol("WINDOW_UPDATE by 0"));
            }
            return self.send_window.shift(i64::from(increment)).map_err(|Overflow| {
                let what = "the connection's window over 2^31-1";
                ConnectionError::Protocol(ErrorCode::FLOW_CONTROL_ERROR, what)
            });
        }
        let slot = match self.streams.ids.find(header.stream) {
            Found::Open(slot) => slot,
            Found::Idle => return Err(protocol("WINDOW_UPDATE on an idle stream")),
            Found::Skipped | Found::Ended | Found::Cut | Found::Forgotten => return Ok(()),
        };
        if increment == 0 {
            let what = "WINDOW_UPDATE by 0";
            self.stream_error(header.stream, ErrorCode::PROTOCOL_ERROR, what)?;
            return Ok(());
        }
        if self.streams.at(slot).send.shift(i64::from(increment)).is_err() {
            let what = "a stream's window over 2^31-1";
            self.stream_error(header.stream, ErrorCode::FLOW_CONTROL_ERROR, what)?;
            return Ok(());
        }
        // A server that gives a byte at a time gets a byte at a time, and delays its own callers only.
        if !self.is_server() && self.streams.at(slot).wait == Wait::Window {
            self.budget.of_use();
        }
        self.window_opened(slot);
        Ok(())
    }

    /// A stream's send window may have opened.
    fn window_opened(&mut self, slot: u16) {
        let stream = self.streams.at(slot);
        if stream.wait == Wait::Window && stream.send.open() > 0 {
            stream.wait = Wait::Queued;
            let id = stream.id;
            self.waiting.push_back(id);
        }
    }

    pub(super) fn rst_stream(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(size("RST_STREAM of a wrong length"));
        }
        if header.stream == 0 {
            return Err(protocol("RST_STREAM on stream 0"));
        }
        let code = ErrorCode(number(payload).unwrap_or(0));
        let slot = match self.streams.ids.find(header.stream) {
            Found::Open(slot) => slot,
            Found::Idle => return Err(protocol("RST_STREAM on an idle stream")),
            Found::Skipped | Found::Ended | Found::Cut | Found::Forgotten => {
                self.cancels.forget(header.stream);
                return self.budget.control(1);
            }
        };
        let stream = *self.streams.at(slot);
        if self.is_server() {
            let age = now.saturating_duration_since(stream.opened);
            self.budget.cancelled(age, stream.sending != Sending::Head)?;
        }
        let unseen = code == ErrorCode::REFUSED_STREAM
            && !self.is_server()
            && stream.receiving == Receiving::Head;
        let error = if unseen { StreamError::Unprocessed(code) } else { StreamError::Reset(code) };
        self.pending.push_back(Pending::Reset(header.stream, error));
        self.remove(slot, Mark::Ended);
        Ok(())
    }

    pub(super) fn settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if header.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(size("an acknowledgement of SETTINGS with a payload"));
            }
            return self.settings_acknowledged();
        }
        // Every stream is looked at when windows change.
        self.budget.control(10 + header.length / 60)?;
        let before = self.peer;
        let peer_role = if self.is_server() { super::Role::Client } else { super::Role::Server };
        self.peer = before.after(payload, peer_role)?;
        if self.peer.table != before.table {
            self.encoder.set_table_max(self.peer.table as usize);
        }
        if self.peer.window != before.window {
            self.shift_windows(i64::from(self.peer.window) - i64::from(before.window))?;
        }
        let room_changed = self.peer.streams_max != before.streams_max || !before.known;
        if !self.is_server() && room_changed {
            self.pending.push_back(Pending::Capacity);
        }
        self.answer(frame::HEADER_LEN)?;
        frame::settings_ack(&mut self.output);
        Ok(())
    }

    fn shift_windows(&mut self, by: i64) -> Result<(), ConnectionError> {
        for stream in self.streams.iter_mut() {
            stream.send.shift(by).map_err(|Overflow| {
                let what = "INITIAL_WINDOW_SIZE moves a window over 2^31-1";
                ConnectionError::Protocol(ErrorCode::FLOW_CONTROL_ERROR, what)
            })?;
            if stream.wait == Wait::Window && stream.send.open() > 0 {
                stream.wait = Wait::Queued;
                self.waiting.push_back(stream.id);
            }
        }
        Ok(())
    }

    fn settings_acknowledged(&mut self) -> Result<(), ConnectionError> {
        let Some(size) = self.stream_window_next.pop_front() else {
            return self.budget.control(1);
        };
        self.timers.settings_acknowledged(self.stream_window_next.is_empty());
        self.cancels_were_read();
        let before = std::mem::replace(&mut self.stream_window, size);
        if before != size {
            self.streams.iter_mut().for_each(|stream| stream.window.resize(before, size));
        }
        Ok(())
    }

    pub(super) fn ping(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let payload: [u8; 8] = payload.try_into().map_err(|_| size("PING of a wrong length"))?;
        if header.stream != 0 {
            return Err(protocol("PING on a stream"));
        }
        if header.has(flag::ACK) {
            if !self.ping_answered(payload) {
                self.budget.control(1)?;
            }
            return Ok(());
        }
        self.budget.control(1)?;
        self.answer(frame::HEADER_LEN + 8)?;
        frame::ping(&mut self.output, flag::ACK, payload);
        Ok(())
    }

    /// Priorities are read for their errors only (RFC 9113 section 5.3.2).
    pub(super) fn priority(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if header.stream == 0 {
            return Err(protocol("PRIORITY on stream 0"));
        }
        self.budget.control(1)?;
        let on = number(payload).unwrap_or(0) & 0x7fff_ffff;
        let flaw = if payload.len() != 5 {
            (ErrorCode::FRAME_SIZE_ERROR, "PRIORITY of a wrong length")
        } else if on == header.stream {
            (ErrorCode::PROTOCOL_ERROR, "a stream that depends on itself")
        } else {
            return Ok(());
        };
        match self.streams.ids.find(header.stream) {
            Found::Open(_) => {
                self.stream_error(header.stream, flaw.0, flaw.1)?;
                Ok(())
            }
            // A stream that is not open can not be reset.
            _ => Err(ConnectionError::Protocol(flaw.0, flaw.1)),
        }
    }

    /// Room in the output for an answer to a frame of the peer.
    fn answer(&mut self, bytes: usize) -> Result<(), ConnectionError> {
        self.answers += bytes;
        if self.answers > ANSWERS_MAX {
            return Err(ConnectionError::Abuse("answers that the peer does not read"));
        }
        Ok(())
    }

    /// Tells the peer that a stream is over which is not, or no longer, open.
    pub(super) fn answer_reset(&mut self, id: u32, code: ErrorCode) -> Result<(), ConnectionError> {
        self.answer(frame::HEADER_LEN + 4)?;
        frame::rst_stream(&mut self.output, id, code);
        Ok(())
    }

    /// The peer broke the protocol on a stream, which ends it and nothing else.
    pub(super) fn stream_error<'i>(
        &mut self,
        id: u32,
        code: ErrorCode,
        what: &'static str,
    ) -> Result<Step<'i>, ConnectionError> {
        self.break_off(id, code, StreamError::Malformed(what))?;
        Ok(Step::Again)
    }

    pub(super) fn break_off(
        &mut self,
        id: u32,
        code: ErrorCode,
        error: StreamError,
    ) -> Result<(), ConnectionError> {
        let slot = self.streams.find(id);
        // An upstream can break what it was asked for only, which others pay for.
        if self.is_server() || slot.is_none() {
            self.budget.provoked()?;
        }
        self.answer_reset(id, code)?;
        if let Some(slot) = slot {
            self.pending.push_back(Pending::Reset(id, error));
            self.cut(slot);
        }
        Ok(())
    }
}
