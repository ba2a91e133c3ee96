//! Heads on their way through: what is read from them, what is taken out, what is put in. The
//! decisions see a head as slices; here it is the `http` crate's.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{EXPECT, HOST},
    request, response,
    uri::{self, PathAndQuery, Scheme},
};

use crate::{
    http::{
        Head,
        answer::Rejection,
        fields::{
            CLIENT_CERT, REASON, UNSEEN, join_cookies, strip_hop_by_hop, strip_mesh, strip_trailers,
        },
    },
    reason::Reason,
    snapshot::HeaderModifier,
};

/// W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Host and port that the caller means. HTTP/1.1's absolute form and HTTP/2's `:authority` come
/// before `Host` (RFC 9112 section 3.2.2).
///
/// # Errors
/// When there is none or more than one.
pub(super) fn authority(parts: &request::Parts) -> Result<String, Rejection> {
    let malformed = |what: &str| Rejection::unseen(Reason::Malformed, what);
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(malformed("the request has more than one Host"));
    }
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.as_str().to_owned());
    }
    let host = host.ok_or_else(|| malformed("the request has no Host"))?;
    let host = host.to_str().map_err(|_| malformed("the Host is not ASCII"))?;
    Ok(host.to_owned())
}

/// The head as decisions read it.
pub(super) fn head<'a>(parts: &'a request::Parts, authority: &'a str) -> Head<'a> {
    let path = parts.uri.path();
    Head {
        method: parts.method.as_str(),
        authority,
        path: if path.is_empty() { "/" } else { path },
        query: parts.uri.query().unwrap_or_default(),
        fields: &parts.headers,
    }
}

/// A request's head as it is sent on, the same for every attempt but for a few fields.
#[derive(Debug)]
pub(super) struct Outgoing {
    method: Method,
    path: PathAndQuery,
    authority: uri::Authority,
    fields: HeaderMap,
}

impl Outgoing {
    /// From the head as it came in: without the fields of one hop, of the mesh, and of those that the
    /// proxy writes itself.
    ///
    /// # Errors
    /// When the authority can not stand in a head.
    pub(super) fn new(parts: request::Parts, authority: &str) -> Result<Self, Rejection> {
        let authority = authority
            .parse()
            .map_err(|_| Rejection::unseen(Reason::Malformed, "the authority is malformed"))?;
        let mut fields = parts.headers;
        strip_hop_by_hop(&mut fields);
        strip_mesh(&mut fields);
        join_cookies(&mut fields);
        for name in [HOST, EXPECT, CLIENT_CERT, TRACEPARENT, TRACESTATE] {
            fields.remove(name);
        }
        let path = parts.uri.into_parts().path_and_query;
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { method: parts.method, path, authority, fields })
    }

    /// Replaces a field by one of the proxy's own.
    pub(super) fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::try_from(value) {
            self.fields.insert(name, value);
        }
    }

    /// Applies a route's changes.
    pub(super) fn modify(&mut self, modifier: &HeaderModifier) {
        modify(&mut self.fields, modifier);
    }

    /// The head for one attempt, with `own` fields that differ from attempt to attempt.
    pub(super) fn request<B>(
        &self,
        form: Form,
        own: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: B,
    ) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        let mut fields = self.fields.clone();
        let mut target = uri::Parts::default();
        target.path_and_query = Some(self.path.clone());
        if form != Form::Origin {
            target.scheme = Some(Scheme::HTTP);
            target.authority = Some(self.authority.clone());
        }
        if form != Form::Http2 {
            let host = HeaderValue::try_from(self.authority.as_str());
            fields.insert(HOST, host.unwrap_or_else(|_| HeaderValue::from_static("")));
        }
        *request.version_mut() =
            if form == Form::Http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
        for (name, value) in own {
            fields.insert(name, value);
        }
        *request.headers_mut() = fields;
        request
    }
}

/// How a request target is written (RFC 9112 section 3.2; RFC 9113 section 8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// HTTP/1.1 to a server.
    Origin,
    /// HTTP/1.1 to a proxy.
    Absolute,
    /// HTTP/2.
    Http2,
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
pub(super) fn receive(parts: &mut response::Parts, from_sidecar: bool) -> Far {
    let fields = &mut parts.headers;
    strip_hop_by_hop(fields);
    let reason = reason(fields).filter(|_| from_sidecar);
    let unseen = from_sidecar && fields.get(&UNSEEN).is_some_and(|value| value == "1");
    strip_mesh(fields);
    if let Some(reason) = reason {
        fields.insert(REASON, HeaderValue::from_static(reason.name()));
    }
    Far { reason, unseen: unseen && reason.is_some() }
}

/// The same of trailers: a call that a far sidecar ended after its head was out.
pub(super) fn receive_trailers(trailers: &mut HeaderMap, from_sidecar: bool) -> Option<Reason> {
    let reason = reason(trailers).filter(|_| from_sidecar);
    strip_trailers(trailers);
    if let Some(reason) = reason {
        trailers.insert(REASON, HeaderValue::from_static(reason.name()));
    }
    reason
}

fn reason(fields: &HeaderMap) -> Option<Reason> {
    fields.get(&REASON)?.to_str().ok().and_then(Reason::from_name)
}

/// Applies a route's changes: set, add, remove.
pub(super) fn modify(fields: &mut HeaderMap, modifier: &HeaderModifier) {
    let pair = |(name, value): &(String, String)| {
        let name = HeaderName::try_from(name.as_str()).ok()?;
        Some((name, HeaderValue::try_from(value.as_str()).ok()?))
    };
    for (name, value) in modifier.set.iter().filter_map(pair) {
        fields.insert(name, value);
    }
    for (name, value) in modifier.add.iter().filter_map(pair) {
        fields.append(name, value);
    }
    for name in &modifier.remove {
        fields.remove(name.as_str());
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Request, Response, Version, request};

    use super::{Far, Form, Outgoing, authority, modify, receive};
    use crate::{reason::Reason, snapshot::HeaderModifier};

    fn parts(uri: &str, fields: &[(&'static str, &str)]) -> request::Parts {
        let mut builder = Request::get(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn the_authority_is_the_targets_before_the_hosts() {
        for (uri, hosts, expected) in [
            ("/x", &["orders:9090"][..], Some("orders:9090")),
            ("http://orders/x", &["other"], Some("orders")),
            ("http://orders:1/", &[], Some("orders:1")),
            ("/x", &[], None),
            ("/x", &["a", "b"], None),
            ("http://orders/", &["a", "b"], None),
        ] {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let found = authority(&parts(uri, &fields));
            assert_eq!(found.ok().as_deref(), expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn a_head_is_written_as_its_peer_expects() {
        let incoming = parts(
            "http://orders/x?y=1",
            &[
                ("host", "orders"),
                ("connection", "x-mine"),
                ("x-mine", "1"),
                ("x-forwarded-client-cert", "forged"),
                ("outrigger-unseen", "1"),
                ("expect", "100-continue"),
                ("traceparent", "old"),
                ("a", "1"),
            ],
        );
        let outgoing = Outgoing::new(incoming, "orders.shop:9090").expect("well-formed");
        for (form, uri, host, version) in [
            (Form::Origin, "/x?y=1", Some("orders.shop:9090"), Version::HTTP_11),
            (
                Form::Absolute,
                "http://orders.shop:9090/x?y=1",
                Some("orders.shop:9090"),
                Version::HTTP_11,
            ),
            (Form::Http2, "http://orders.shop:9090/x?y=1", None, Version::HTTP_2),
        ] {
            let own = [(super::TRACEPARENT, HeaderValue::from_static("new"))];
            let request = outgoing.request(form, own, ());
            let field =
                |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(request.uri().to_string(), uri);
            assert_eq!((field("host"), request.version()), (host, version));
            assert_eq!((field("traceparent"), field("a")), (Some("new"), Some("1")));
            let count = request.headers().len() - usize::from(host.is_some());
            assert_eq!(count, 2, "{:?}", request.headers());
        }
    }

    #[test]
    fn only_an_authenticated_sidecar_is_believed() {
        let response = |fields: &[(&'static str, &str)]| {
            let mut builder = Response::builder();
            for (name, value) in fields {
                builder = builder.header(*name, *value);
            }
            builder.body(()).expect("a response").into_parts().0
        };
        let said = [("outrigger-reason", "app_unreachable"), ("outrigger-unseen", "1")];
        let mut parts = response(&said);
        let far = Far { reason: Some(Reason::AppUnreachable), unseen: true };
        assert_eq!(receive(&mut parts, true), far);
        assert_eq!(parts.headers.len(), 1, "the reason goes on to the application");
        let mut parts = response(&said);
        assert_eq!(receive(&mut parts, false), Far::default());
        assert!(parts.headers.is_empty());
        let mut parts = response(&[("outrigger-reason", "because"), ("outrigger-unseen", "1")]);
        assert_eq!(receive(&mut parts, true), Far::default());
    }

    #[test]
    fn fields_are_set_added_and_removed_in_this_order() {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let modifier = HeaderModifier {
            set: vec![text("a", "2")],
            add: vec![text("a", "3"), text("b", "1")],
            remove: vec!["c".to_owned()],
        };
        let mut fields = HeaderMap::new();
        for (name, value) in [("a", "0"), ("a", "1"), ("c", "1")] {
            fields.append(name, HeaderValue::from_static(value));
        }
        modify(&mut fields, &modifier);
        let values: Vec<_> = fields.get_all("a").iter().collect();
        assert_eq!(values, ["2", "3"]);
        assert_eq!((fields.contains_key("b"), fields.contains_key("c")), (true, false));
    }
}
