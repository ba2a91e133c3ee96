//! What it means when an upstream stream ends early: the reason that the caller is told, and whether
//! the request was unseen. REFUSED_STREAM and a stream above a GOAWAY's last one were not processed
//! (RFC 9113 sections 8.7 and 6.8).

use super::stream::Upstream;
use crate::{
    http::{ConnectionError, ErrorCode, StreamError, answer::Rejection, grpc},
    reason::{GrpcCode, Reason},
};

/// What is said of a caller that did not send all of its body.
pub(super) const BODY_BROKEN: &str = "the caller broke off its body";

/// Why no stream was opened, or why one ended.
pub(super) fn of_stream(error: StreamError) -> Rejection {
    let text = error.to_string();
    match error {
        StreamError::Unprocessed(ErrorCode::REFUSED_STREAM) => {
            Rejection::unseen(Reason::StreamRefused, text)
        }
        StreamError::Unprocessed(_) => Rejection::unseen(Reason::ConnectionClosing, text),
        StreamError::Reset(code) => {
            let reset = Rejection::seen(Reason::UpstreamReset, text);
            Rejection { grpc: grpc::from_reset(code.0), ..reset }
        }
        StreamError::Malformed(_)
        | StreamError::HeadTooLarge
        | StreamError::Connection(ConnectionError::Protocol(..)) => {
            Rejection::seen(Reason::UpstreamProtocol, text)
        }
        StreamError::Connection(_) => {
            let lost = Rejection::seen(Reason::UpstreamReset, text);
            Rejection { grpc: GrpcCode::Unavailable, ..lost }
        }
    }
}

/// Why an attempt's stream ended. In TLS 1.3 a peer's refusal of our certificate is heard only then.
pub(super) fn of_upstream(upstream: &Upstream, error: StreamError) -> Rejection {
    match upstream.refused() {
        Some(why) => Rejection::unseen(Reason::PeerIdentity, why),
        None => of_stream(error),
    }
}

/// Why the head of a request was not taken.
pub(super) fn of_head(error: StreamError) -> Rejection {
    let reason = match error {
        StreamError::HeadTooLarge => Reason::HeadersTooLarge,
        _ => Reason::Malformed,
    };
    Rejection::unseen(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{of_head, of_stream};
    use crate::{
        http::{ConnectionError, ErrorCode, StreamError},
        reason::{GrpcCode, Reason},
    };

    #[test]
    fn the_end_of_a_stream_says_why_and_whether_it_was_seen() {
        use StreamError::{Connection, HeadTooLarge, Malformed, Reset, Unprocessed};
        let protocol = ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, "a frame");
        for (error, reason, grpc, unseen) in [
            (
                Unprocessed(ErrorCode::REFUSED_STREAM),
                Reason::StreamRefused,
                GrpcCode::Unavailable,
                true,
            ),
            (
                Unprocessed(ErrorCode::NO_ERROR),
                Reason::ConnectionClosing,
                GrpcCode::Unavailable,
                true,
            ),
            (Reset(ErrorCode::CANCEL), Reason::UpstreamReset, GrpcCode::Cancelled, false),
            (Reset(ErrorCode::INTERNAL_ERROR), Reason::UpstreamReset, GrpcCode::Internal, false),
            (Malformed("a field"), Reason::UpstreamProtocol, GrpcCode::Internal, false),
            (HeadTooLarge, Reason::UpstreamProtocol, GrpcCode::Internal, false),
            (Connection(protocol), Reason::UpstreamProtocol, GrpcCode::Internal, false),
            (Connection(ConnectionError::Eof), Reason::UpstreamReset, GrpcCode::Unavailable, false),
        ] {
            let found = of_stream(error);
            assert_eq!((found.reason, found.grpc, found.unseen), (reason, grpc, unseen), "{error}");
        }
        assert_eq!(of_head(HeadTooLarge).reason, Reason::HeadersTooLarge);
        assert_eq!(of_head(Malformed("a field")).reason, Reason::Malformed);
    }
}
