//! Every metric family and every label, in one table: a name that is not here does not exist.
//!
//! Names have base units (`seconds`, `bytes`); counters are exposed with `_total` and facts with
//! `_info` behind the name, as OpenMetrics asks.

use prometheus_client::metrics::MetricType;

/// What a family measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Only grows.
    Counter,
    /// A value now.
    Gauge,
    /// A fact in its labels.
    Info,
    /// Durations from 0.5 ms to 30 s.
    Durations,
    /// Durations from 10 µs to 100 ms.
    ShortDurations,
}

impl Shape {
    pub(super) fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Info => MetricType::Info,
            Self::Durations | Self::ShortDurations => MetricType::Histogram,
        }
    }
}

macro_rules! labels {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $open:literal;)*) => {
        /// What series are told apart by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Label { $($(#[doc = $doc])* $variant,)* }

        impl Label {
            /// As it is exposed.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether its values come from outside, so that they become `_OTHER` first when there
            /// are too many series.
            pub(super) const fn is_open(self) -> bool {
                match self { $(Self::$variant => $open,)* }
            }
        }
    };
}

labels! {
    /// `inbound` or `outbound`.
    Direction = "direction", false;
    /// `orders.shop`
    Source = "source", true;
    /// `inventory.shop`, `external` or `unknown`.
    Destination = "destination", true;
    /// The service's port.
    DestinationPort = "destination_port", true;
    /// `shop/orders`, or `default` for a service without a route.
    Route = "route", true;
    /// gRPC `Service/Method`, or the HTTP method.
    Method = "method", true;
    /// Of the response's head.
    HttpStatus = "http_status", true;
    /// By its name.
    GrpcStatus = "grpc_status", true;
    /// `success` or `failure`.
    Result = "result", false;
    /// Why the mesh ended it.
    Reason = "reason", false;
    /// `unary` or `stream`.
    Type = "type", false;
    /// `success`, a reason, `grpc_<STATUS>` or `http_<code>`.
    Outcome = "outcome", true;
    /// `ready`, `not_ready` or `ejected`.
    State = "state", false;
    /// `http/1.1`, `h2`, `tcp` …
    Protocol = "protocol", true;
    /// `true`: mutual TLS.
    Tls = "tls", false;
    /// `allowed`, `denied` or `audited`.
    Decision = "decision", false;
    /// `svid` or `root`.
    Kind = "kind", false;
    /// `orders`
    Service = "service", true;
    /// `shop`
    Namespace = "namespace", true;
    /// The workload's name.
    Workload = "workload", true;
    /// Where it stands.
    Zone = "zone", true;
    /// The program's version.
    Version = "version", false;
}

macro_rules! families {
    ($($variant:ident = $shape:ident $name:literal [$($label:ident),*] $help:literal;)*) => {
        /// A metric family; its help text says what it counts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Family { $(#[doc = $help] $variant,)* }

        impl Family {
            /// All of them, in the order in which they are exposed.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Without the suffix of its shape.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it measures.
            pub const fn shape(self) -> Shape {
                match self { $(Self::$variant => Shape::$shape,)* }
            }

            /// What its series are told apart by.
            pub const fn labels(self) -> &'static [Label] {
                match self { $(Self::$variant => &[$(Label::$label),*],)* }
            }

            /// One sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

families! {
    Requests = Counter "outrigger_requests"
        [Direction, Source, Destination, DestinationPort, Route, Method, HttpStatus, GrpcStatus, Result, Reason]
        "Requests, counted at their last byte.";
    RequestDuration = Durations "outrigger_request_duration_seconds"
        [Direction, Source, Destination, Route, Result, Type]
        "Time from a request's head to its last byte.";
    ProxyOverhead = ShortDurations "outrigger_proxy_overhead_seconds"
        [Direction]
        "Time that the proxy itself took, from a request's head to its first attempt, without queueing.";
    RequestsInFlight = Gauge "outrigger_requests_in_flight"
        [Direction]
        "Requests under way.";
    RequestBytes = Counter "outrigger_request_bytes"
        [Direction, Source, Destination]
        "Body bytes from callers.";
    ResponseBytes = Counter "outrigger_response_bytes"
        [Direction, Source, Destination]
        "Body bytes to callers.";
    Attempts = Counter "outrigger_attempts"
        [Source, Destination, Route, Outcome]
        "Attempts of outbound requests.";
    RetryBudgetExhausted = Counter "outrigger_retry_budget_exhausted"
        [Destination]
        "Retries that the budget did not permit.";
    Endpoints = Gauge "outrigger_endpoints"
        [Destination, State]
        "Endpoints by what this proxy thinks of them.";
    Ejections = Counter "outrigger_ejections"
        [Destination]
        "Endpoints that outlier detection left alone for a while.";
    BulkheadInUse = Gauge "outrigger_bulkhead_in_use"
        [Destination]
        "Places taken in a destination's bulkhead.";
    BulkheadLimit = Gauge "outrigger_bulkhead_limit"
        [Destination]
        "Places in a destination's bulkhead.";
    BulkheadQueued = Gauge "outrigger_bulkhead_queued"
        [Destination]
        "Requests that wait for a place.";
    BulkheadRejected = Counter "outrigger_bulkhead_rejected"
        [Destination, Reason]
        "Requests that got no place.";
    ConnectionsOpen = Gauge "outrigger_connections_open"
        [Direction, Protocol, Tls]
        "Connections that are open.";
    ConnectionsOpened = Counter "outrigger_connections_opened"
        [Direction, Protocol, Tls]
        "Connections that were opened.";
    TlsHandshakes = Counter "outrigger_tls_handshakes"
        [Direction, Result]
        "TLS handshakes.";
    TcpBytes = Counter "outrigger_tcp_bytes"
        [Direction, Destination]
        "Bytes of opaque connections, both ways together.";
    AuthorizationDecisions = Counter "outrigger_authorization_decisions"
        [Decision]
        "Decisions about inbound requests.";
    CertificateExpiry = Gauge "outrigger_certificate_expiry_timestamp_seconds"
        [Kind]
        "When a certificate expires, in seconds since 1970.";
    CertificateRenewals = Counter "outrigger_certificate_renewals"
        [Result]
        "Renewals of the own certificate.";
    ControlConnected = Gauge "outrigger_control_connected"
        []
        "1 while the control plane is connected.";
    ControlLastContact = Gauge "outrigger_control_last_contact_timestamp_seconds"
        []
        "When the control plane was last heard, in seconds since 1970.";
    ConfigRevision = Gauge "outrigger_config_revision"
        []
        "The newest revision that runs.";
    ConfigRejectedResources = Gauge "outrigger_config_rejected_resources"
        []
        "Resources of which an older form runs, because the newest is refused.";
    ConfigRejections = Counter "outrigger_config_rejections"
        []
        "Resources that were refused.";
    SpansDropped = Counter "outrigger_spans_dropped"
        []
        "Spans that were not sent: the queue was full or the collector did not take them.";
    AccessLogDropped = Counter "outrigger_access_log_dropped"
        []
        "Access log lines that were not written, because the queue was full.";
    SeriesDropped = Counter "outrigger_metric_series_dropped"
        []
        "Series that were counted under _OTHER, because there are too many.";
    WorkloadInfo = Info "outrigger_workload"
        [Service, Namespace, Workload, Zone]
        "Beside which workload this runs.";
    BuildInfo = Info "outrigger_build"
        [Version]
        "Which program this is.";
    ProcessCpu = Counter "process_cpu_seconds"
        []
        "User and system time.";
    ProcessResident = Gauge "process_resident_memory_bytes"
        []
        "Memory in RAM.";
    ProcessVirtual = Gauge "process_virtual_memory_bytes"
        []
        "Address space.";
    ProcessFiles = Gauge "process_open_fds"
        []
        "Open file descriptors.";
    ProcessFilesMax = Gauge "process_max_fds"
        []
        "How many file descriptors may be open.";
    ProcessThreads = Gauge "process_threads"
        []
        "Threads.";
    ProcessStart = Gauge "process_start_time_seconds"
        []
        "When the process began, in seconds since 1970.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Family, Shape};

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let mut names = BTreeSet::new();
        for family in Family::ALL {
            let name = family.name();
            assert!(names.insert(name), "{name} stands twice");
            assert!(name.starts_with("outrigger_") || name.starts_with("process_"), "{name}");
            assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(family.help().ends_with('.'), "{name}");
            if matches!(family.shape(), Shape::Durations | Shape::ShortDurations) {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }
}
