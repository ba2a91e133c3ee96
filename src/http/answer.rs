//! Answers that the mesh itself makes. A gRPC caller gets an HTTP 200 without a body whose head
//! carries status and message ("trailers-only"); every other caller gets a status and one line of
//! text. Both carry the reason in `outrigger-reason`.

use super::{HeaderBlock, Token, grpc};
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
#[repr(Rust, packed(8))]
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

/// The whole answer: its head, and its body.
pub fn respond(rejection: &Rejection, audience: Audience) -> (HeaderBlock, String) {
    let message = rejection.message(audience.details, audience.trace_id);
    let mut head = HeaderBlock::new();
    let body = if audience.grpc {
        head.push_token(Token::Status, b"200");
        head.push_token(Token::ContentType, b"application/grpc");
        grpc::say(&mut head, rejection.grpc, &message);
        String::new()
    } else {
        text(&mut head, rejection.reason, message, audience.head)
    };
    head.push_token(Token::OutriggerReason, rejection.reason.name().as_bytes());
    if audience.sidecar && rejection.unseen {
        head.push_token(Token::OutriggerUnseen, b"1");
    }
    (head, body)
}

fn text(head: &mut HeaderBlock, reason: Reason, mut message: String, of_head: bool) -> String {
    message.push('\n');
    head.push_token(Token::Status, reason.row().http.to_string().as_bytes());
    head.push_token(Token::ContentType, b"text/plain; charset=utf-8");
    head.push_token(Token::ContentLength, message.len().to_string().as_bytes());
    if reason == Reason::Unauthenticated {
        // RFC 9110 section 15.5.2 asks for a challenge; mutual TLS is the way in.
        head.push_token(Token::WwwAuthenticate, b"Mutual");
    }
    if of_head { String::new() } else { message }
}

/// The trailers that end a gRPC call whose head is already out.
pub fn trailers(rejection: &Rejection, audience: Audience) -> HeaderBlock {
    let mut trailers = HeaderBlock::new();
    let message = rejection.message(audience.details, audience.trace_id);
    grpc::say(&mut trailers, rejection.grpc, &message);
    trailers.push_token(Token::OutriggerReason, rejection.reason.name().as_bytes());
    trailers
}

#[cfg(test)]
mod tests {
    use super::{Audience, Rejection, respond, trailers};
    use crate::{
        http::{Fields as _, HeaderBlock},
        reason::Reason,
    };

    const AUDIENCE: Audience =
        Audience { grpc: true, head: false, details: true, sidecar: false, trace_id: 0xab };

    fn text(fields: &HeaderBlock, name: &str) -> String {
        String::from_utf8_lossy(fields.first(name).unwrap_or_default()).into_owned()
    }

    #[test]
    fn a_grpc_caller_gets_trailers_only() {
        let rejection = Rejection::unseen(Reason::NoEndpoint, "inventory.shop has no endpoint");
        let (head, body) = respond(&rejection, AUDIENCE);
        assert_eq!(head.status(), 200);
        assert!(body.is_empty());
        assert_eq!(text(&head, "content-type"), "application/grpc");
        assert_eq!(text(&head, "grpc-status"), "14");
        assert_eq!(
            text(&head, "grpc-message"),
            "outrigger: no_endpoint: inventory.shop has no endpoint; \
             trace 000000000000000000000000000000ab"
        );
        assert_eq!(text(&head, "outrigger-reason"), "no_endpoint");
        assert_eq!(text(&head, "outrigger-unseen"), "");
    }

    #[test]
    fn every_other_caller_gets_a_status_and_a_line() {
        let rejection = Rejection::unseen(Reason::Denied, "policy shop/payments");
        let (head, body) = respond(&rejection, Audience { grpc: false, ..AUDIENCE });
        assert_eq!(head.status(), 403);
        let line =
            "outrigger: denied: policy shop/payments; trace 000000000000000000000000000000ab\n";
        assert_eq!(body, line);
        assert_eq!(text(&head, "content-length"), line.len().to_string());
        let (head, body) = respond(&rejection, Audience { grpc: false, head: true, ..AUDIENCE });
        assert!(body.is_empty() && head.first("content-length").is_some());
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
        assert_eq!(text(&respond(&unseen, sidecar).0, "outrigger-unseen"), "1");
        assert_eq!(text(&respond(&seen, sidecar).0, "outrigger-unseen"), "");
    }

    #[test]
    fn a_call_whose_head_is_out_ends_with_trailers() {
        let end = trailers(&Rejection::seen(Reason::Deadline, ""), AUDIENCE);
        assert_eq!(text(&end, "grpc-status"), "4");
        assert_eq!(text(&end, "outrigger-reason"), "deadline");
    }
}
