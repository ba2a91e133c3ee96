//! What is answered to whom: the paths of each surface, and who may ask the admin surface.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;

use super::{AdminView, HealthView, Surface};
use crate::telemetry::Metrics;

/// A log filter, the only body that is read.
const BODY_BYTES_MAX: usize = 4096;
/// How long it may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// What the admin surface has, for people who ask `/`.
const INDEX: &str = "\
GET  /ready         what is missing until traffic may come
GET  /live
GET  /config        what runs
GET  /endpoints     destinations with their endpoints
GET  /certificates  the own certificate and the trust bundle
GET  /metrics       for Prometheus
GET  /logging       the log filter
POST /logging       changes it: debug, outrigger=trace …
POST /drain         begins to drain
";

/// Answers one request.
pub(super) async fn answer<B>(surface: &Surface, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let method = request.method();
    let read = method == Method::GET || method == Method::HEAD;
    let path = request.uri().path();
    match surface {
        Surface::Health(view) => match path {
            "/ready" | "/live" if !read => only("GET, HEAD"),
            "/ready" => ready(&**view),
            "/live" => live(),
            _ => not_found(),
        },
        Surface::Metrics(view) => match path {
            "/metrics" if !read => only("GET, HEAD"),
            "/metrics" => metrics(&**view),
            _ => not_found(),
        },
        Surface::ControlPlane(view) => match path {
            "/metrics" | "/ready" | "/live" if !read => only("GET, HEAD"),
            "/metrics" => metrics(&**view),
            "/ready" => ready(&**view),
            "/live" => live(),
            _ => not_found(),
        },
        Surface::Admin(view) => {
            if !is_local(request.uri(), request.headers()) {
                let why = "admin answers only to a Host and an Origin that are loopback\n";
                return text(StatusCode::FORBIDDEN, why);
            }
            admin(&**view, request).await
        }
    }
}

async fn admin<B>(view: &dyn AdminView, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let post = request.method() == Method::POST;
    let read = request.method() == Method::GET || request.method() == Method::HEAD;
    match (request.uri().path(), read, post) {
        ("/", true, _) => text(StatusCode::OK, INDEX),
        ("/ready", true, _) => ready(view),
        ("/live", true, _) => live(),
        ("/metrics", true, _) => metrics(view),
        ("/config", true, _) => json(&view.config()),
        ("/endpoints", true, _) => json(&view.endpoints()),
        ("/certificates", true, _) => json(&view.certificates()),
        ("/logging", true, _) => text(StatusCode::OK, format!("{}\n", view.logging())),
        ("/logging", _, true) => set_logging(view, request.into_body()).await,
        ("/drain", _, true) => {
            view.drain();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        ("/logging", ..) => only("GET, HEAD, POST"),
        ("/drain", ..) => only("POST"),
        (
            "/" | "/ready" | "/live" | "/metrics" | "/config" | "/endpoints" | "/certificates",
            ..,
        ) => only("GET, HEAD"),
        _ => not_found(),
    }
}

async fn set_logging<B>(view: &dyn AdminView, body: B) -> Response<Full<Bytes>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let body = std::pin::pin!(Limited::new(body, BODY_BYTES_MAX).collect());
    let filter = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
    };
    let Ok(filter) = str::from_utf8(&filter) else {
        return text(StatusCode::BAD_REQUEST, "the filter is not text\n");
    };
    match view.set_logging(filter.trim()) {
        Ok(()) => text(StatusCode::OK, format!("{}\n", view.logging())),
        Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

fn ready(view: &(impl HealthView + ?Sized)) -> Response<Full<Bytes>> {
    let missing = view.missing();
    if missing.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
}

fn live() -> Response<Full<Bytes>> {
    text(StatusCode::OK, "live\n")
}

fn metrics(view: &(impl HealthView + ?Sized)) -> Response<Full<Bytes>> {
    response(StatusCode::OK, Metrics::CONTENT_TYPE, view.metrics())
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    response(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn not_found() -> Response<Full<Bytes>> {
    text(StatusCode::NOT_FOUND, "not found\n")
}

fn only(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {methods}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, PLAIN, text)
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether whoever asks means this machine: exactly one `Host`, that of the target if it has one,
/// and every `Origin`, must be loopback. A web page that reached us by a name of its own has neither.
fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let one =
        matches!((hosts.next(), hosts.next()), (Some(host), None) if is_loopback(host.as_bytes()));
    let target = uri.authority().is_none_or(|authority| is_loopback(authority.as_str().as_bytes()));
    let origins = headers.get_all(ORIGIN).iter().all(|origin| {
        let origin = origin.as_bytes();
        let schemes = [&b"http://"[..], b"https://"];
        schemes.iter().any(|scheme| origin.strip_prefix(*scheme).is_some_and(is_loopback))
    });
    one && target && origins
}

/// Whether an authority's host is `localhost` or a loopback address.
fn is_loopback(authority: &[u8]) -> bool {
    let Ok(authority) = str::from_utf8(authority) else { return false };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    if let Some(host) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return host
            .parse()
            .is_ok_and(|ip: std::net::Ipv6Addr| IpAddr::from(ip).to_canonical().is_loopback());
    }
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_this_machine_is_loopback() {
        for (authority, expected) in [
            ("localhost", true),
            ("LocalHost:15000", true),
            ("127.0.0.1:15000", true),
            ("127.9.9.9", true),
            ("[::1]:15000", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("", false),
            (":15000", false),
            ("evil.example", false),
            ("evil.example:15000", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost:", false),
            ("localhost:x", false),
            ("user@localhost", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("2130706433", false),
            ("0x7f.1", false),
            ("[::2]", false),
            ("::1", false),
        ] {
            assert_eq!(is_loopback(authority.as_bytes()), expected, "{authority}");
        }
        assert!(!is_loopback(b"\xff"));
    }
}
