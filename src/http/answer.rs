//! Answers that the mesh itself makes. A gRPC caller gets an HTTP 200 without a body whose head
//! carries status and message ("trailers-only"); every other caller gets a status and one line of
//! text. Both carry the reason in `outrigger-reason`.

use ::http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use bytes::Bytes;

use super::{fields, grpc};
use crate::reason::{GrpcCode, Reason};

/// Why the mesh refuses or ends a request, and what it says about it.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// One clause for people, without a full stop; may name services and numbers, so that only
    /// callers who may know them see it.
    pub what: String,
    /// The gRPC status where it is more precise than the reason's own.
    pub grpc: GrpcCode,
    /// Whether no byte of the request was written towards an application.
    pub unseen: bool,
}

impl Rejection {
    /// A refusal before anything was written.
    pub fn unseen(reason: Reason, what: impl Into<String>) -> Self {
        Self { reason, what: what.into(), grpc: reason.row().grpc, unseen: true }
    }

    /// An end after something may have been written.
    pub fn seen(reason: Reason, what: impl Into<String>) -> Self {
        Self { unseen: false, ..Self::unseen(reason, what) }
    }

    /// `outrigger: <reason>: <what>; trace <id>`, without what a stranger may not know.
    pub fn message(&self, details: bool, trace_id: u128) -> String {
        if details && !self.what.is_empty() {
            format!("outrigger: {}: {}; trace {trace_id:032x}", self.reason, self.what)
        } else {
            format!("outrigger: {}; trace {trace_id:032x}", self.reason)
        }
    }
}

/// To whom an answer goes, and how much it may say.
#[derive(Debug, Clone, Copy)]
pub struct Audience {
    /// Whether the request was a gRPC call.
    pub grpc: bool,
    /// Whether its method was HEAD, whose answers have no body.
    pub head: bool,
    /// Whether names and counts may be told.
    pub details: bool,
    /// Whether it is a sidecar, which is told that the request was unseen.
    pub sidecar: bool,
    /// The request's trace.
    pub trace_id: u128,
}

/// The whole answer.
pub fn respond(rejection: &Rejection, audience: Audience) -> Response<Bytes> {
    let message = rejection.message(audience.details, audience.trace_id);
    let mut response = if audience.grpc {
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = grpc::fields(rejection.grpc, &message);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    } else {
        text(rejection.reason, message, audience.head)
    };
    let head = response.headers_mut();
    head.insert(fields::REASON, HeaderValue::from_static(rejection.reason.name()));
    if audience.sidecar && rejection.unseen {
        head.insert(fields::UNSEEN, HeaderValue::from_static("1"));
    }
    response
}

fn text(reason: Reason, mut message: String, head: bool) -> Response<Bytes> {
    message.push('\n');
    let length = message.len();
    let mut response = Response::new(if head { Bytes::new() } else { Bytes::from(message) });
    *response.status_mut() =
        StatusCode::from_u16(reason.row().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if reason == Reason::Unauthenticated {
        // RFC 9110 section 15.5.2 asks for a challenge; mutual TLS is the way in.
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Mutual"));
    }
    response
}

/// The trailers that end a gRPC call whose head is already out.
pub fn trailers(rejection: &Rejection, audience: Audience) -> HeaderMap {
    let mut trailers =
        grpc::fields(rejection.grpc, &rejection.message(audience.details, audience.trace_id));
    trailers.insert(fields::REASON, HeaderValue::from_static(rejection.reason.name()));
    trailers
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;

    use super::{Audience, Rejection, respond, trailers};
    use crate::reason::Reason;

    const AUDIENCE: Audience =
        Audience { grpc: true, head: false, details: true, sidecar: false, trace_id: 0xab };

    fn text(fields: &HeaderMap, name: &str) -> String {
        fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_grpc_caller_gets_trailers_only() {
        let rejection = Rejection::unseen(Reason::NoEndpoint, "inventory.shop has no endpoint");
        let response = respond(&rejection, AUDIENCE);
        assert_eq!(response.status(), 200);
        assert!(response.body().is_empty());
        assert_eq!(text(response.headers(), "content-type"), "application/grpc");
        assert_eq!(text(response.headers(), "grpc-status"), "14");
        assert_eq!(
            text(response.headers(), "grpc-message"),
            "outrigger: no_endpoint: inventory.shop has no endpoint; \
             trace 000000000000000000000000000000ab"
        );
        assert_eq!(text(response.headers(), "outrigger-reason"), "no_endpoint");
        assert_eq!(text(response.headers(), "outrigger-unseen"), "");
    }

    #[test]
    fn every_other_caller_gets_a_status_and_a_line() {
        let rejection = Rejection::unseen(Reason::Denied, "policy shop/payments");
        let response = respond(&rejection, Audience { grpc: false, ..AUDIENCE });
        assert_eq!(response.status(), 403);
        let line =
            "outrigger: denied: policy shop/payments; trace 000000000000000000000000000000ab\n";
        assert_eq!(response.body(), line);
        assert_eq!(text(response.headers(), "content-length"), line.len().to_string());
        let head = respond(&rejection, Audience { grpc: false, head: true, ..AUDIENCE });
        assert!(head.body().is_empty());
    }

    #[test]
    fn a_stranger_learns_the_reason_only() {
        let rejection = Rejection::unseen(Reason::Denied, "policy shop/payments");
        assert_eq!(
            rejection.message(false, 1),
            "outrigger: denied; trace 00000000000000000000000000000001"
        );
    }

    #[test]
    fn only_a_sidecar_is_told_that_a_request_was_unseen() {
        let sidecar = Audience { sidecar: true, ..AUDIENCE };
        let unseen = Rejection::unseen(Reason::AppUnreachable, "");
        let seen = Rejection::seen(Reason::UpstreamReset, "");
        assert_eq!(text(respond(&unseen, sidecar).headers(), "outrigger-unseen"), "1");
        assert_eq!(text(respond(&seen, sidecar).headers(), "outrigger-unseen"), "");
    }

    #[test]
    fn a_call_whose_head_is_out_ends_with_trailers() {
        let end = trailers(&Rejection::seen(Reason::Deadline, ""), AUDIENCE);
        assert_eq!(text(&end, "grpc-status"), "4");
        assert_eq!(text(&end, "outrigger-reason"), "deadline");
    }
}
