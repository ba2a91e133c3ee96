//! Heads on their way through: what is read from them, what is taken out, what is put in. A head is
//! edited where it lies. Fields of the proxy's own come last in it: they differ from request to
//! request, and what stands before them then often does not.

use tokio::time::Instant;

use crate::{
    http::{
        Head, HeaderBlock, Token,
        answer::Rejection,
        fields::{are_clean, is_clean, strip_head, strip_trailers},
    },
    reason::Reason,
    resilience::deadline,
    snapshot::HeaderModifier,
    telemetry::{SpanContext, trace},
};

/// What a request's head has of that which its story asks for, found out in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said(u8);

impl Said {
    pub(super) const HOST: u8 = 1;
    pub(super) const PROTOCOL: u8 = 2;
    pub(super) const TRACEPARENT: u8 = 4;
    /// What every attempt writes anew.
    pub(super) const OWN: u8 = 8;
    pub(super) const GRPC_TIMEOUT: u8 = 16;
    pub(super) const CLIENT_CERT: u8 = 32;

    const OF: [u8; Token::COUNT] = {
        let mut table = [0; Token::COUNT];
        table[Token::Host as usize] = Self::HOST;
        table[Token::Protocol as usize] = Self::PROTOCOL;
        table[Token::Traceparent as usize] = Self::TRACEPARENT | Self::OWN;
        table[Token::Tracestate as usize] = Self::OWN;
        table[Token::GrpcTimeout as usize] = Self::GRPC_TIMEOUT;
        table[Token::XForwardedClientCert as usize] = Self::CLIENT_CERT;
        table
    };

    pub(super) fn of(head: &HeaderBlock) -> Self {
        static OF: [u8; Token::COUNT] = Said::OF;
        Self(head.tokens().fold(0, |said, token| said | OF[token as usize]))
    }

    /// Whether there is any of these.
    pub(super) fn has(self, any: u8) -> bool {
        self.0 & any != 0
    }
}

/// Host and port that the caller means. HTTP/1.1's absolute form and HTTP/2's `:authority` come
/// before `Host` (RFC 9112 section 3.2.2).
///
/// # Errors
/// When there is none or more than one.
pub(super) fn authority(head: &HeaderBlock) -> Result<&str, Rejection> {
    let malformed = |what: &str| Rejection::unseen(Reason::Malformed, what);
    let mut hosts = head.all(Token::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(malformed("the request has more than one Host"));
    }
    let authority = head.get(Token::Authority).or(host);
    let authority = authority.ok_or_else(|| malformed("the request has no Host"))?;
    str::from_utf8(authority).map_err(|_| malformed("the Host is not ASCII"))
}

/// The head as decisions read it.
///
/// # Errors
/// When its authority or path is none.
pub(super) fn view(head: &HeaderBlock) -> Result<Head<'_>, Rejection> {
    let authority = authority(head)?;
    let malformed = || Rejection::unseen(Reason::Malformed, "the path is malformed");
    let target = head.text(Token::Path).filter(|path| is_path(path)).ok_or_else(malformed)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = head.text(Token::Method).unwrap_or_default();
    Ok(Head { method, authority, path, query, fields: head })
}

/// What has a fragment or characters that need another spelling is read differently by different
/// servers. `*` is of OPTIONS.
fn is_path(path: &str) -> bool {
    (path.starts_with('/') || path == "*")
        && path.bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'#')
}

/// Takes out of a request's head what concerns one hop or is for the proxy to say. `Host` goes, as
/// the authority has been settled.
pub(super) fn strip_request(head: &mut HeaderBlock) {
    strip_head(head, |token| matches!(token, Token::XForwardedClientCert | Token::Host));
}

/// Takes out what every attempt writes anew; `timed`: so it does the deadline.
pub(super) fn strip_own(head: &mut HeaderBlock, timed: bool) {
    head.retain_tokens(|token| match token {
        Token::Traceparent | Token::Tracestate => false,
        Token::GrpcTimeout => !timed,
        _ => true,
    });
}

/// Trace context and what is left of the deadline, for one attempt.
///
/// # Errors
/// When nothing is left.
pub(super) fn write_own(
    head: &mut HeaderBlock,
    span: &SpanContext,
    trace_state: &str,
    until: Option<(Instant, Instant)>,
) -> Result<(), Rejection> {
    if let Some((deadline, now)) = until {
        let left = deadline::left(deadline.into_std(), now.into_std());
        let passed = || Rejection::unseen(Reason::Deadline, "the caller's deadline passed");
        let left = deadline::GrpcTimeout::new(left.ok_or_else(passed)?);
        head.push_token(Token::GrpcTimeout, left.as_bytes());
    }
    head.push_token(Token::Traceparent, trace::format(span).as_bytes());
    if !trace_state.is_empty() {
        head.push_token(Token::Tracestate, trace_state.as_bytes());
    }
    Ok(())
}

/// What a far sidecar said about an answer that it made itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Far {
    /// Why.
    pub(super) reason: Option<Reason>,
    /// Whether it wrote nothing towards its application.
    pub(super) unseen: bool,
}

/// Takes the fields of one hop and of the mesh out of a response's head, and reads the latter where
/// they come from an authenticated sidecar. Only the reason goes on, to the application.
pub(super) fn receive(head: &mut HeaderBlock, from_sidecar: bool) -> Far {
    if is_clean(head) {
        return Far::default();
    }
    let reason = reason(head).filter(|_| from_sidecar);
    let unseen = reason.is_some() && head.get(Token::OutriggerUnseen) == Some(b"1");
    strip_head(head, |_| false);
    if let Some(reason) = reason {
        head.push_token(Token::OutriggerReason, reason.name().as_bytes());
    }
    Far { reason, unseen }
}

/// The same of trailers: a call that a far sidecar ended after its head was out.
pub(super) fn receive_trailers(trailers: &mut HeaderBlock, from_sidecar: bool) -> Option<Reason> {
    if are_clean(trailers) {
        return None;
    }
    let reason = reason(trailers).filter(|_| from_sidecar);
    strip_trailers(trailers);
    if let Some(reason) = reason {
        trailers.push_token(Token::OutriggerReason, reason.name().as_bytes());
    }
    reason
}

fn reason(fields: &HeaderBlock) -> Option<Reason> {
    Reason::from_name(fields.text(Token::OutriggerReason)?)
}

/// Applies a route's changes: set, add, remove.
pub(super) fn modify(fields: &mut HeaderBlock, modifier: &HeaderModifier) {
    for (name, value) in &modifier.set {
        fields.set_named(name, value.as_bytes());
    }
    for (name, value) in &modifier.add {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    for name in &modifier.remove {
        fields.remove_named(name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{
        Far, authority, modify, receive, receive_trailers, strip_own, strip_request, view,
        write_own,
    };
    use crate::{
        http::{HeaderBlock, Token},
        reason::Reason,
        snapshot::HeaderModifier,
        telemetry::SpanContext,
    };

    fn block(fields: &[(&'static str, &'static str)]) -> HeaderBlock {
        fields.iter().copied().collect()
    }

    fn names(block: &HeaderBlock) -> Vec<String> {
        block.iter().map(|field| String::from_utf8_lossy(field.name).into_owned()).collect()
    }

    #[test]
    fn the_authority_is_the_targets_before_the_hosts() {
        for (target, hosts, expected) in [
            (None, &["orders:9090"][..], Some("orders:9090")),
            (Some("orders"), &["other"], Some("orders")),
            (Some("orders:1"), &[], Some("orders:1")),
            (None, &[], None),
            (None, &["a", "b"], None),
            (Some("orders"), &["a", "b"], None),
        ] {
            let mut head = block(&[(":path", "/x")]);
            if let Some(target) = target {
                head.set(Token::Authority, target.as_bytes());
            }
            hosts.iter().for_each(|host| head.push(b"host", host.as_bytes()));
            assert_eq!(authority(&head).ok(), expected, "{target:?} {hosts:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_and_a_query() {
        for (target, expected) in [
            ("/x?y=1?z", Some(("/x", "y=1?z"))),
            ("/", Some(("/", ""))),
            ("*", Some(("*", ""))),
            ("/caf\u{e9}", Some(("/caf\u{e9}", ""))),
            ("", None),
            ("x", None),
            ("http://orders/", None),
            ("/x y", None),
            ("/x#y", None),
            ("/\u{7f}", None),
        ] {
            let head = block(&[(":method", "GET"), (":authority", "orders")]);
            let mut head = head;
            head.set(Token::Path, target.as_bytes());
            let found = view(&head).ok().map(|head| (head.path, head.query));
            assert_eq!(found, expected, "{target:?}");
        }
    }

    #[test]
    fn a_head_is_sent_on_without_what_is_not_the_callers_to_say() {
        let mut head = block(&[
            (":method", "GET"),
            (":authority", "orders"),
            (":path", "/x?y=1"),
            ("host", "orders"),
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("x-forwarded-client-cert", "forged"),
            ("outrigger-unseen", "1"),
            ("expect", "100-continue"),
            ("grpc-timeout", "1S"),
            ("traceparent", "old"),
            ("tracestate", "old"),
            ("a", "1"),
        ]);
        strip_request(&mut head);
        strip_own(&mut head, true);
        let span = SpanContext { trace_id: 1, span_id: 2, sampled: true };
        let now = Instant::now();
        let mark = head.mark();
        for (state, left, own) in [
            ("", None, &["traceparent"][..]),
            ("b=1", Some(3), &["grpc-timeout", "traceparent", "tracestate"]),
        ] {
            let until = left.map(|left| (now + Duration::from_secs(left), now));
            write_own(&mut head, &span, state, until).expect("time is left");
            let expected = [":method", ":authority", ":path", "expect", "a"];
            assert_eq!(names(&head), [&expected, own].concat());
            assert_eq!(head.get(Token::GrpcTimeout), left.map(|_| &b"3000000u"[..]));
            head.truncate(mark);
        }
        assert!(write_own(&mut head, &span, "", Some((now, now))).is_err());
        let mut plain = block(&[("grpc-timeout", "1S")]);
        strip_own(&mut plain, false);
        assert_eq!(names(&plain), ["grpc-timeout"], "what is no gRPC has no deadline");
    }

    #[test]
    fn only_an_authenticated_sidecar_is_believed() {
        let said = [("outrigger-reason", "app_unreachable"), ("outrigger-unseen", "1")];
        let mut head = block(&said);
        let far = Far { reason: Some(Reason::AppUnreachable), unseen: true };
        assert_eq!(receive(&mut head, true), far);
        assert_eq!(head.len(), 1, "the reason goes on to the application");
        let mut head = block(&said);
        assert_eq!(receive(&mut head, false), Far::default());
        assert!(head.is_empty());
        let mut head = block(&[("outrigger-reason", "because"), ("outrigger-unseen", "1")]);
        assert_eq!(receive(&mut head, true), Far::default());
        for (from_sidecar, expected) in [(true, Some(Reason::Deadline)), (false, None)] {
            let mut trailers = block(&[("grpc-status", "4"), ("outrigger-reason", "deadline")]);
            assert_eq!(receive_trailers(&mut trailers, from_sidecar), expected);
            assert_eq!(trailers.len(), 1 + usize::from(from_sidecar));
        }
    }

    #[test]
    fn fields_are_set_added_and_removed_in_this_order() {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let modifier = HeaderModifier {
            set: vec![text("a", "2")],
            add: vec![text("a", "3"), text("b", "1")],
            remove: vec!["c".to_owned()],
        };
        let mut fields = block(&[("a", "0"), ("A", "1"), ("c", "1")]);
        modify(&mut fields, &modifier);
        let found: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(found, [(&b"a"[..], &b"2"[..]), (b"a", b"3"), (b"b", b"1")]);
    }
}
