//! What users write: the generated messages of `proto/outrigger/v1`, one file per kind with its
//! checks and defaults, YAML in and out, and the problems found on the way.
//!
//! Each kind's `parse` reads the message once into a small typed form: what was left out is `None`
//! or its default, what is wrong becomes a [`Problem`] with its field path, and all problems come
//! at once. `check` is the same reading with the result thrown away, so that the two can not
//! disagree.

pub mod authorization_policy;
mod check;
mod descriptors;
pub mod grpc_route;
pub mod http_route;
mod key;
pub mod kind;
pub mod mesh;
mod nearest;
mod problem;
pub mod reference;
mod report;
pub mod route;
#[cfg(test)]
mod samples;
pub mod service;
pub mod traffic_policy;
pub mod understood;
pub mod workload;
mod write;
pub mod yaml;

pub use check::{check, check_one_label};
pub use descriptors::forget_descriptors;
pub use key::{NAMESPACE_DEFAULT, ResourceKey, key};
pub use kind::Kind;
pub use nearest::nearest;
pub use problem::{Location, Problem, Severity};
pub use write::{to_json, to_yaml};

/// The messages and services of `proto/outrigger/v1`, as generated.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    missing_docs,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("outrigger.v1");
}

/// The descriptors of every message of the API, for server reflection and for reading by name.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
