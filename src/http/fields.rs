//! Heads between the `http` crate and decisions: a `HeaderMap` read as [`Fields`], and what must be
//! taken out of a head before it goes on. Fields of one hop are named by RFC 9110 section 7.6.1;
//! fields named `outrigger-*` belong to the mesh, so nobody else's survive.

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
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

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderName, HeaderValue};

    use super::{strip_hop_by_hop, strip_mesh};
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
    fn fields_of_the_mesh_do_not_go_on() {
        let mut fields =
            map(&[("outrigger-unseen", "1"), ("outrigger-x", "1"), ("x-outrigger-y", "1")]);
        strip_mesh(&mut fields);
        assert_eq!(fields, map(&[("x-outrigger-y", "1")]));
    }
}
