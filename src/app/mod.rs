//! The composition root: roles, bootstrap, admin. Only this module and the command line above it
//! know every part; everything else gets what it needs as arguments.

pub mod admin;
pub mod announce;
pub mod bootstrap;
pub mod child;
pub mod client;
pub mod context;
#[allow(dead_code, reason = "the commands that use it come next")]
pub mod dev;
pub mod discovery;
pub mod environment;
pub mod joining;
pub mod logging;
pub mod ports;
pub mod sidecar;
pub mod signals;
