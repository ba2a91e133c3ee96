//! How one service of the shop calls another: where to dial comes from the environment, and the
//! trace context that a request came with goes on with the calls made for it.

use std::time::Duration;

use tonic::{
    Request,
    metadata::{KeyAndValueRef, MetadataMap},
    transport::{Channel, Endpoint, Uri},
};

use super::{Error, variable};

/// The port under which every gRPC service of the shop is known.
const PORT: u16 = 9090;

/// A channel to `service`, dialled when first used: at `OUTRIGGER_UPSTREAM_<SERVICE>` if that is
/// set, else at `OUTRIGGER_OUTBOUND_ADDRESS` with the service's name as the authority, else at the
/// service's plain name.
pub(super) fn dial(service: &str) -> Result<Channel, Error> {
    let name = format!("{service}:{PORT}");
    let own = format!("OUTRIGGER_UPSTREAM_{}", service.to_uppercase().replace('-', "_"));
    let address = variable(&own)
        .or_else(|| variable("OUTRIGGER_OUTBOUND_ADDRESS"))
        .unwrap_or_else(|| name.clone());
    let wrong = |error: &dyn std::fmt::Display| Error::Variable {
        name: "OUTRIGGER_OUTBOUND_ADDRESS",
        value: address.clone(),
        message: error.to_string(),
    };
    let origin = Uri::try_from(format!("http://{name}")).map_err(|error| wrong(&error))?;
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| wrong(&error))?;
    Ok(endpoint
        .origin(origin)
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .connect_lazy())
}

/// The headers of a trace (W3C Trace Context).
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// A request that belongs to the same trace as the one that `from` came with.
pub(super) fn pass_on<T>(from: &MetadataMap, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for entry in from.iter() {
        if let KeyAndValueRef::Ascii(key, value) = entry
            && TRACE_HEADERS.contains(&key.as_str())
        {
            request.metadata_mut().append(key.clone(), value.clone());
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::pass_on;

    #[test]
    fn the_trace_goes_on_and_nothing_else_does() {
        let mut from = tonic::metadata::MetadataMap::new();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        from.insert("traceparent", parent.parse().expect("ASCII"));
        from.append("tracestate", "one=1".parse().expect("ASCII"));
        from.append("tracestate", "two=2".parse().expect("ASCII"));
        from.insert("authorization", "Bearer secret".parse().expect("ASCII"));

        let request = pass_on(&from, ());
        assert_eq!(request.metadata().get("traceparent").expect("passed on"), parent);
        assert_eq!(request.metadata().get_all("tracestate").iter().count(), 2);
        assert!(request.metadata().get("authorization").is_none());
    }
}
