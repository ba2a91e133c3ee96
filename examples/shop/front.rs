//! The shop's door: plain HTTP in, gRPC to `orders`. `POST /orders` with
//! `{"item": "paddle", "quantity": 2}` answers 201 with the order, and with `trace-id` if the
//! request came with a trace.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::{Code, Status, metadata::MetadataMap, transport::Channel};

use super::{
    Instance,
    calls::{dial, pass_on},
    fault::Switch,
    pb::{PlaceRequest, PlaceResponse, orders_client::OrdersClient},
};

/// A whole order may take so long.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
/// An order's JSON may be so long.
const BODY_BYTES_MAX: usize = 4096;
const TRACE_ID: HeaderName = HeaderName::from_static("trace-id");

struct Front {
    fault: Arc<Switch>,
    orders: OrdersClient<Channel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    item: String,
    quantity: u32,
}

/// Serves until `stop` ends; then requests under way finish.
pub(super) async fn serve(
    instance: Instance,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), super::Error> {
    let front =
        Arc::new(Front { fault: instance.fault, orders: OrdersClient::new(dial("orders")?) });
    let open = hyper_util::server::graceful::GracefulShutdown::new();
    let accepting = async {
        while let Ok((socket, _)) = listener.accept().await {
            let front = Arc::clone(&front);
            let service = service_fn(move |request| {
                let front = Arc::clone(&front);
                async move { Ok::<_, Infallible>(front.answer(request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(socket), service).into_owned();
            let watched = open.watch(connection);
            super::spawn(async move {
                // A caller that breaks off concerns nobody.
                let _done = watched.await;
            });
        }
    };
    tokio::select! { () = accepting => {}, () = stop => {} }
    open.shutdown().await;
    Ok(())
}

impl Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health") => answer(StatusCode::OK, &json!({"status": "ok"})),
            (&Method::POST, "/orders") => self.order(request).await,
            (_, "/orders") => {
                let what = json!({"error": "an order is placed by POST"});
                let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, &what);
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                refused
            }
            _ => answer(StatusCode::NOT_FOUND, &json!({"error": "POST /orders or GET /health"})),
        }
    }

    async fn order(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let trace = trace_id(&head.headers);
        let mut response = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => match serde_json::from_slice(&body.to_bytes()) {
                Ok(order) => self.place(head.headers, order).await,
                Err(error) => answer(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
            },
            Err(error) => answer(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
        };
        if let Some(trace) = trace {
            response.headers_mut().insert(TRACE_ID, trace);
        }
        response
    }

    async fn place(&self, headers: HeaderMap, order: Order) -> Response<Full<Bytes>> {
        let message = PlaceRequest { item: order.item, quantity: order.quantity };
        let mut request = pass_on(&MetadataMap::from_headers(headers), message);
        request.set_timeout(PLACE_WITHIN);
        let placed = match self.fault.pass().await {
            Ok(()) => self.orders.clone().place(request).await,
            Err(status) => Err(status),
        };
        match placed {
            Ok(placed) => answer(StatusCode::CREATED, &receipt(&placed.into_inner())),
            Err(status) => {
                let what = json!({"error": format!("orders: {}", status.message())});
                answer(http_status(&status), &what)
            }
        }
    }
}

fn receipt(placed: &PlaceResponse) -> Value {
    json!({
        "order": placed.order,
        "total": format!("{} {}.{:02}", placed.currency, placed.cents / 100, placed.cents % 100),
        "version": placed.version,
    })
}

/// The nearest HTTP status to a failed order's gRPC status.
fn http_status(status: &Status) -> StatusCode {
    match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The second field of `traceparent`, for people who want to look their order up.
fn trace_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    HeaderValue::from_str(parent.split('-').nth(1)?).ok()
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
