//! The composition root: roles, bootstrap, admin. Only this module and the command line above it
//! know every part; everything else gets what it needs as arguments.
pub mod admin;
pub mod announce;
pub mod bootstrap;
pub mod child;
pub mod client;
pub mod context;
pub mod control_plane;
pub mod dev;
pub mod discovery;
pub mod environment;
pub mod footprint;
pub mod joining;
pub mod keeping;
pub mod logging;
pub mod ports;
pub mod probe;
pub mod run;
pub mod sidecar;
pub mod signals;
