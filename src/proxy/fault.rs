//! What an error of hyper or h2 means: the reason that the caller is told, and whether the request
//! was unseen. A GOAWAY of the peer on a stream means that the stream is beyond its last one, so it
//! was not processed (RFC 9113 section 6.8); so does REFUSED_STREAM (section 8.7).

use std::error::Error;

use super::{
    dial::{DialError, Where},
    pool::SendError,
};
use crate::{
    http::{answer::Rejection, grpc},
    reason::{GrpcCode, Reason},
};

/// What is said of a caller that did not send all of its body.
pub(super) const BODY_BROKEN: &str = "the caller broke off its body";

/// The error of h2 inside, if there is one.
pub(super) fn h2_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a h2::Error> {
    find(error)
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The whole chain in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let link = error.to_string();
        if !text.ends_with(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        next = error.source();
    }
    text
}

/// A connection that opened and could not be spoken on.
pub(super) fn handshake(to: &Where, error: &hyper::Error) -> DialError {
    DialError { reason: Reason::ConnectFailed, what: format!("{to}: {}", chain(error)) }
}

/// A request whose response head did not come.
pub(super) fn of_send(failed: &SendError) -> Rejection {
    if let Some(why) = &failed.refused {
        return Rejection::unseen(Reason::PeerIdentity, why.clone());
    }
    let text = chain(&failed.error);
    if failed.unsent {
        return Rejection::unseen(Reason::ConnectionClosing, text);
    }
    if let Some(inner) = h2_error(&failed.error) {
        return of_h2(inner, text);
    }
    if failed.error.is_user() {
        // The dispatcher went away while the stream waited to be opened: nothing was written.
        return Rejection::unseen(Reason::ConnectionClosing, text);
    }
    of_connection(&failed.error, text)
}

/// A response body that broke off.
pub(super) fn of_body(error: &hyper::Error) -> Rejection {
    let text = chain(error);
    let fault = match h2_error(error) {
        Some(inner) => of_h2(inner, text),
        None => of_connection(error, text),
    };
    Rejection { unseen: false, ..fault }
}

fn of_h2(error: &h2::Error, text: String) -> Rejection {
    let code = error.reason();
    if error.is_go_away() && error.is_remote() {
        return Rejection::unseen(Reason::ConnectionClosing, text);
    }
    if error.is_reset() && error.is_remote() && code == Some(h2::Reason::REFUSED_STREAM) {
        return Rejection::unseen(Reason::StreamRefused, text);
    }
    if error.is_library() {
        return Rejection::seen(Reason::UpstreamProtocol, text);
    }
    let grpc = match code {
        Some(code) if error.is_reset() => grpc::from_reset(code.into()),
        _ => GrpcCode::Unavailable,
    };
    Rejection { grpc, ..Rejection::seen(Reason::UpstreamReset, text) }
}

fn of_connection(error: &hyper::Error, text: String) -> Rejection {
    if error.is_parse() {
        return Rejection::seen(Reason::UpstreamProtocol, text);
    }
    let lost = Rejection::seen(Reason::UpstreamReset, text);
    Rejection { grpc: GrpcCode::Unavailable, ..lost }
}
