//! Heads between the `http` crate and decisions: a `HeaderMap` read as [`Fields`], and what must be
//! taken out of a head before it goes on. Fields of one hop are named by RFC 9110 section 7.6.1;
//! fields named `outrigger-*` belong to the mesh, so nobody else's survive.

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

use super::Fields;

/// What every field of the mesh begins with.
pub const MESH_PREFIX: &str = "outrigger-";
/// Why the mesh answered (interface of the mesh, "Between sidecars").
pub const REASON: HeaderName = HeaderName::from_static("outrigger-reason");
/// `1` on an answer whose request was never written towards an application.
pub const UNSEEN: HeaderName = HeaderName::from_static("outrigger-unseen");
/// Who called, in Envoy's format.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A header map as decisions read it.
impl Fields for HeaderMap {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        for value in self.get_all(name) {
            found(value.as_bytes());
        }
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }
}

/// Removes the fields that concern one connection only: the listed ones and those that `Connection`
/// names. `te: trailers` stays, because gRPC asks for it and HTTP/2 permits exactly it. Fields that
/// the proxy itself depends on can not be removed by naming them in `Connection`.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| !is_kept(name))
        .collect();
    for name in named {
        fields.remove(name);
    }
    let trailers = fields.get(TE).is_some_and(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        })
    });
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, PROXY_AUTHORIZATION] {
        fields.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        fields.remove(name);
    }
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What frames or routes a message; a `Connection` that names one of these tries to smuggle.
fn is_kept(name: &HeaderName) -> bool {
    const KEPT: [&str; 7] = [
        "host",
        "content-length",
        "content-type",
        "grpc-timeout",
        "traceparent",
        "tracestate",
        "x-forwarded-client-cert",
    ];
    KEPT.contains(&name.as_str()) || name == TE
}

/// Removes every field of the mesh, from heads and trailers of applications and strangers.
pub fn strip_mesh(fields: &mut HeaderMap) {
    let foreign: Vec<HeaderName> =
        fields.keys().filter(|name| name.as_str().starts_with(MESH_PREFIX)).cloned().collect();
    for name in foreign {
        fields.remove(name);
    }
}

/// Removes from trailers what only a head may say (RFC 9110 section 6.5.1), and what is the mesh's to
/// say: some servers read trailers as if they had come with the head.
pub fn strip_trailers(fields: &mut HeaderMap) {
    strip_hop_by_hop(fields);
    strip_mesh(fields);
    for name in [HOST, CONTENT_LENGTH, TE, TRAILER, CLIENT_CERT] {
        fields.remove(name);
    }
}

/// Makes one field of the parts into which HTTP/2 lets a cookie be cut (RFC 9113 section 8.2.3: before
/// it goes on to who may speak something else).
pub fn join_cookies(fields: &mut HeaderMap) {
    let mut parts = fields.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (parts.next(), parts.next()) else { return };
    let mut whole = [first.as_bytes(), second.as_bytes()].join(&b"; "[..]);
    for part in parts {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(part.as_bytes());
    }
    if let Ok(whole) = HeaderValue::from_bytes(&whole) {
        fields.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderName, HeaderValue};

    use super::{join_cookies, strip_hop_by_hop, strip_mesh, strip_trailers};
    use crate::http::Fields;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn values_are_read_in_order() {
        let mut fields = map(&[("a", "1"), ("b", "3")]);
        fields.append("a", HeaderValue::from_static("2"));
        let mut values = Vec::new();
        fields.each("a", &mut |value| values.push(value.to_vec()));
        assert_eq!(values, [b"1".to_vec(), b"2".to_vec()]);
        assert_eq!(fields.first("b"), Some(&b"3"[..]));
        assert_eq!(fields.first("c"), None);
    }

    #[test]
    fn fields_of_one_hop_do_not_go_on() {
        for (before, after) in [
            (
                &[("connection", "close, x-mine"), ("x-mine", "1"), ("a", "1")][..],
                &[("a", "1")][..],
            ),
            (&[("te", "trailers")], &[("te", "trailers")]),
            (&[("te", "gzip, Trailers")], &[("te", "trailers")]),
            (&[("te", "gzip"), ("keep-alive", "1")], &[]),
            (&[("upgrade", "h2c"), ("http2-settings", "x"), ("connection", "upgrade")], &[]),
            (
                &[("connection", "content-length"), ("content-length", "3")],
                &[("content-length", "3")],
            ),
            (&[("proxy-authorization", "x"), ("proxy-connection", "x")], &[]),
        ] {
            let mut fields = map(before);
            strip_hop_by_hop(&mut fields);
            assert_eq!(fields, map(after), "{before:?}");
        }
    }

    #[test]
    fn trailers_say_only_what_trailers_may() {
        let mut fields = map(&[
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
        assert_eq!(fields, map(&[("grpc-status", "0")]));
    }

    #[test]
    fn cookies_become_one_field() {
        for (parts, whole) in [
            (&[][..], None),
            (&["a=1; b=2"], Some("a=1; b=2")),
            (&["a=1", "b=2", "c=3"], Some("a=1; b=2; c=3")),
        ] {
            let mut fields = map(&[("x", "1")]);
            for part in parts {
                fields.append("cookie", HeaderValue::from_static(part));
            }
            join_cookies(&mut fields);
            let found: Vec<_> = fields.get_all("cookie").iter().collect();
            assert_eq!(found, whole.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn fields_of_the_mesh_do_not_go_on() {
        let mut fields =
            map(&[("outrigger-unseen", "1"), ("outrigger-x", "1"), ("x-outrigger-y", "1")]);
        strip_mesh(&mut fields);
        assert_eq!(fields, map(&[("x-outrigger-y", "1")]));
    }
}
