//! What every call of the API goes through besides authentication: a deadline and a trace. They are
//! tower services, put together in [`super::server`].

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::{
    auth::Connection,
    metrics::{Metrics, Outcome},
};

/// Ends calls that take too long to be answered: with their one message, or with the head of a stream,
/// which lives as long as it lives from then on. A request that never comes whole is among them.
#[derive(Debug, Clone)]
pub(crate) struct Deadline<S> {
    pub inner: S,
    pub after: Duration,
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let after = self.after;
        let call = self.inner.call(request);
        Box::pin(async move {
            timeout(after, call).await.unwrap_or_else(|_| {
                let message = format!("the control plane took longer than {}s", after.as_secs());
                Ok(Status::deadline_exceeded(message).into_http())
            })
        })
    }
}

/// Logs and counts calls by the outcome that their head says; a stream's by how it began.
#[derive(Debug, Clone)]
pub(crate) struct Trace<S> {
    pub inner: S,
    pub metrics: Arc<Metrics>,
}

impl<S> Service<Request<Body>> for Trace<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let metrics = Arc::clone(&self.metrics);
        let path = request.uri().path().to_owned();
        let remote = request.extensions().get::<Connection>().map(|it| it.remote);
        let began = Instant::now();
        let call = self.inner.call(request);
        Box::pin(async move {
            let result = call.await;
            // An answer without messages has its status in the head.
            let code = result.as_ref().map_or(Code::Unknown, |response| {
                Status::from_header_map(response.headers()).map_or(Code::Ok, |it| it.code())
            });
            let ok = code == Code::Ok;
            metrics.called(if ok { Outcome::Success } else { Outcome::Failure });
            let took_ms = began.elapsed().as_millis();
            tracing::debug!(path, ?remote, ?code, took_ms, "call");
            result
        })
    }
}
