//! Metrics, access log, trace context and spans: what a request leaves behind.
//!
//! The proxy fills one [`Record`] per request and hands it over once, at the last byte or when the
//! request is dropped. Metric, log line and span are all made from it, so they can not disagree.

pub mod metrics;
mod record;
pub mod trace;

pub use record::{Attempt, Direction, Record, SpanContext};
