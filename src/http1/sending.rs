//! Bodies on their way out: what both roles do after a head.

use super::{
    Connection,
    connection::Role,
    writer::{self, Writer},
};
use crate::http::{ErrorCode, HeaderBlock};

impl Connection {
    /// Writes a part of the body and returns how much was taken; `end` counts only if all was. If it
    /// was less, a `Writable` follows. What comes for a stream that is over is taken and forgotten.
    ///
    /// A body that is not as long as its head said ends the connection, as its peer can not know any
    /// more what is body and what is not.
    pub fn send(&mut self, stream: u32, data: &[u8], end: bool) -> usize {
        if !self.is_current(stream) {
            return data.len();
        }
        match self.now.write {
            Writer::Done => return data.len(),
            Writer::Head | Writer::Waiting => {
                self.blocked = true;
                return 0;
            }
            Writer::Nothing => {
                if end {
                    self.written_all();
                }
                return data.len();
            }
            Writer::Length(_) | Writer::Chunked | Writer::ToClose | Writer::Raw => {}
        }
        let room = self.config.output_bytes_max.saturating_sub(self.waiting());
        let taken = room.min(data.len());
        self.blocked = taken < data.len();
        self.write(&data[..taken], end && !self.blocked);
        taken
    }

    fn write(&mut self, data: &[u8], end: bool) {
        match self.now.write {
            Writer::Length(left) => {
                let Some(left) = left.checked_sub(data.len() as u64) else {
                    return self.breach();
                };
                if end && left > 0 {
                    return self.breach();
                }
                self.output.extend_from_slice(data);
                self.now.write = Writer::Length(left);
            }
            Writer::Chunked => {
                if !data.is_empty() {
                    writer::chunk(&mut self.output, data);
                }
                if end {
                    self.output.extend_from_slice(b"0\r\n\r\n");
                }
            }
            _ => self.output.extend_from_slice(data),
        }
        if end {
            self.written_all();
        }
    }

    /// This side's message is not what its head said: the connection ends before the peer could take
    /// it for whole.
    fn breach(&mut self) {
        self.close(ErrorCode::INTERNAL_ERROR, "a body is not as long as its head said");
    }

    /// Ends the body with trailers, where the framing and the peer permit any.
    pub fn trailers(&mut self, stream: u32, trailers: &HeaderBlock) {
        if !self.is_current(stream) {
            return;
        }
        let welcome = self.role == Role::Client || self.now.asked.trailers;
        if self.now.write == Writer::Chunked && welcome && !trailers.is_empty() {
            self.output.extend_from_slice(b"0\r\n");
            writer::trailers(&mut self.output, trailers);
            self.written_all();
        } else {
            self.end_body();
        }
    }

    fn end_body(&mut self) {
        match self.now.write {
            Writer::Done | Writer::Head => {}
            Writer::Nothing | Writer::Waiting => self.written_all(),
            Writer::Length(_) | Writer::Chunked | Writer::ToClose | Writer::Raw => {
                self.write(&[], true);
            }
        }
    }

    /// Gives a stream up. A response under way ends without its last chunk, and the connection with
    /// it; a client's connection closes at once, unless the request is still unwritten, which makes no
    /// difference to it.
    pub fn reset(&mut self, stream: u32, _code: ErrorCode) {
        if !self.is_current(stream) || !self.is_live() {
            return;
        }
        if self.role == Role::Client {
            self.output.clear();
        }
        self.end(crate::http::ConnectionError::Local);
    }
}
