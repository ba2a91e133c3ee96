//! What must be taken out of a head or of trailers before they go on. Fields of one hop are named by
//! RFC 9110 section 7.6.1; fields named `outrigger-*` belong to the mesh, so nobody else's survive.

use super::{HeaderBlock, Token};

/// What every field of the mesh begins with.
pub const MESH_PREFIX: &str = "outrigger-";
/// Why the mesh answered (interface of the mesh, "Between sidecars").
pub const REASON: &str = "outrigger-reason";

/// Removes from a head the fields of the mesh, every field that `own` names, and those that concern
/// one connection only: the listed ones and what `Connection` names. `te: trailers` stays, because
/// gRPC asks for it and HTTP/2 permits exactly it. Fields that the proxy itself depends on can not be
/// removed by naming them in `Connection`. Makes one field of the parts into which HTTP/2 lets a
/// cookie be cut.
pub fn strip_head(fields: &mut HeaderBlock, own: impl Fn(Token) -> bool) {
    if has_none_of(fields, &own) {
        return;
    }
    let mut cookies = 0;
    let is_mesh = |token, name: &[u8]| match token {
        Token::OutriggerReason | Token::OutriggerUnseen => true,
        Token::Other => is_of_mesh(name),
        _ => false,
    };
    strip(fields, |field| {
        cookies += usize::from(field.token == Token::Cookie);
        is_mesh(field.token, field.name) || own(field.token)
    });
    if cookies > 1 {
        join_cookies(fields);
    }
}

/// Removes from trailers what only a head may say (RFC 9110 section 6.5.1), and what is the mesh's to
/// say: some servers read trailers as if they had come with the head.
pub fn strip_trailers(fields: &mut HeaderBlock) {
    if are_clean(fields) {
        return;
    }
    strip_head(fields, is_of_head);
    fields.remove(Token::Te);
}

/// What no trailers may say.
fn is_of_head(token: Token) -> bool {
    matches!(
        token,
        Token::Host
            | Token::ContentLength
            | Token::Te
            | Token::Trailer
            | Token::XForwardedClientCert
    )
}

/// Whether [`strip_head`] would find nothing in a head.
pub fn is_clean(fields: &HeaderBlock) -> bool {
    has_none_of(fields, |_| false)
}

/// Whether [`strip_trailers`] would find nothing in trailers.
pub fn are_clean(fields: &HeaderBlock) -> bool {
    has_none_of(fields, is_of_head)
}

/// What makes a closer look at a head necessary.
mod class {
    use super::{Token, is_of_hop};

    /// It goes out.
    pub(super) const OUT: u8 = 1;
    /// It stays if it is alone and says `trailers`.
    pub(super) const TE: u8 = 2;
    /// It stays if it is alone.
    pub(super) const COOKIE: u8 = 4;
    /// It goes out if its name is the mesh's.
    pub(super) const OTHER: u8 = 8;

    /// By token.
    pub(super) static OF: [u8; Token::COUNT] = {
        let mut table = [0; Token::COUNT];
        let mut index = 0;
        while index < Token::COUNT {
            let token = Token::ALL[index];
            table[index] = match token {
                Token::Te => TE,
                Token::Cookie => COOKIE,
                Token::Other => OTHER,
                Token::OutriggerReason | Token::OutriggerUnseen | Token::Connection => OUT,
                token if is_of_hop(token) => OUT,
                _ => 0,
            };
            index += 1;
        }
        table
    };
}

/// Whether there is nothing to take out, as in most heads.
fn has_none_of(fields: &HeaderBlock, own: impl Fn(Token) -> bool) -> bool {
    let (mut found, mut bad) = (0, false);
    for token in fields.tokens() {
        let class = class::OF[token as usize];
        bad |= found & class & (class::TE | class::COOKIE) != 0 || own(token);
        found |= class;
    }
    if bad || found & class::OUT != 0 {
        return false;
    }
    let trailers = || fields.get(Token::Te) == Some(b"trailers");
    (found & class::TE == 0 || trailers()) && (found & class::OTHER == 0 || !has_mesh_names(fields))
}

fn has_mesh_names(fields: &HeaderBlock) -> bool {
    let others = fields.tokens().enumerate().filter(|(_, token)| *token == Token::Other);
    others.map(|(index, _)| fields.at(index).name).any(is_of_mesh)
}

/// What concerns one connection, whatever it says.
const fn is_of_hop(token: Token) -> bool {
    matches!(
        token,
        Token::TransferEncoding
            | Token::Upgrade
            | Token::ProxyAuthorization
            | Token::KeepAlive
            | Token::ProxyConnection
            | Token::Http2Settings
    )
}

/// One pass over the fields, and one more when a `Connection` names some.
fn strip(fields: &mut HeaderBlock, mut also: impl FnMut(super::Field<'_>) -> bool) {
    let mut named = Vec::new();
    let (mut asked, mut stays) = (false, false);
    fields.retain(|field| match field.token {
        Token::Te => {
            let exact = field.value == b"trailers" && !stays;
            asked |= asks_for_trailers(field.value);
            stays |= exact;
            exact
        }
        Token::Connection => {
            named.extend_from_slice(field.value);
            named.push(b',');
            false
        }
        token if is_of_hop(token) => false,
        _ => !also(field),
    });
    if asked && !stays {
        fields.push_token(Token::Te, b"trailers");
    }
    if !named.is_empty() {
        let names = || named.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        fields.retain(|field| {
            is_kept(field.token) || !names().any(|name| name.eq_ignore_ascii_case(field.name))
        });
    }
}

fn asks_for_trailers(te: &[u8]) -> bool {
    let mut codings = te.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// What frames or routes a message; a `Connection` that names one of these tries to smuggle.
fn is_kept(token: Token) -> bool {
    token.is_pseudo()
        || matches!(
            token,
            Token::Host
                | Token::ContentLength
                | Token::ContentType
                | Token::GrpcTimeout
                | Token::Traceparent
                | Token::Tracestate
                | Token::XForwardedClientCert
                | Token::Te
        )
}

fn is_of_mesh(name: &[u8]) -> bool {
    name.get(..MESH_PREFIX.len())
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(MESH_PREFIX.as_bytes()))
}

/// RFC 9113 section 8.2.3: before it goes on to who may speak something else.
fn join_cookies(fields: &mut HeaderBlock) {
    let mut whole = Vec::new();
    for part in fields.all(Token::Cookie) {
        if !whole.is_empty() {
            whole.extend_from_slice(b"; ");
        }
        whole.extend_from_slice(part);
    }
    fields.set(Token::Cookie, &whole);
}

#[cfg(test)]
mod tests {
    use super::{strip_head, strip_trailers};
    use crate::http::{HeaderBlock, Token};

    fn block(fields: &[(&'static str, &'static str)]) -> HeaderBlock {
        fields.iter().copied().collect()
    }

    #[track_caller]
    fn expect(found: &HeaderBlock, fields: &[(&str, &str)]) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let found: Vec<_> =
            found.iter().map(|field| (text(field.name), text(field.value))).collect();
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn fields_of_one_hop_do_not_go_on() {
        for (before, after) in [
            (
                &[("connection", "close, X-Mine"), ("x-mine", "1"), ("a", "1")][..],
                &[("a", "1")][..],
            ),
            (&[("X-Mine", "1"), ("connection", "x-mine,"), ("a", "1")], &[("a", "1")]),
            (&[("te", "trailers")], &[("te", "trailers")]),
            (&[("te", "trailers"), ("te", "trailers")], &[("te", "trailers")]),
            (&[("te", "gzip, Trailers")], &[("te", "trailers")]),
            (&[("te", "gzip"), ("te", "trailers;q=1"), ("keep-alive", "1")], &[]),
            (&[("upgrade", "h2c"), ("http2-settings", "x"), ("connection", "upgrade")], &[]),
            (
                &[("connection", "content-length"), ("content-length", "3")],
                &[("content-length", "3")],
            ),
            (&[(":path", "/"), ("connection", ":path")], &[(":path", "/")]),
            (&[("proxy-authorization", "x"), ("proxy-connection", "x")], &[]),
        ] {
            let mut fields = block(before);
            strip_head(&mut fields, |_| false);
            expect(&fields, after);
        }
    }

    #[test]
    fn trailers_say_only_what_trailers_may() {
        let mut fields = block(&[
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("host", "evil"),
            ("content-length", "9"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-client-cert", "forged"),
            ("outrigger-unseen", "1"),
            ("grpc-status", "0"),
        ]);
        strip_trailers(&mut fields);
        expect(&fields, &[("grpc-status", "0")]);
    }

    #[test]
    fn cookies_become_one_field() {
        for (parts, whole) in [
            (&[][..], None),
            (&["a=1; b=2"], Some("a=1; b=2")),
            (&["a=1", "b=2", "c=3"], Some("a=1; b=2; c=3")),
        ] {
            let mut fields = block(&[("x", "1")]);
            for part in parts {
                fields.push(b"cookie", part.as_bytes());
            }
            strip_head(&mut fields, |_| false);
            let found: Vec<_> = fields.all(Token::Cookie).collect();
            assert_eq!(found, whole.into_iter().map(str::as_bytes).collect::<Vec<_>>());
        }
    }

    #[test]
    fn fields_of_the_mesh_and_of_the_proxy_do_not_go_on() {
        let mut fields = block(&[
            ("outrigger-unseen", "1"),
            ("Outrigger-X", "1"),
            ("x-outrigger-y", "1"),
            ("traceparent", "old"),
        ]);
        strip_head(&mut fields, |token| token == Token::Traceparent);
        expect(&fields, &[("x-outrigger-y", "1")]);
    }
}
