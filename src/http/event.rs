//! What a codec says of the bytes that it was given, in words that HTTP/1.1 and HTTP/2 share: the data
//! plane moves requests between the two without asking which is which.

use super::HeaderBlock;

/// One thing that happened on a connection. Data is borrowed from the input and not copied.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// A request's head (server side) or a final response's (client side). Well-formed; on the server
    /// side the stream is new.
    Head {
        /// Which stream.
        stream: u32,
        /// Pseudo-header fields first.
        head: HeaderBlock,
        /// Whether nothing follows.
        end: bool,
    },
    /// Server: a request that can not be taken, but can be answered: its head is too large, malformed
    /// or too slow. What follows of its body may be reported as usual.
    Refused {
        /// Which stream.
        stream: u32,
        /// Why.
        error: StreamError,
        /// What of the head was understood; possibly nothing.
        head: HeaderBlock,
    },
    /// A 1xx response, on the client side; the final one is still to come.
    Informational {
        /// Which stream.
        stream: u32,
        /// With `:status`.
        head: HeaderBlock,
    },
    /// A part of a body, without framing and padding. Its length is to be given back by `credit` once
    /// it went on; until then the peer's window stays smaller by it.
    Data {
        /// Which stream.
        stream: u32,
        /// May be empty when `end`.
        data: &'i [u8],
        /// Whether nothing follows.
        end: bool,
    },
    /// Trailers; nothing follows.
    Trailers {
        /// Which stream.
        stream: u32,
        /// Without pseudo-header fields.
        trailers: HeaderBlock,
    },
    /// The stream is over in both directions before its end. The codec has answered what the peer
    /// has to be told.
    Reset {
        /// Which stream.
        stream: u32,
        /// Who ended it and why.
        error: StreamError,
    },
    /// After `send` took less than it was given: there is room again.
    Writable {
        /// Which stream.
        stream: u32,
    },
    /// How many streams the peer permits has changed, or whether it takes any.
    Capacity,
    /// The connection is over; each stream that was open has been reported. What is in the output
    /// says why and is still to be written.
    Closed(ConnectionError),
}

/// Why a stream ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it (RFC 9113 section 5.4.2).
    #[error("reset by the peer with {0}")]
    Reset(ErrorCode),
    /// The peer did not look at it: REFUSED_STREAM, above a GOAWAY's last stream, or nothing of the
    /// request was written.
    #[error("not processed by the peer ({0})")]
    Unprocessed(ErrorCode),
    /// The peer broke the protocol on it.
    #[error("{0}")]
    Malformed(&'static str),
    /// A head or trailers were larger than permitted.
    #[error("the header fields are larger than permitted")]
    HeadTooLarge,
    /// The connection ended under it.
    #[error("the connection ended: {0}")]
    Connection(ConnectionError),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The peer said GOAWAY, or closed between requests.
    #[error("the peer is going away ({0})")]
    GoAway(ErrorCode),
    /// The transport ended.
    #[error("closed by the peer")]
    Eof,
    /// The peer broke the protocol.
    #[error("{0}: {1}")]
    Protocol(ErrorCode, &'static str),
    /// The peer used up a budget that honest work replenishes.
    #[error("too many {0}")]
    Abuse(&'static str),
    /// The peer was silent for too long, or too slow.
    #[error("{0} took too long")]
    Timeout(&'static str),
    /// This side ended it in order.
    #[error("closed here")]
    Local,
}

/// Why a client's stream was not opened. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer takes no further stream now; `Capacity` or the end of a stream changes that.
    #[error("no room for a further stream")]
    Full,
    /// The connection takes no further streams at all: it ends, or its stream ids are used up.
    #[error("the connection is going away")]
    GoingAway,
    /// The head can not be written.
    #[error("{0}")]
    Malformed(&'static str),
}

/// An HTTP/2 error code (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

macro_rules! codes {
    ($($name:ident $value:literal,)*) => {
        impl ErrorCode {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Self = Self($value);)*

            /// As RFC 9113 writes it; an unknown code is its number.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    NO_ERROR 0x0,
    PROTOCOL_ERROR 0x1,
    INTERNAL_ERROR 0x2,
    FLOW_CONTROL_ERROR 0x3,
    SETTINGS_TIMEOUT 0x4,
    STREAM_CLOSED 0x5,
    FRAME_SIZE_ERROR 0x6,
    REFUSED_STREAM 0x7,
    CANCEL 0x8,
    COMPRESSION_ERROR 0x9,
    CONNECT_ERROR 0xa,
    ENHANCE_YOUR_CALM 0xb,
    INADEQUATE_SECURITY 0xc,
    HTTP_1_1_REQUIRED 0xd,
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {:#x}", self.0),
        }
    }
}
