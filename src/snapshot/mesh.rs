//! What holds for the whole mesh.

/// The `Mesh` resource, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// `mesh.local`
    pub trust_domain: String,
    /// Whether a peer with an identity may do what no policy speaks of.
    pub authenticated_peers_allowed: bool,
    /// Whether names outside the mesh pass through.
    pub egress_allowed: bool,
    /// Which traces start here and where spans go.
    pub tracing: Tracing,
    /// Which requests are logged.
    pub access_log: AccessLogMode,
}

/// Which traces start here and where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Share of the traces that start here, 0.0 to 1.0.
    pub sampling: f64,
    /// At most so many started a second.
    pub per_second_max: f64,
    /// OTLP over gRPC; `None`: no spans are sent.
    pub otlp: Option<String>,
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogMode {
    /// None.
    Off,
    /// Those that failed or were denied.
    Errors,
    /// All.
    All,
}
