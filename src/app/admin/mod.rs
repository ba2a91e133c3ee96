//! The plain HTTP/1.1 beside the data path: admin (15000), metrics (15020) and health (15021), and the
//! control plane's metrics and health (15014).
//!
//! Three listeners because three kinds of caller may reach them: the admin listener answers only on
//! loopback or a Unix socket, and only to requests that name loopback as host and origin, so that
//! no web page can reach it by DNS rebinding; metrics and health show nothing secret and may stand
//! anywhere. Every listener bounds its connections, heads, bodies and times. What is shown comes
//! from the views that the wiring gives.

mod listener;
mod routes;

use std::{fmt, io, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinHandle,
};

pub use listener::{Address, BindError, Listener};

use self::listener::Stream;
use crate::task::{self, Drain, DrainGuard, Tasks};

/// Connections of one listener at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// A request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a head may take to come, and a connection may stand idle between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live, whatever it does; scrapers dial again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// The pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What orchestrators and Prometheus may know.
pub trait HealthView: Send + Sync + 'static {
    /// What is missing until traffic may come; empty: ready.
    fn missing(&self) -> Vec<String>;

    /// All metrics as OpenMetrics text.
    fn metrics(&self) -> String;
}

/// What an operator on this machine may see and do. Nothing that these return may hold a secret.
pub trait AdminView: HealthView {
    /// What runs.
    fn config(&self) -> serde_json::Value;

    /// Destinations with their endpoints.
    fn endpoints(&self) -> serde_json::Value;

    /// The own certificate and the trust bundle.
    fn certificates(&self) -> serde_json::Value;

    /// The program's log filter.
    fn logging(&self) -> String;

    /// Changes the log filter.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    fn set_logging(&self, filter: &str) -> Result<(), String>;

    /// Begins to drain; returns at once.
    fn drain(&self);
}

/// What a listener shows.
#[derive(Clone)]
pub enum Surface {
    /// Everything, and it can be acted on: loopback or a Unix socket only.
    Admin(Arc<dyn AdminView>),
    /// `/metrics`
    Metrics(Arc<dyn HealthView>),
    /// `/ready` and `/live`
    Health(Arc<dyn HealthView>),
    /// `/metrics`, `/ready` and `/live`: those who start a control plane and those who watch it are the
    /// same.
    ControlPlane(Arc<dyn HealthView>),
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Surface {
    fn name(&self) -> &'static str {
        match self {
            Self::Admin(_) => "admin",
            Self::Metrics(_) => "metrics",
            Self::Health(_) => "health",
            Self::ControlPlane(_) => "metrics and health",
        }
    }
}

/// A listener that is served. Dropping it ends it at once, with its connections.
#[derive(Debug)]
pub struct Server {
    address: Address,
    drain: Drain,
    accepting: JoinHandle<Option<()>>,
}

impl Server {
    /// Serves `surface` on the current runtime. Whether a listener may show the admin surface was
    /// decided when it was bound.
    ///
    /// # Errors
    /// When the admin surface is to stand on a listener that others than this machine can reach.
    pub fn start(listener: Listener, surface: Surface) -> Result<Self, BindError> {
        let address = listener.address().clone();
        if matches!(surface, Surface::Admin(_)) && !address.is_local() {
            return Err(BindError::NotLocal(address));
        }
        let drain = Drain::new();
        let accepting = task::spawn(surface.name(), accept(listener, surface, drain.clone()));
        Ok(Self { address, drain, accepting })
    }

    /// Where it is reached.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts no more, lets requests under way end for at most `bound`, then ends all.
    pub async fn stop(mut self, bound: Duration) {
        self.drain.start();
        let _in_time = tokio::time::timeout(bound, &mut self.accepting).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: Listener, surface: Surface, drain: Drain) {
    let name = surface.name();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = Tasks::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = drain.signalled() => break,
        };
        match accepted {
            Ok(stream) => {
                let (surface, guard) = (surface.clone(), drain.guard());
                connections.spawn(name, async move {
                    let _place = place;
                    match stream {
                        Stream::Tcp(stream) => serve(stream, surface, guard).await,
                        Stream::Unix(stream) => serve(stream, surface, guard).await,
                    }
                });
            }
            Err(error) => {
                tracing::warn!(listener = name, %error, "can not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.join(CONNECTION_TIMEOUT).await;
}

async fn serve<S>(stream: S, surface: Surface, guard: DrainGuard)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = surface.name();
    let service = service_fn(move |request| {
        let surface = surface.clone();
        async move { Ok::<_, io::Error>(routes::answer(&surface, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = guard.signalled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        // The caller's doing, and of no use to an operator who does not look for it.
        Ok(Err(error)) => tracing::debug!(listener = name, %error, "connection ended"),
        Err(_) => tracing::debug!(listener = name, "connection lived too long"),
    }
}

#[cfg(test)]
mod tests;
