//! Plain HTTP/1.1 to admin, health, metrics and query ports.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

/// How long one request may take.
const WITHIN: Duration = Duration::from_secs(15);

/// Status, headers and body, or why there is none.
pub(crate) type Answer = Result<(u16, HeaderMap, String), String>;

/// Sends one request on a connection of its own.
pub(crate) async fn request(to: SocketAddr, request: Request<String>) -> Answer {
    let exchange = async {
        let socket = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
        let serving = tokio::spawn(connection);
        let answer = async {
            let request = request.map(|body| Full::new(Bytes::from(body)));
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            Ok((head.status.as_u16(), head.headers, text))
        };
        let answer = answer.await.map_err(|error: hyper::Error| error.to_string());
        serving.abort();
        answer
    };
    match time::timeout(WITHIN, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{to}: no answer within {WITHIN:?}")),
    }
}

/// The body of `GET path`; anything but 200 is an error.
pub(crate) async fn get(from: SocketAddr, path: &str) -> Result<String, String> {
    let head = Request::get(path).header("host", from.to_string());
    match request(from, head.body(String::new()).expect("a request")).await? {
        (200, _, body) => Ok(body),
        (status, _, body) => Err(format!("GET {from}{path}: {status}: {body}")),
    }
}

/// Samples of a page of metrics by name and labels.
pub(crate) struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

/// Scrapes a metrics port.
pub(crate) async fn metrics(from: SocketAddr) -> Metrics {
    let page = get(from, "/metrics").await.expect("metrics");
    Metrics(page.lines().filter_map(sample).collect())
}

impl Metrics {
    /// The sum of all samples of that name whose labels include these.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |all: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| all.get(*name).is_some_and(|held| held == value))
        };
        let found = self.0.iter().filter(|(known, all, _)| known == name && fits(all));
        found.map(|(_, _, value)| value).sum()
    }
}

/// `name{label="value",…} 1.5`; a comment is none.
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| {
        let (name, value) = label.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some((name.to_owned(), labels.collect(), value.parse().ok()?))
}

#[test]
fn samples_are_read() {
    let (name, labels, value) = sample(r#"a_total{x="1",y="b c"} 2.5"#).expect("a sample");
    assert_eq!((name.as_str(), value), ("a_total", 2.5));
    assert_eq!((labels["x"].as_str(), labels["y"].as_str()), ("1", "b c"));
    assert!(sample("# HELP a_total what").is_none());
}
