//! A plain HTTP/1.1 client for the shop's door, the shop's fault switches and the sidecars' admin
//! ports: one connection, one request at a time, everything bounded.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

use crate::task;

/// How long one request may take altogether.
const WITHIN: Duration = Duration::from_secs(30);
/// The longest answer taken: a page of metrics is far shorter.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A whole response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as text; what is no UTF-8 is replaced.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty when it is absent or no text.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// One connection, opened when it is needed and again when it was closed.
pub(super) struct Connection {
    to: SocketAddr,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(super) fn new(to: SocketAddr) -> Self {
        Self { to, open: None }
    }

    /// Sends one request and reads the whole answer. It is never sent twice.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes> + Send,
    ) -> anyhow::Result<Answer> {
        let what = format!("{method} http://{}{path}", self.to);
        let body = Full::new(body.into());
        time::timeout(WITHIN, self.exchange(method, path, body))
            .await
            .with_context(|| format!("{what}: no answer within {}s", WITHIN.as_secs()))?
            .with_context(|| what)
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Full<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut usable = None;
        if let Some(mut sender) = self.open.take()
            && sender.ready().await.is_ok()
        {
            usable = Some(sender);
        }
        let mut sender = match usable {
            Some(sender) => sender,
            None => self.dial().await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.to.to_string())
            .body(body)?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?
            .to_bytes();
        self.open = Some(sender);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn dial(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let socket = TcpStream::connect(self.to).await?;
        socket.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let _detached = task::spawn("the demo's connection", async move {
            // The request on it has the error as well.
            let _ended = connection.await;
        });
        sender.ready().await?;
        Ok(sender)
    }
}

/// `GET` on a connection of its own; anything but 200 is an error.
pub(super) async fn get(from: SocketAddr, path: &str) -> anyhow::Result<String> {
    let answer = Connection::new(from).send(Method::GET, path, Bytes::new()).await?;
    anyhow::ensure!(answer.status == StatusCode::OK, "GET {path}: {}", answer.status);
    Ok(answer.text())
}
