//! What the control plane counts of itself.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{ca::Ca, fleet::Fleet, state::State};
use crate::{resource::pb::WorkloadPhase, telemetry::metrics::Process};

/// Counters and histograms, and how they are written.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    propagation: Histogram,
    certificates: Family<CertificateLabels, Counter>,
    calls: Family<CallLabels, Counter>,
}

/// For what a certificate was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grounds {
    /// By a join token.
    Join,
    /// By an SVID.
    Renew,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    grounds: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    result: &'static str,
}

/// How a call of the API ended, as far as its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was taken.
    Success,
    /// It was refused or failed.
    Failure,
}

#[derive(Debug)]
struct Sidecars {
    state: Arc<State>,
    fleet: Arc<Fleet>,
}

#[derive(Debug, EncodeLabelSet)]
struct SidecarLabels {
    state: &'static str,
}

impl Metrics {
    /// Registers everything but the CA's.
    #[cfg(test)]
    pub(crate) fn new(state: &Arc<State>, fleet: &Arc<Fleet>) -> Self {
        Self::with_ca(state, fleet, None)
    }

    /// Registers everything; what others know already is read when it is asked for.
    pub(crate) fn with_ca(state: &Arc<State>, fleet: &Arc<Fleet>, ca: Option<&Arc<Ca>>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let propagation = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        registry.register_with_unit(
            "outrigger_config_propagation",
            "From a write until every sidecar that it concerns runs it",
            Unit::Seconds,
            propagation.clone(),
        );
        let certificates = Family::<CertificateLabels, Counter>::default();
        registry.register(
            "outrigger_certificates_issued",
            "Certificates signed",
            certificates.clone(),
        );
        let calls = Family::<CallLabels, Counter>::default();
        registry.register(
            "outrigger_control_calls",
            "Calls of the control plane's API",
            calls.clone(),
        );
        registry.register_with_unit(
            "outrigger_store_write",
            "One write of the store, until it is on disk",
            Unit::Seconds,
            state.write_seconds().clone(),
        );
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("outrigger_build", "The program", build);
        let sidecars = Sidecars { state: Arc::clone(state), fleet: Arc::clone(fleet) };
        registry.register_collector(Box::new(sidecars));
        if let Some(ca) = ca {
            registry.register_collector(Box::new(Lives { ca: Arc::clone(ca) }));
        }
        Self { registry, propagation, certificates, calls }
    }

    /// A revision has reached all whom it concerns.
    pub(crate) fn propagated(&self, took: Duration) {
        self.propagation.observe(took.as_secs_f64());
    }

    /// A certificate was issued.
    pub(crate) fn issued(&self, grounds: Grounds) {
        let grounds = match grounds {
            Grounds::Join => "join",
            Grounds::Renew => "renew",
        };
        self.certificates.get_or_create(&CertificateLabels { grounds }).inc();
    }

    /// A call of the API was answered.
    pub(crate) fn called(&self, result: Outcome) {
        let result = match result {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
        };
        self.calls.get_or_create(&CallLabels { result }).inc();
    }

    /// As Prometheus reads it.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        if text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("metrics do not encode");
        }
        text
    }
}

/// When CA certificates end.
#[derive(Debug)]
struct Lives {
    ca: Arc<Ca>,
}

#[derive(Debug, EncodeLabelSet)]
struct LifeLabels {
    kind: &'static str,
}

impl Collector for Lives {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = "outrigger_certificate_expiry_timestamp_seconds";
        let help = "When a certificate expires, in seconds since 1970";
        let gauge = ConstGauge::new(0_i64);
        let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        let lives = self.ca.lives();
        // While roots are exchanged there are two; the one that ends first is what matters.
        for kind in ["root", "issuing"] {
            let ends = lives.iter().filter(|(of, ..)| *of == kind).map(|(.., until)| *until);
            let Some(end) = ends.min() else { continue };
            let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let gauge = ConstGauge::new(i64::try_from(seconds).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&LifeLabels { kind })?)?;
        }
        let rotating = i64::from(self.ca.roots().rotation().is_some());
        let gauge = ConstGauge::new(rotating);
        let help = "1 while the root is being exchanged";
        let metric = encoder.encode_descriptor(
            "outrigger_root_rotation_under_way",
            help,
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

impl Collector for Sidecars {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let revision = self.state.world().revision;
        let mut counts = [
            ("starting", 0_i64),
            ("ready", 0),
            ("draining", 0),
            ("not_ready", 0),
            ("out_of_sync", 0),
        ];
        let (now, mut lag) = (self.state.now(), Duration::ZERO);
        for session in self.fleet.sessions() {
            let progress = session.progress();
            let behind = progress.behind_since.and_then(|since| now.duration_since(since).ok());
            lag = lag.max(behind.unwrap_or_default());
            let phase = match progress.phase {
                WorkloadPhase::Unspecified | WorkloadPhase::Starting => 0,
                WorkloadPhase::Ready => 1,
                WorkloadPhase::Draining => 2,
                WorkloadPhase::NotReady => 3,
            };
            counts[phase].1 += 1;
            counts[4].1 += i64::from(!progress.in_sync(revision));
        }
        let help = "Connected sidecars by phase, and those that do not yet run all they were sent";
        let gauge = ConstGauge::new(0_i64);
        let mut family =
            encoder.encode_descriptor("outrigger_sidecars", help, None, gauge.metric_type())?;
        for (state, count) in counts {
            let labels = SidecarLabels { state };
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "For how long the sidecar that is furthest behind has not run all it was sent";
        let gauge = ConstGauge::new(lag.as_secs_f64());
        let metric = encoder.encode_descriptor(
            "outrigger_sidecar_lag_seconds",
            help,
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)?;
        let world = self.state.world();
        let resources = u64::try_from(world.stored.resources.len()).unwrap_or(u64::MAX);
        for (name, help, value) in [
            ("outrigger_store_revision", "The newest revision of the configuration", revision),
            ("outrigger_store_resources", "Stored resources", resources),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Grounds, Metrics};
    use crate::{
        clock,
        control::{fleet::Fleet, state::State},
    };

    #[test]
    fn metrics_are_named_as_the_reference_says() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::open(&directory.path().join("mesh.redb"), "mesh.local", clock::now)
            .expect("opens");
        let metrics = Metrics::new(&state, &Arc::new(Fleet::default()));
        metrics.issued(Grounds::Join);
        metrics.propagated(Duration::from_millis(3));
        let text = metrics.encode();
        for line in [
            "outrigger_certificates_issued_total{grounds=\"join\"} 1",
            "outrigger_config_propagation_seconds_count 1",
            "outrigger_sidecars{state=\"ready\"} 0",
            "outrigger_sidecar_lag_seconds 0.0",
            "outrigger_store_revision 0",
            "outrigger_store_resources 0",
            "outrigger_store_write_seconds_count 0",
            concat!("outrigger_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
