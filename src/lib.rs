//! Outrigger is a gRPC-first service mesh: a sidecar that runs next to each service, and a small
//! control plane that distributes configuration and certificates.
//!
//! # The map
//!
//! Imports point down this list; `tests/tidy.rs` checks it.
//!
//! | layer | modules | what they hold |
//! |---|---|---|
//! | words | [`units`] [`clock`] [`spiffe`] [`reason`] | values parsed once, names, identities, why a request ended |
//! | meaning | [`resource`] [`snapshot`] | what users write; what the proxy runs on, and `compile` between the two |
//! | decisions | [`routing`] [`authz`] [`balance`] [`resilience`] | pure functions of a snapshot, `now` and randomness |
//! | mechanisms | [`net`] [`tls`] [`http`] [`http2`] [`http1`] [`task`] [`telemetry`] | sockets, mutual TLS, heads and bodies, the codecs, tasks, metrics, spans, logs |
//! | identity | [`identity`] | the mesh CA, join tokens, SVIDs and their rotation |
//! | planes | [`proxy`] [`control`] | the data plane and the control plane, which never import each other |
//! | program | [`app`] [`cli`] | roles put together; one command per file |

pub mod app;
pub mod authz;
pub mod balance;
pub mod cli;
pub mod clock;
pub mod control;
pub mod http;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod net;
pub mod proxy;
pub mod reason;
pub mod resilience;
pub mod resource;
pub mod routing;
pub mod snapshot;
pub mod spiffe;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod units;
