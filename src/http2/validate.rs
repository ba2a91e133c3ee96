//! Which header sections are well-formed (RFC 9113 sections 8.2.2 and 8.3, RFC 8441 section 4); the
//! bytes of names and values were checked when they were decoded. A message that is not has no meaning that two programs would agree on, so it goes no further. Where
//! the RFC leaves a choice the stricter one is taken, because what enters as HTTP/2 may leave as
//! HTTP/1.1, where an odd byte is a request of its own.

use super::{hpack::Verdict, streams::Method};
use crate::http::{HeaderBlock, Token, octets};

/// What is wrong, for logs and traces.
pub(super) type Flaw = &'static str;

/// What the core needs to know of a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) length: Option<u64>,
}

/// Checks a request's head and gives it one name for its authority: `host` becomes `:authority`, and
/// is gone afterwards.
pub(super) fn request(head: &mut HeaderBlock, extended: bool) -> Result<Request, Flaw> {
    let seen = Seen::default().read(head, 0)?;
    if seen.has(Token::Status) {
        return Err("a request with :status");
    }
    let Some(method) = head.get(Token::Method) else { return Err("a request without :method") };
    if !octets::is_token(method) {
        return Err("a malformed :method");
    }
    let connect = method == b"CONNECT";
    let is_head = method == b"HEAD";
    let tunnel = connect && !seen.has(Token::Protocol);
    if tunnel {
        if seen.has(Token::Scheme) || seen.has(Token::Path) {
            return Err("CONNECT with :scheme or :path");
        }
    } else {
        target(head, &seen, connect, extended)?;
    }
    authority(head, &seen, tunnel)?;
    let method = match (connect, is_head) {
        (true, _) => Method::Connect,
        (false, true) => Method::Head,
        (false, false) => Method::Plain,
    };
    Ok(Request { method, length: seen.length })
}

/// The same of a head the first `fields` of which a request had that was found well-formed as it was
/// and that `verdict` is of: only what comes after them is looked at. `None`: that does not suffice.
pub(super) fn request_again(
    head: &HeaderBlock,
    fields: usize,
    verdict: &Verdict,
) -> Option<Request> {
    let Verdict::Request { method, length } = *verdict else { return None };
    let seen = Seen::again(head, fields, length)?;
    // A second name would have to be compared with the first.
    (seen.hosts == 0).then_some(Request { method, length: seen.length })
}

/// Scheme, path and protocol of what is not a plain CONNECT.
fn target(head: &HeaderBlock, seen: &Seen, connect: bool, extended: bool) -> Result<(), Flaw> {
    let Some(scheme) = head.get(Token::Scheme) else { return Err("a request without :scheme") };
    if !octets::is_scheme(scheme) {
        return Err("a malformed :scheme");
    }
    let Some(path) = head.get(Token::Path) else { return Err("a request without :path") };
    let options = path == b"*" && head.get(Token::Method) == Some(b"OPTIONS");
    if !(path.starts_with(b"/") || options) {
        return Err("a malformed :path");
    }
    if !octets::is_path(path) {
        return Err("a forbidden byte in :path");
    }
    if seen.has(Token::Protocol) {
        if !connect {
            return Err(":protocol without CONNECT");
        }
        if !extended {
            return Err("extended CONNECT was not offered");
        }
        if !seen.has(Token::Authority) {
            return Err("extended CONNECT without :authority");
        }
        if !head.get(Token::Protocol).is_some_and(octets::is_token) {
            return Err("a malformed :protocol");
        }
    }
    Ok(())
}

/// `:authority` and `host` have to agree.
fn authority(head: &mut HeaderBlock, seen: &Seen, tunnel: bool) -> Result<(), Flaw> {
    if seen.hosts > 1 {
        return Err("more than one host");
    }
    let host = if seen.hosts == 0 { None } else { head.get(Token::Host) };
    let named = head.get(Token::Authority);
    let Some(authority) = named.or(host) else { return Err("a request without an authority") };
    if !octets::is_authority(authority) {
        return Err("a malformed authority");
    }
    if tunnel && named.is_none() {
        return Err("CONNECT without :authority");
    }
    match (named, host) {
        (Some(authority), Some(host)) => {
            if !host.eq_ignore_ascii_case(authority) {
                return Err("host and :authority differ");
            }
            head.remove(Token::Host);
        }
        (None, Some(host)) => {
            let host = host.to_vec();
            head.set(Token::Authority, &host);
            head.remove(Token::Host);
        }
        _ => {}
    }
    Ok(())
}

/// Checks a response's head: its status and its content length.
pub(super) fn response(head: &HeaderBlock) -> Result<(u16, Option<u64>), Flaw> {
    let seen = Seen::default().read(head, 0)?;
    if seen.pseudo & !bit(Token::Status) != 0 {
        return Err("a response with a request's pseudo-header field");
    }
    let status = match head.get(Token::Status) {
        Some([a @ b'1'..=b'9', b, c]) if b.is_ascii_digit() && c.is_ascii_digit() => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            digit(a) * 100 + digit(b) * 10 + digit(c)
        }
        Some(_) => return Err("a malformed :status"),
        None => return Err("a response without :status"),
    };
    if status == 101 {
        return Err("101 in HTTP/2");
    }
    Ok((status, seen.length))
}

/// The same of a head the first `fields` of which a response had; see [`request_again`].
pub(super) fn response_again(
    head: &HeaderBlock,
    fields: usize,
    verdict: &Verdict,
) -> Option<(u16, Option<u64>)> {
    let Verdict::Response { status, length } = *verdict else { return None };
    Seen::again(head, fields, length).map(|seen| (status, seen.length))
}

/// Whether trailers the first `fields` of which others had are well-formed for certain.
pub(super) fn are_trailers_again(head: &HeaderBlock, fields: usize, verdict: &Verdict) -> bool {
    *verdict == Verdict::Trailers && Seen::again(head, fields, None).is_some()
}

/// Checks trailers.
pub(super) fn trailers(trailers: &HeaderBlock) -> Result<(), Flaw> {
    let seen = Seen::default().read(trailers, 0)?;
    if seen.pseudo != 0 {
        return Err("a pseudo-header field in trailers");
    }
    Ok(())
}

/// What one pass over the fields found.
#[derive(Default)]
struct Seen {
    /// Pseudo-header fields, one bit each.
    pseudo: u8,
    /// Whether a regular field came.
    regular: bool,
    hosts: u32,
    length: Option<u64>,
}

fn bit(token: Token) -> u8 {
    1 << (token as u8 - Token::Method as u8)
}

impl Seen {
    /// One pass over the fields from the one at `from` on.
    fn read(mut self, head: &HeaderBlock, from: usize) -> Result<Self, Flaw> {
        for (token, index) in head.tokens().zip(0..).skip(from) {
            self.field(token, head, index)?;
        }
        Ok(self)
    }

    /// A pass over what comes after the first `fields`, which were well-formed in another section of
    /// the same kind, whose content length is given. Pseudo-header fields are among them or there is
    /// none, so that what comes after them is no more than a few fields.
    fn again(head: &HeaderBlock, fields: usize, length: Option<u64>) -> Option<Self> {
        let mut before = head.tokens().take(fields);
        if fields == 0 || head.at(fields - 1).token.is_pseudo() {
            return None;
        }
        let length = length.filter(|_| before.any(|token| token == Token::ContentLength));
        Self { regular: true, length, ..Self::default() }.read(head, fields).ok()
    }

    fn has(&self, token: Token) -> bool {
        self.pseudo & bit(token) != 0
    }

    #[inline]
    fn field(&mut self, token: Token, head: &HeaderBlock, index: usize) -> Result<(), Flaw> {
        if token.is_pseudo() {
            return self.pseudo_field(token);
        }
        self.regular = true;
        match token {
            Token::Connection
            | Token::ProxyConnection
            | Token::KeepAlive
            | Token::TransferEncoding
            | Token::Upgrade => return Err("a connection-specific field"),
            Token::Te if head.at(index).value != b"trailers" => {
                return Err("a te other than trailers");
            }
            Token::Host => self.hosts += 1,
            Token::ContentLength => self.content_length(head.at(index).value)?,
            _ => {}
        }
        Ok(())
    }

    fn pseudo_field(&mut self, token: Token) -> Result<(), Flaw> {
        if self.regular {
            return Err("a pseudo-header field after a regular one");
        }
        if self.has(token) {
            return Err("a pseudo-header field twice");
        }
        self.pseudo |= bit(token);
        Ok(())
    }

    /// Digits only, and only one meaning.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Flaw> {
        match octets::length(value) {
            Some(length) if self.length.is_none_or(|other| other == length) => {
                self.length = Some(length);
                Ok(())
            }
            Some(_) => Err("two content lengths"),
            None => Err("a malformed content length"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Method, Request, request, response, trailers};
    use crate::http::{HeaderBlock, Token};

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "orders"), (":path", "/")];

    fn block(fields: &[(&str, &str)]) -> HeaderBlock {
        fields.iter().copied().collect()
    }

    /// GET with one of its fields replaced, left out (empty name) or some added.
    fn get(name: &str, value: &str) -> HeaderBlock {
        let mut fields: Vec<_> = GET.into_iter().filter(|field| field.0 != name).collect();
        if name.starts_with(':') {
            fields.insert(0, (name, value));
        } else {
            fields.push((name, value));
        }
        block(&fields)
    }

    #[test]
    fn usual_requests_are_well_formed() {
        let plain = Request { method: Method::Plain, length: None };
        assert_eq!(request(&mut block(&GET), false), Ok(plain));
        for (name, value) in [
            ("te", "trailers"),
            (":path", "/a?b=c%20"),
            (":authority", "[::1]:80"),
            ("host", "ORDERS"),
        ] {
            let mut head = get(name, value);
            assert!(request(&mut head, false).is_ok(), "{name}: {value}");
            assert!(!head.contains(Token::Host));
        }
        let mut head = get("content-length", "007");
        assert_eq!(request(&mut head, false).map(|request| request.length), Ok(Some(7)));
        let mut head = get(":method", "HEAD");
        assert_eq!(request(&mut head, false).map(|request| request.method), Ok(Method::Head));
    }

    #[test]
    fn a_host_alone_becomes_the_authority() {
        let mut head = block(&[GET[0], GET[1], GET[3], ("host", "stock:80"), ("x", "1")]);
        request(&mut head, false).expect("well-formed");
        assert_eq!(head.get(Token::Authority), Some(&b"stock:80"[..]));
        assert!(!head.contains(Token::Host));
        assert!(head.iter().take(4).all(|field| field.token.is_pseudo()));
    }

    #[test]
    fn malformed_requests_are_refused() {
        for (name, value) in [
            (":method", ""),
            (":method", "GE T"),
            (":scheme", ""),
            (":scheme", "1http"),
            (":path", ""),
            (":path", "x"),
            (":path", "*"),
            (":path", "/a b"),
            (":path", "/a#b"),
            (":path", "/\u{e9}"),
            (":authority", ""),
            (":authority", "a@b"),
            (":authority", "a/b"),
            (":status", "200"),
            (":protocol", "websocket"),
            ("connection", "close"),
            ("proxy-connection", "close"),
            ("keep-alive", "1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("te", "trailers, gzip"),
            ("host", "other"),
            ("content-length", ""),
            ("content-length", "-1"),
            ("content-length", "+1"),
            ("content-length", "1, 1"),
            ("content-length", "99999999999999999999"),
        ] {
            let result = request(&mut get(name, value), false);
            assert!(result.is_err(), "{name}: {value:?}");
        }
        for missing in GET {
            let fields: Vec<_> = GET.into_iter().filter(|field| *field != missing).collect();
            assert!(request(&mut block(&fields), false).is_err(), "without {missing:?}");
            let twice = [&GET[..], &[missing]].concat();
            assert!(request(&mut block(&twice), false).is_err(), "{missing:?} twice");
        }
        for more in [
            &[("x", "1"), (":path", "/")][..],
            &[("host", "orders"), ("host", "orders")],
            &[("content-length", "1"), ("content-length", "2")],
        ] {
            let fields = [&GET[..], more].concat();
            assert!(request(&mut block(&fields), false).is_err(), "{more:?}");
        }
    }

    #[test]
    fn connect_has_its_own_rules() {
        let connect = (":method", "CONNECT");
        let web = (":protocol", "websocket");
        for (fields, extended, valid) in [
            (&[connect, (":authority", "a:1")][..], false, true),
            (&[connect][..], false, false),
            (&[connect, ("host", "a:1")][..], false, false),
            (&[connect, (":authority", "a:1"), (":path", "/")][..], false, false),
            (&[connect, GET[1], GET[2], GET[3]][..], true, false),
            (&[connect, web, GET[1], GET[2], GET[3]][..], true, true),
            (&[connect, web, GET[1], GET[2], GET[3]][..], false, false),
            (&[connect, web, GET[1], GET[3], ("host", "a")][..], true, false),
            (&[connect, web, GET[1], GET[2]][..], true, false),
            (&[connect, (":protocol", ""), GET[1], GET[2], GET[3]][..], true, false),
        ] {
            let result = request(&mut block(fields), extended);
            assert_eq!(result.is_ok(), valid, "{fields:?} {result:?}");
        }
    }

    #[test]
    fn responses_have_one_status_of_three_digits() {
        for (fields, expected) in [
            (&[(":status", "200"), ("content-length", "5")][..], Some((200, Some(5)))),
            (&[(":status", "103")][..], Some((103, None))),
            (&[(":status", "101")][..], None),
            (&[(":status", "099")][..], None),
            (&[(":status", "20")][..], None),
            (&[(":status", "2000")][..], None),
            (&[(":status", "200"), (":status", "200")][..], None),
            (&[("x", "1")][..], None),
            (&[(":status", "200"), (":path", "/")][..], None),
            (&[(":status", "200"), ("connection", "close")][..], None),
        ] {
            assert_eq!(response(&block(fields)).ok(), expected, "{fields:?}");
        }
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        trailers(&block(&[("grpc-status", "0")])).expect("well-formed");
        trailers(&block(&[(":status", "200")])).expect_err("pseudo");
        trailers(&block(&[("connection", "close")])).expect_err("connection-specific");
    }
}
