//! HTTP/2 without I/O (RFC 9113): bytes in, events and bytes out, and the time is an argument. There
//! is no socket, task, lock or clock in here, so that every order of events can be tested as a plain
//! sequence of calls, and the same core serves callers, upstream connections and fuzzers.
//!
//! [`Connection`] is the whole of it. `receive` takes bytes and tells what happened; `open`,
//! `respond`, `send`, `trailers`, `reset` and `credit` write frames into one output buffer that the
//! driver writes once per turn. Body bytes are borrowed from the input and never kept here. What can
//! grow is bounded: streams, heads, output, answers; what a peer does without working is paid from
//! budgets (see `budget`), so that abuse ends its own connection and touches no other.
//!
//! | file | holds |
//! |---|---|
//! | `frame` | frames as bytes |
//! | `settings`, `config` | what both sides announce |
//! | `ids`, `streams` | streams by identifier, their states |
//! | `flow` | windows and credit |
//! | `receive` | the loop over frames |
//! | `data`, `head`, `control` | what each kind of frame means |
//! | `send`, `cancel` | what the user writes |
//! | `goaway` | how a connection ends |
//! | `timers` | what is due by time |
//! | `validate` | which header sections are well-formed |
//! | `budget` | what a peer may do that is no work |
//! | `check`, `invariants` | what must hold of any bytes and after any call, for fuzzers and tests |
//! | `agree` | the same messages as the `h2` crate reads, for the same |

#[cfg(any(test, fuzzing))]
mod agree;
mod budget;
mod cancel;
mod check;
mod config;
mod control;
mod data;
mod flow;
mod frame;
mod goaway;
mod head;
pub mod hpack;
mod ids;
mod invariants;
mod receive;
mod send;
mod settings;
mod streams;
mod timers;
mod validate;

use std::{collections::VecDeque, time::Instant};

#[cfg(any(test, fuzzing))]
pub use agree::agree;
pub use check::{check, check_calls};
pub use config::Config;
pub use send::OpenError;

use self::{
    budget::Budget,
    cancel::Cancels,
    flow::{ConnectionWindow, SendWindow, WINDOW_DEFAULT},
    frame::PREFACE,
    goaway::Going,
    head::Unfinished,
    hpack::{Decoder, Encoder},
    receive::Reading,
    send::Tail,
    settings::PeerSettings,
    streams::Streams,
    timers::Timers,
};
use crate::http::{ConnectionError, HeaderBlock, StreamError};

/// Header blocks that are kept for the next heads.
const SPARE_MAX: usize = 16;

/// Which side of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// What is to be reported before more input is read.
enum Pending {
    Reset(u32, StreamError),
    Capacity,
    Closed(ConnectionError),
}

/// One side of an HTTP/2 connection.
pub struct Connection {
    role: Role,
    config: Config,
    peer: PeerSettings,
    streams: Streams,
    /// What `receive` is in the middle of.
    reading: Reading,
    /// A head whose CONTINUATION frames are still to come.
    unfinished: Option<Unfinished>,
    decoder: Decoder,
    encoder: Encoder,
    spare: Vec<HeaderBlock>,
    /// What the peer may send.
    window: ConnectionWindow,
    /// What new streams' windows are, and what the peer has been told but has not acknowledged.
    stream_window: u32,
    stream_window_next: VecDeque<u32>,
    /// What this side may send.
    send_window: SendWindow,
    /// Bytes that may still come for streams that this side has cut.
    late: u64,
    /// Client: resets that are still to be written.
    cancels: Cancels,
    pending: VecDeque<Pending>,
    /// Streams that wait for the connection's window or for room in the output.
    waiting: VecDeque<u32>,
    output: Vec<u8>,
    tail: Tail,
    /// Output that the driver has taken and not written, and how much it could take last.
    taken: usize,
    lent: usize,
    /// All bytes that were ever written.
    flushed: u64,
    /// Bytes of the output that answer frames of the peer.
    answers: usize,
    budget: Budget,
    going: Going,
    timers: Timers,
    /// Whether the end was decided.
    over: bool,
}

impl Connection {
    /// The side that takes requests.
    pub fn server(config: &Config, now: Instant) -> Self {
        Self::new(Role::Server, config, now)
    }

    /// The side that makes requests.
    pub fn client(config: &Config, now: Instant) -> Self {
        Self::new(Role::Client, config, now)
    }

    fn new(role: Role, config: &Config, now: Instant) -> Self {
        let config = Config {
            streams_max: config.streams_max.min(10_000),
            stream_window: config.stream_window.clamp(1, flow::WINDOW_MAX),
            stream_window_max: config.stream_window_max.min(flow::WINDOW_MAX),
            connection_window: config.connection_window.min(flow::WINDOW_MAX),
            ..*config
        };
        let mut output = Vec::new();
        if role == Role::Client {
            output.extend_from_slice(PREFACE);
        }
        settings::announce(&mut output, role, &config);
        let mut window = ConnectionWindow::new(config.connection_window, config.held_max);
        if let Some(increment) = window.announce_all() {
            frame::window_update(&mut output, 0, increment);
        }
        Self {
            role,
            config,
            peer: PeerSettings::new(),
            streams: Streams::new(),
            reading: if role == Role::Server { Reading::Preface } else { Reading::Frame },
            unfinished: None,
            decoder: Decoder::new(config.table_max as usize),
            encoder: Encoder::new(),
            spare: Vec::new(),
            window,
            // A peer that has not seen the settings yet uses the protocol's default.
            stream_window: config.stream_window.max(WINDOW_DEFAULT),
            stream_window_next: VecDeque::from([config.stream_window]),
            send_window: SendWindow::new(WINDOW_DEFAULT),
            late: 0,
            cancels: Cancels::new(now),
            pending: VecDeque::new(),
            waiting: VecDeque::new(),
            output,
            tail: Tail::default(),
            taken: 0,
            lent: 0,
            flushed: 0,
            answers: 0,
            budget: Budget::new(config.many_callers),
            going: Going::default(),
            timers: Timers::new(now),
            over: false,
        }
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether no stream is open and nothing is left to report.
    pub fn is_idle(&self) -> bool {
        self.streams.len() == 0 && self.pending.is_empty()
    }

    /// Whether the connection is over and everything was reported; the output is still to be written.
    pub fn is_closed(&self) -> bool {
        self.over && self.pending.is_empty()
    }

    /// Whether the peer's SETTINGS came.
    pub fn is_settled(&self) -> bool {
        self.peer.known
    }

    /// Whether the peer takes no streams at all for now (RFC 9113 section 6.5.2).
    pub fn is_shut(&self) -> bool {
        self.peer.streams_max == 0
    }

    /// Whether the peer takes extended CONNECT (RFC 8441); known once its SETTINGS came.
    pub fn takes_extended_connect(&self) -> bool {
        self.peer.extended_connect
    }

    /// Gives the memory of a head back.
    pub fn recycle(&mut self, mut block: HeaderBlock) {
        if self.spare.len() < SPARE_MAX {
            block.clear();
            self.spare.push(block);
        }
    }
}

#[cfg(test)]
mod tests;
