//! What the end of an upstream stream means: the reason that the caller is told, and whether the request
//! was unseen. A stream above the last one of a GOAWAY was not processed (RFC 9113 section 6.8), and
//! one that was refused neither (section 8.7).

use crate::{
    http::{ConnectionError, ErrorCode, StreamError, answer::Rejection, grpc},
    reason::{GrpcCode, Reason},
};

/// What is said of a caller that did not send all of its body.
pub(super) const BODY_BROKEN: &str = "the caller broke off its body";

/// A stream that was not opened, or ended before its end.
pub(super) fn of_stream(error: StreamError) -> Rejection {
    let text = error.to_string();
    match error {
        StreamError::Unprocessed(ErrorCode::REFUSED_STREAM) => {
            Rejection::unseen(Reason::StreamRefused, text)
        }
        StreamError::Unprocessed(_) => Rejection::unseen(Reason::ConnectionClosing, text),
        StreamError::Reset(code) => {
            let grpc = grpc::from_reset(code.0);
            Rejection { grpc, ..Rejection::seen(Reason::UpstreamReset, text) }
        }
        StreamError::Malformed(_)
        | StreamError::HeadTooLarge
        | StreamError::Connection(ConnectionError::Protocol(..)) => {
            Rejection::seen(Reason::UpstreamProtocol, text)
        }
        StreamError::Connection(_) => {
            let grpc = GrpcCode::Unavailable;
            Rejection { grpc, ..Rejection::seen(Reason::UpstreamReset, text) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::of_stream;
    use crate::{
        http::{ConnectionError, ErrorCode, StreamError},
        reason::{GrpcCode, Reason},
    };

    #[test]
    fn every_end_has_its_reason() {
        let broken = ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, "x");
        for (error, reason, unseen, grpc) in [
            (
                StreamError::Unprocessed(ErrorCode::REFUSED_STREAM),
                Reason::StreamRefused,
                true,
                GrpcCode::Unavailable,
            ),
            (
                StreamError::Unprocessed(ErrorCode::NO_ERROR),
                Reason::ConnectionClosing,
                true,
                GrpcCode::Unavailable,
            ),
            (
                StreamError::Reset(ErrorCode::CANCEL),
                Reason::UpstreamReset,
                false,
                GrpcCode::Cancelled,
            ),
            (StreamError::Malformed("x"), Reason::UpstreamProtocol, false, GrpcCode::Internal),
            (StreamError::Connection(broken), Reason::UpstreamProtocol, false, GrpcCode::Internal),
            (
                StreamError::Connection(ConnectionError::Eof),
                Reason::UpstreamReset,
                false,
                GrpcCode::Unavailable,
            ),
        ] {
            let fault = of_stream(error);
            assert_eq!((fault.reason, fault.unseen, fault.grpc), (reason, unseen, grpc));
        }
    }
}
