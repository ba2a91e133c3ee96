//! What a connection may be told: limits, windows and times. The defaults are those of a sidecar.

use std::time::Duration;

/// How a connection behaves.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Server: concurrent streams that the peer is told of and that are taken. Client: the bound of
    /// this side, below the peer's. At most 10,000. Default 256.
    pub streams_max: u32,
    /// What a stream's window is at first. Default 256 KiB.
    pub stream_window: u32,
    /// What it may grow to for a stream whose bytes go on as fast as they come; not below
    /// `stream_window`. Default 256 KiB.
    pub stream_window_max: u32,
    /// The connection's window. Default 4 MiB.
    pub connection_window: u32,
    /// Body bytes of one connection that may be held before its window closes. Default 16 MiB.
    pub held_max: u32,
    /// Body bytes that may wait in the output; beyond it `send` takes nothing. Default 256 KiB.
    pub output_max: usize,
    /// The largest head or trailers, as RFC 9113 section 6.5.2 counts. Default 64 KiB.
    pub head_max: usize,
    /// The decoder's table. Default 4,096 bytes.
    pub table_max: u32,
    /// Whether the peer is a sidecar, so that the connection carries the requests of many callers.
    /// Server: the peer has budgets for them itself, and one caller's cancels must not cost the
    /// others their connection, so that the budget for early cancels is a hundred times as large.
    /// Client: cancels are written at once; towards other servers, which count them more strictly,
    /// they are held back (see `cancel`). Default no.
    pub many_callers: bool,
    /// Server: whether extended CONNECT (RFC 8441) is offered. Default yes.
    pub extended_connect: bool,
    /// How long the preface with its SETTINGS, or an unfinished head, may take. Default 10 s.
    pub head_time: Duration,
    /// Server: how long a connection may be open without its first request. Default 15 s.
    pub first_request_time: Duration,
    /// Server: how long a connection may have no stream before it is closed in order. Default: for
    /// ever.
    pub idle_time: Option<Duration>,
    /// How long nothing may be read before a PING asks. Default: never asked.
    pub keepalive_after: Option<Duration>,
    /// How long the answer to a PING, or to SETTINGS, may take. Default 20 s.
    pub answer_time: Duration,
    /// How long a peer may take nothing of what was written, and how long an unfinished DATA frame
    /// may stand still. Default 30 s.
    pub stalled_time: Duration,
    /// How long one stream's reader may take less than 4 KiB of what waits for it. Default 5 min.
    pub slow_reader_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams_max: 256,
            stream_window: 256 * 1024,
            stream_window_max: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            held_max: 16 * 1024 * 1024,
            output_max: 256 * 1024,
            head_max: 64 * 1024,
            table_max: 4_096,
            many_callers: false,
            extended_connect: true,
            head_time: Duration::from_secs(10),
            first_request_time: Duration::from_secs(15),
            idle_time: None,
            keepalive_after: None,
            answer_time: Duration::from_secs(20),
            stalled_time: Duration::from_secs(30),
            slow_reader_time: Duration::from_secs(300),
        }
    }
}
