//! Why a request ended as it did: one closed enum, and one exhaustive table from it to everything
//! that differs by reason. Every response that the mesh itself makes carries one, and so do its
//! metric, log line and span. The table is that of the reference documentation; gRPC codes follow
//! gRPC's own mapping except where an answer of the mesh is more precise.

use std::fmt;

/// A gRPC status code by name and number (grpc.io, "Status codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "gRPC's own names")]
pub enum GrpcCode {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl GrpcCode {
    const ALL: [(Self, &'static str); 17] = [
        (Self::Ok, "OK"),
        (Self::Cancelled, "CANCELLED"),
        (Self::Unknown, "UNKNOWN"),
        (Self::InvalidArgument, "INVALID_ARGUMENT"),
        (Self::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (Self::NotFound, "NOT_FOUND"),
        (Self::AlreadyExists, "ALREADY_EXISTS"),
        (Self::PermissionDenied, "PERMISSION_DENIED"),
        (Self::ResourceExhausted, "RESOURCE_EXHAUSTED"),
        (Self::FailedPrecondition, "FAILED_PRECONDITION"),
        (Self::Aborted, "ABORTED"),
        (Self::OutOfRange, "OUT_OF_RANGE"),
        (Self::Unimplemented, "UNIMPLEMENTED"),
        (Self::Internal, "INTERNAL"),
        (Self::Unavailable, "UNAVAILABLE"),
        (Self::DataLoss, "DATA_LOSS"),
        (Self::Unauthenticated, "UNAUTHENTICATED"),
    ];

    /// `UNAVAILABLE`
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The code of that name, exactly as gRPC writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == name).map(|(code, _)| *code)
    }

    /// The code of that number; `None` beyond 16.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).map(|(code, _)| *code)
    }

    /// All names, for messages that list them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|(_, name)| *name)
    }
}

/// Whose fault a reason is, for operators who look where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub enum Fault {
    Caller,
    Operator,
    Mesh,
    Upstream,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As in headers, metrics and logs.
    pub name: &'static str,
    /// The HTTP status that a non-gRPC caller sees.
    pub http: u16,
    /// The gRPC status that a gRPC caller sees.
    pub grpc: GrpcCode,
    /// Envoy's response flag, for dashboards that know it; "-" where Envoy has none.
    pub flag: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $http:literal, $grpc:ident, $flag:literal, $fault:ident;)*) => {
        /// Why the mesh ended or refused a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])* $variant,)* }

        impl Reason {
            /// All of them, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its row of the table.
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        name: $name, http: $http, grpc: GrpcCode::$grpc, flag: $flag, fault: Fault::$fault,
                    },)*
                }
            }
        }
    };
}

reasons! {
    /// No rule of an attached route matches, or the service lacks the port.
    NoRoute = "no_route", 404, Unimplemented, "NR", Caller;
    /// The mesh has no such service.
    UnknownService = "unknown_service", 503, Unavailable, "NC", Caller;
    /// A route names what does not exist or may not be used.
    BackendInvalid = "backend_invalid", 500, Unavailable, "NC", Operator;
    /// No configuration, certificate or first answer yet, waited 2 s.
    NotReady = "not_ready", 503, Unavailable, "-", Mesh;
    /// The proxy is ending.
    Draining = "draining", 503, Unavailable, "-", Mesh;
    /// No endpoint takes traffic.
    NoEndpoint = "no_endpoint", 503, Unavailable, "UH", Upstream;
    /// TCP or TLS to the endpoint failed.
    ConnectFailed = "connect_failed", 503, Unavailable, "UF", Upstream;
    /// TCP or TLS to the endpoint took too long.
    ConnectTimeout = "connect_timeout", 503, Unavailable, "UF", Upstream;
    /// Wrong or no SVID at the far end.
    PeerIdentity = "peer_identity", 503, Unavailable, "UF", Mesh;
    /// The sidecar is there, its application is not.
    AppUnreachable = "app_unreachable", 503, Unavailable, "UF", Upstream;
    /// `REFUSED_STREAM`.
    StreamRefused = "stream_refused", 503, Unavailable, "UC", Upstream;
    /// Beyond a GOAWAY's last stream, or the connection closed before the request was written.
    ConnectionClosing = "connection_closing", 503, Unavailable, "UC", Upstream;
    /// The upstream broke the stream.
    UpstreamReset = "upstream_reset", 502, Unavailable, "UR", Upstream;
    /// The upstream did not speak HTTP.
    UpstreamProtocol = "upstream_protocol", 502, Internal, "UPE", Upstream;
    /// One attempt took too long.
    AttemptTimeout = "attempt_timeout", 504, DeadlineExceeded, "UT", Upstream;
    /// The request took too long.
    RequestTimeout = "request_timeout", 504, DeadlineExceeded, "UT", Upstream;
    /// The caller's own deadline passed.
    Deadline = "deadline", 504, DeadlineExceeded, "UT", Upstream;
    /// Neither side moved a byte for too long.
    IdleTimeout = "idle_timeout", 504, DeadlineExceeded, "SI", Upstream;
    /// The destination's bulkhead and its queue are full.
    BulkheadFull = "bulkhead_full", 503, Unavailable, "UO", Upstream;
    /// Waited too long in the bulkhead's queue.
    BulkheadWait = "bulkhead_wait", 503, Unavailable, "UO", Upstream;
    /// The circuit breaker is open.
    CircuitOpen = "circuit_open", 503, Unavailable, "UO", Upstream;
    /// A rate limit refused it.
    RateLimited = "rate_limited", 429, ResourceExhausted, "RL", Caller;
    /// This proxy sheds load.
    Overloaded = "overloaded", 503, Unavailable, "OM", Mesh;
    /// The caller has no identity and needs one.
    Unauthenticated = "unauthenticated", 401, Unauthenticated, "UAEX", Caller;
    /// The caller may not do this.
    Denied = "denied", 403, PermissionDenied, "UAEX", Caller;
    /// The application spoke TLS to a mesh name inside its tunnel.
    TlsInsideProxy = "tls_inside_proxy", 400, Internal, "DPE", Caller;
    /// The request is not one.
    Malformed = "malformed", 400, Internal, "DPE", Caller;
    /// The head is over the limit.
    HeadersTooLarge = "headers_too_large", 431, ResourceExhausted, "DPE", Caller;
    /// The body is over the limit.
    BodyTooLarge = "body_too_large", 413, ResourceExhausted, "DPE", Caller;
    /// The request came around to this proxy again.
    Loop = "loop", 508, Internal, "-", Operator;
    /// A fault was injected; the status is the fault's own.
    FaultInjected = "fault_injected", 503, Unavailable, "FI", Operator;
    /// The caller went away; nobody sees it.
    CallerGone = "caller_gone", 499, Cancelled, "DC", Caller;
    /// A defect of the mesh.
    Internal = "internal", 500, Internal, "-", Mesh;
}

impl Reason {
    /// As in headers, metrics and logs.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// Whether this proxy ends the request by it at once, because no other endpoint would do better.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::NoEndpoint | Self::NotReady | Self::Overloaded)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::{GrpcCode, Reason};

    #[test]
    fn every_reason_is_found_again_by_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
        }
        assert_eq!(Reason::from_name("because"), None);
    }

    #[test]
    fn every_grpc_code_is_found_again_by_name_and_number() {
        for (number, name) in (0..).zip(GrpcCode::names()) {
            let code = GrpcCode::from_name(name).expect("listed");
            assert_eq!((code as u32, code.name()), (number, name));
            assert_eq!(GrpcCode::from_number(number), Some(code));
        }
        assert_eq!(GrpcCode::from_number(17), None);
    }
}
