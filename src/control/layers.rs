//! What every call of the API goes through before it reaches its method, put together in
//! [`super::server`]: one form for all of it, [`Around`], and here the two that are about calls as such, a
//! deadline and a trace.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    auth::Connection,
    metrics::{Metrics, Outcome},
};

/// Something that is done around each call.
pub(crate) trait Around: Clone {
    /// Makes the call by `next`, or answers in its place.
    fn call<F>(
        &self,
        request: Request<Body>,
        next: impl FnOnce(Request<Body>) -> F,
    ) -> BoxFuture<'static, Response<Body>>
    where
        F: Future<Output = Response<Body>> + Send + 'static;
}

/// That, as a layer of tower.
#[derive(Debug, Clone)]
pub(crate) struct Layered<A>(pub A);

impl<A: Around, S> Layer<S> for Layered<A> {
    type Service = Wrapped<A, S>;

    fn layer(&self, inner: S) -> Wrapped<A, S> {
        Wrapped { around: self.0.clone(), inner }
    }
}

/// A service and what is done around its calls.
#[derive(Debug, Clone)]
pub(crate) struct Wrapped<A, S> {
    around: A,
    inner: S,
}

impl<A, S> Service<Request<Body>> for Wrapped<A, S>
where
    A: Around,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = &mut self.inner;
        let answer = self.around.call(request, |request| {
            let call = inner.call(request);
            async {
                let Ok(response) = call.await;
                response
            }
        });
        Box::pin(async { Ok(answer.await) })
    }
}

/// Ends calls that take too long to be answered: with their one message, or with the head of a stream,
/// which lives as long as it lives from then on. A request that never comes whole is among them.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    pub after: Duration,
}

impl Around for Deadline {
    fn call<F>(
        &self,
        request: Request<Body>,
        next: impl FnOnce(Request<Body>) -> F,
    ) -> BoxFuture<'static, Response<Body>>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let after = self.after;
        let call = next(request);
        Box::pin(async move {
            timeout(after, call).await.unwrap_or_else(|_| {
                let message = format!("the control plane took longer than {}s", after.as_secs());
                Status::deadline_exceeded(message).into_http()
            })
        })
    }
}

/// Logs and counts calls by the outcome that their head says; a stream's by how it began.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub metrics: Arc<Metrics>,
}

impl Around for Trace {
    fn call<F>(
        &self,
        request: Request<Body>,
        next: impl FnOnce(Request<Body>) -> F,
    ) -> BoxFuture<'static, Response<Body>>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let metrics = Arc::clone(&self.metrics);
        let path = request.uri().path().to_owned();
        let remote = request.extensions().get::<Connection>().map(|it| it.remote);
        let began = Instant::now();
        let call = next(request);
        Box::pin(async move {
            let response = call.await;
            // An answer without messages has its status in the head.
            let status = Status::from_header_map(response.headers());
            let code = status.map_or(Code::Ok, |it| it.code());
            let ok = code == Code::Ok;
            metrics.called(if ok { Outcome::Success } else { Outcome::Failure });
            let took_ms = began.elapsed().as_millis();
            tracing::debug!(path, ?remote, ?code, took_ms, "call");
            response
        })
    }
}
